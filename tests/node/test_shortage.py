"""A host that is short of memory for a moment, as a node sees it: /proc/meminfo is the test's."""

import subprocess
from pathlib import Path

import pytest
from nodes import Start
from test_memory_limit import store_many

SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

FILE *
fopen(const char *path, const char *mode)
{
    FILE *(*real)(const char *, const char *) =
        (FILE * (*)(const char *, const char *)) dlsym(RTLD_NEXT, "fopen");
    return real(strcmp(path, "/proc/meminfo") == 0 ? getenv("TEST_MEMINFO") : path, mode);
}
"""


@pytest.mark.once
def test_a_shortage_is_told_when_it_begins_and_when_the_whole_limit_is_back(
    start: Start, tmp_path: Path
) -> None:
    source, shim, meminfo = tmp_path / "shim.c", tmp_path / "shim.so", tmp_path / "meminfo"
    source.write_text(SHIM)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", shim, source, "-ldl"], check=True)

    def set_available(megabytes: int) -> None:
        new = tmp_path / "new"
        new.write_text(f"MemTotal: {8 << 20} kB\nMemAvailable: {megabytes << 10} kB\n")
        new.replace(meminfo)

    set_available(1000)
    node = start(env={"LD_PRELOAD": str(shim), "TEST_MEMINFO": str(meminfo)})
    with node.client() as client:
        store_many(client, range(10_000))
        set_available(1)
        store_many(client, range(10_000, 20_000))
        [line] = node.wait_for_log("memory is short")
        assert "the cache stays at" in line
        set_available(1000)
        [line] = node.wait_for_log("memory limit is whole again", timeout_s=30)
        assert "short_s=" in line
        assert node.log().count("memory is short") == 1
        assert client.stats()["evictions"] != "0"
    assert node.stop() == 0

"""libmemcached's tools, as Debian packages them (apt-get install libmemcached-tools)."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support.server import Server

pytestmark = pytest.mark.once

SECONDS_MAX = 60
# What memccapable tries, by protocol: fewer would mean that it stopped half way.
CAPABILITIES = {"-a": 27, "-b": 27}
# It wants an error for words behind the key, which memcached ignores from 1.6.40 on, as we do.
DRIFT = {"ascii delete", "ascii delete noreply"}


def start(
    tool: str, *arguments: str, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    path = shutil.which(tool)
    if path is None:
        pytest.skip(f"NOT ASKED: {tool} is not installed (apt-get install libmemcached-tools)")
    return subprocess.run(
        [path, *arguments],
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        cwd=folder,
        check=False,
    )


def run(tool: str, *arguments: str, folder: Path | None = None) -> str:
    """What the tool wrote, after it ended well."""
    result = start(tool, *arguments, folder=folder)
    assert result.returncode == 0, f"{tool}: {result.returncode}\n{result.stdout}{result.stderr}"
    return result.stdout


def at(server: Server) -> str:
    return f"--servers=127.0.0.1:{server.port}"


@pytest.mark.parametrize("protocol", CAPABILITIES)
def test_memccapable_finds_every_capability(server: Server, protocol: str) -> None:
    result = start("memccapable", "-h", "127.0.0.1", "-p", str(server.port), protocol)
    # Forty columns for the name; the failures' marks are on stderr.
    found = re.findall(r"((?:ascii |binary).{34})(\[pass\])?", result.stdout)
    assert len(found) == CAPABILITIES[protocol], f"{result.stdout}\n{result.stderr}"
    assert {name.rstrip() for name, passed in found if not passed} <= DRIFT


def test_memccp_and_memccat_move_files(empty_server: Server, tmp_path: Path) -> None:
    (tmp_path / "one").write_text("first\n")
    (tmp_path / "two").write_text("second\n")
    run("memccp", at(empty_server), "one", "two", folder=tmp_path)
    assert "first" in run("memccat", at(empty_server), "one")
    assert "second" in run("memccat", at(empty_server), "two")
    run("memcrm", at(empty_server), "one")
    with empty_server.client() as client:
        client.ask(b"get one\r\n", b"END\r\n")


def test_memcstat_reads_all_statistics(empty_server: Server) -> None:
    with empty_server.client() as client:
        client.ask(b"set key 0 0 5\r\nvalue\r\n", b"STORED\r\n")
    written = run("memcstat", at(empty_server))
    names = {line.split(":")[0].strip() for line in written.splitlines()}
    assert {"pid", "curr_items", "version", "limit_maxbytes"} <= names
    assert names - {"Server"} >= set(empty_server.stats())


def test_memcdump_lists_the_keys(empty_server: Server) -> None:
    keys = {f"key-{i}" for i in range(50)}
    with empty_server.client() as client:
        for key in keys:
            client.ask(b"set %s 0 0 5\r\nvalue\r\n" % key.encode(), b"STORED\r\n")
    # (What was flushed is still listed where it lies.)
    assert set(run("memcdump", at(empty_server)).split()) >= keys


def test_memcexist_memctouch_and_memcflush(empty_server: Server) -> None:
    with empty_server.client() as client:
        client.ask(b"set key 0 0 5\r\nvalue\r\n", b"STORED\r\n")
        run("memcexist", at(empty_server), "key")
        run("memctouch", at(empty_server), "--expire=1000", "key")
        client.ask(b"get key\r\n", b"VALUE key 0 5\r\nvalue\r\nEND\r\n")
        run("memcflush", at(empty_server))
        client.ask(b"get key\r\n", b"END\r\n")

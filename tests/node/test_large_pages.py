"""-L: huge pages under the items, or a sentence about what the host has to allow."""

import re
from pathlib import Path

from nodes import Start
from support.waiting import wait_until

POLICY = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")


def allowed() -> bool:
    match = re.search(r"\[(\w+)\]", POLICY.read_text()) if POLICY.exists() else None
    return match is not None and match[1] not in ("never", "deny")


def huge_kb(pid: int) -> int:
    """Of the process's shared mappings."""
    text = Path(f"/proc/{pid}/smaps").read_text()
    return sum(map(int, re.findall(r"ShmemPmdMapped: +([0-9]+)", text)))


def test_large_pages_are_there_or_refused_with_what_to_change(start: Start, launch: Start) -> None:
    if not allowed():
        node = launch("-p", "-1", "-m", "16", "-L")
        assert node.wait() == 71, node.log()
        assert "Traceback" not in node.log()
        last = node.log().splitlines()[-1]
        assert "enable_largepages: " in last
        assert str(POLICY) in last
        assert last.endswith("start without -L")
        return
    node = start("-L", "-m", "64", "-t", "1")
    client = node.client()
    assert client.stats("settings")["large_pages"] == "yes"
    for key in range(20_000):
        client.send(b"set k%d 0 0 1000 noreply\r\n%s\r\n" % (key, b"v" * 1000))
    client.ask(b"get k19999\r\n", b"VALUE k19999 0 1000\r\n" + b"v" * 1000 + b"\r\nEND\r\n")
    (worker,) = node.workers()
    wait_until(lambda: huge_kb(worker.pid) >= 16 << 10, "huge pages in the worker")


def test_node_serves_without_large_pages(start: Start) -> None:
    node = start("-t", "1")
    client = node.client()
    client.ask(b"set k 0 0 1\r\nv\r\n", b"STORED\r\n")
    assert client.stats("settings")["large_pages"] == "no"

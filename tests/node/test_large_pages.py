"""-L: huge pages under the items, or a sentence about what the host has to allow."""

import re
from pathlib import Path

import pytest
from nodes import Node, Start
from support.waiting import wait_until


def huge_kb(pid: int) -> int:
    """Of the process's shared mappings."""
    text = Path(f"/proc/{pid}/smaps").read_text()
    return sum(map(int, re.findall(r"ShmemPmdMapped: +([0-9]+)", text)))


VALUE = b"v" * 1000
KEYS = 20_000


def fill(node: Node) -> None:
    """Twenty megabytes."""
    client = node.client()
    for key in range(KEYS):
        client.send(b"set k%d 0 0 1000 noreply\r\n%s\r\n" % (key, VALUE))
    client.ask(b"version\r\n", b"VERSION 1.6.45\r\n")


def wait_for_huge_pages(node: Node) -> None:
    """A process has them where it looks after they were made."""
    client = node.client()
    (worker,) = node.workers()

    def found() -> bool:
        for key in range(0, KEYS, 100):
            client.ask(b"get k%d\r\n" % key, b"VALUE k%d 0 1000\r\n%s\r\nEND\r\n" % (key, VALUE))
        return huge_kb(worker.pid) >= 16 << 10

    wait_until(found, "huge pages in the worker")


def test_large_pages_are_there_or_refused_with_what_to_change(launch: Start) -> None:
    node = launch("-p", "-1", "-m", "64", "-t", "1", "-L")
    if not node.serves():
        assert node.wait() == 71, node.log()
        assert "Traceback" not in node.log()
        last = node.log().splitlines()[-1]
        assert "enable_largepages: " in last
        assert last.endswith("start without -L")
        pytest.skip(f"no huge pages here: {last}")
    fill(node)
    assert node.client().stats("settings")["large_pages"] == "yes"
    wait_for_huge_pages(node)


def test_node_asks_for_large_pages_without_insisting(start: Start, launch: Start) -> None:
    must = launch("-p", "-1", "-m", "64", "-t", "1", "-L")
    here = must.serves()
    node = start("-t", "1", "-m", "64")
    fill(node)
    assert node.client().stats("settings")["large_pages"] == "no"
    if here:
        wait_for_huge_pages(node)

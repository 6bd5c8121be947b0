"""cache_memlimit on a running node: memory goes back to the host and comes again under load."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nodes import Node, Start
from support.client import RawClient
from support.waiting import wait_until

MEGABYTE = 1 << 20
# Process slots, shards and directories, and an extent that is being taken.
OVERHEAD_BYTES = 4 * MEGABYTE
VALUE = b"v" * 1000


def shared_bytes(node: Node) -> int:
    """What the node's segment takes of the host's memory."""
    links = Path(f"/proc/{node.pid}/fd").iterdir()
    parts = {
        str(link.readlink()): link for link in links if "memfd:memcachepy" in str(link.readlink())
    }
    assert len(parts) == 2, "no segment"
    return sum(link.stat().st_blocks * 512 for link in parts.values())


def store_many(client: RawClient, numbers: range, reply: bytes = b"STORED\r\n") -> None:
    for first in range(numbers.start, numbers.stop, 100):
        keys = range(first, min(first + 100, numbers.stop))
        client.send(b"".join(b"set k%d 0 0 1000\r\n%s\r\n" % (key, VALUE) for key in keys))
        for _ in keys:
            client.expect(reply)


def count_hits(client: RawClient, numbers: range) -> int:
    hits = 0
    for key in numbers:
        client.send(b"get k%d\r\n" % key)
        if client.line() == b"END":
            continue
        client.expect(VALUE + b"\r\nEND\r\n")
        hits += 1
    return hits


@contextmanager
def traffic(node: Node) -> Iterator[list[int]]:
    """Sets and gets from another thread, each of which has to be answered as if nothing were."""
    stop = threading.Event()
    failures: list[str] = []
    rounds = [0]

    def work() -> None:
        with RawClient(node.address) as client:
            try:
                while not stop.is_set():
                    first = rounds[0] * 50 % 100_000
                    store_many(client, range(first, first + 50))
                    count_hits(client, range(first, first + 50))
                    rounds[0] += 1
            except AssertionError as error:
                failures.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield rounds
    finally:
        stop.set()
        thread.join()
    assert failures == []


def test_memory_above_a_lower_limit_goes_to_the_host_under_load(start: Start) -> None:
    node = start("-m", "64", "-t", "2")
    client = node.client()
    store_many(client, range(60_000))
    assert shared_bytes(node) > 60 * MEGABYTE
    with traffic(node) as rounds:
        client.ask(b"cache_memlimit 16\r\n", b"OK\r\n")
        assert client.stats()["limit_maxbytes"] == str(16 * MEGABYTE)
        wait_until(lambda: shared_bytes(node) < 16 * MEGABYTE + OVERHEAD_BYTES, "less memory")
        before = rounds[0]
        wait_until(lambda: rounds[0] > before + 20, "the traffic to go on")
        client.ask(b"cache_memlimit 64\r\n", b"OK\r\n")
        store_many(client, range(60_000))
        wait_until(lambda: shared_bytes(node) > 60 * MEGABYTE, "the memory again")
    assert shared_bytes(node) < 64 * MEGABYTE + OVERHEAD_BYTES
    assert int(client.stats("memcachepy")["rebuilds"]) == 0


def test_limit_rises_above_what_the_node_was_started_with(start: Start) -> None:
    node = start("-m", "16", "-t", "1")
    client = node.client()
    client.ask(b"cache_memlimit 48\r\n", b"OK\r\n")
    store_many(client, range(30_000))
    assert client.stats()["evictions"] == "0"
    assert shared_bytes(node) > 32 * MEGABYTE


def test_maintainer_killed_while_it_gives_memory_back(start: Start) -> None:
    node = start("-m", "64", "-t", "1")
    client = node.client()
    for _ in range(4):
        store_many(client, range(60_000))
        client.ask(b"cache_memlimit 8\r\n", b"OK\r\n")
        wait_until(lambda: shared_bytes(node) < 55 * MEGABYTE, "the first pages to go")
        victim = node.maintainer()
        victim.kill()
        node.wait_for_other("maintainer", [victim])
        wait_until(lambda: shared_bytes(node) < 8 * MEGABYTE + OVERHEAD_BYTES, "less memory")
        client.ask(b"cache_memlimit 64\r\n", b"OK\r\n")
    store_many(client, range(60_000))
    assert count_hits(client, range(59_000, 60_000)) == 1000


def test_node_that_does_not_evict_keeps_what_it_has_above_a_lower_limit(start: Start) -> None:
    node = start("-m", "64", "-t", "1", "-M")
    client = node.client()
    store_many(client, range(20_000))
    client.ask(b"cache_memlimit 8\r\n", b"OK\r\n")
    # Another size: it would need a page of its own.
    client.ask(
        b"set other 0 0 3000\r\n" + b"x" * 3000 + b"\r\n",
        b"SERVER_ERROR out of memory storing object\r\n",
    )
    assert count_hits(client, range(20_000)) == 20_000
    held = shared_bytes(node)
    client.send(b"".join(b"delete k%d noreply\r\n" % key for key in range(19_000)))
    wait_until(lambda: shared_bytes(node) < held - 8 * MEGABYTE, "what was freed to go")
    assert count_hits(client, range(19_000, 20_000)) == 1000

"""`stats cachedump`, `stats sizes` and the figures by slab class."""

import re
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from support.client import RawClient
from support.server import Server, node
from support.waiting import wait_until

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def tracking() -> Iterator[Server]:
    with node("-m", "32", "-o", "track_sizes", workers=2) as server:
        yield server


@pytest.fixture
def client(tracking: Server) -> Iterator[RawClient]:
    """On an empty cache, from which everything has gone."""
    with tracking.client() as client:
        yield client
        for key in re.findall(r"k\S*", dump(client)):
            client.send(b"delete %s\r\n" % key.encode())
            client.line()


@pytest.fixture
def fresh() -> Iterator[RawClient]:
    """On a node of its own."""
    with node("-m", "32") as server, server.client() as client:
        yield client


def set_item(client: RawClient, key: bytes, size: int, exptime: int = 0) -> None:
    client.ask(b"set %s 0 %d %d\r\n%s\r\n" % (key, exptime, size, b"v" * size), b"STORED\r\n")


def cachedump(client: RawClient, class_id: int, limit: int) -> list[str]:
    client.send(f"stats cachedump {class_id} {limit}\r\n".encode())
    lines = []
    while (line := client.line()) != b"END":
        lines.append(line.decode())
    return lines


def dump(client: RawClient) -> str:
    return "\n".join(line for class_id in range(1, 64) for line in cachedump(client, class_id, 0))


def class_of_only_item(client: RawClient) -> int:
    (name,) = [name for name in client.stats("items") if name.endswith(":number")]
    return int(name.split(":")[1])


def test_cachedump_lists_key_length_and_expiry(client: RawClient) -> None:
    set_item(client, b"k1", 3)
    class_id = class_of_only_item(client)
    assert cachedump(client, class_id, 0) == ["ITEM k1 [3 b; 0 s]"]
    set_item(client, b"k2", 4, 1000)
    now = int(client.stats()["time"])
    (line,) = [line for line in cachedump(client, class_id, 0) if "k2" in line]
    found = re.fullmatch(r"ITEM k2 \[4 b; (\d+) s\]", line)
    assert found
    assert now + 990 <= int(found[1]) <= now + 1010
    assert len(cachedump(client, class_id, 1)) == 1
    assert cachedump(client, class_id + 1, 0) == []


def test_cachedump_shows_nothing_dead(fresh: RawClient) -> None:
    client = fresh
    set_item(client, b"k1", 3)
    class_id = class_of_only_item(client)
    set_item(client, b"k2", 3, -1)
    assert len(cachedump(client, class_id, 0)) == 1
    client.ask(b"flush_all\r\n", b"OK\r\n")
    assert cachedump(client, class_id, 0) == []


def test_cachedump_passes_over_keys_that_would_break_its_lines(client: RawClient) -> None:
    set_item(client, b"k1", 3)
    class_id = class_of_only_item(client)
    client.ask(b"ms a0VORA== 3 b\r\n123\r\n", b"HD\r\n")
    client.ask(b"ms awpFTkQ= 2 b\r\n12\r\n", b"HD\r\n")  # k and END in two lines
    client.ask(b"ms awpFTkQ= 1 b MA\r\n3\r\n", b"HD\r\n")  # Takes the mark away.
    assert cachedump(client, class_id, 0) == ["ITEM k1 [3 b; 0 s]"]
    client.ask(b"md a0VORA== b\r\n", b"HD\r\n")
    client.ask(b"md awpFTkQ= b\r\n", b"HD\r\n")


def test_cachedump_ends_at_two_megabytes(fresh: RawClient) -> None:
    client = fresh
    key = b"k" * 245
    for first in range(0, 12_000, 500):
        sets = b"".join(
            b"set %s%05d 0 0 0 noreply\r\n\r\n" % (key, i) for i in range(first, first + 500)
        )
        client.send(sets)
    client.ask(b"get none\r\n", b"END\r\n")
    class_id = class_of_only_item(client)
    lines = cachedump(client, class_id, 0)
    assert 1.9 * 2**20 < sum(len(line) + 2 for line in lines) < 2 * 2**20
    assert len(set(lines)) == len(lines)


def test_sizes_count_items_by_steps_of_32_bytes(client: RawClient) -> None:
    for i in range(10):
        set_item(client, b"k%d" % i, 1)
    set_item(client, b"kl", 300_000)
    sizes = {int(size): int(count) for size, count in client.stats("sizes").items()}
    assert sum(sizes.values()) == 11
    assert all(size % 32 == 0 for size in sizes)
    assert sizes[32] == 10
    assert 300_000 < max(sizes) < 300_096


def test_what_follows_sizes_in_a_pipeline_is_answered_after_it(client: RawClient) -> None:
    set_item(client, b"k1", 1)
    client.send(b"stats sizes\r\nversion\r\nstats sizes\r\nget k1\r\n")
    client.expect(b"STAT 32 1\r\nEND\r\nVERSION 1.6.45\r\nSTAT 32 1\r\nEND\r\n")
    client.expect(b"VALUE k1 0 1\r\nv\r\nEND\r\n")


def test_others_are_served_while_sizes_are_counted() -> None:
    """On one worker: some of the answers come before the count, and who hangs up leaves nothing."""
    with node("-m", "64", "-o", "track_sizes") as server, ExitStack() as stack:
        client, other, leaving = (stack.enter_context(server.client()) for _ in range(3))
        for first in range(0, 300_000, 5000):
            client.send(
                b"".join(b"set k%d 0 0 1 noreply\r\nv\r\n" % i for i in range(first, first + 5000))
            )
        client.ask(b"get none\r\n", b"END\r\n")
        leaving.send(b"stats sizes\r\n")
        client.send(b"stats sizes\r\n")
        leaving.close()
        answered = 0
        while not client.more(0):
            other.ask(b"get none\r\n", b"END\r\n")
            answered += 1
        assert answered >= 5
        client.expect(b"STAT 32 100\r\nSTAT 64 299900\r\nEND\r\n")
        wait_until(lambda: server.stats()["curr_connections"] == "3", "two and the one that asks")


def test_others_are_served_while_a_class_is_dumped() -> None:
    """On one worker, of a class with many pages and few items that may be shown."""
    with node("-m", "64") as server, ExitStack() as stack:
        client, other, leaving = (stack.enter_context(server.client()) for _ in range(3))
        set_item(client, b"k", 1)
        class_id = class_of_only_item(client)
        for first in range(0, 300_000, 5000):
            keys = (b64encode(b"%08d" % i) for i in range(first, first + 5000))
            client.send(b"".join(b"ms %s 1 b q\r\nv\r\n" % key for key in keys))
        client.ask(b"mn\r\n", b"MN\r\n")
        assert int(client.stats("items")[f"items:{class_id}:number"]) > 250_000
        leaving.send(b"stats cachedump %d 0\r\n" % class_id)
        client.send(b"stats cachedump %d 0\r\nversion\r\n" % class_id)
        leaving.close()
        client.expect(b"ITEM k [1 b; 0 s]\r\n")  # It lies in the class's first page.
        answered = 0
        while not client.more(0):
            other.ask(b"get none\r\n", b"END\r\n")
            answered += 1
        assert answered >= 5
        client.expect(b"END\r\nVERSION 1.6.45\r\n")
        wait_until(lambda: server.stats()["curr_connections"] == "3", "two and the one that asks")


def test_figures_by_class_add_up_to_the_general_ones(client: RawClient) -> None:
    client.ask(b"stats reset\r\n", b"RESET\r\n")
    for i, size in enumerate((1, 100, 1000, 10_000, 100_000)):
        set_item(client, b"k%d" % i, size, 100)
        client.send(b"get k%d none\r\ngat 100 k%d\r\ntouch k%d 100\r\n" % (i, i, i))
        client.take(2 * len(b"VALUE k0 0 %d\r\nEND\r\n\r\n" % size) + 2 * size)
        client.expect(b"TOUCHED\r\n")
    set_item(client, b"kn", 0)
    client.ask(b"cas kn 0 0 1 1\r\n5\r\n", b"EXISTS\r\n")
    set_item(client, b"kn", 1)
    client.ask(b"set kn 0 0 1\r\n7\r\n", b"STORED\r\n")
    client.ask(b"incr kn 1\r\n", b"8\r\n")
    client.ask(b"decr kn 1\r\n", b"7\r\n")
    client.ask(b"delete k0\r\n", b"DELETED\r\n")
    general = client.stats()
    slabs = client.stats("slabs")
    items = client.stats("items")

    def total(figures: dict[str, str], key: str) -> int:
        return sum(int(value) for name, value in figures.items() if name.endswith(":" + key))

    keys = "get_hits cmd_set delete_hits incr_hits decr_hits cas_hits cas_badval touch_hits"
    for key in keys.split():
        assert total(slabs, key) == int(general[key]), key
    assert general["get_hits"] == "5"
    assert general["touch_hits"] == "10"
    assert total(items, "number") == int(general["curr_items"]) == 5
    assert total(items, "mem_requested") == int(general["bytes"])
    assert total(items, "number_hot") + total(items, "number_cold") == 5
    assert total(items, "hits_to_hot") + total(items, "hits_to_cold") == 5
    pages = total(slabs, "total_pages")
    ours = client.stats("memcachepy")
    assert int(slabs["total_malloced"]) == pages * int(ours["page_bytes"])
    unused = int(ours["pages_limit"]) - int(ours["pages_used"])
    assert int(client.stats()["slab_global_page_pool"]) == unused
    assert int(ours["pages_used"]) >= pages
    assert total(slabs, "used_chunks") + total(slabs, "free_chunks") == total(slabs, "total_chunks")


def test_evictions_by_class_add_up() -> None:
    with node("-m", "8") as small, small.client() as client:
        for first in range(0, 20_000, 500):
            client.send(
                b"".join(
                    b"set e%d 0 %d 1000 noreply\r\n%s\r\n" % (i, i % 2 * 1000, b"v" * 1000)
                    for i in range(first, first + 500)
                )
            )
        client.ask(b"get none\r\n", b"END\r\n")
        general = client.stats()
        items = client.stats("items")
    evictions = int(general["evictions"])
    assert evictions > 1000
    evicted = sum(int(value) for name, value in items.items() if name.endswith(":evicted"))
    nonzero = sum(int(value) for name, value in items.items() if name.endswith(":evicted_nonzero"))
    assert evicted == evictions
    assert evicted // 4 < nonzero < evicted * 3 // 4

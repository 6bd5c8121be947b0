"""`slabs reassign` moves pages between slab classes, and says why it does not."""

from collections.abc import Iterator

import pytest
from support.client import RawClient
from support.peers import InProcessPeer
from support.server import Server, node

pytestmark = pytest.mark.once

LARGE_BYTES = 6000
SMALL_BYTES = 100


@pytest.fixture(scope="module", params=[1, 3], ids=["one worker", "three workers"])
def slabs(request: pytest.FixtureRequest) -> Iterator[Server]:
    with node("-m", "64", workers=request.param) as server:
        yield server


def _fill(client: RawClient, name: bytes, count: int, size: int) -> None:
    value = b"x" * size
    for i in range(count):
        client.ask(b"set %s%d 0 0 %d\r\n%s\r\n" % (name, i, size, value), b"STORED\r\n")


def _class_of(client: RawClient, key: bytes) -> int:
    """The slab class of a stored key, as a dump tells it."""
    client.ask(b"lru_crawler metadump all\r\n", b"OK\r\n")
    for line in client.take_until(b"END\r\n").split(b"\n"):
        if line.startswith(b"key=%s " % key):
            return int(line.split(b" cls=")[1].split()[0])
    raise AssertionError(f"{key!r} is not there")


def _pages(client: RawClient, class_id: int) -> int:
    return int(client.stats("slabs").get(f"{class_id}:total_pages", 0))


@pytest.fixture
def filled(slabs: Server) -> Iterator[tuple[RawClient, int, int]]:
    """A client, the class of many large items, and that of a few small ones."""
    with slabs.client() as client:
        client.ask(b"flush_all\r\n", b"OK\r\n")
        _fill(client, b"large", 500, LARGE_BYTES)
        _fill(client, b"small", 10, SMALL_BYTES)
        yield client, _class_of(client, b"large0"), _class_of(client, b"small0")


def test_a_page_goes_to_another_class(filled: tuple[RawClient, int, int]) -> None:
    client, large, small = filled
    before = _pages(client, large), _pages(client, small), int(client.stats()["slabs_moved"])
    client.ask(b"slabs reassign %d %d\r\n" % (large, small), b"OK\r\n")
    after = _pages(client, large), _pages(client, small), int(client.stats()["slabs_moved"])
    assert after == (before[0] - 1, before[1] + 1, before[2] + 1)
    # Whatever was in it is evicted, and nothing else.
    lost = int(client.stats("memcachepy")["evicted_page_move"])
    assert 0 <= lost <= 64 * 1024 // LARGE_BYTES
    _fill(client, b"large", 500, LARGE_BYTES)
    _fill(client, b"small", 500, SMALL_BYTES)
    for name, size in ((b"large7", LARGE_BYTES), (b"small7", SMALL_BYTES)):
        client.ask(
            b"get %s\r\n" % name,
            b"VALUE %s 0 %d\r\n%s\r\nEND\r\n" % (name, size, b"x" * size),
        )


def test_a_page_goes_to_the_pool_and_comes_back(filled: tuple[RawClient, int, int]) -> None:
    client, large, small = filled
    pages = _pages(client, large)
    client.ask(b"slabs reassign %d 0\r\n" % large, b"OK\r\n")
    assert _pages(client, large) == pages - 1
    pages = _pages(client, small)
    client.ask(b"slabs reassign 0 %d\r\n" % small, b"OK\r\n")
    assert _pages(client, small) == pages + 1


def test_the_node_chooses_the_class_that_gives(filled: tuple[RawClient, int, int]) -> None:
    client, _, small = filled
    pages = _pages(client, small)
    client.ask(b"slabs reassign -1 %d\r\n" % small, b"OK\r\n")
    assert _pages(client, small) == pages + 1


def test_every_page_but_the_last_can_go(filled: tuple[RawClient, int, int]) -> None:
    client, large, _ = filled
    for _ in range(_pages(client, large) - 1):
        client.ask(b"slabs reassign %d 0\r\n" % large, b"OK\r\n")
    client.ask(b"slabs reassign %d 0\r\n" % large, b"NOSPARE source class has no spare pages\r\n")


def test_a_class_without_pages_has_none_to_spare(filled: tuple[RawClient, int, int]) -> None:
    client, _, _ = filled
    unused = next(i for i in range(1, 40) if _pages(client, i) == 0)
    client.ask(b"slabs reassign %d 0\r\n" % unused, b"NOSPARE source class has no spare pages\r\n")


def test_reassigning_can_be_switched_off() -> None:
    with node("-m", "64", "-o", "no_slab_reassign") as server, server.client() as client:
        client.ask(b"slabs reassign 1 2\r\n", b"CLIENT_ERROR slab reassignment disabled\r\n")


def _hits_after_the_sizes_changed(automove: int) -> tuple[int, int]:
    """Hits and page moves: small items fill the cache, then larger ones go round and round."""
    peer = InProcessPeer(memory_mb=16)
    try:
        link = peer.connect()
        link.send(b"slabs automove %d\r\n" % automove)
        small, large = b"x" * SMALL_BYTES, b"y" * 1000
        for i in range(150_000):
            link.send(b"set small%d 0 0 100 noreply\r\n%s\r\n" % (i, small))
        for i in [*range(6000)] * 5:
            link.buffer.clear()
            link.send(b"get large%d\r\n" % i)
            if link.buffer == b"END\r\n":
                link.send(b"set large%d 0 0 1000 noreply\r\n%s\r\n" % (i, large))
        counters = peer.counters()
        return counters["get_hits"], counters["slabs_moved"]
    finally:
        peer.close()


def test_pages_follow_the_sizes_unless_automove_is_off() -> None:
    hits, moves = _hits_after_the_sizes_changed(automove=1)
    hits_off, moves_off = _hits_after_the_sizes_changed(automove=0)
    assert hits > 10 * hits_off + 1000
    assert moves > 10 * moves_off

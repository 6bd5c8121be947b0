"""Segment.explain(): why a key is or is not there, for every way in which an item can leave."""

from array import array
from collections.abc import Iterator

import pytest

from memcachepy import _core

MEGABYTE = 1 << 20
REMEMBERED = 4096
"""Departures that a shard remembers."""


@pytest.fixture
def segment() -> Iterator[_core.Segment]:
    """Of 8 MB and one shard, with this process as a worker."""
    made = _core.Segment({"memory_limit_bytes": 8 * MEGABYTE})
    made.claim_slot(_core.SLOT_WORKER_FIRST)
    assert made.shard_count == 1
    yield made
    made.close()


@pytest.fixture
def connection(segment: _core.Segment) -> _core.Connection:
    return _core.Connection(segment)


def maintain(segment: _core.Segment) -> None:
    while segment.maintain():
        pass


def key_of(number: int) -> bytes:
    """As `replay` makes keys."""
    return number.to_bytes(16, "little")


def test_a_stored_item_is_described(segment: _core.Segment, connection: _core.Connection) -> None:
    connection.feed(b"set k 7 100 5\r\nhello\r\n")
    said = segment.explain(b"k")
    assert said["state"] == "stored"
    assert (said["value_len"], said["client_flags"], said["shard"]) == (5, 7, 0)
    assert said["item_bytes"] == 28 + 4 + 1 + 5
    assert 99 <= said["ttl_s"] <= 100
    assert (said["fetched"], said["probation"], said["chained"]) == (False, True, False)
    connection.feed(b"get k\r\n")
    said = segment.explain(b"k")
    assert (said["fetched"], said["hits"], said["last_access_s"] < 9) == (True, 1, True)
    connection.feed(b"touch k 0\r\n")
    assert segment.explain(b"k")["ttl_s"] == -1


def test_an_invalidated_item_is_said_to_be_stale(
    segment: _core.Segment, connection: _core.Connection
) -> None:
    connection.feed(b"set k 0 0 1\r\na\r\n")
    assert segment.explain(b"k")["stale"] is False
    connection.feed(b"md k I\r\n")
    assert (segment.explain(b"k")["state"], segment.explain(b"k")["stale"]) == ("stored", True)


def test_explain_leaves_no_trace(segment: _core.Segment, connection: _core.Connection) -> None:
    connection.feed(b"set k 0 0 1\r\na\r\n")
    before = segment.counters()
    assert segment.explain(b"k") == segment.explain(b"k")
    assert segment.explain(b"absent")["state"] == "unknown"
    assert segment.counters() == before
    assert segment.explain(b"k")["fetched"] is False


def test_a_long_value_is_said_to_be_a_chain(
    segment: _core.Segment, connection: _core.Connection
) -> None:
    connection.feed(b"set k 0 0 300000\r\n" + bytes(300_000) + b"\r\n")
    said = segment.explain(b"k")
    assert (said["state"], said["chained"], said["value_len"]) == ("stored", True, 300_000)
    connection.feed(b"delete k\r\n")
    assert segment.explain(b"k")["how"] == "deleted"


def test_who_was_never_stored_is_unknown(segment: _core.Segment) -> None:
    segment.advance_clock(50)
    said = segment.explain(b"k")
    assert said["state"] == "unknown"
    assert said["remembers_s"] >= 50, "as long as the node runs"
    assert said["in_ghost"] is False


def test_a_deleted_item_is_remembered_with_its_moment(
    segment: _core.Segment, connection: _core.Connection
) -> None:
    connection.feed(b"set k 0 0 1\r\na\r\nget k\r\ndelete k\r\n")
    segment.advance_clock(33)
    said = segment.explain(b"k")
    assert (said["state"], said["how"], said["fetched"]) == ("gone", "deleted", True)
    assert 33 <= said["ago_s"] <= 34


def test_a_set_that_is_refused_takes_the_old_value(
    segment: _core.Segment, connection: _core.Connection
) -> None:
    connection.feed(b"set k 0 0 1\r\na\r\n")
    reply = connection.feed(b"set k 0 0 2000000\r\n" + bytes(2_000_000) + b"\r\n")
    assert reply == b"SERVER_ERROR object too large for cache\r\n"
    assert segment.explain(b"k")["how"] == "refused"


def test_an_expired_item_is_recognised_before_and_after_it_is_reclaimed(
    segment: _core.Segment, connection: _core.Connection
) -> None:
    connection.feed(b"set k 0 10 1\r\na\r\n")
    segment.advance_clock(30)
    said = segment.explain(b"k")
    assert said["state"] == "expired"
    assert 19 <= said["ttl_s"] <= 21
    maintain(segment)
    said = segment.explain(b"k")
    assert (said["state"], said["how"], said["fetched"]) == ("gone", "expired", False)
    assert 19 <= said["ago_s"] <= 21, "since it expired, not since it was reclaimed"


def test_a_flushed_item_is_recognised_before_and_after_it_is_reclaimed(
    segment: _core.Segment, connection: _core.Connection
) -> None:
    connection.feed(b"set k 0 0 1\r\na\r\nflush_all\r\n")
    assert segment.explain(b"k")["state"] == "flushed"
    connection.feed(b"get k\r\n")
    said = segment.explain(b"k")
    assert (said["state"], said["how"]) == ("gone", "flushed")


def test_evictions_are_told_by_their_reason(segment: _core.Segment) -> None:
    count = 100_000
    segment.replay(array("Q", range(count)), 100)
    counters = segment.counters()
    told: dict[str, int] = {}
    for number in range(count):
        said = segment.explain(key_of(number))
        name = said.get("how", said["state"])
        told[name] = told.get(name, 0) + 1
    assert told.pop("stored") == counters["curr_items"]
    assert told.pop("unknown") + sum(told.values()) == counters["evictions"]
    # Keys are remembered by 32 bits of their hash: one in a million says what befell another.
    assert REMEMBERED <= sum(told.values()) <= REMEMBERED + 3
    assert told["evicted_probation"] > 0
    assert segment.check() == []


def test_pages_that_go_elsewhere_are_a_reason_of_their_own(segment: _core.Segment) -> None:
    segment.replay(array("Q", range(60_000)), 100)
    before = segment.counters()["evicted_page_move"]
    segment.replay(array("Q", range(100_000, 100_010)), 15_000)
    assert segment.counters()["evicted_page_move"] > before
    hows = {segment.explain(key_of(number)).get("how") for number in range(60_000)}
    assert "evicted_page_move" in hows


def test_without_probation_evictions_are_from_the_main_part() -> None:
    segment = _core.Segment({"memory_limit_bytes": 8 * MEGABYTE, "eviction_policy": "allkeys-lru"})
    segment.claim_slot(_core.SLOT_WORKER_FIRST)
    segment.replay(array("Q", range(100_000)), 100)
    hows = [segment.explain(key_of(number)).get("how") for number in range(100_000)]
    # A page that the table needs takes items with it; 32 bits of a hash are told of above.
    told = hows.count("evicted_main") + hows.count("evicted_table")
    assert REMEMBERED <= told <= REMEMBERED + 3
    assert hows.count("evicted_main") > REMEMBERED / 2
    segment.close()


def test_a_lower_memory_limit_is_a_reason_of_its_own() -> None:
    segment = _core.Segment({"memory_limit_bytes": 16 * MEGABYTE})
    segment.claim_slot(_core.SLOT_WORKER_FIRST)
    segment.replay(array("Q", range(100_000)), 100)
    assert _core.Connection(segment).feed(b"cache_memlimit 10\r\n") == b"OK\r\n"
    maintain(segment)
    assert segment.counters()["evicted_shrink"] > 0
    hows = {segment.explain(key_of(number)).get("how") for number in range(100_000)}
    assert "evicted_shrink" in hows
    segment.close()


def test_the_ghost_knows_longer_than_the_memory_of_departures(segment: _core.Segment) -> None:
    segment.replay(array("Q", range(100_000)), 100)
    said = [segment.explain(key_of(number)) for number in range(100_000)]
    forgotten = [one for one in said if one["state"] == "unknown"]
    assert any(one["in_ghost"] for one in forgotten)


def test_the_newest_departure_counts(segment: _core.Segment, connection: _core.Connection) -> None:
    connection.feed(b"set k 0 0 1\r\na\r\ndelete k\r\nset k 0 0 1\r\na\r\nflush_all\r\nget k\r\n")
    assert segment.explain(b"k")["how"] == "flushed"


def test_memory_reaches_back_to_the_oldest_of_the_last_departures(
    segment: _core.Segment, connection: _core.Connection
) -> None:
    def store_and_delete(first: int) -> None:
        for number in range(first, first + REMEMBERED // 2):
            connection.feed(b"set %d 0 0 1\r\na\r\ndelete %d\r\n" % (number, number))

    store_and_delete(0)
    segment.advance_clock(100)
    store_and_delete(REMEMBERED)
    assert 100 <= segment.explain(b"absent")["remembers_s"] <= 110
    store_and_delete(2 * REMEMBERED)
    assert segment.explain(b"absent")["remembers_s"] < 100
    assert segment.explain(b"0")["state"] == "unknown"


@pytest.mark.parametrize("key", [b"", bytes(251)])
def test_no_key_of_a_length_that_cannot_be(segment: _core.Segment, key: bytes) -> None:
    with pytest.raises(ValueError, match=r"key: \d+ bytes"):
        segment.explain(key)

"""Expired items are reclaimed though nobody asks for them."""

import random

import pytest

from memcachepy import _core

MEMORY_BYTES = 64 << 20
WITHIN_S = 10


@pytest.fixture
def segment() -> _core.Segment:
    segment = _core.Segment({"memory_limit_bytes": MEMORY_BYTES})
    segment.claim_slot(_core.SLOT_MAINTAINER)
    return segment


def pass_time(segment: _core.Segment, seconds: int) -> None:
    """Second by second, with the maintainer at work."""
    for _ in range(seconds):
        segment.advance_clock(1)
        while segment.maintain():
            pass


def store(connection: _core.Connection, key: object, exptime: int, value: bytes = b"v") -> None:
    command = f"set {key} 0 {exptime} {len(value)}\r\n".encode() + value + b"\r\n"
    assert connection.feed(command) == b"STORED\r\n"


def test_items_go_within_ten_seconds_of_their_expiry(segment: _core.Segment) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    connection = _core.Connection(segment)
    ends = sorted(rng.choice([rng.randrange(1, 100), rng.randrange(1, 5000)]) for _ in range(3000))
    for key, end_s in enumerate(ends):
        store(connection, key, end_s, bytes(rng.choice([1, 100, 3000, 20000])))
    for key in range(100):
        store(connection, f"forever{key}", 0)
    assert segment.counters()["evictions"] == 0
    for now_s in range(0, 5000, 20):
        items = segment.counters()["curr_items"] - 100
        assert sum(end_s > now_s for end_s in ends) <= items
        assert items <= sum(end_s > now_s - WITHIN_S for end_s in ends)
        pass_time(segment, 20)
    pass_time(segment, WITHIN_S)
    counters = segment.counters()
    assert counters["curr_items"] == 100
    assert counters["reclaimed"] == counters["expired_unfetched"] == 3000
    assert segment.check() == []


def test_a_touch_moves_the_end_both_ways(segment: _core.Segment) -> None:
    connection = _core.Connection(segment)
    for key in ("sooner", "later", "never", "at_last"):
        store(connection, key, 100)
    store(connection, "was_never", 0)
    for key, exptime in (("sooner", 10), ("later", 1000), ("never", 0), ("was_never", 10)):
        assert connection.feed(f"touch {key} {exptime}\r\n".encode()) == b"TOUCHED\r\n"
    assert segment.check() == []
    left = []
    for seconds in (10 + WITHIN_S, 80 + WITHIN_S, 900, 5000):
        pass_time(segment, seconds)
        left.append(segment.counters()["curr_items"])
    assert left == [3, 2, 1, 1]
    assert segment.counters()["reclaimed"] == 4


def test_a_jump_of_the_clock_hides_nothing(segment: _core.Segment) -> None:
    connection = _core.Connection(segment)
    for key in range(1000):
        store(connection, key, 1 + key)
    pass_time(segment, 1)
    segment.advance_clock(1234)  # The machine slept, or the maintainer did.
    pass_time(segment, 3)
    assert segment.counters()["curr_items"] == 0


def test_a_step_of_the_system_clock_takes_absolute_moments_along(segment: _core.Segment) -> None:
    connection = _core.Connection(segment)
    wall_s = int(connection.feed(b"stats\r\n").split(b"STAT time ")[1].split()[0])
    store(connection, "absolute", wall_s + 10000)
    store(connection, "relative", 10000)
    pass_time(segment, 1)
    segment.step_system_clock(10001)
    pass_time(segment, 3)
    assert connection.feed(b"get absolute relative\r\n") == b"VALUE relative 0 1\r\nv\r\nEND\r\n"
    assert segment.counters()["curr_items"] == 1


def test_flushed_items_go_with_their_expiry(segment: _core.Segment) -> None:
    connection = _core.Connection(segment)
    for key in range(100):
        store(connection, key, 50)
    assert connection.feed(b"flush_all\r\n") == b"OK\r\n"
    pass_time(segment, 50 + WITHIN_S)
    assert segment.counters()["curr_items"] == 0


def test_a_fixed_clock_is_moved_by_nobody() -> None:
    """A node's clocks: whatever another process writes into the words that move a simulation's."""
    segment = _core.Segment({"memory_limit_bytes": MEMORY_BYTES, "clock_is_fixed": True})
    segment.claim_slot(_core.SLOT_WORKER_FIRST)
    connection = _core.Connection(segment)
    store(connection, "key", 1000)
    for seconds in (5000, -20_000, 2**62):
        segment.advance_clock(seconds)
        segment.step_system_clock(seconds)
        assert connection.feed(b"get key\r\n") == b"VALUE key 0 1\r\nv\r\nEND\r\n"

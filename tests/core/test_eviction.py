"""What goes when memory is full, under each policy."""

import itertools
import random
from array import array
from collections.abc import Iterable

import pytest

from memcachepy import _core

MEMORY_BYTES = 8 << 20
VALUE_BYTES = 100
FITS = 40_000
"""About as many items of that size as fit; more than a half of them always do."""

EVICTING = [name for name in _core.EVICTION_POLICIES if name != "noeviction"]
VOLATILE = [name for name in EVICTING if name.startswith("volatile-")]
REASONS = ("probation", "main", "page_move", "donation", "table", "shrink")
TTL_S = 100_000


def open_segment(policy: str, **settings: object) -> _core.Segment:
    given = {"memory_limit_bytes": MEMORY_BYTES, "eviction_policy": policy} | settings
    segment = _core.Segment(given)
    segment.claim_slot(_core.SLOT_WORKER_FIRST)
    return segment


def read_through(segment: _core.Segment, keys: Iterable[int], ttl_s: int = TTL_S) -> int:
    """Gets each key and sets it if it is not there; returns the misses."""
    return segment.replay(array("Q", keys), VALUE_BYTES, ttl_s=ttl_s)[1]


def assert_counters_add_up(segment: _core.Segment) -> None:
    counters = segment.counters()
    assert counters["evictions"] == sum(counters[f"evicted_{reason}"] for reason in REASONS)
    assert counters["evicted_unfetched"] <= counters["evictions"]
    assert segment.check() == []


@pytest.mark.parametrize("policy", EVICTING)
def test_evictions_make_room_and_are_counted_by_reason(policy: str) -> None:
    segment = open_segment(policy)
    keys = 3 * FITS
    assert read_through(segment, range(keys)) == keys
    counters = segment.counters()
    assert counters["curr_items"] + counters["evictions"] == keys
    assert counters["curr_items"] > FITS / 2
    assert counters["store_no_memory"] == 0
    assert_counters_add_up(segment)
    # Other sizes: pages change their class, their items go for another reason.
    assert segment.replay(array("Q", range(keys, keys + 3000)), 1500, ttl_s=TTL_S)[2] == 0
    assert segment.counters()["evicted_page_move"] > 0
    assert_counters_add_up(segment)


def test_who_is_asked_for_survives_a_scan() -> None:
    segment = open_segment("s3fifo")
    hot = range(FITS // 4)
    for _ in range(3):
        read_through(segment, hot)
    read_through(segment, range(10**6, 10**6 + 5 * FITS))
    assert read_through(segment, hot) < len(hot) / 50
    counters = segment.counters()
    assert counters["evicted_probation"] > 9 * counters["evicted_main"]
    assert_counters_add_up(segment)


def test_who_comes_back_soon_is_not_put_on_probation_again() -> None:
    segment = open_segment("s3fifo")
    read_through(segment, range(2 * FITS))
    strangers = iter(range(10**6, 10**7))
    once_more = range(10**8, 10**8 + 2000)
    read_through(segment, once_more)
    read_through(segment, [next(strangers) for _ in range(FITS // 2)])
    assert read_through(segment, once_more) > 1900  # Nobody asked for them: they had gone.
    read_through(segment, [next(strangers) for _ in range(FITS // 2)])
    assert read_through(segment, once_more) < 100  # As many strangers do not matter now.


def test_overwriting_does_not_change_a_place_in_the_queue() -> None:
    segment = open_segment("s3fifo")
    connection = _core.Connection(segment)
    read_through(segment, range(2 * FITS))
    for _ in range(20):
        connection.feed(b"set %16s 0 0 %d\r\n%s\r\n" % (b"_" * 16, VALUE_BYTES, bytes(VALUE_BYTES)))
    read_through(segment, range(10**6, 10**6 + FITS))
    assert connection.feed(b"get " + b"_" * 16 + b"\r\n") == b"END\r\n"


@pytest.mark.parametrize("policy", VOLATILE)
def test_only_what_will_expire_is_evicted(policy: str) -> None:
    segment = open_segment(policy)
    lasting = range(FITS // 4)
    read_through(segment, lasting, ttl_s=0)
    read_through(segment, range(10**6, 10**6 + 3 * FITS))
    assert segment.counters()["evictions"] > FITS
    assert read_through(segment, lasting, ttl_s=0) == 0
    assert_counters_add_up(segment)


@pytest.mark.parametrize("policy", VOLATILE)
def test_without_anything_to_evict_a_set_is_refused_and_the_old_value_kept(policy: str) -> None:
    segment = open_segment(policy)
    connection = _core.Connection(segment)
    connection.feed(b"set k 0 0 3\r\nold\r\n")
    _, misses, refused, _ = segment.replay(array("Q", range(2 * FITS)), VALUE_BYTES)
    assert 0 < refused < misses
    too_much = b"set k 0 0 50000\r\n" + bytes(50000) + b"\r\n"
    assert connection.feed(too_much) == b"SERVER_ERROR out of memory storing object\r\n"
    assert connection.feed(b"get k\r\n") == b"VALUE k 0 3\r\nold\r\nEND\r\n"
    assert segment.counters()["evictions"] == 0
    assert_counters_add_up(segment)


def test_ttl_policy_prefers_what_ends_next() -> None:
    segment = open_segment("volatile-ttl")
    soon, late = range(FITS // 4), range(10**6, 10**6 + FITS // 4)
    seed = random.randrange(2**32)
    print("seed", seed)
    mixed = [*soon, *late]
    random.Random(seed).shuffle(mixed)
    for key in mixed:
        read_through(segment, [key], ttl_s=100 if key < 10**6 else 100_000)
    read_through(segment, range(10**7, 10**7 + FITS), ttl_s=50_000)
    assert segment.counters()["evictions"] > FITS // 10
    gone_late = read_through(segment, late)
    gone_soon = read_through(segment, soon)
    assert gone_soon > 5 * gone_late


def test_lfu_keeps_what_was_asked_for_often() -> None:
    segment = open_segment("allkeys-lfu")
    often = range(FITS // 4)
    for _ in range(100):
        read_through(segment, often)
    for first in range(10**6, 10**6 + 3 * FITS, 1000):
        twice = range(first, first + 1000)
        read_through(segment, twice)
        read_through(segment, twice)
    assert read_through(segment, often) < len(often) / 50


def test_the_policies_differ_as_they_should() -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    # Zipf of exponent 1 over eight times as many keys as fit; every third comes once.
    once = iter(range(10**9, 10**10))
    warm, keys = (
        [next(once) if i % 3 == 0 else int((8 * FITS) ** rng.random()) for i in range(300_000)]
        for _ in range(2)
    )
    misses = {}
    for policy in EVICTING:
        segment = open_segment(policy)
        read_through(segment, warm)
        misses[policy] = read_through(segment, keys) - 100_000  # Those nobody can have.
    print(misses)
    assert misses["s3fifo"] < 0.97 * misses["allkeys-lru"]
    assert misses["allkeys-lru"] < 0.97 * misses["allkeys-random"]
    assert misses["volatile-lru"] < 0.97 * misses["volatile-random"]


def test_memory_goes_to_sizes_that_are_stored_once_and_only_read() -> None:
    segment = open_segment("s3fifo")
    segment.replay(array("Q", range(10**7, 10**7 + 6 * FITS)), 10)  # Nobody asks for these again.
    too_large = (1 << 20) + 1  # A miss with this is not stored: a read and no more.
    hits = reads = 0
    for first in range(0, 2 * FITS, 1000):
        segment.replay(array("Q", range(first, first + 1000)), 300)
        if first >= FITS:
            lately = array("Q", range(first - 500, first + 1000, 7))
            hits += segment.replay(lately, too_large)[0]
            reads += len(lately)
    assert hits > 0.8 * reads
    assert_counters_add_up(segment)


def test_adding_and_deleting_in_a_full_cache_leaves_it_its_memory() -> None:
    segment = open_segment("s3fifo")
    connection = _core.Connection(segment)
    read_through(segment, range(3 * FITS))
    items = segment.counters()["curr_items"]
    value = bytes(VALUE_BYTES)
    for number in range(5 * FITS):
        connection.feed(
            b"add lock%012d 0 0 100\r\n%s\r\ndelete lock%012d\r\n" % (number, value, number)
        )
    assert segment.counters()["curr_items"] > 0.98 * items
    assert_counters_add_up(segment)


def test_a_page_that_cannot_go_does_not_condemn_its_neighbour() -> None:
    """The upload that needs the room lies in the page beside the oldest, which is asked for."""
    segment = open_segment("s3fifo", memory_limit_bytes=6 << 20)
    connection = _core.Connection(segment)
    value = bytes(66_560)
    line = b" 0 0 %d\r\n%s\r\n" % (len(value), value)
    assert connection.feed(b"set asked_for" + line) == b"STORED\r\n"
    for number in range(200):
        assert len(connection.feed(b"get asked_for\r\n")) > len(value), number
        assert connection.feed(b"set once%d" % number + line) == b"STORED\r\n"
    assert_counters_add_up(segment)


def test_of_a_few_large_values_the_one_asked_for_stays() -> None:
    """Each lies in many pages, and with the first eviction the ghost takes one of them."""
    segment = open_segment("s3fifo", memory_limit_bytes=14 << 20)
    connection = _core.Connection(segment)
    value = bytes(1_000_000)
    line = b" 0 0 %d\r\n%s\r\n" % (len(value), value)
    assert connection.feed(b"set asked_for" + line) == b"STORED\r\n"
    for number in range(100):
        assert len(connection.feed(b"get asked_for\r\n")) > len(value), number
        assert connection.feed(b"set once%d" % number + line) == b"STORED\r\n"
    assert segment.counters()["evicted_table"] > 0
    assert_counters_add_up(segment)


@pytest.mark.parametrize("policy", ["noeviction", *VOLATILE])
def test_a_flush_gives_back_what_may_not_be_evicted(policy: str) -> None:
    segment = open_segment(policy)
    segment.replay(array("Q", range(2 * FITS)), VALUE_BYTES)
    assert segment.replay(array("Q", range(10**6, 10**6 + 100)), VALUE_BYTES)[2] > 90
    segment.maintain()
    assert _core.Connection(segment).feed(b"flush_all\r\n") == b"OK\r\n"
    segment.advance_clock(5)
    while segment.maintain():
        pass
    assert segment.counters()["curr_items"] == 0
    assert segment.replay(array("Q", range(FITS)), VALUE_BYTES)[2] == 0


def test_what_is_in_a_page_that_leaves_finds_room_in_the_others_of_its_class() -> None:
    segment = open_segment("s3fifo")
    connection = _core.Connection(segment)
    value = bytes(1000)
    keys = [b"key%05d" % number for number in range(1000)]
    for key in keys:
        line = b"set %s 0 100 1000\r\n%s\r\n" % (key, value)
        assert connection.feed(line) == b"STORED\r\n"
    kept = keys[::2]
    for key in keys[1::2]:
        assert connection.feed(b"delete %s\r\n" % key) == b"DELETED\r\n"
    slabs = connection.feed(b"stats slabs\r\n").decode()
    class_id = slabs.split(":")[0].split()[1]
    for _ in range(20):
        assert connection.feed(b"slabs reassign %s 0\r\n" % class_id.encode()) == b"OK\r\n"
    assert segment.counters()["evictions"] == 0
    for key in kept:
        answer = connection.feed(b"mg %s s t v\r\n" % key)
        assert answer.startswith(b"VA 1000 s1000 t"), key
    assert segment.check() == []


def mixed_sizes(
    request_count: int, seed: int, first_key: int = 0, scale: float = 1.0
) -> tuple["array[int]", "array[int]"]:
    """Zipf over 20,000 keys, each with a value of a size of its own; and the sizes."""
    chance = random.Random(seed)
    sizes = [min(int(300 * scale * chance.lognormvariate(0, 1)) + 10, 6000) for _ in range(20_000)]
    weights = list(itertools.accumulate((rank + 1) ** -0.9 for rank in range(len(sizes))))
    keys = chance.choices(range(len(sizes)), cum_weights=weights, k=request_count)
    return array("Q", (first_key + key for key in keys)), array("I", (sizes[key] for key in keys))


def misses_of(policy: str, *streams: tuple["array[int]", "array[int]"]) -> list[int]:
    """Misses in each stream, one after the other; evictions by page moves stay few in the last."""
    segment = open_segment(policy, memory_limit_bytes=2 << 20)
    misses = []
    for ids, sizes in streams:
        before = segment.counters()
        misses.append(segment.replay(ids, sizes)[1])
        after = segment.counters()
    if policy == "s3fifo" and len(streams) == 1:
        moved = after["evicted_page_move"] - before["evicted_page_move"]
        assert moved < 0.05 * (after["evictions"] - before["evictions"])
    assert segment.check() == []
    return misses


def test_the_default_policy_is_the_best_for_values_of_many_sizes() -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    stream = mixed_sizes(200_000, seed)
    misses = {policy: misses_of(policy, stream)[0] for policy in ("s3fifo", "allkeys-lru")}
    assert misses["s3fifo"] < 1.02 * misses["allkeys-lru"]


def test_pages_follow_a_change_of_all_sizes() -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    before = mixed_sizes(100_000, seed)
    after = mixed_sizes(100_000, seed + 1, first_key=10**6, scale=4.0)
    fresh = misses_of("s3fifo", after)[0]
    assert misses_of("s3fifo", before, after)[1] < 1.1 * fresh


def test_s3fifo_bytes_misses_fewer_bytes_and_more_values() -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    ids, sizes = mixed_sizes(200_000, seed)
    results = {}
    for policy in ("s3fifo", "s3fifo-bytes"):
        segment = open_segment(policy, memory_limit_bytes=2 << 20)
        results[policy] = segment.replay(ids, sizes)
    misses = {policy: result[1] for policy, result in results.items()}
    missed_bytes = {policy: result[3] for policy, result in results.items()}
    assert misses["s3fifo"] < misses["s3fifo-bytes"]
    assert missed_bytes["s3fifo-bytes"] < missed_bytes["s3fifo"]


@pytest.mark.parametrize("policy", ["s3fifo", "noeviction"])
def test_a_free_page_above_a_lowered_limit_is_there_for_a_value(policy: str) -> None:
    """Until the maintainer has given it to the host. Without evictions the limit is the limit."""
    segment = open_segment(policy, memory_limit_bytes=16 << 20)
    connection = _core.Connection(segment)
    value = bytes(100_000)
    line = b" 0 0 %d\r\n%s\r\n" % (len(value), value)
    names = [b"k%d" % number for number in range(120)]
    for name in names:
        assert connection.feed(b"set " + name + line) == b"STORED\r\n"
    assert connection.feed(b"cache_memlimit 8\r\n") == b"OK\r\n"
    for name in names:  # Their pages are free now, and the host's.
        assert connection.feed(b"delete " + name + b"\r\n") == b"DELETED\r\n"
    expected = b"STORED\r\n" if policy == "s3fifo" else b"SERVER_ERROR"
    assert connection.feed(b"set new" + line).startswith(expected)
    assert segment.check() == []

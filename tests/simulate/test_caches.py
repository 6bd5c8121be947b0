"""Known miss counts, and what the caches refuse."""

import random
from array import array
from collections.abc import Iterator, Sequence

import pytest

from memcachepy import _core
from memcachepy.simulate import (
    Cache,
    CacheConfig,
    CacheFigures,
    Requests,
    SimulationError,
    measure_footprint,
    simulate,
)

MEGABYTE = 1 << 20
POLICIES = _core.EVICTION_POLICIES


def batches(
    ids: Sequence[int], value_len: int = 100, key_len: int = 16, length: int = 1000
) -> Iterator[Requests]:
    for at in range(0, len(ids), length):
        yield Requests(array("Q", ids[at : at + length]), value_len, key_len)


def run(ids: Sequence[int], **config: object) -> CacheFigures:
    values: dict[str, object] = {"memory_bytes": MEGABYTE} | config
    return simulate(batches(ids), [CacheConfig(**values)])[0]  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_loop_over_fewer_keys_than_fit_misses_each_once(policy: str) -> None:
    figures = run(list(range(3000)) * 4, eviction_policy=policy, ttl_s=1000)
    assert (figures.requests, figures.misses, figures.evictions) == (12_000, 3000, 0)
    assert figures.items == 3000
    assert figures.miss_ratio == 0.25
    assert figures.byte_miss_ratio == 0.25
    assert (figures.window_requests, figures.window_misses) == (
        [1000] * 12,
        [1000] * 3 + [0] * 9,
    )


def test_keys_that_come_once_all_miss() -> None:
    figures = run(range(50_000))
    assert figures.misses == 50_000
    assert figures.evictions == 50_000 - figures.items > 0


def test_a_cache_that_may_not_evict_refuses_what_does_not_fit() -> None:
    figures = run(range(50_000), eviction_policy="noeviction")
    assert (figures.misses, figures.evictions) == (50_000, 0)
    assert figures.refused == 50_000 - figures.items > 0


def test_more_memory_misses_less(rng: random.Random) -> None:
    ids = rng.choices(range(40_000), weights=[1 / (key + 1) for key in range(40_000)], k=100_000)
    configs = [CacheConfig(memory_bytes=size * MEGABYTE) for size in (2, 1, 16)]
    middle, small, large = simulate(batches(ids), configs)
    assert small.misses > middle.misses > large.misses == len(set(ids))


def test_all_caches_see_the_same_requests_however_many_threads() -> None:
    configs = [CacheConfig(memory_bytes=8 * MEGABYTE)] * 5
    for threads in (1, 4):
        found = simulate(batches(list(range(2000)) * 2), configs, thread_count=threads)
        assert [(row.requests, row.misses) for row in found] == [(4000, 2000)] * 5


def test_short_keys_stay_different() -> None:
    ids = [int.from_bytes(b"%02d" % number, "little") for number in range(100)]
    with Cache(CacheConfig(memory_bytes=MEGABYTE)) as cache:
        for key_len in (2, 3, 8, 250):
            cache.replay(Requests(array("Q", ids), 10, key_len))
        assert cache.figures().items == 400


def test_an_item_above_the_largest_size_is_a_miss_each_time() -> None:
    ids = array("Q", [1, 2, 1, 2])
    sizes = array("I", [5000, 900, 5000, 900])
    config = CacheConfig(memory_bytes=MEGABYTE, item_size_max_bytes=1024)
    figures = simulate([Requests(ids, sizes, 16)], [config])[0]
    assert (figures.misses, figures.refused, figures.items) == (3, 2, 1)
    assert (figures.requested_bytes, figures.missed_bytes) == (11_800, 10_900)


def test_a_value_of_several_chunks_is_found_again() -> None:
    ids = array("Q", [1, 2, 1, 2])
    config = CacheConfig(memory_bytes=8 * MEGABYTE)
    figures = simulate([Requests(ids, 300_000, 16)], [config])[0]
    assert (figures.misses, figures.refused) == (2, 0)


def test_an_item_lives_for_its_ttl_in_the_times_of_the_trace() -> None:
    def requests(*times_s: int) -> Requests:
        return Requests(array("Q", [7] * len(times_s)), 10, 16, array("I", times_s))

    config = CacheConfig(memory_bytes=MEGABYTE, ttl_s=1000)
    with Cache(config) as cache:
        for batch, misses in (
            (requests(5000, 5500, 5990), 1),
            (requests(6100), 2),  # The time between two batches counts.
            (requests(6000, 7050, 7150, 7160), 3),
            (requests(9000, 12_000), 5),
        ):
            cache.replay(batch)
            assert cache.figures().misses == misses


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"memory_bytes": MEGABYTE - 1}, "1,048,575 bytes is too small; the least is 1 MB"),
        ({"eviction_policy": "volatile-lru"}, "volatile-lru evicts only items with an expiry"),
        ({"eviction_policy": "nonsense"}, "eviction_policy"),
        ({"item_size_max_bytes": MEGABYTE}, "half of memory_limit_bytes"),
        ({"growth_factor": 0.5}, "growth_factor"),
    ],
)
def test_a_cache_that_cannot_be_is_refused(config: dict[str, object], message: str) -> None:
    with pytest.raises(SimulationError, match=message):
        run([1], **config)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"ids": b"1234567"}, "ids: 7 bytes are not 8 for each"),
        ({"value_lens": array("I", [1, 2])}, "value_lens: 8 bytes are not 4 for each of 1 ids"),
        ({"key_lens": 0}, "key_lens: 0 is out of range; the range is 1 to 250"),
        ({"key_lens": array("I", [251])}, "key_lens: request 0 has 251"),
        ({"value_lens": -1}, "value_lens: -1 is out of range"),
        ({"value_lens": 1 << 32}, "value_lens: 4294967296 is out of range"),
        ({"key_lens": 1}, "id 256 of request 0 does not fit a key of 1 bytes"),
        ({"ttl_s": 2_592_001}, "ttl_s: 2592001 is out of range"),
        ({"times_s": b"12"}, "times_s: 2 bytes are not 4 for each of 1 ids"),
    ],
)
def test_replay_refuses_columns_that_do_not_fit(how: dict[str, object], message: str) -> None:
    segment = _core.Segment({"memory_limit_bytes": MEGABYTE, "item_size_max_bytes": MEGABYTE // 2})
    segment.claim_slot(_core.SLOT_WORKER_FIRST)
    columns: dict[str, object] = {"ids": array("Q", [256]), "value_lens": 10} | how
    with pytest.raises(ValueError, match=message):
        segment.replay(**columns)  # type: ignore[arg-type]
    segment.close()


def test_a_footprint_counts_each_key_once() -> None:
    footprint = measure_footprint(batches(list(range(500)) * 3, value_len=60, key_len=20))
    assert (footprint.request_count, footprint.key_count) == (1500, 500)
    assert footprint.item_bytes == 500 * (60 + 20 + 40)


@pytest.mark.parametrize("stride", [1, 3, 1 << 20])
def test_a_footprint_of_many_keys_is_estimated(stride: int) -> None:
    keys = range(0, 200_000 * stride, stride)
    footprint = measure_footprint(batches(keys), exact_max=10_000)
    assert footprint.request_count == 200_000
    assert footprint.key_count == pytest.approx(200_000, rel=0.05)
    assert footprint.item_bytes == footprint.key_count * 156

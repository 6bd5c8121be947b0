"""What bench/sizes.py measures with: one cache, by histories computed by hand; rows and tables."""

import sys
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench"
sys.path.insert(0, str(BENCH))

import items  # noqa: E402
import sizes  # noqa: E402
import workloads  # noqa: E402

MEMORY_MB = 1000 / sizes.MEGABYTE
"""Ten items of 100 bytes; a tenth of it is one item's."""
VALUE_LEN = 100 - sizes.KEY_LEN - sizes.OVERHEAD_BYTES

Misses = Callable[..., list[int]]


@pytest.fixture(scope="module")
def one_cache(tmp_path_factory: pytest.TempPathFactory) -> sizes.OneCache:
    """The compiled simulator."""
    return sizes.OneCache(tmp_path_factory.mktemp("onecache"))


@pytest.fixture
def misses(one_cache: sizes.OneCache) -> Misses:
    """Requests of a history that miss, as positions; values may have other sizes by key."""

    def run(history: Sequence[int], value_lens: dict[int, int] | None = None) -> list[int]:
        lens = array("I", ((value_lens or {}).get(key, VALUE_LEN) for key in history))
        one_cache.take(sizes.Load(array("Q", history), lens))
        return [at for at, missed in enumerate(one_cache.replay(MEMORY_MB, 1)["misses"]) if missed]

    return run


def test_what_fits_misses_once(misses: Misses) -> None:
    assert misses([*range(10), *range(10)]) == list(range(10))


def test_the_oldest_new_item_is_evicted_first(misses: Misses) -> None:
    # 10 evicts 0; the others are hit.
    assert misses([*range(11), *range(1, 11)]) == list(range(11))
    assert misses([*range(11), 0]) == list(range(12))


def test_an_item_hit_in_probation_outlives_a_scan(misses: Misses) -> None:
    scan = list(range(10, 60))
    history = [*range(10), 0, *scan, 0, 1]
    # 0 is asked for again at once and after the scan; 1 is gone.
    assert misses(history) == [*range(10), *range(11, 61), 62]


def test_a_key_of_the_ghost_returns_to_main_and_outlives_a_scan(misses: Misses) -> None:
    # 10 evicts 0, whose key the ghost has: it comes back as a main item. 11 to 60 evict each other.
    history = [*range(11), 0, *range(11, 61), 0]
    assert misses(history) == list(range(62))


def test_the_ghost_forgets_beyond_as_many_keys_as_there_are_items(misses: Misses) -> None:
    # At 29 there are nine items and the ghost is full with the nine keys 11 to 19: 10 is
    # forgotten and enters probation, which 30 to 79 pass through; 11 enters main.
    scan = list(range(30, 80))
    forgotten, known = [*range(30), 10, *scan, 10], [*range(30), 11, *scan, 11]
    assert misses(forgotten)[-1] == len(forgotten) - 1
    assert misses(known)[-1] == len(known) - 2


def test_main_gives_an_item_another_round_for_each_count(misses: Misses) -> None:
    # All ten are hit once; 10 moves them to main, where they have no count, and evicts 0.
    begin = [*range(10), *range(10), 10]
    # 1 is hit, 2 is hit twice. 10 was not hit: 11 evicts it from probation, 10 is in the ghost and
    # evicts 11, and is main. Main is 1 to 9 and 10, and probation empty.
    counts = [1, 2, 2, 11, 10]
    # 12 passes 1 and 2, which lose a count, and evicts 3; 13 evicts 12; 3 is not in the ghost.
    history = [*begin, *counts, 12, 1, 2, 3]
    assert misses(history) == [*range(10), 20, 24, 25, 26, 29]


def test_items_enter_main_without_their_counts(misses: Misses) -> None:
    # 0 was hit three times in probation, the others once: it is still the first that main evicts.
    assert misses([*range(10), *range(10), 0, 0, 10, 1, 0]) == [*range(10), 22, 24]


def _main_evictions(count: int) -> list[int]:
    """From a full main and an empty probation: each evicts a main item for a new one.

    The first new key evicts a main item; the second new key evicts the first from probation; and
    the first comes back as a main item, for which the second goes.
    """
    return [key for new in range(100, 100 + 2 * count, 2) for key in (new, new + 1, new)]


def test_an_item_has_at_most_three_counts(misses: Misses) -> None:
    # As above; 1 is hit five times, and stands in front of nine main items without a count.
    begin = [*range(10), *range(10), 10, *[1] * 5, 11, 10]
    # It stays in the 1st, 10th and 19th eviction, which take the next in its place.
    stays, goes = [*begin, *_main_evictions(27), 1], [*begin, *_main_evictions(28), 1]
    assert misses(stays)[-1] == len(stays) - 2
    assert misses(goes)[-1] == len(goes) - 1


def test_large_items_evict_as_many_bytes_as_they_take(misses: Misses) -> None:
    # 20 takes 300 bytes: 0, 1 and 2 go. The ghost has them.
    assert misses([*range(10), 20, *range(3, 10)], {20: VALUE_LEN + 200}) == list(range(11))
    assert misses([*range(10), 20, 2], {20: VALUE_LEN + 200}) == list(range(12))


def test_what_is_larger_than_the_memory_is_not_stored(misses: Misses) -> None:
    history = [*range(10), 20, 20, *range(10)]
    assert misses(history, {20: 1001}) == list(range(12))


def test_bytes_missed_and_items_left_are_told(one_cache: sizes.OneCache) -> None:
    one_cache.take(sizes.Load(array("Q", [1, 2, 1, 1]), array("I", [100, 300, 100, 100])))
    found = one_cache.replay(1.0)
    assert found["byte_miss_ratio"] == round(400 / 600, 6)
    assert (found["miss_ratio"], found["items"], found["evictions"]) == (0.5, 2, 0)


def test_ours_tells_bytes_missed_and_what_went_with_pages() -> None:
    load = sizes.Load(array("Q", [1, 2, 1, 1]), array("I", [100, 300, 100, 100]))
    found = sizes.replay_ours(load, 1.0, sizes.OURS)
    assert found["byte_miss_ratio"] == round(400 / 600, 6)
    assert (found["miss_ratio"], found["items"], found["evictions"]) == (0.5, 2, 0)
    assert (found["late_moved_share"], found["late_moves_per_request"]) == (0, 0)


def test_rows_of_the_same_memory_are_one() -> None:
    load = sizes.Load(array("Q", range(20_000)), array("I", [100]) * 20_000)
    assert load.key_bytes == 20_000 * 159
    workload = sizes.Workload("w", "w", lambda: load, (2,), (1, 10, 50))
    # 1 % and 10 % are less than ours can be; 50 % are 1.516 MB, in sixteenths.
    assert sizes.row_memories(workload, load) == [("2", 2.0), ("1,10%", 1.0), ("50%", 1.5625)]


def test_a_step_is_to_the_best_of_all_smaller_memories() -> None:
    assert sizes.highest_step([(1, 0.5), (2, 0.4), (3, 0.41), (4, 0.42), (5, 0.3)]) == 0.42 / 0.4
    assert sizes.highest_step([(1, 0.5), (2, 0.4)]) == 0.8


def test_a_sweep_looks_around_each_switch_of_the_page_size() -> None:
    memories = sizes.sweep_memories([9, 300])
    assert {7, 8, 9, 10, 11} <= set(memories["zipf-400k"])
    assert {298, 299, 300, 301, 302, *range(250, 263)} <= set(memories["zipf-1.5m"])


def test_a_page_size_switch_is_found() -> None:
    switches = sizes.page_size_switches()
    assert switches == sorted(set(switches))
    for switch in switches:
        sizes_around = []
        for memory_mb in (switch - 1, switch):
            with sizes.OurStore(memory_mb, sizes.OURS) as store:
                limit = store.segment.counters()["pages_limit"]
                sizes_around.append(memory_mb * sizes.MEGABYTE // limit)
        assert sizes_around[0] != sizes_around[1]


def test_all_loads_are_the_same_each_time() -> None:
    first = workloads.with_reuse(20_000, 3000, 0.5, seed=3, run_len=8)
    assert first == workloads.with_reuse(20_000, 3000, 0.5, seed=3, run_len=8)
    assert len(first) == 20_000
    assert 2900 <= len(set(first)) <= 3000
    lens = workloads.log_normal_sizes(1000, 300, 1.2, 10, 60_000, seed=1)
    assert lens == workloads.log_normal_sizes(1000, 300, 1.2, 10, 60_000, seed=1)
    assert sorted(lens)[500] == pytest.approx(300, rel=0.15)
    assert min(lens) >= 10


def test_traces_come_beside_the_streams_that_are_like_them(tmp_path: Path) -> None:
    path = tmp_path / "oltp.u32"
    path.write_bytes(array("I", [5, 6, 5]).tobytes())
    found = {workload.name: workload for workload in sizes.workloads([str(path)], 1)}
    assert {"oltp", "oltp-like", "w106-like", "web12-like"} <= set(found)
    assert {"w106", "web12"}.isdisjoint(found)
    load = found["oltp"].make()
    assert list(load.ids) == [5, 6, 5]
    assert list(load.value_lens) == [205, 206, 205]
    assert found["oltp"].memories_mb == (2, 8, 24)


MACHINE = dict.fromkeys(("memcached", "memcachepy", "commit", "cpu", "cpu_count", "system"), "x")


def _results(to_one: float, to_other: float, moved: float) -> dict[str, Any]:
    ours = {"miss_ratio": 0.5, "byte_miss_ratio": 0.6, "late_moved_share": moved,
            "late_moves_per_request": 0.001}  # fmt: skip
    other = {"miss_ratio": 0.4, "byte_miss_ratio": 0.3}
    row = {
        "name": "w@2", "title": "w", "label": "2", "memory_mb": 2.0,
        "stores": {sizes.OURS: ours, "allkeys-lru": other, "one cache": other},
        "to_one_cache": to_one, "best_other": "allkeys-lru", "to_best_other": to_other,
    }  # fmt: skip
    return {"machine": MACHINE, "started_at": "2026-01-02T03:04:05+00:00", "rows": [row]}


def test_rows_are_judged_by_one_cache_the_others_and_page_moves() -> None:
    table = sizes.render(_results(1.01, 1.01, 0.04))
    assert "| w | 2 | 0.4000 | 0.5000 | **1.010** | allkeys-lru 0.4000 | **1.010** |" in table
    assert "0.6000, 0.3000, 0.3000 | 4.0% | 1.00 |" in table
    assert "mean 1.010 ≤ 1.02 ✓, highest 1.010 ≤ 1.05 ✓" in table
    assert "✗" not in table
    table = sizes.render(_results(1.06, 1.03, 0.06))
    assert "mean 1.060 ≤ 1.02 ✗ missed, highest 1.060 ≤ 1.05 ✗ missed" in table
    assert "To the best other policy: highest 1.030 ≤ 1.02 ✗ missed" in table
    assert "at most 6.0% ≤ 5% ✗ missed" in table


def test_the_sweep_and_memcached_are_judged() -> None:
    results = _results(1.0, 1.0, 0.0) | {
        "sweep": [{"title": "z", "switches_mb": [256], "highest_step": 1.09,
                   "points": [(255, 0.2), (256, 0.218)]}],
        "memcached": {
            "rows": [{"title": "w", "memory_mb": 2, "taken_mb": 7.0, "memcached": 0.5,
                      "ours": 0.45, "ratio": 0.9, "one_cache": 0.4, "one_cache_ratio": 0.8}],
            "left_out": ["w@3 (memcached evicts nothing)"],
        },
    }  # fmt: skip
    table = sizes.render(results)
    assert "| z | 255: 0.2000, 256: 0.2180 | 1.090 ≤ 1.005 ✗ missed |" in table
    assert "Pages change their size at 256 MB." in table
    assert "| w | 2 | 7.0 | 0.5000 | 0.4500 | **0.900** | 0.4000 | 0.800 |" in table
    assert "Mean 0.900 ≤ 0.88 ✗ missed, highest 0.900 ≤ 1.0 ✓" in table
    assert "Left out: w@3 (memcached evicts nothing)." in table


def test_the_density_of_small_caches_is_judged() -> None:
    density = {"title": "100 bytes", "items_per_mb": {"1": 90.0, "64": 100.0},
               "ratios": {"1": 0.9}}  # fmt: skip
    table = "\n".join(items.render_density({"memory_mb": 64, "density": [density]}))
    assert "| 100 bytes | 100 | 90 | **0.900** ✗ missed |" in table

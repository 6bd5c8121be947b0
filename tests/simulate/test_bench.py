"""What bench/ measures miss ratios and items with: the read-through client, streams, tables."""

import shutil
import sys
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench"
sys.path.insert(0, str(BENCH))

import items  # noqa: E402
import miss_ratio  # noqa: E402
import replays  # noqa: E402
import shift  # noqa: E402
import workloads  # noqa: E402
from servers import BenchError  # noqa: E402

KINDS = ["memcachepy", *(["memcached"] if shutil.which("memcached") else [])]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The read-through client's program."""
    return replays.build_client(tmp_path_factory.mktemp("client"))


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each server that there is."""
    return request.param


@pytest.mark.parametrize("depth", [1, 16])
def test_the_client_counts_the_misses_of_each_window(kind: str, depth: int, client: Path) -> None:
    stream = array("Q", [*range(50), *range(50), *range(40, 60), 7, 7, 7, 1 << 60])
    with replays.server_store(kind, 64, client, depth) as store:
        assert store.replay(stream, 100, 16, 50) == [50, 0, 11]
        stats = store.stats()
        # One get was to see whether the server answers.
        assert (stats["curr_items"], stats["cmd_get"], stats["cmd_set"]) == (61, 125, 61)
        # A second run finds what the first has set.
        assert store.replay(stream, 100, 16, len(stream)) == [0]


def test_a_key_within_a_batch_is_asked_for_again_only_after_its_set(
    kind: str, client: Path
) -> None:
    stream = array("Q", [1, 2, 1, 2, 3, 3, 3, 1])
    with replays.server_store(kind, 64, client) as store:
        assert store.replay(stream, 10, 8, 1) == [1, 1, 0, 0, 1, 0, 0, 0]


def test_sizes_of_each_request_reach_the_server(kind: str, client: Path) -> None:
    sizes = array("I", [0, 5, 100_000, 3000])
    with replays.server_store(kind, 64, client) as store:
        assert store.replay(array("Q", range(4)), sizes, 12, 4) == [4]
        assert store.replay(array("Q", range(4)), sizes, 12, 4) == [0]
        assert store.stats()["bytes"] > 103_005


def test_the_client_says_why_it_ended(client: Path) -> None:
    with (
        replays.server_store("memcachepy", 64, client) as store,
        pytest.raises(BenchError, match="KEY_LEN is 251; the range is 1 to 250"),
    ):
        store.replay(array("Q", [1]), 10, 251, 1)


def test_both_ways_of_replaying_ours_miss_alike(client: Path) -> None:
    stream = workloads.zipf(30_000, 0.9, 100_000, seed=1)
    with replays.server_store("memcachepy", 2, client) as node:
        over_socket = sum(node.replay(stream, 100, 16, len(stream)))
        assert node.stats()["evictions"] > 0
    with replays.OurStore(2, "s3fifo") as store:
        in_process = sum(store.replay(stream, 100, 16, len(stream)))
    assert over_socket == pytest.approx(in_process, rel=0.03)


def test_zipf_weights() -> None:
    counts = Counter(workloads.zipf(100, 1.0, 100_000, seed=5))
    assert set(counts) <= set(range(100))
    assert counts[0] / counts[9] == pytest.approx(10, rel=0.2)
    assert workloads.zipf(100, 1.0, 1000, seed=5) == workloads.zipf(100, 1.0, 1000, seed=5)


def test_one_hit_keys_come_once() -> None:
    stream = workloads.with_one_hit_keys(workloads.zipf(100, 1.0, 10_000, seed=1), 0.2, seed=2)
    once = [key for key in stream if key >= workloads.ONCE_FIRST]
    assert len(once) == len(set(once)) == pytest.approx(2000, rel=0.1)


def test_scans_are_of_new_keys_and_between_the_requests() -> None:
    plain = workloads.zipf(100, 1.0, 1000, seed=1)
    stream = workloads.with_scans(plain, scan_keys=30, every=400)
    once = [key for key in stream if key >= workloads.ONCE_FIRST]
    assert len(once) == len(set(once)) == 60
    assert array("Q", [key for key in stream if key < workloads.ONCE_FIRST]) == plain
    assert list(stream[400:430]) == once[:30]


MACHINE = dict.fromkeys(("memcached", "memcachepy", "commit", "cpu", "cpu_count", "system"), "x")
COMMON: dict[str, Any] = {
    "machine": MACHINE, "started_at": "2026-01-02T03:04:05+00:00", "memory_mb": 64,
    "key_size": 12, "value_size": 100, "left_out": [], "bars": {"mean": 0.92, "row": 1.02},
}  # fmt: skip


def _row(ratio: float) -> dict[str, Any]:
    stores = {
        kind: {"miss_ratio": 0.5 * to, "to_memcached": to, "late_to_memcached": to}
        for kind, to in (("memcached", 1.0), ("s3fifo", ratio))
    }
    return {"title": "t", "workload": "w", "keys_percent": 5, "memory_mb": 10, "stores": stores}


def test_miss_ratios_are_judged_by_mean_and_row() -> None:
    table = miss_ratio.render(COMMON | {"rows": [_row(0.8), _row(0.9)]})
    assert "mean of the ratios **0.850** ≤ 0.92 ✓, highest 0.900 ≤ 1.02 ✓" in table
    assert "| t | 5 % | 10 | 0.5000 | 0.4000 | **0.800** | 0.800 |" in table
    table = miss_ratio.render(COMMON | {"rows": [_row(0.9), _row(1.03)]})
    assert "**0.965** ≤ 0.92 ✗ missed, highest 1.030 ≤ 1.02 ✗ missed" in table
    assert "**1.030** ✗ |" in table


def test_workloads_with_several_sizes_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    other = _row(0.9) | {"memory_mb": 20}
    single = _row(0.9) | {"workload": "only-once"}
    miss_ratio.draw(COMMON | {"rows": [_row(0.8), other, single]}, tmp_path / "curves.svg")
    picture = (tmp_path / "curves.svg").read_text()
    assert "<!-- w -->" in picture
    assert "only-once" not in picture
    miss_ratio.draw(COMMON | {"rows": [single]}, tmp_path / "none.svg")
    assert not (tmp_path / "none.svg").exists()


def test_the_shift_is_judged_by_the_fresh_cache() -> None:
    row = {"store": "s3fifo", "size_before": 400, "size_after": 100, "ratio": 1.2,
           "misses_shifted": [9, 12], "misses_fresh": [9, 10]}  # fmt: skip
    table = shift.render(COMMON | {"rows": [row]})
    assert "| s3fifo | 400 → 100 | 12 | 10 | **1.20** | ≤ 1.1 ✗ missed |" in table


def test_items_are_judged_by_ratio_and_waste() -> None:
    report = dict.fromkeys(
        ("header_bytes", "bucket_bytes", "overflow_bytes", "table_spare_bytes", "ring_bytes",
         "ghost_bytes", "expiry_column_bytes", "rounding_bytes", "free_chunk_bytes",
         "page_remainder_bytes", "free_page_bytes"), 10,
    )  # fmt: skip
    found = items.account(report | {"items": 10}, 1000)
    assert found["table_per_item"] == 2
    assert found["waste_share"] == 0.04
    row = {"title": "t", "bar": 1.15, "ratio": 1.2, "ratio_later": 1.1, "account": found,
           "memcached": {"items": 10}, "memcachepy": {"items": 12}}  # fmt: skip
    table = items.render(COMMON | {"rows": [row]})
    assert "| t | 10 | 12 | **1.20** | ≥ 1.15 ✓ | 1.10 |" in table
    assert "= **4.0%** | ≤ 12% ✓ |" in table

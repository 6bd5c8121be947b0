"""Segment.memory_report(): every byte is somewhere, and where it belongs."""

import random
from array import array
from collections.abc import Iterator

import pytest

from memcachepy import _core

MEGABYTE = 1 << 20
PARTS = (
    "key_bytes", "value_bytes", "header_bytes", "rounding_bytes", "unlinked_bytes",
    "free_chunk_bytes", "page_remainder_bytes", "expiry_column_bytes", "bucket_bytes",
    "overflow_bytes", "ring_bytes", "table_spare_bytes", "ghost_bytes", "free_page_bytes",
)  # fmt: skip


@pytest.fixture
def segment() -> Iterator[_core.Segment]:
    """Of 8 MB, with this process as a worker."""
    made = _core.Segment({"memory_limit_bytes": 8 * MEGABYTE})
    made.claim_slot(_core.SLOT_WORKER_FIRST)
    yield made
    made.close()


def report_of(segment: _core.Segment) -> dict[str, int]:
    """The report, after a look at its sum."""
    report = segment.memory_report()
    assert set(report) == {"items", "pages_bytes", *PARTS}
    assert sum(report[part] for part in PARTS) == report["pages_bytes"]
    assert all(report[part] < 1 << 40 for part in PARTS), "nothing went below zero"
    return report


def test_an_empty_segment_has_nothing_but_free_pages(segment: _core.Segment) -> None:
    report = report_of(segment)
    assert report["items"] == 0
    assert report["free_page_bytes"] == report["pages_bytes"]


def test_items_are_counted_by_their_parts(segment: _core.Segment) -> None:
    segment.replay(array("Q", range(1000)), 100, 20)
    report = report_of(segment)
    assert report["items"] == 1000
    assert (report["key_bytes"], report["value_bytes"]) == (20_000, 100_000)
    assert report["header_bytes"] == 28_000
    assert 0 <= report["rounding_bytes"] < 32 * 1000
    assert report["bucket_bytes"] >= 1000 / 12 * 64
    assert (report["unlinked_bytes"], report["ghost_bytes"]) == (0, 0)


def test_client_flags_are_part_of_the_header(segment: _core.Segment) -> None:
    connection = _core.Connection(segment)
    assert connection.feed(b"set k 7 0 3\r\nabc\r\n") == b"STORED\r\n"
    assert report_of(segment)["header_bytes"] == 32


def test_a_value_in_a_chain_is_counted_once(segment: _core.Segment) -> None:
    segment.replay(array("Q", [1]), 300_000, 20)
    report = report_of(segment)
    assert (report["items"], report["value_bytes"], report["header_bytes"]) == (1, 300_000, 32)
    assert report["rounding_bytes"] > 0
    assert report["unlinked_bytes"] == 0


def test_an_upload_is_not_an_item(segment: _core.Segment) -> None:
    connection = _core.Connection(segment)
    connection.feed(b"set k 0 0 300000\r\n" + bytes(200_000))
    report = report_of(segment)
    assert report["items"] == report["value_bytes"] == report["rounding_bytes"] == 0
    assert report["unlinked_bytes"] >= 200_000
    connection.feed(bytes(100_000) + b"\r\n")
    report = report_of(segment)
    assert (report["items"], report["value_bytes"], report["unlinked_bytes"]) == (1, 300_000, 0)


def test_a_full_cache_of_all_sizes_is_accounted_for(
    segment: _core.Segment, rng: random.Random
) -> None:
    for _ in range(20):
        count = 2000
        keys = array("Q", (rng.randrange(50_000) for _ in range(count)))
        sizes = array("I", (int(2 ** rng.uniform(0, 15)) for _ in range(count)))
        segment.replay(keys, sizes, 16)
        report = report_of(segment)
        counters = segment.counters()
        assert report["items"] == counters["curr_items"]
        payload = report["key_bytes"] + report["value_bytes"] + report["header_bytes"]
        assert payload == counters["bytes"]
    assert counters["evictions"] > 0
    assert report["ring_bytes"] > 0
    assert report["ghost_bytes"] > 0
    assert segment.check() == []

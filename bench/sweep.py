"""What the sweep for expired items costs: ten million items that live, and ten million that end.

    .venv/bin/python bench/sweep.py

Prints the CPU time of the passes over live items as a part of the time they are spread over (bar:
1 % of a core), and the CPU time per item that is reclaimed (bar: 0.3 microseconds). The clock is
moved by hand, so that minutes of passes take a moment.
"""

import argparse
import time
from array import array
from collections.abc import Iterator

from memcachepy import _core

ITEM_COUNT = 10_000_000
VALUE_BYTES = 100
TTL_S = 3600
LIVE_SPAN_S = 1000
CHUNK = 500_000
LIVE_BAR = 0.01
RECLAIM_BAR_US = 0.3


def _ids(count: int) -> Iterator["array[int]"]:
    for first in range(0, count, CHUNK):
        yield array("Q", range(first, min(count, first + CHUNK)))


def _pass_second(segment: _core.Segment) -> float:
    """Moves the clock by a second; returns the CPU seconds of the maintainer's work in it."""
    segment.advance_clock(1)
    begin_s = time.process_time()
    while segment.maintain():
        pass
    return time.process_time() - begin_s


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=ITEM_COUNT)
    count = parser.parse_args().items
    memory_mb = max(64, count * (VALUE_BYTES + 80) >> 20)
    segment = _core.Segment({"memory_limit_bytes": memory_mb << 20})
    segment.claim_slot(_core.SLOT_MAINTAINER)
    for ids in _ids(count):
        segment.replay(ids, VALUE_BYTES, ttl_s=TTL_S)
    stored = segment.counters()["curr_items"]
    _pass_second(segment)  # The first pass looks at everything.
    live = [_pass_second(segment) for _ in range(LIVE_SPAN_S)]
    share = sum(live) / LIVE_SPAN_S
    print(f"{stored:,} live items with a TTL of {TTL_S} s, {LIVE_SPAN_S} s of passes:")
    print(f"  {share:.2%} of a core (bar: {LIVE_BAR:.0%}); a pass at most {max(live) * 1e3:.1f} ms")
    spent_s = 0.0
    for _ in range(TTL_S - LIVE_SPAN_S + 20):
        spent_s += _pass_second(segment)
    reclaimed = segment.counters()["reclaimed"]
    live_s = share * (TTL_S - LIVE_SPAN_S)
    cost_us = (spent_s - live_s) / reclaimed * 1e6
    print(f"{reclaimed:,} expired items reclaimed:")
    print(f"  {cost_us:.3f} us each (bar: {RECLAIM_BAR_US} us)")


if __name__ == "__main__":
    main()

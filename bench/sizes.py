"""Hits when sizes differ: our store beside one cache that has no slab classes, and beside memcached.

Each row is a workload whose values differ in size, at one memory, read-through. One cache is a plain
S3-FIFO over as many bytes (`onecache/onecache.c`), in which an item costs its key, its value and 43
bytes; what ours loses to slab classes, pages and shards is the ratio to it. Our policies are
replayed in this process. See README.md for the columns.
"""

import argparse
import json
import math
import re
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from replays import (
    MEGABYTE,
    ONE_CACHE_SOURCE,
    OurStore,
    add_output_options,
    begin_results,
    build_program,
    say,
    write_results,
)
from servers import BenchError
from workloads import log_normal_sizes, with_reuse, zipf

from memcachepy import _core
from memcachepy.errors import MemcachepyError
from memcachepy.simulate import Trace

KEY_LEN = 16
OVERHEAD_BYTES = 43
MEMORY_MB_MIN = 1.0
PERCENTS = (1, 5, 10, 20, 50)
TRACE_REQUESTS_MAX = 1_000_000
WINDOWS = 20
OTHER_POLICIES = ("allkeys-lru", "allkeys-lfu", "allkeys-random")
TRACE_MEMORIES_MB: Mapping[str, Sequence[float]] = {
    "oltp": (2, 8, 24), "w106": (2, 8), "web12": (2,)
}  # fmt: skip
"""The rows of traces by absolute memory, by the names of their files; others have percents only."""
ONE_CACHE_BAR = 1.05
ONE_CACHE_MEAN_BAR = 1.02
OTHER_BAR = 1.02
PAGE_MOVE_BAR = 0.05
STEP_BAR = 1.005


@dataclass(frozen=True)
class Load:
    """A stream of keys and the bytes of each request's value."""

    ids: "array[int]"
    value_lens: "array[int]"

    @property
    def key_bytes(self) -> int:
        """What all keys take in one cache, each with the size it came with first."""
        first = dict(zip(reversed(self.ids), reversed(self.value_lens), strict=True))
        return sum(first.values()) + len(first) * (KEY_LEN + OVERHEAD_BYTES)


@dataclass(frozen=True)
class Workload:
    """A named load and the memories of its rows: of megabytes, and of percents of all keys."""

    name: str
    title: str
    make: Callable[[], Load]
    memories_mb: Sequence[float] = ()
    percents: Sequence[float] = ()


def _trace_sizes(ids: "array[int]") -> Load:
    return Load(ids, array("I", (200 + key % 800 for key in ids)))


def _trace(path: str) -> Load:
    ids = array("Q")
    for batch in Trace(path).requests():
        ids.extend(batch.ids[: TRACE_REQUESTS_MAX - len(ids)])
        if len(ids) >= TRACE_REQUESTS_MAX:
            break
    return _trace_sizes(ids)


def _log_normal(key_count: int, request_count: int, seed: int) -> Load:
    ids = zipf(key_count, 0.9, request_count, seed)
    sizes = log_normal_sizes(key_count, 300, 1.2, 10, 60_000, seed + 1)
    return Load(ids, array("I", map(sizes.__getitem__, ids)))


def _growing(seed: int) -> Load:
    """From halfway on every value is four times as large as it was."""
    load = _log_normal(400_000, 3_000_000, seed)
    half = len(load.ids) // 2
    grown = array("I", (min(4 * size, 60_000) for size in load.value_lens[half:]))
    return Load(load.ids, load.value_lens[:half] + grown)


def _swapping(seed: int) -> Load:
    """Nine of ten requests ask for small values, from halfway on for large ones."""
    small, large = zipf(400_000, 0.9, 3_000_000, seed), zipf(100_000, 0.9, 3_000_000, seed + 1)
    ids, lens = array("Q"), array("I")
    for at, (small_id, large_id) in enumerate(zip(small, large, strict=True)):
        is_large = (at % 10 == 0) == (at < len(small) // 2)
        ids.append(1_000_000 + large_id if is_large else small_id)
        lens.append(1000 + large_id % 3000 if is_large else 50 + small_id % 250)
    return Load(ids, lens)


def workloads(traces: Sequence[str], seed: int) -> Iterator[Workload]:
    """The traces of the command line, stand-ins for those that are not there, and the others."""
    names = {Path(path).name.split(".")[0]: path for path in traces}
    for name, path in names.items():
        memories_mb = TRACE_MEMORIES_MB.get(name, ())
        yield Workload(name, name, lambda path=path: _trace(path), memories_mb, PERCENTS)
    # As many requests and keys as the traces have; the exponents come near to their miss ratios.
    for name, requests, keys, exponent in (
        ("oltp", 914_145, 186_880, 0.65),
        ("w106", 1_000_000, 39_198, 0.25),
        ("web12", 95_607, 13_756, 0.3),
    ):
        if name not in names:
            yield Workload(
                f"{name}-like",
                f"like {name}",
                lambda requests=requests, keys=keys, exponent=exponent: _trace_sizes(
                    with_reuse(requests, keys, exponent, seed)
                ),
                TRACE_MEMORIES_MB[name],
                PERCENTS,
            )
    yield Workload(
        "zipf-400k",
        "Zipf 0.9, 400,000 keys",
        lambda: _log_normal(400_000, 3_000_000, seed),
        (8, 32, 64),
    )
    yield Workload(
        "zipf-1.5m",
        "Zipf 0.9, 1.5 M keys",
        lambda: _log_normal(1_500_000, 5_000_000, seed),
        (255, 256, 512),
    )
    yield Workload("growing", "values grow fourfold halfway", lambda: _growing(seed), (8, 64))
    yield Workload("swapping", "small and large swap halfway", lambda: _swapping(seed), (8, 64))


def row_memories(workload: Workload, load: Load) -> list[tuple[str, float]]:
    """The label and the MB of each row; rows that would have the same memory become one."""
    rows = [(f"{memory:g}", float(memory)) for memory in workload.memories_mb]
    labels: dict[float, str] = {}
    for percent in workload.percents:
        steps = math.ceil(load.key_bytes * percent / 100 * 16 / MEGABYTE)
        memory_mb = max(steps / 16, MEMORY_MB_MIN)
        labels[memory_mb] = f"{labels[memory_mb]},{percent:g}" if memory_mb in labels else (
            f"{percent:g}"
        )
    return rows + [(f"{label}%", memory_mb) for memory_mb, label in labels.items()]


# ---- the stores -------------------------------------------------------------------------------


def replay_ours(load: Load, memory_mb: float, policy: str) -> dict[str, Any]:
    """One of our policies; `late` are the second half's."""
    begin_s = time.monotonic()
    count = len(load.ids)
    window = -(-count // WINDOWS)
    misses, missed_bytes, half = [], 0, {}
    with OurStore(memory_mb, policy) as store:
        for number, at in enumerate(range(0, count, window)):
            if number == WINDOWS // 2:
                half = dict(store.segment.counters())
            _, missed, _, bytes_ = store.segment.replay(
                load.ids[at : at + window], load.value_lens[at : at + window], KEY_LEN
            )
            misses.append(missed)
            missed_bytes += bytes_
        shortage = store.segment.take_shortage()
        if shortage is not None:
            raise BenchError(f"{policy} at {memory_mb:g} MB: {shortage}")
        end = store.segment.counters()
    late = {name: end[name] - half[name] for name in end}
    moved = late["evicted_page_move"] + late["evicted_donation"]
    return {
        "misses": misses,
        "miss_ratio": round(sum(misses) / count, 6),
        "byte_miss_ratio": round(missed_bytes / sum(load.value_lens), 6),
        "items": end["curr_items"],
        "evictions": end["evictions"],
        "evicted_by": {
            name.removeprefix("evicted_"): number
            for name, number in end.items()
            if name.startswith("evicted_") and number
        },
        "pages_moved": end["slabs_moved"],
        "late_evictions": late["evictions"],
        "late_moved_share": round(moved / max(late["evictions"], 1), 6),
        "late_moves_per_request": late["slabs_moved"] / (count - WINDOWS // 2 * window),
        "took_s": round(time.monotonic() - begin_s, 2),
    }


class OneCache:
    """The compiled simulator, and a load's files for it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._binary = build_program(ONE_CACHE_SOURCE, folder)

    def take(self, load: Load) -> None:
        """Write the load that is replayed from now on."""
        for name, numbers in (("ids", load.ids), ("lens", load.value_lens)):
            with (self._folder / name).open("wb") as file:
                numbers.tofile(file)
        self._value_bytes = sum(load.value_lens)
        self._count = len(load.ids)

    def replay(self, memory_mb: float, window: int | None = None) -> dict[str, Any]:
        """Misses in each window, all in one without it."""
        numbers = (
            KEY_LEN,
            self._folder / "lens",
            window or -(-self._count // WINDOWS),
            round(memory_mb * MEGABYTE),
            OVERHEAD_BYTES,
        )
        done = subprocess.run(
            [str(self._binary), str(self._folder / "ids"), *map(str, numbers)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise BenchError(done.stderr.strip())
        *windows, (evictions, items) = (
            tuple(map(int, line.split())) for line in done.stdout.splitlines()
        )
        misses = [missed for missed, _ in windows]
        missed_bytes = sum(bytes_ for _, bytes_ in windows)
        return {
            "misses": misses,
            "miss_ratio": round(sum(misses) / self._count, 6),
            "byte_miss_ratio": round(missed_bytes / max(self._value_bytes, 1), 6),
            "items": items,
            "evictions": evictions,
        }


# ---- rows -------------------------------------------------------------------------------------


def run_row(
    load: Load, memory_mb: float, one_cache: OneCache, pool: ThreadPoolExecutor, others: list[str]
) -> dict[str, Any]:
    """All stores at one memory."""
    default = _core.EVICTION_POLICIES[0]
    policies = [default, *others]
    replays = [pool.submit(replay_ours, load, memory_mb, policy) for policy in policies]
    one = one_cache.replay(memory_mb)
    found = dict(zip(policies, (replay.result() for replay in replays), strict=True))
    ours = found[default]
    row: dict[str, Any] = {"memory_mb": memory_mb, "stores": found | {"one cache": one}}
    row["to_one_cache"] = round(ours["miss_ratio"] / one["miss_ratio"], 4)
    if others:
        best = min(others, key=lambda policy: found[policy]["miss_ratio"])
        row["best_other"] = best
        row["to_best_other"] = round(ours["miss_ratio"] / found[best]["miss_ratio"], 4)
    return row


def run_all(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All rows that --only lets through."""
    one_cache = OneCache(folder)
    rows = []
    with ThreadPoolExecutor(args.jobs) as pool:
        for workload in workloads(args.traces, args.seed):
            make = cache(workload.make)
            # A load takes seconds to make; without percents the rows are known before.
            if not workload.percents and not any(
                re.search(args.only, f"{workload.name}@{memory:g}")
                for memory in workload.memories_mb
            ):
                continue
            if workload.percents and not re.search(args.only.split("@")[0], workload.name):
                continue
            taken = False
            for label, memory_mb in row_memories(workload, make()):
                name = f"{workload.name}@{label}"
                if not re.search(args.only, name):
                    continue
                if not taken:
                    one_cache.take(make())
                    taken = True
                row = {"name": name, "workload": workload.name, "title": workload.title}
                row["label"] = label
                row |= run_row(make(), memory_mb, one_cache, pool, args.policies)
                rows.append(row)
                say(_row_text(row))
    return {"rows": rows}


def _row_text(row: Mapping[str, Any]) -> str:
    stores = row["stores"]
    ours = stores[_core.EVICTION_POLICIES[0]]
    best = row.get("best_other")
    text = (
        f"{row['name']:22} {row['memory_mb']:8.3f} MB  ours {ours['miss_ratio']:.4f}"
        f"  one {stores['one cache']['miss_ratio']:.4f} ({row['to_one_cache']:.3f})"
    )
    if best:
        text += f"  {best} {stores[best]['miss_ratio']:.4f} ({row['to_best_other']:.3f})"
    return (
        f"{text}  by bytes {ours['byte_miss_ratio']:.4f}/{stores['one cache']['byte_miss_ratio']:.4f}"
        f"  moved {ours['late_moved_share']:.1%}, {ours['late_moves_per_request']:.5f} pages/request"
        f"  {ours['took_s']:.1f} s"
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("traces", nargs="*", help="in any format of simulate; sizes are ignored")
    parser.add_argument("--only", default="", metavar="PATTERN", help="rows, as in oltp@2$")
    parser.add_argument(
        "--policies", default=",".join(OTHER_POLICIES), help="of ours to compare with"
    )
    parser.add_argument("--jobs", type=int, default=1, help="replays at the same time")
    parser.add_argument("--json", action="store_true", help="print the figures, no table")
    parser.add_argument("--seed", type=int, default=1)
    add_output_options(parser)
    args = parser.parse_args(arguments)
    args.policies = [policy for policy in args.policies.split(",") if policy]
    return args


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    ratios = [row["to_one_cache"] for row in rows]
    text = f"to one cache: mean {sum(ratios) / len(ratios):.4f}, highest {max(ratios):.4f}"
    others = [row["to_best_other"] for row in rows if "to_best_other" in row]
    if others:
        text += f"; to the best other policy: highest {max(others):.4f}"
    shares = [row["stores"][_core.EVICTION_POLICIES[0]]["late_moved_share"] for row in rows]
    return f"{text}; evicted with a page: at most {max(shares):.2%}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and print; 1 when it cannot be done."""
    args = _parse(arguments)
    try:
        results = begin_results(needs_memcached=False)
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            results |= run_all(args, Path(folder))
        if not results["rows"]:
            raise BenchError(f"no row matches {args.only}")
        write_results("sizes", results, args)
    except (BenchError, MemcachepyError) as error:
        say(f"sizes: {error}")
        return 1
    if args.json:
        print(json.dumps(results, indent=1))
    else:
        print(summary(results["rows"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())

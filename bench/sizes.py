"""Hits when sizes differ: ours beside one cache without slab classes, and beside memcached.

Each row is a workload whose values differ in size, at one memory, read-through. One cache is a
plain S3-FIFO over as many bytes (`onecache/onecache.c`), in which an item costs its key, its value
and 43 bytes; the ratio to it is what ours loses to slab classes, pages and shards. Our policies are
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
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from replays import (
    CLIENT_DEPTH,
    MEGABYTE,
    ONE_CACHE_SOURCE,
    OurStore,
    add_output_options,
    begin_results,
    build_client,
    build_program,
    made_on,
    say,
    server_store,
    write_results,
)
from servers import BenchError
from workloads import log_normal_sizes, with_reuse, zipf

from memcachepy import _core
from memcachepy.errors import MemcachepyError
from memcachepy.simulate import Trace

OURS = _core.EVICTION_POLICIES[0]
PARTS = ("rows", "sweep", "memcached")
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
# Two runs differ by up to 0.3 %, because a store draws the seed of its hash.
STEP_BAR = 1.005
MEMCACHED_MB_MIN = 2
"""Below it memcached wants a smaller -I."""
MEMCACHED_MEAN_BAR = 0.88
MEMCACHED_BAR = 1.0
SWITCH_MB_MAX = 1024
SWEEP_SMALL_MB = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
SWEEP_LARGE_MB = (128, 192, *range(250, 263), 320, 512)
SWEEP_LARGE_FROM_MB = 100
"""From here on a sweep needs the workload of more keys."""


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


def _stand_in(request_count: int, key_count: int, exponent: float, seed: int, run_len: int) -> Load:
    return _trace_sizes(with_reuse(request_count, key_count, exponent, seed, run_len))


def _log_normal(key_count: int, request_count: int, seed: int) -> Load:
    ids = zipf(key_count, 0.9, request_count, seed)
    sizes = log_normal_sizes(key_count, 300, 1.2, 10, 60_000, seed + 1)
    return Load(ids, array("I", map(sizes.__getitem__, ids)))


def _growing(seed: int) -> Load:
    """From halfway on all keys are new, and their values four times as large.

    New, for a store keeps the small values of keys that stay, and misses less the longer it does.
    """
    load = _log_normal(400_000, 3_000_000, seed)
    half = len(load.ids) // 2
    ids = load.ids[:half] + array("Q", (1_000_000 + key for key in load.ids[half:]))
    grown = array("I", (min(4 * size, 60_000) for size in load.value_lens[half:]))
    return Load(ids, load.value_lens[:half] + grown)


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
    """The traces of the command line, generated streams that are like three, and the others."""
    for path in traces:
        name = Path(path).name.split(".")[0]
        memories_mb = TRACE_MEMORIES_MB.get(name, ())
        yield Workload(name, name, partial(_trace, path), memories_mb, PERCENTS)
    # As many requests and keys as the traces have, and about the misses of one cache.
    for name, requests, keys, exponent, run_len in (
        ("oltp", 914_145, 186_880, 0.65, 1),
        ("w106", 1_000_000, 39_198, 0.15, 512),
        ("web12", 95_607, 13_756, 0.3, 1),
    ):
        yield Workload(
            f"{name}-like",
            f"like {name}",
            partial(_stand_in, requests, keys, exponent, seed, run_len),
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
    yield Workload(
        "growing", "new keys halfway, values four times as large", lambda: _growing(seed), (8, 64)
    )
    yield Workload("swapping", "small and large swap halfway", lambda: _swapping(seed), (8, 64))


def row_memories(workload: Workload, load: Load) -> list[tuple[str, float]]:
    """The label and the MB of each row; rows that would have the same memory become one."""
    rows = [(f"{memory:g}", float(memory)) for memory in workload.memories_mb]
    labels: dict[float, str] = {}
    for percent in workload.percents:
        steps = math.ceil(load.key_bytes * percent / 100 * 16 / MEGABYTE)
        memory_mb = max(steps / 16, MEMORY_MB_MIN)
        labels[memory_mb] = (
            f"{labels[memory_mb]},{percent:g}" if memory_mb in labels else (f"{percent:g}")
        )
    return rows + [(f"{label}%", memory_mb) for memory_mb, label in labels.items()]


# ---- the stores -------------------------------------------------------------------------------


def replay_ours(load: Load, memory_mb: float, policy: str) -> dict[str, Any]:
    """One of our policies; `late` are the second half's."""
    begin_s = time.monotonic()
    count = len(load.ids)
    window = -(-count // WINDOWS)
    half_at = WINDOWS // 2 * window if count >= WINDOWS else 0
    misses, missed_bytes, half = [], 0, {}
    with OurStore(memory_mb, policy) as store:
        for at in range(0, count, window):
            if at == half_at:
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
        "late_moves_per_request": late["slabs_moved"] / (count - half_at),
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
    load: Load,
    memory_mb: float,
    one_cache: OneCache,
    pool: ThreadPoolExecutor,
    others: Sequence[str],
) -> dict[str, Any]:
    """All stores at one memory."""
    policies = [OURS, *others]
    replays = [pool.submit(replay_ours, load, memory_mb, policy) for policy in policies]
    one = one_cache.replay(memory_mb)
    found = dict(zip(policies, (replay.result() for replay in replays), strict=True))
    row: dict[str, Any] = {
        "memory_mb": memory_mb,
        "stores": found | {"one cache": one},
        "to_one_cache": round(found[OURS]["miss_ratio"] / one["miss_ratio"], 4),
    }
    if others:
        best = min(others, key=lambda policy: found[policy]["miss_ratio"])
        row["best_other"] = best
        row["to_best_other"] = round(found[OURS]["miss_ratio"] / found[best]["miss_ratio"], 4)
    return row


def _selected(
    args: argparse.Namespace,
) -> Iterator[tuple[Workload, Load, list[tuple[str, float]]]]:
    """The workloads of which --only lets rows through, with these rows."""
    for workload in workloads(args.traces, args.seed):
        # A load takes seconds to make; without percents its rows are known before.
        names = [f"{workload.name}@{memory_mb:g}" for memory_mb in workload.memories_mb]
        if not workload.percents and not any(re.search(args.only, name) for name in names):
            continue
        load = workload.make()
        rows = [
            (label, memory_mb)
            for label, memory_mb in row_memories(workload, load)
            if re.search(args.only, f"{workload.name}@{label}")
        ]
        if rows:
            yield workload, load, rows


def _named(workload: Workload, label: str) -> dict[str, Any]:
    return {
        "name": f"{workload.name}@{label}",
        "workload": workload.name,
        "title": workload.title,
        "label": label,
    }


def run_rows(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Ours, our other policies and one cache."""
    one_cache = OneCache(folder)
    rows = []
    with ThreadPoolExecutor(args.jobs) as pool:
        for workload, load, labels in _selected(args):
            one_cache.take(load)
            for label, memory_mb in labels:
                row = _named(workload, label)
                row |= run_row(load, memory_mb, one_cache, pool, args.policies)
                rows.append(row)
                say(_row_text(row))
    return rows


def _row_text(row: Mapping[str, Any]) -> str:
    ours, one = row["stores"][OURS], row["stores"]["one cache"]
    best = row.get("best_other")
    text = (
        f"{row['name']:22} {row['memory_mb']:8.3f} MB  ours {ours['miss_ratio']:.4f}"
        f"  one {one['miss_ratio']:.4f} ({row['to_one_cache']:.3f})"
    )
    if best:
        text += f"  {best} {row['stores'][best]['miss_ratio']:.4f} ({row['to_best_other']:.3f})"
    return (
        f"{text}  by bytes {ours['byte_miss_ratio']:.4f}/{one['byte_miss_ratio']:.4f}"
        f"  moved {ours['late_moved_share']:.1%},"
        f" {ours['late_moves_per_request']:.5f} pages/request  {ours['took_s']:.1f} s"
    )


# ---- the sweep --------------------------------------------------------------------------------


def page_size_switches() -> list[int]:
    """The memories in MB from which on pages have another size."""
    switches, last = [], 0
    for memory_mb in range(1, SWITCH_MB_MAX + 1):
        with OurStore(memory_mb, OURS) as store:
            page_bytes = memory_mb * MEGABYTE // store.segment.counters()["pages_limit"]
        if last not in (0, page_bytes):
            switches.append(memory_mb)
        last = page_bytes
    return switches


def sweep_memories(switches: Sequence[int]) -> dict[str, list[int]]:
    """The memories to sweep, by the name of the workload that fills them."""
    around = {switch + step for switch in switches for step in range(-2, 3)}
    near = {memory_mb for memory_mb in around if 0 < memory_mb < SWEEP_LARGE_FROM_MB}
    return {
        "zipf-400k": sorted({*SWEEP_SMALL_MB, *near}),
        "zipf-1.5m": sorted({*SWEEP_LARGE_MB, *(around - near)}),
    }


def highest_step(points: Sequence[tuple[float, float]]) -> float:
    """The largest miss ratio over the smallest at any smaller memory; points by memory."""
    worst, least = 0.0, points[0][1]
    for _, ratio in points[1:]:
        worst = max(worst, ratio / least)
        least = min(least, ratio)
    return worst


def run_sweep(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The miss ratio of ours over memory, around the switches of the page size too."""
    switches = page_size_switches()
    found = []
    with ThreadPoolExecutor(args.jobs) as pool:
        for workload in workloads((), args.seed):
            memories_mb = sweep_memories(switches).get(workload.name)
            if not memories_mb or not re.search(args.only.split("@")[0], workload.name):
                continue
            load = workload.make()
            replays = pool.map(lambda mb, load=load: replay_ours(load, mb, OURS), memories_mb)
            points = []
            for memory_mb, ours in zip(memories_mb, replays, strict=True):
                points.append((memory_mb, ours["miss_ratio"]))
                say(f"sweep of {workload.name}: {memory_mb} MB {ours['miss_ratio']:.4f}")
            found.append({
                "workload": workload.name,
                "title": workload.title,
                "switches_mb": switches,
                "points": points,
                "highest_step": round(highest_step(points), 4),
            })  # fmt: skip
    return found


# ---- memcached --------------------------------------------------------------------------------


def run_memcached(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Ours in as many bytes as memcached has really taken at an -m, and one cache in as many."""
    client, one_cache = build_client(folder), OneCache(folder)
    rows: list[dict[str, Any]] = []
    left_out = []
    for workload, load, labels in _selected(args):
        one_cache.take(load)
        last_mb = 0.0
        memories_mb = sorted(
            {max(math.ceil(memory_mb), MEMCACHED_MB_MIN) for _, memory_mb in labels}
        )
        window = -(-len(load.ids) // WINDOWS)
        for memory_mb in memories_mb:
            with server_store("memcached", memory_mb, client, args.depth) as server:
                misses = sum(server.replay(load.ids, load.value_lens, KEY_LEN, window))
                evictions = server.stats()["evictions"]
                taken_mb = server.stats("slabs")["total_malloced"] / MEGABYTE
            row = _named(workload, str(memory_mb))
            if evictions == 0 or taken_mb == last_mb:
                why = "the memory of the row before" if evictions else "memcached evicts nothing"
                left_out.append(f"{row['name']} ({why})")
                continue
            last_mb = taken_mb
            ours, one = replay_ours(load, taken_mb, OURS), one_cache.replay(taken_mb)
            theirs = misses / len(load.ids)
            row |= {
                "memory_mb": memory_mb,
                "taken_mb": round(taken_mb, 3),
                "memcached": round(theirs, 6),
                "ours": ours["miss_ratio"],
                "one_cache": one["miss_ratio"],
                "ratio": round(ours["miss_ratio"] / theirs, 4),
                "one_cache_ratio": round(one["miss_ratio"] / theirs, 4),
            }
            rows.append(row)
            say(
                f"{row['name']:22} memcached takes {taken_mb:7.1f} MB  {theirs:.4f}"
                f"  ours {row['ours']:.4f} ({row['ratio']:.3f})"
                f"  one {row['one_cache']:.4f} ({row['one_cache_ratio']:.3f})"
            )
    return {"rows": rows, "left_out": left_out}


# ---- output -----------------------------------------------------------------------------------


def _mark(value: float, bar: float) -> str:
    return f"**{value:.3f}**{' ✗' if value > bar else ''}"


def _verdict(value: float, bar: float, digits: int = 3) -> str:
    return f"{value:.{digits}f} ≤ {bar} {'✓' if value <= bar else '✗ missed'}"


def _share_verdict(value: float, bar: float) -> str:
    return f"{value:.1%} ≤ {bar:.0%} {'✓' if value <= bar else '✗ missed'}"


def _memory_cell(row: Mapping[str, Any]) -> str:
    memory = f"{row['memory_mb']:.4g}"
    if row["label"].endswith("%"):
        return f"{row['label'][:-1].replace(',', ', ')} % = {memory}"
    return memory


def _render_rows(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        f"Misses per request, read-through, {KEY_LEN}-byte keys; memory in MB, in percent of what"
        " all keys would take.",
        "",
        "| workload | MB | one cache | ours | to one cache | best other policy | to that"
        " | misses by bytes: ours, one cache, LRU | evicted by page moves"
        " | page moves per 1,000 requests |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        stores = row["stores"]
        ours, one, best = stores[OURS], stores["one cache"], row.get("best_other")
        lru = stores.get("allkeys-lru")
        by_bytes = [f"{store['byte_miss_ratio']:.4f}" for store in (ours, one, lru) if store]
        cells = [
            row["title"],
            _memory_cell(row),
            f"{one['miss_ratio']:.4f}",
            f"{ours['miss_ratio']:.4f}",
            _mark(row["to_one_cache"], ONE_CACHE_BAR),
            f"{best} {stores[best]['miss_ratio']:.4f}" if best else "",
            _mark(row["to_best_other"], OTHER_BAR) if best else "",
            ", ".join(by_bytes),
            f"{ours['late_moved_share']:.1%}"
            + (" ✗" if ours["late_moved_share"] > PAGE_MOVE_BAR else ""),
            f"{1000 * ours['late_moves_per_request']:.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    ratios = [row["to_one_cache"] for row in rows]
    others = [row["to_best_other"] for row in rows if "to_best_other" in row]
    shares = [row["stores"][OURS]["late_moved_share"] for row in rows]
    lines += [
        "",
        f"To one cache: mean {_verdict(mean(ratios), ONE_CACHE_MEAN_BAR)}, highest"
        f" {_verdict(max(ratios), ONE_CACHE_BAR)}."
        + (
            f" To the best other policy: highest {_verdict(max(others), OTHER_BAR)}."
            if others
            else ""
        )
        + f" Evicted by page moves: at most {_share_verdict(max(shares), PAGE_MOVE_BAR)}.",
    ]
    return lines


def _render_sweep(sweep: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "Misses of ours over memory: a step is a miss ratio over the smallest at any smaller"
        " memory.",
        "",
        "| workload | MB: misses per request | highest step |",
        "|---|---|---|",
    ]
    for curve in sweep:
        points = ", ".join(f"{memory_mb}: {ratio:.4f}" for memory_mb, ratio in curve["points"])
        lines.append(
            f"| {curve['title']} | {points} | {_verdict(curve['highest_step'], STEP_BAR)} |"
        )
    switches = ", ".join(str(switch) for switch in sweep[0]["switches_mb"]) or "no memory"
    return [*lines, "", f"Pages change their size at {switches} MB."]


def _render_memcached(found: Mapping[str, Any]) -> list[str]:
    lines = [
        "Against memcached at equal real memory: ours and one cache get as many bytes as the pages"
        " of memcached have taken in the end.",
        "",
        "| workload | memcached's -m | MB taken | memcached | ours | ratio | one cache | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        lines.append(
            f"| {row['title']} | {row['memory_mb']} | {row['taken_mb']:.1f}"
            f" | {row['memcached']:.4f} | {row['ours']:.4f}"
            f" | {_mark(row['ratio'], MEMCACHED_BAR)}"
            f" | {row['one_cache']:.4f} | {row['one_cache_ratio']:.3f} |"
        )
    if found["rows"]:
        ratios = [row["ratio"] for row in found["rows"]]
        lines += [
            "",
            f"Mean {_verdict(mean(ratios), MEMCACHED_MEAN_BAR)}, highest"
            f" {_verdict(max(ratios), MEMCACHED_BAR)}. One cache's: mean"
            f" {mean(row['one_cache_ratio'] for row in found['rows']):.3f}.",
        ]
    if found["left_out"]:
        lines += ["", f"Left out: {', '.join(found['left_out'])}."]
    return lines


def render(results: Mapping[str, Any]) -> str:
    """The tables in Markdown, of the parts that were run."""
    sections = [
        *([_render_rows(results["rows"])] if results.get("rows") else []),
        *([_render_sweep(results["sweep"])] if results.get("sweep") else []),
        *([_render_memcached(results["memcached"])] if results.get("memcached") else []),
        [made_on(results)],
    ]
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("traces", nargs="*", help="in any format of simulate; sizes are ignored")
    parser.add_argument(
        "--parts", default=PARTS[0], help=f"of {', '.join(PARTS)}, comma separated; or all"
    )
    parser.add_argument("--only", default="", metavar="PATTERN", help="rows, as in oltp@2$")
    parser.add_argument(
        "--policies",
        default=",".join(OTHER_POLICIES),
        help="of ours, to compare with; may be empty",
    )
    parser.add_argument("--jobs", type=int, default=1, help="replays at the same time")
    parser.add_argument("--depth", type=int, default=CLIENT_DEPTH, help="keys in a get")
    parser.add_argument("--json", action="store_true", help="print the figures instead of tables")
    parser.add_argument("--seed", type=int, default=1)
    add_output_options(parser)
    args = parser.parse_args(arguments)
    args.policies = [policy for policy in args.policies.split(",") if policy]
    args.parts = list(PARTS) if args.parts == "all" else args.parts.split(",")
    for name in args.policies:
        if name not in _core.EVICTION_POLICIES[1:]:
            parser.error(f"--policies: {name} is no other eviction policy of ours")
    for part in args.parts:
        if part not in PARTS:
            parser.error(f"--parts: {part} is none of {', '.join(PARTS)}")
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and print; 1 when it cannot be done."""
    args = _parse(arguments)
    try:
        results = begin_results(needs_memcached="memcached" in args.parts)
        results["seed"] = args.seed
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            if "rows" in args.parts:
                results["rows"] = run_rows(args, Path(folder))
            if "sweep" in args.parts:
                results["sweep"] = run_sweep(args)
            if "memcached" in args.parts:
                results["memcached"] = run_memcached(args, Path(folder))
        if not any(results.get(part) for part in PARTS):
            raise BenchError(f"no row matches {args.only}")
        write_results("sizes", results, args)
    except (BenchError, MemcachepyError) as error:
        say(f"sizes: {error}")
        return 1
    print(json.dumps(results, indent=1) if args.json else render(results), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Miss ratios against memcached at the same `-m`, on synthetic streams of keys and on traces.

The memory of a row is what memcached's chunks take for 1, 5, 10 or 20 % of the workload's keys, in
whole MB, at least 2. Our store is replayed in this process, memcached over a UNIX socket; see
replays.py. Rows in which memcached does not evict are left out.
"""

import argparse
import datetime
import json
import math
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from replays import CLIENT_DEPTH, MEGABYTE, OurStore, build_client, say, server_store
from run import RESULTS, describe_machine
from servers import BenchError
from workloads import read_u32, with_one_hit_keys, with_scans, zipf

from memcachepy import _core

KEY_COUNT = 1_000_000
PERCENTS = (1, 5, 10, 20)
MEMORY_MB_MIN = 2
ONE_HIT_SHARE = 0.2
SCAN_EVERY = 200_000
MEAN_BAR = 0.92
ROW_BAR = 1.02


@dataclass(frozen=True)
class Workload:
    """A named stream; `make` gets the number of items that the row's memory holds."""

    name: str
    title: str
    key_count: int
    make: Callable[[int], "array[int]"]


def workloads(args: argparse.Namespace) -> Iterator[Workload]:
    """The synthetic ones, then the traces of the command line."""

    @cache
    def plain(exponent: float) -> "array[int]":
        return zipf(KEY_COUNT, exponent, args.requests, args.seed)

    for exponent in (0.8, 0.99, 1.2):
        yield Workload(
            f"zipf-{exponent}",
            f"Zipf {exponent}",
            KEY_COUNT,
            lambda _items, exponent=exponent: plain(exponent),
        )
    yield Workload(
        "one-hit",
        "Zipf 0.99, every fifth request for a key that never comes again",
        KEY_COUNT,
        lambda _items: with_one_hit_keys(plain(0.99), ONE_HIT_SHARE, args.seed + 1),
    )
    yield Workload(
        "scan",
        "Zipf 0.99, a scan of as many new keys as fit after every 200,000 requests",
        KEY_COUNT,
        lambda items: with_scans(plain(0.99), items, SCAN_EVERY),
    )
    for path in args.traces:
        stream = read_u32(path, args.trace_requests)
        yield Workload(path.stem, path.name, len(set(stream)), lambda _items, s=stream: s)


def memcached_chunk_bytes(client: Path, args: argparse.Namespace) -> int:
    """The chunk that memcached takes for an item of these sizes."""
    with server_store("memcached", 64, client) as server:
        server.replay(array("Q", [0]), args.value_size, args.key_size, 1)
        slabs = server.stats("slabs")
    return next(value for name, value in slabs.items() if name.endswith(":chunk_size"))


def _late_ratio(misses: Sequence[int], request_count: int, window: int) -> float:
    """Of the second half of the windows: without most of the first misses that nobody avoids."""
    half = len(misses) // 2
    return sum(misses[half:]) / (request_count - half * window)


def row_memory_mb(workload: Workload, percent: float, chunk_bytes: int) -> int:
    """The `-m` of a row."""
    needed = workload.key_count * percent / 100 * chunk_bytes
    return max(math.ceil(needed / MEGABYTE), MEMORY_MB_MIN)


def run_row(
    workload: Workload, percent: float, memory_mb: int, args: argparse.Namespace, client: Path
) -> dict[str, Any] | None:
    """All stores on one workload at one memory; None when memcached did not evict."""
    stream = workload.make(round(workload.key_count * percent / 100))
    window = max(len(stream) // 20, 1)
    row: dict[str, Any] = {
        "workload": workload.name,
        "title": workload.title,
        "keys_percent": percent,
        "memory_mb": memory_mb,
        "requests": len(stream),
        "stores": {},
    }
    for kind in args.stores:
        begin_s = time.monotonic()
        if kind == "memcached":
            context: Any = server_store("memcached", memory_mb, client, args.depth)
        elif kind == "node":
            context = server_store("memcachepy", memory_mb, client, args.depth)
        else:
            context = OurStore(memory_mb, kind)
        with context as store:
            misses = store.replay(stream, args.value_size, args.key_size, window)
            stats = store.stats()
        row["stores"][kind] = {
            "miss_ratio": round(sum(misses) / len(stream), 6),
            "miss_ratio_late": round(_late_ratio(misses, len(stream), window), 6),
            "misses": misses,
            "evictions": stats["evictions"],
            "items": stats["curr_items"],
            "took_s": round(time.monotonic() - begin_s, 1),
        }
        if kind == "memcached" and stats["evictions"] == 0:
            return None
    base = row["stores"].get("memcached")
    if base:
        for found in row["stores"].values():
            found["to_memcached"] = round(found["miss_ratio"] / base["miss_ratio"], 4)
            found["late_to_memcached"] = round(
                found["miss_ratio_late"] / base["miss_ratio_late"], 4
            )
    return row


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("traces", nargs="*", type=Path, help="files of little-endian 32-bit keys")
    parser.add_argument("--requests", type=int, default=3_000_000, help="of a synthetic stream")
    parser.add_argument("--trace-requests", type=int, default=4_000_000, help="of a trace, at most")
    parser.add_argument("--workloads", default="", help="names, comma separated; default all")
    parser.add_argument("--percents", default=",".join(map(str, PERCENTS)))
    parser.add_argument("--value-size", type=int, default=100)
    parser.add_argument("--key-size", type=int, default=16)
    parser.add_argument(
        "--stores",
        default=f"memcached,{_core.EVICTION_POLICIES[0]}",
        help="memcached, node (ours over the socket) and eviction policies, comma separated",
    )
    parser.add_argument("--depth", type=int, default=CLIENT_DEPTH, help="keys in a get")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, help="default: results/miss_ratio-DATE.json")
    args = parser.parse_args(arguments)
    args.percents = [float(percent) for percent in args.percents.split(",")]
    args.stores = args.stores.split(",")
    for kind in args.stores:
        if kind not in (*_core.EVICTION_POLICIES, "memcached", "node"):
            parser.error(f"--stores: {kind} is none of memcached, node and the eviction policies")
    args.workloads = [name for name in args.workloads.split(",") if name]
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all rows; 1 when it cannot be done."""
    args = _parse(arguments)
    started = datetime.datetime.now(datetime.UTC)
    rows = []
    left_out = []
    try:
        machine = describe_machine()
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            client = build_client(Path(folder))
            chunk_bytes = memcached_chunk_bytes(client, args)
            for workload in workloads(args):
                if args.workloads and workload.name not in args.workloads:
                    continue
                memory_mb = 0
                for percent in args.percents:
                    last_mb, memory_mb = memory_mb, row_memory_mb(workload, percent, chunk_bytes)
                    if memory_mb == last_mb:
                        left_out.append(f"{workload.name} at {percent:g} %: the row before again")
                        continue
                    row = run_row(workload, percent, memory_mb, args, client)
                    if row is None:
                        left_out.append(f"{workload.name} at {percent:g} %: no evictions")
                        continue
                    rows.append(row)
                    figures = "  ".join(
                        f"{kind} {found['miss_ratio']:.4f}"
                        f" ({found.get('to_memcached', 0):.3f}, late"
                        f" {found.get('late_to_memcached', 0):.3f})"
                        for kind, found in row["stores"].items()
                    )
                    say(f"{workload.name:10} {percent:3g} % {row['memory_mb']:4} MB  {figures}")
    except BenchError as error:
        say(f"miss_ratio: {error}")
        return 1
    results = {
        "started_at": started.isoformat(timespec="seconds"),
        "machine": machine,
        "seed": args.seed,
        "value_size": args.value_size,
        "key_size": args.key_size,
        "depth": args.depth,
        "chunk_bytes": chunk_bytes,
        "bars": {"mean": MEAN_BAR, "row": ROW_BAR},
        "left_out": left_out,
        "rows": rows,
    }
    for kind in args.stores:
        ratios = [row["stores"][kind].get("to_memcached", 0) for row in rows]
        if ratios:
            say(f"{kind}: mean {sum(ratios) / len(ratios):.4f}, worst {max(ratios):.4f}")
    output = args.output or RESULTS / f"miss_ratio-{started:%Y-%m-%d-%H%M%S}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(results, indent=1) + "\n")
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Miss ratios against memcached at the same `-m`, on synthetic streams of keys and on traces.

The memory of a row is what memcached's chunks take for 1, 5, 10 or 20 % of the workload's keys, in
whole MB, at least 2. Our store is replayed in this process, memcached over a UNIX socket; see
replays.py. Rows in which memcached does not evict are left out.
"""

import argparse
import math
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from replays import (
    CLIENT_DEPTH,
    MEGABYTE,
    OurStore,
    add_output_options,
    begin_results,
    build_client,
    made_on,
    say,
    server_store,
    write_results,
)
from run import RESULTS
from servers import BenchError
from workloads import with_one_hit_keys, with_scans, zipf

from memcachepy import _core
from memcachepy.errors import MemcachepyError
from memcachepy.simulate import Trace, plot_panels
from memcachepy.simulate.plot import check_picture

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
        stream = array("Q")
        for batch in Trace(path).requests():
            stream.extend(batch.ids)
            if len(stream) >= args.trace_requests:
                break
        name = Path(path).name
        yield Workload(name, name, len(set(stream)), lambda _items, stream=stream: stream)


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
    parser.add_argument("traces", nargs="*", help="in any format of simulate; sizes are ignored")
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
    add_output_options(parser)
    parser.add_argument("--plot", type=Path, help="draw the curves into a .svg or .png file")
    args = parser.parse_args(arguments)
    args.percents = [float(percent) for percent in args.percents.split(",")]
    args.stores = args.stores.split(",")
    for kind in args.stores:
        if kind not in (*_core.EVICTION_POLICIES, "memcached", "node"):
            parser.error(f"--stores: {kind} is none of memcached, node and the eviction policies")
    args.workloads = [name for name in args.workloads.split(",") if name]
    return args


def run_all(args: argparse.Namespace, client: Path) -> dict[str, Any]:
    """All rows, and which were left out and why."""
    chunk_bytes = memcached_chunk_bytes(client, args)
    rows: list[dict[str, Any]] = []
    left_out = []
    for workload in workloads(args):
        if args.workloads and workload.name not in args.workloads:
            continue
        memory_mb = 0
        for percent in args.percents:
            last_mb, memory_mb = memory_mb, row_memory_mb(workload, percent, chunk_bytes)
            if memory_mb == last_mb:
                left_out.append(f"{workload.name} at {percent:g} % (the memory of the row before)")
                continue
            row = run_row(workload, percent, memory_mb, args, client)
            if row is None:
                left_out.append(f"{workload.name} at {percent:g} % (memcached evicts nothing)")
                continue
            rows.append(row)
            _say_row(row)
    return {"chunk_bytes": chunk_bytes, "left_out": left_out, "rows": rows}


def _say_row(row: Mapping[str, Any]) -> None:
    figures = "  ".join(
        f"{kind} {found['miss_ratio']:.4f}"
        f" ({found.get('to_memcached', 0):.3f}, late {found.get('late_to_memcached', 0):.3f})"
        for kind, found in row["stores"].items()
    )
    say(f"{row['workload']:10} {row['keys_percent']:3g} % {row['memory_mb']:4} MB  {figures}")


def _others(results: Mapping[str, Any]) -> list[str]:
    """The stores that are compared with memcached."""
    return [kind for kind in results["rows"][0]["stores"] if kind != "memcached"]


def _verdict(value: float, bar: float, kind: str) -> str:
    is_judged = kind in (_core.EVICTION_POLICIES[0], "node")
    return f" ≤ {bar:.2f} {'✓' if value <= bar else '✗ missed'}" if is_judged else ""


def render(results: Mapping[str, Any]) -> str:
    """The table in Markdown."""
    others = _others(results)
    lines = [
        f"Misses per request, read-through, at the same `-m`: {results['key_size']}-byte keys,"
        f" {results['value_size']}-byte values, a million keys in the synthetic workloads. Late is"
        " the ratio in the second half of the requests, which has fewer of the first misses that"
        " no cache avoids.",
        "",
        "| workload | memory for | MB | memcached | "
        + " | ".join(f"{kind} | ratio | late" for kind in others)
        + " |",
        "|---|---|---|---" + "|---|---|---" * len(others) + "|",
    ]
    for row in results["rows"]:
        cells = [row["title"], f"{row['keys_percent']:g} %", str(row["memory_mb"])]
        cells.append(f"{row['stores']['memcached']['miss_ratio']:.4f}")
        for kind in others:
            found = row["stores"][kind]
            mark = " ✗" if found["to_memcached"] > results["bars"]["row"] else ""
            cells.append(f"{found['miss_ratio']:.4f}")
            cells.append(f"**{found['to_memcached']:.3f}**{mark}")
            cells.append(f"{found['late_to_memcached']:.3f}")
        lines.append("| " + " | ".join(cells) + " |")
    for kind in others:
        ratios = [row["stores"][kind]["to_memcached"] for row in results["rows"]]
        mean = sum(ratios) / len(ratios)
        lines += [
            "",
            f"{kind}: mean of the ratios **{mean:.3f}**"
            f"{_verdict(mean, results['bars']['mean'], kind)}, highest {max(ratios):.3f}"
            f"{_verdict(max(ratios), results['bars']['row'], kind)}.",
        ]
    if results["left_out"]:
        lines += ["", f"Left out: {', '.join(results['left_out'])}."]
    lines += ["", made_on(results)]
    return "\n".join(lines) + "\n"


def draw(results: Mapping[str, Any], path: Path) -> None:
    """A chart for each workload that has several sizes; no file if there is none."""
    panels: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for row in results["rows"]:
        curves = panels.setdefault(row["workload"], {})
        for kind, found in row["stores"].items():
            point = (row["memory_mb"] * MEGABYTE, found["miss_ratio"])
            curves.setdefault(kind, []).append(point)
    several = {
        name: curves for name, curves in panels.items() if len(next(iter(curves.values()))) > 1
    }
    if several:
        plot_panels(path, several)
    else:
        say(f"{path} is not drawn: no workload has several sizes")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all rows; 1 when it cannot be done."""
    args = _parse(arguments)
    pictures = [*([RESULTS / "miss_ratio.svg"] if args.publish else ()), *filter(None, [args.plot])]
    try:
        for path in pictures:
            check_picture(path)
        results = begin_results()
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            results |= {
                "seed": args.seed,
                "value_size": args.value_size,
                "key_size": args.key_size,
                "depth": args.depth,
                "bars": {"mean": MEAN_BAR, "row": ROW_BAR},
                **run_all(args, build_client(Path(folder))),
            }
        if not results["rows"]:
            raise BenchError(f"no row is left: {', '.join(results['left_out'])}")
        write_results("miss_ratio", results, args)
        for path in pictures:
            draw(results, path)
    except (BenchError, MemcachepyError) as error:
        say(f"miss_ratio: {error}")
        return 1
    if "memcached" in args.stores and len(args.stores) > 1:
        print(render(results), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())

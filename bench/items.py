"""Items in a full memory of 64 MB against memcached's, and where our memory went.

Both are filled with new keys of 12 bytes until the first of them is evicted; then their items are
counted. Values have 100 bytes, 10 bytes, or sizes spread evenly from 10 to 2,000. When three times
as many keys have come as can fit the items are counted again: with sizes spread, a store may then
hold more items because it has come to hold more small ones.

And the density: items per MB of ours in caches of 1 to 8 MB, against one of 64 MB.
"""

import argparse
import json
import random
import sys
import tempfile
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replays import (
    CLIENT_DEPTH,
    MEGABYTE,
    OurStore,
    ServerStore,
    add_output_options,
    begin_results,
    build_client,
    made_on,
    say,
    server_store,
    write_results,
)
from servers import BenchError

from memcachepy import _core

MEMORY_MB = 64
KEY_LEN = 12
FILL = 3
STEP_PART = 400
WASTE_BAR = 0.12
SMALL_MEMORIES_MB = (1, 2, 4, 8)
DENSITY_BAR = 0.95
_ITEM_BYTES_LEAST = 28


@dataclass(frozen=True)
class Load:
    """Value sizes and how many times memcached's items ours should be."""

    name: str
    title: str
    low: int
    high: int
    bar: float


LOADS = (
    Load("100", "100 bytes", 100, 100, 1.15),
    Load("10", "10 bytes", 10, 10, 1.35),
    Load("spread", "10 to 2,000 bytes", 10, 2000, 1.1),
)

DENSITY_LOADS = (
    *LOADS,
    Load("400", "400 bytes", 400, 400, DENSITY_BAR),
    Load("1000", "1,000 bytes", 1000, 1000, DENSITY_BAR),
    Load("4000", "4,000 bytes", 4000, 4000, DENSITY_BAR),
)


def _value_lens(load: Load, count: int, seed: int) -> "int | array[int]":
    if load.low == load.high:
        return load.low
    chance = random.Random(seed)
    return array("I", (chance.randint(load.low, load.high) for _ in range(count)))


def account(report: Mapping[str, int], memory_bytes: int) -> dict[str, float]:
    """Bytes per item, and what is lost, from `Segment.memory_report`."""
    items = report["items"]
    half_used = ("free_chunk_bytes", "table_spare_bytes")
    waste = ("rounding_bytes", *half_used, "page_remainder_bytes")
    return {
        "header_per_item": report["header_bytes"] / items,
        "table_per_item": (report["bucket_bytes"] + report["overflow_bytes"]) / items,
        "ring_and_ghost_per_item": (report["ring_bytes"] + report["ghost_bytes"]) / items,
        "expiry_column_per_item": report["expiry_column_bytes"] / items,
        "rounding_share": report["rounding_bytes"] / memory_bytes,
        "half_used_share": sum(report[name] for name in half_used) / memory_bytes,
        "page_remainder_share": report["page_remainder_bytes"] / memory_bytes,
        "free_page_share": report["free_page_bytes"] / memory_bytes,
        "waste_share": sum(report[name] for name in waste) / memory_bytes,
    }


def fill(
    store: OurStore | ServerStore, load: Load, memory_mb: int, args: argparse.Namespace
) -> dict[str, Any]:
    """Items at the first eviction and in the end; the memory report in the end."""
    mean = (load.low + load.high) / 2
    fitting = round(memory_mb * MEGABYTE / (_ITEM_BYTES_LEAST + KEY_LEN + mean))
    value_lens = _value_lens(load, FILL * fitting, args.seed)
    found: dict[str, Any] = {"keys": FILL * fitting}
    at = 0
    while "items" not in found:
        # Nobody is full at half of what could fit without any table or rounding.
        end = at + (max(fitting // STEP_PART, 1) if at else fitting // 2)
        _set_new(store, range(at, end), value_lens)
        at = end
        stats = store.stats()
        if stats["evictions"]:
            found["items"] = stats["curr_items"]
    _set_new(store, range(at, FILL * fitting), value_lens)
    found["items_later"] = store.stats()["curr_items"]
    if isinstance(store, OurStore):
        found["report"] = store.segment.memory_report()
    return found


def _set_new(store: OurStore | ServerStore, keys: range, value_lens: "int | array[int]") -> None:
    lens = value_lens if isinstance(value_lens, int) else value_lens[keys.start : keys.stop]
    store.replay(array("Q", keys), lens, KEY_LEN, len(keys))


def run(load: Load, args: argparse.Namespace, client: Path) -> dict[str, Any]:
    """Fill both; the figures of one load."""
    with OurStore(args.memory, args.eviction_policy) as store:
        ours = fill(store, load, args.memory, args)
    with server_store("memcached", args.memory, client, args.depth) as server:
        theirs = fill(server, load, args.memory, args)
    return {
        "load": load.name,
        "title": load.title,
        "bar": load.bar,
        "memcachepy": ours,
        "memcached": theirs,
        "ratio": round(ours["items"] / theirs["items"], 4),
        "ratio_later": round(ours["items_later"] / theirs["items_later"], 4),
        "account": account(ours["report"], args.memory * MEGABYTE),
    }


def run_density(load: Load, args: argparse.Namespace) -> dict[str, Any]:
    """Items per MB of ours, in the end, by memory; the ratio of each to the largest memory's."""
    held: dict[int, float] = {}
    for memory_mb in (*SMALL_MEMORIES_MB, args.memory):
        with OurStore(memory_mb, args.eviction_policy) as store:
            held[memory_mb] = fill(store, load, memory_mb, args)["items_later"] / memory_mb
    return {
        "load": load.name,
        "title": load.title,
        "items_per_mb": {str(memory_mb): round(items, 1) for memory_mb, items in held.items()},
        "ratios": {
            str(memory_mb): round(held[memory_mb] / held[args.memory], 4)
            for memory_mb in SMALL_MEMORIES_MB
        },
    }


def _render_rows(results: Mapping[str, Any]) -> list[str]:
    if not results["rows"]:
        return []
    lines = [
        f"Items at the first eviction at `-m {results['memory_mb']}`, keys of"
        f" {results['key_size']} bytes. Later is when three times as many keys have come as can"
        " fit: then the ratio again, the bytes per item beside its key and value, and the shares of"
        " the memory that are lost. Of spread sizes the two then hold different mixes: whoever has"
        " more small items has more items. Half-used pages are those of the items and of the"
        " tables.",
        "",
        "| values | memcached's items | ours | ratio | bar | ratio later | header | table"
        " | ring and ghost | expiry column | rounding, half-used pages and page ends | bar |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        found = row["account"]
        lines.append(
            f"| {row['title']} | {row['memcached']['items']:,} | {row['memcachepy']['items']:,}"
            f" | **{row['ratio']:.2f}**"
            f" | ≥ {row['bar']:.2f} {'✓' if row['ratio'] >= row['bar'] else '✗ missed'}"
            f" | {row['ratio_later']:.2f}"
            f" | {found['header_per_item']:.1f} B | {found['table_per_item']:.1f} B"
            f" | {found['ring_and_ghost_per_item']:.1f} B"
            f" | {found['expiry_column_per_item']:.1f} B"
            f" | {found['rounding_share']:.1%} + {found['half_used_share']:.1%}"
            f" + {found['page_remainder_share']:.1%} = **{found['waste_share']:.1%}**"
            f" | ≤ {WASTE_BAR:.0%} {'✓' if found['waste_share'] <= WASTE_BAR else '✗ missed'} |"
        )
    return lines


def render_density(results: Mapping[str, Any]) -> list[str]:
    """The table of items per MB; nothing if the results are from before there was one."""
    if not results.get("density"):
        return []
    sizes = list(results["density"][0]["ratios"])
    lines = [
        "",
        f"Items per MB in small caches, after three times as many keys as can fit, and their ratio"
        f" to those of {results['memory_mb']} MB (bar: {DENSITY_BAR}):",
        "",
        f"| values | {results['memory_mb']} MB | "
        + " | ".join(f"{size} MB | ratio" for size in sizes)
        + " |",
        "|---|---" + "|---|---" * len(sizes) + "|",
    ]
    for row in results["density"]:
        cells = [row["title"], f"{row['items_per_mb'][str(results['memory_mb'])]:,.0f}"]
        for size, ratio in row["ratios"].items():
            cells.append(f"{row['items_per_mb'][size]:,.0f}")
            cells.append(f"**{ratio:.3f}** {'✓' if ratio >= DENSITY_BAR else '✗ missed'}")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def render(results: Mapping[str, Any]) -> str:
    """The table in Markdown."""
    lines = [*_render_rows(results), *render_density(results)]
    lines += ["", made_on(results)]
    return "\n".join(lines) + "\n"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", type=int, default=MEMORY_MB, help="MB")
    parser.add_argument(
        "--loads",
        default=",".join(load.name for load in DENSITY_LOADS),
        help="those that are no load of the first table are of the density only",
    )
    parser.add_argument("--density-only", action="store_true", help="without memcached")
    parser.add_argument("--eviction-policy", default=_core.EVICTION_POLICIES[0])
    parser.add_argument("--depth", type=int, default=CLIENT_DEPTH, help="keys in a get")
    parser.add_argument("--seed", type=int, default=1)
    add_output_options(parser)
    args = parser.parse_args(arguments)
    args.loads = args.loads.split(",")
    if args.density_only and args.publish:
        parser.error("--density-only is not all that is published")
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and print; 1 when it cannot be done."""
    args = _parse(arguments)
    rows: list[dict[str, Any]] = []
    density: list[dict[str, Any]] = []
    try:
        results = begin_results(needs_memcached=not args.density_only)
        for load in DENSITY_LOADS:
            if load.name in args.loads:
                density.append(run_density(load, args))
                say(json.dumps(density[-1]))
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            client = build_client(Path(folder))
            for load in LOADS:
                if load.name in args.loads and not args.density_only:
                    rows.append(run(load, args, client))
                    say(json.dumps(rows[-1]))
    except BenchError as error:
        say(f"items: {error}")
        return 1
    results |= {"seed": args.seed, "memory_mb": args.memory, "key_size": KEY_LEN, "rows": rows}
    results["density"] = density
    print(render(results), end="")
    write_results("items", results, args)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The shift: how many misses it costs that all values change their size.

A cache of 64 MB is filled with 400-byte values by three million read-through requests, Zipf 0.9
over 400,000 keys; then what is set has 100 bytes, or 4,000. Compared are the misses in requests 1.0
to 1.2 million after the shift with those of a fresh cache that was given only the requests after
the shift.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from replays import (
    CLIENT_DEPTH,
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
from workloads import zipf

from memcachepy import _core

MEMORY_MB = 64
KEY_COUNT = 400_000
EXPONENT = 0.9
REQUESTS_BEFORE = 3_000_000
REQUESTS_AFTER = 1_200_000
WINDOW = 200_000
BAR = 1.1


@contextlib.contextmanager
def _store(kind: str, args: argparse.Namespace, client: Path) -> Iterator[OurStore | ServerStore]:
    if kind == "memcached":
        with server_store("memcached", args.memory, client, args.depth) as server:
            yield server
    else:
        with OurStore(args.memory, kind) as store:
            yield store


def run(
    kind: str,
    size_after: int,
    streams: tuple["array[int]", "array[int]"],
    args: argparse.Namespace,
    client: Path,
) -> dict[str, Any]:
    """Misses per 200,000 requests after the shift, in the shifted cache and in a fresh one."""
    before, after = streams
    with _store(kind, args, client) as store:
        store.replay(before, args.size_before, args.key_size, WINDOW)
        shifted = store.replay(after, size_after, args.key_size, WINDOW)
        evictions = store.stats()["evictions"]
    with _store(kind, args, client) as store:
        fresh = store.replay(after, size_after, args.key_size, WINDOW)
    return {
        "store": kind,
        "size_before": args.size_before,
        "size_after": size_after,
        "window_requests": WINDOW,
        "misses_shifted": shifted,
        "misses_fresh": fresh,
        "ratio": round(shifted[-1] / fresh[-1], 4),
        "evictions": evictions,
    }


def render(results: dict[str, Any]) -> str:
    """The table in Markdown."""
    lines = [
        f"Misses in requests 1,000,001 to 1,200,000 after values changed their size, at"
        f" `-m {results['memory_mb']}`, Zipf {EXPONENT} over {KEY_COUNT:,} keys; fresh is an empty"
        " cache given only the requests after the change.",
        "",
        "| store | values | misses, shifted | misses, fresh | ratio | bar |",
        "|---|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        is_ours = row["store"] != "memcached"
        verdict = f"≤ {BAR} {'✓' if row['ratio'] <= BAR else '✗ missed'}" if is_ours else ""
        lines.append(
            f"| {row['store']} | {row['size_before']} → {row['size_after']}"
            f" | {row['misses_shifted'][-1]:,} | {row['misses_fresh'][-1]:,}"
            f" | **{row['ratio']:.2f}** | {verdict} |"
        )
    lines += ["", made_on(results)]
    return "\n".join(lines) + "\n"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", type=int, default=MEMORY_MB, help="MB")
    parser.add_argument("--size-before", type=int, default=400)
    parser.add_argument("--size-after", default="100,4000", help="comma separated")
    parser.add_argument("--key-size", type=int, default=16)
    parser.add_argument("--requests-before", type=int, default=REQUESTS_BEFORE)
    parser.add_argument(
        "--stores",
        default=f"{_core.EVICTION_POLICIES[0]},memcached",
        help="eviction policies and memcached, comma separated",
    )
    parser.add_argument("--depth", type=int, default=CLIENT_DEPTH, help="keys in a get")
    parser.add_argument("--seed", type=int, default=1)
    add_output_options(parser)
    args = parser.parse_args(arguments)
    args.size_after = [int(size) for size in args.size_after.split(",")]
    args.stores = args.stores.split(",")
    for kind in args.stores:
        if kind not in (*_core.EVICTION_POLICIES, "memcached"):
            parser.error(f"--stores: {kind} is neither an eviction policy nor memcached")
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and print; 1 when it cannot be done."""
    args = _parse(arguments)
    rows: list[dict[str, Any]] = []
    try:
        results = begin_results()
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            client = build_client(Path(folder))
            streams = (
                zipf(KEY_COUNT, EXPONENT, args.requests_before, args.seed),
                zipf(KEY_COUNT, EXPONENT, REQUESTS_AFTER, args.seed + 1),
            )
            for size_after in args.size_after:
                for kind in args.stores:
                    begin_s = time.monotonic()
                    rows.append(run(kind, size_after, streams, args, client))
                    say(f"{time.monotonic() - begin_s:5.1f} s  {json.dumps(rows[-1])}")
    except BenchError as error:
        say(f"shift: {error}")
        return 1
    results |= {"seed": args.seed, "memory_mb": args.memory, "bar": BAR, "rows": rows}
    print(render(results), end="")
    write_results("shift", results, args)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How the cost of a get grows with the number of keys, and what huge pages save.

All servers run at once on one core and are loaded in turns from another, 16 gets in flight on each
of 50 connections, each with its number of keys. With `--large-pages` (as root) one more node is
filled while the host allows huge pages for shared memory; the host's setting is restored before
anything is measured.

usage: scale.py [--keys 10000,1000000,10000000] [--rounds 5] [--duration 1.5] [--large-pages]
"""

import argparse
import contextlib
import os
import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

from run import measure, prefill
from scenarios import Scenario
from servers import BenchError, Server, free_port, server_command

from memcachepy import _load

POLICY = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
# Keys of 10 to 30 bytes, values of 100, memcached's header and the tables, and room.
ITEM_BYTES = 300
MEMORY_MB_MIN = 64
LARGE = "memcachepy -L"


@contextlib.contextmanager
def host_allows_large_pages() -> Iterator[None]:
    """Until the end of the block; then what was there before."""
    match = re.search(r"\[(\w+)\]", POLICY.read_text())
    if match is None:
        raise BenchError(f"{POLICY} says nothing")
    POLICY.write_text("advise")
    try:
        yield
    finally:
        POLICY.write_text(match[1])


def start(stack: contextlib.ExitStack, kind: str, scenario: Scenario, cpu: int) -> Server:
    """A server with all its keys."""
    address = str(free_port())
    memory_mb = max(MEMORY_MB_MIN, scenario.key_count * ITEM_BYTES >> 20)
    command = server_command(kind.split()[0], address, memory_mb, Path())
    with host_allows_large_pages() if kind == LARGE else contextlib.nullcontext():
        if kind == LARGE:
            command.append("-L")
        server = stack.enter_context(Server(kind, command, address, cpu))
        prefill(server, scenario)
    return server


def report(
    kinds: list[str], counts: list[int], cost_us: dict[tuple[str, int], list[float]]
) -> None:
    """The table: medians of the rounds, and of the ratios within a round."""
    print("| keys |", " | ".join(f"{kind} | to the fewest" for kind in kinds), "|")
    print("|---|" + "---|---|" * len(kinds))
    for count in counts:
        cells = []
        for kind in kinds:
            rounds, base = cost_us[kind, count], cost_us[kind, counts[0]]
            growth = [there / here for there, here in zip(rounds, base, strict=True)]
            cells.append(f"{statistics.median(rounds):.3f} | {statistics.median(growth):.2f}")
        print(f"| {count:,} |", " | ".join(cells), "|")
    if LARGE in kinds:
        for count in counts:
            pairs = zip(cost_us[LARGE, count], cost_us["memcachepy", count], strict=True)
            ratios = [large / small for large, small in pairs]
            print(
                f"\n{count:,} keys: huge pages {statistics.median(ratios):.2f} of the cost without"
                f" ({min(ratios):.2f} to {max(ratios):.2f})"
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", default="10000,1000000,10000000")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--duration", type=float, default=1.5)
    parser.add_argument("--servers", default="memcached,memcachepy")
    parser.add_argument("--large-pages", action="store_true")
    parser.add_argument("--server-cpu", type=int, default=0)
    parser.add_argument("--generator-cpu", type=int, default=1)
    args = parser.parse_args()
    os.sched_setaffinity(0, {args.generator_cpu})
    counts = [int(word) for word in args.keys.split(",")]
    kinds = args.servers.split(",") + ([LARGE] if args.large_pages else [])
    cost_us: dict[tuple[str, int], list[float]] = {}
    try:
        with contextlib.ExitStack() as stack:
            running = []
            for count in counts:
                scenario = Scenario("scale", "", key_count=count, load={"pipeline_depth": 16})
                running += [
                    (start(stack, kind, scenario, args.server_cpu), scenario) for kind in kinds
                ]
            for number in range(args.rounds):
                for server, scenario in running:
                    figures = measure(server, scenario, args.duration)
                    key = server.kind, scenario.key_count
                    cost_us.setdefault(key, []).append(figures["server_cpu_us_per_request"])
                    print(
                        f"<!-- round {number + 1} {key} {cost_us[key][-1]} us -->", file=sys.stderr
                    )
    except (BenchError, _load.LoadError, OSError) as error:
        print(f"scale: {error}", file=sys.stderr)
        return 1
    report(kinds, counts, cost_us)
    return 0


if __name__ == "__main__":
    sys.exit(main())

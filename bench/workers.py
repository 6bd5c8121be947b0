"""What a second worker on the same store costs: CPU per request of two against one, and lock waits.

    .venv/bin/python bench/workers.py

Two measurements, each in turns with medians over the rounds:

- the store alone: one process, then two at the same time on a CPU each, replay gets and sets on
  one segment (read-through, Zipf 0.99 over a million keys, a quarter of which fit). With four CPUs
  or more the throughput of two against one is shown as well.
- a whole node with `-t 1`, then with `-t 2`, on one CPU, under the generator's load from another.
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from array import array
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from run import measure, prefill
from scenarios import SCENARIOS, Scenario
from servers import Server, build_floor, free_port, server_command
from workloads import zipf

from memcachepy import _core

KEY_COUNT = 1_000_000
EXPONENT = 0.99
REQUESTS = 2_000_000
VALUE_BYTES = 100
MEMORY_MB = 48
BAR = 1.1
LOADS = ("mix", "set-16", "get-16")


def _replay(segment: _core.Segment, slot: int, cpu: int, ids: "array[int]", begin: Barrier) -> Any:
    """One worker's part; CPU and wall seconds."""
    os.sched_setaffinity(0, {cpu})
    segment.claim_slot(slot)
    begin.wait()
    wall_s, cpu_s = time.monotonic(), time.process_time()
    segment.replay(ids, VALUE_BYTES)
    return time.process_time() - cpu_s, time.monotonic() - wall_s


def _store_round(parts: Sequence["array[int]"], cpus: Sequence[int]) -> dict[str, float]:
    segment = _core.Segment({"memory_limit_bytes": MEMORY_MB << 20})
    segment.claim_slot(_core.SLOT_SUPERVISOR)
    for ids in parts:
        segment.replay(ids, VALUE_BYTES)
    before = segment.counters()["lock_waits"]
    context = multiprocessing.get_context("fork")
    begin = context.Barrier(len(parts))
    answers = [context.SimpleQueue() for _ in parts]

    def child(index: int) -> None:
        slot = _core.SLOT_WORKER_FIRST + index
        answers[index].put(_replay(segment, slot, cpus[index], parts[index], begin))

    children = [context.Process(target=child, args=(index,)) for index in range(len(parts))]
    for process in children:
        process.start()
    spent = [answer.get() for answer in answers]
    for process in children:
        process.join()
    requests = sum(map(len, parts))
    return {
        "cpu_us": sum(cpu_s for cpu_s, _ in spent) / requests * 1e6,
        "requests_per_s": requests / max(wall_s for _, wall_s in spent),
        "lock_waits_per_million": (segment.counters()["lock_waits"] - before) / requests * 1e6,
    }


def measure_store(rounds: int, cpus: Sequence[int]) -> None:
    """Replay with one process and with two, and print."""
    ids = zipf(KEY_COUNT, EXPONENT, REQUESTS, 1)
    halves = [ids[: REQUESTS // 2], ids[REQUESTS // 2 :]]
    figures: list[tuple[dict[str, float], dict[str, float]]] = [
        (_store_round([ids], cpus), _store_round(halves, cpus)) for _ in range(rounds)
    ]
    ratio = statistics.median(two["cpu_us"] / one["cpu_us"] for one, two in figures)
    one_us, two_us = (statistics.median(pair[i]["cpu_us"] for pair in figures) for i in (0, 1))
    waits = statistics.median(two["lock_waits_per_million"] for _, two in figures)
    print(
        f"store: one {one_us:.3f} us, two {two_us:.3f} us a request, ratio {ratio:.2f} "
        f"(bar: {BAR}), {waits:.0f} lock waits a million requests"
    )
    if (os.cpu_count() or 1) >= 4:
        gain = statistics.median(
            two["requests_per_s"] / one["requests_per_s"] for one, two in figures
        )
        print(f"store: two do {gain:.2f} times the requests a second of one")


def _serve(workers: int, scenario: Scenario, cpu: int, floor: Path) -> Server:
    address = str(free_port())
    command = server_command("memcachepy", address, scenario.memory_mb, floor)
    command[command.index("-t") + 1] = str(workers)
    return Server("memcachepy", command, address, cpu)


def measure_node(name: str, args: argparse.Namespace, floor: Path) -> None:
    """Load nodes of one worker and of two in turns, and print."""
    scenario = replace(next(found for found in SCENARIOS if found.name == name), memory_mb=256)
    with (
        _serve(1, scenario, args.server_cpu, floor) as one,
        _serve(2, scenario, args.server_cpu, floor) as two,
    ):
        for server in (one, two):
            prefill(server, scenario)
        ratios = []
        for number in range(args.rounds):
            order = (one, two) if number % 2 == 0 else (two, one)
            found = {server: measure(server, scenario, args.duration) for server in order}
            ratios.append(
                found[two]["server_cpu_us_per_request"] / found[one]["server_cpu_us_per_request"]
            )
    print(f"node, {scenario.title}: ratio {statistics.median(ratios):.2f} (bar: {BAR})")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--duration", type=float, default=1.0, help="seconds of a node's load")
    parser.add_argument("--server-cpu", type=int, default=0)
    parser.add_argument("--generator-cpu", type=int, default=1)
    args = parser.parse_args()
    measure_store(args.rounds, sorted(os.sched_getaffinity(0)))
    os.sched_setaffinity(0, {args.generator_cpu})
    with tempfile.TemporaryDirectory(prefix="bench-floor-") as folder:
        floor = build_floor(Path(folder))
        for name in LOADS:
            measure_node(name, args, floor)


if __name__ == "__main__":
    main()

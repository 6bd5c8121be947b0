"""What a running dump of all keys costs other clients: their p99 with and without one.

    .venv/bin/python bench/dump.py

A node of two workers holds a million keys. A generator asks at a fixed rate (open loop: a request
that has to wait counts from the moment it was due); in turns, a process reads `lru_crawler metadump
all` over and over meanwhile. The medians over the rounds, and the ratio of the p99s of each round.
"""

import argparse
import json
import multiprocessing
import os
import platform
import socket
import statistics
import tempfile
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from servers import Server, build_floor, free_port, server_command

from memcachepy import _load

KEY_COUNT = 1_000_000
VALUE_BYTES = 100
MEMORY_MB = 512
BAR = 1.1
END = b"END\r\n"


def read_dumps(port: int, cpu: int, begin: Event, stop: Event, found: Any) -> None:
    """Reads one dump after the other; puts the keys read of each and whether it was whole."""
    os.sched_setaffinity(0, {cpu})
    # Elsewhere in real life: here it must not take the generator's CPU when a request is due.
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    begin.wait()
    while not stop.is_set():
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"lru_crawler metadump all\r\n")
            lines = 0
            tail = b""
            while not stop.is_set() and tail != END:
                data = connection.recv(1 << 18)
                lines += data.count(b"\n")
                tail = (tail + data)[-len(END) :]
            found.put((lines - 2 if tail == END else lines, tail == END))


def load(port: int, **settings: int) -> dict[str, Any]:
    """One run of the generator; its report."""
    common = {"address": "127.0.0.1", "port": port, "key_count": KEY_COUNT}
    common |= {"value_bytes_min": VALUE_BYTES, "value_bytes_max": VALUE_BYTES}
    report = _load.run(common | settings)["load"]
    assert report is not None
    return report


def measure(port: int, args: argparse.Namespace) -> dict[str, Any]:
    """Rounds without and with a dump, in turns."""
    rounds: list[dict[str, Any]] = []
    for number in range(args.rounds):
        found: dict[str, Any] = {}
        for kind in ("alone", "dumping") if number % 2 == 0 else ("dumping", "alone"):
            begin, stop = multiprocessing.Event(), multiprocessing.Event()
            dumps = multiprocessing.SimpleQueue()
            reader = multiprocessing.Process(
                target=read_dumps, args=(port, args.generator_cpu, begin, stop, dumps)
            )
            reader.start()
            if kind == "dumping":
                begin.set()
            duration_ms = int(args.duration * 1000)
            report = load(port, rate_per_s=args.rate, duration_ms=duration_ms)
            found[kind] = report["latency_us"]
            stop.set()
            begin.set()
            reader.join()
            found[f"{kind}_keys"] = found[f"{kind}_dumps"] = 0
            while not dumps.empty():
                keys, whole = dumps.get()
                assert keys == KEY_COUNT or not whole, "a dump did not tell every key once"
                found[f"{kind}_keys"] += keys
                found[f"{kind}_dumps"] += whole
        rounds.append(found)
    ratios = [found["dumping"]["p99"] / found["alone"]["p99"] for found in rounds]
    return {"rounds": rounds, "ratios": ratios, "ratio": statistics.median(ratios)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--duration", type=float, default=15.0, help="seconds of each load")
    parser.add_argument("--rate", type=int, default=20_000, help="requests a second")
    parser.add_argument("--server-cpu", type=int, default=0)
    parser.add_argument("--generator-cpu", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    args = parser.parse_args()
    os.sched_setaffinity(0, {args.generator_cpu})
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-floor-") as folder:
        command = server_command("memcachepy", str(port), MEMORY_MB, build_floor(Path(folder)))
    command[command.index("-t") + 1] = "2"
    with Server("memcachepy", command, str(port), args.server_cpu):
        load(port, prefill=1, request_count=1)
        load(port, rate_per_s=args.rate, duration_ms=5000)  # The maintainer makes huge pages.
        figures = measure(port, args)
    for kind in ("alone", "dumping"):
        p50, p99 = (
            statistics.median(found[kind][name] for found in figures["rounds"])
            for name in ("p50", "p99")
        )
        dumps = sum(found[f"{kind}_dumps"] for found in figures["rounds"])
        keys = sum(found[f"{kind}_keys"] for found in figures["rounds"])
        print(
            f"{kind}: p50 {p50:.0f} us, p99 {p99:.0f} us, {keys} keys dumped, {dumps} whole dumps"
        )
    print(f"ratio of p99: {figures['ratio']:.2f} (bar: {BAR}), on {platform.machine()}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()

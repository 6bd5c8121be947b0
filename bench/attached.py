"""What a call of an attached cache costs, in CPU nanoseconds of the calling process.

    .venv/bin/python bench/attached.py [--rounds 7] [--calls 200000] [--keys 10000] [--json]

Starts a node of its own. Every kind of call is measured once a round, in turns, over keys in random
order. The median of the rounds is shown, and its ratio to a `dict.get` over the same keys within a
round. The loop around the call is included: `nothing` is what it costs alone.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from memcachepy import Cache

VALUE_BYTES = 100
LONG_VALUE_BYTES = 100_000
START_S = 20.0

Loop = Callable[[], None]


@contextmanager
def node(folder: Path, memory_mb: int) -> Iterator[Path]:
    """The path of its control socket."""
    path = folder / "control"
    command = [sys.executable, "-m", "memcachepy", "serve", "-p", "-1", "-t", "1"]
    command += ["-m", str(memory_mb), "--control-socket", str(path)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        deadline_s = time.monotonic() + START_S
        while not path.exists() and time.monotonic() < deadline_s:
            time.sleep(0.01)
        yield path
    finally:
        process.terminate()
        process.wait()


def loops(cache: Cache, keys: list[str], calls: int, rng: random.Random) -> dict[str, Loop]:
    """What is measured, by name; the first two are what the others are compared with."""
    value = bytes(VALUE_BYTES)
    table = dict.fromkeys(keys, value)
    order = rng.choices(keys, k=calls)
    absent = [f"absent{number}" for number in range(1000)] * (calls // 1000 + 1)
    long_order = [f"long{number % 10}" for number in range(calls // 100)]
    for key in keys:
        cache.set(key, value)
        cache.set(f"n{key}", b"1")
    for key in long_order[:10]:
        cache.set(key, bytes(LONG_VALUE_BYTES))
    counters = [f"n{key}" for key in order]

    def over(names: list[str], call: Callable[[str], object]) -> Loop:
        def run() -> None:
            for name in names:
                call(name)

        return run

    def nothing() -> None:
        for _ in order:
            pass

    def store() -> None:
        set_ = cache.set
        for name in order:
            set_(name, value)

    return {
        "nothing": nothing,
        "dict.get": over(order, table.get),
        "get": over(order, cache.get),
        "get, absent": over(absent[:calls], cache.get),
        "set": store,
        "incr": over(counters, cache.incr),
        f"get of {LONG_VALUE_BYTES:,} bytes": over(long_order, cache.get),
    }


def measure(kinds: dict[str, Loop], calls: int, rounds: int) -> dict[str, list[float]]:
    """Nanoseconds per call of each kind, one for each round."""
    found: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in range(rounds + 1):
        names = list(kinds)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            count = calls // 100 if "bytes" in name else calls
            begin_ns = time.process_time_ns()
            kinds[name]()
            if turn > 0:  # The first round warms up.
                found[name].append((time.process_time_ns() - begin_ns) / count)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=200_000)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    memory_mb = 64 + args.keys * 600 // (1 << 20)
    with (
        tempfile.TemporaryDirectory() as name,
        node(Path(name), memory_mb) as path,
        Cache.attach(path) as cache,
    ):
        keys = [f"key:{number:012d}" for number in range(args.keys)]
        kinds = loops(cache, keys, args.calls, random.Random(args.seed))
        found = measure(kinds, args.calls, args.rounds)
    if args.json:
        print(json.dumps(found))
        return
    print(f"{args.keys:,} keys, values of {VALUE_BYTES} bytes, CPU nanoseconds per call")
    for name, costs in found.items():
        ratio = median(c / d for c, d in zip(costs, found["dict.get"], strict=True))
        print(
            f"{name:24} {median(costs):9.0f} ({min(costs):.0f} to {max(costs):.0f})  {ratio:6.1f}"
        )


if __name__ == "__main__":
    main()

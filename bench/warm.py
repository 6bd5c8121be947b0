"""Hit ratio of clients while a cluster is scaled, with --warm and without.

    .venv/bin/python bench/warm.py [--before 3] [--after 4] [--keys 200000] [--seconds 20] [--json]

Clients read through: a miss is fetched and stored, and one request in twenty stores a new value.
Keys are drawn by Zipf's law. All is stored before, so the ratio begins at 1. Each client asks for
the list every --poll seconds, at a moment of its own, as all do in an hour of sixty; the copies
settle for two polls. Shown are, for each way in turn, the hit ratio in the seconds before the
change, its lowest second after clients begin to be told, the mean of --seconds from there, and the
points that the mean has lost.
"""

import argparse
import json
import multiprocessing
import random
import subprocess
import sys
import tempfile
import time
from bisect import bisect
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import accumulate
from typing import Any

from memcachepy.client import DiscoveryClient

VALUE_BYTES = 200
WRITE_PART = 0.05
FILL_BATCH = 500

SPAWN = multiprocessing.get_context("spawn")


def client(endpoint: str, args: argparse.Namespace, number: int, stop: Any, answers: Any) -> None:
    """Sends [second, requests, hits] of each second of the system clock."""
    draw = random.Random(args.seed * 100 + number)
    # The most popular keys are anywhere among the nodes.
    sums = list(accumulate((rank + 1) ** -args.skew for rank in range(args.keys)))
    counts: dict[int, list[int]] = {}
    with DiscoveryClient(endpoint, poll_s=args.poll, timeout=5.0) as cache:
        while not stop.is_set():
            key = f"key:{bisect(sums, draw.random() * sums[-1])}"
            value = b"%0*d" % (VALUE_BYTES, draw.randrange(1 << 30))
            if draw.random() < WRITE_PART:
                cache.set(key, value)
                continue
            count = counts.setdefault(int(time.time()), [0, 0])
            count[0] += 1
            if cache.get(key) is not None:
                count[1] += 1
            else:
                cache.set(key, value)
    answers.put([[second, *count] for second, count in sorted(counts.items())])


def fill(endpoint: str, keys: int) -> None:
    value = b"0" * VALUE_BYTES
    with DiscoveryClient(endpoint, timeout=5.0) as cache:
        for first in range(0, keys, FILL_BATCH):
            last = min(first + FILL_BATCH, keys)
            cache.set_many({f"key:{number}": value for number in range(first, last)})


class BenchedCluster:
    """A launched cluster of its own folder."""

    def __init__(self, folder: str, nodes: int, memory_mb: int) -> None:
        self._where = ["--name", "bench", "--state-dir", folder]
        flags = ["--detach", "-p", "-1", "-t", "1", "-m", str(memory_mb), "--nodes", str(nodes)]
        self.do("up", *flags)

    def do(self, command: str, *arguments: str) -> Any:
        asked = [sys.executable, "-m", "memcachepy", "cluster", command, *self._where, *arguments]
        asked += ["--json"]
        result = subprocess.run(asked, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise SystemExit(f"{' '.join(asked)}: {result.stderr}")
        with suppress(ValueError):
            return json.loads(result.stdout)
        return json.loads(result.stdout.splitlines()[-1])

    @property
    def endpoint(self) -> str:
        status = self.do("status")
        found = next(iter(status["nodes"]))
        return str(found["address"]) if "address" in found else f"{found['host']}:{found['port']}"


def moment_of(endpoint: str, nodes: int) -> float:
    """When the list has so many, in seconds of the system clock."""
    with DiscoveryClient(endpoint, timeout=5.0) as cache:
        while len(cache.nodes) != nodes:
            time.sleep(0.05)
            cache.refresh()
        return time.time()


def ratio(counts: dict[int, list[int]]) -> float:
    requests = sum(count[0] for count in counts.values())
    return sum(count[1] for count in counts.values()) / requests if requests else 0.0


def measure(args: argparse.Namespace, is_warm: bool) -> dict[str, Any]:
    """One change of a cluster that was just filled."""
    with tempfile.TemporaryDirectory(prefix="memcachepy-bench-") as folder:
        cluster = BenchedCluster(folder, args.before, args.memory)
        stop, answers = SPAWN.Event(), SPAWN.SimpleQueue()
        endpoint = cluster.endpoint
        fill(endpoint, args.keys)
        processes = [
            SPAWN.Process(target=client, args=(endpoint, args, number, stop, answers))
            for number in range(args.clients)
        ]
        try:
            for process in processes:
                process.start()
                time.sleep(args.poll / args.clients)
            time.sleep(args.seconds / 2)
            began_s = time.time()
            flags = ["--warm", "--settle", str(2 * args.poll)] if is_warm else []
            with ThreadPoolExecutor(1) as pool:
                change = pool.submit(cluster.do, "scale", "--nodes", str(args.after), *flags)
                told_s = moment_of(endpoint, args.after)
                answer = change.result()
            time.sleep(max(0.0, told_s + args.seconds + 1 - time.time()))
        finally:
            stop.set()
            counts: dict[int, list[int]] = {}
            for process in processes:
                if process.pid is not None:
                    for second, requests, hits in answers.get():
                        count = counts.setdefault(second, [0, 0])
                        count[0] += requests
                        count[1] += hits
                    process.join()
            cluster.do("down")
    before = {s: c for s, c in counts.items() if s < int(began_s)}
    after = {s: c for s, c in counts.items() if told_s - 1 < s < told_s + args.seconds}
    return {
        "way": "warm" if is_warm else "cold",
        "before": ratio(before),
        "lowest": min(ratio({s: c}) for s, c in after.items()),
        "mean": ratio(after),
        "points_lost": 100 * (ratio(before) - ratio(after)),
        "requests_per_s": sum(c[0] for c in counts.values()) / len(counts),
        "told_after_s": told_s - began_s,
        "report": answer.get("warm"),
        "ratios": {s - int(told_s): round(ratio({s: c}), 4) for s, c in sorted(counts.items())},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--before", type=int, default=3, help="how many nodes")
    parser.add_argument("--after", type=int, default=4)
    parser.add_argument("--keys", type=int, default=200_000)
    parser.add_argument("--skew", type=float, default=0.99, help="of Zipf's law")
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--poll", type=float, default=5.0, help="of the clients, in seconds")
    parser.add_argument("--seconds", type=int, default=20, help="that are looked at")
    parser.add_argument("--memory", type=int, default=64, help="of each node, in MB")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = [measure(args, is_warm) for _ in range(args.rounds) for is_warm in (False, True)]
    if args.json:
        print(json.dumps(found))
        return
    print(f"{'':6}{'before':>9}{'lowest':>9}{'mean':>9}{'points lost':>13}{'requests/s':>12}")
    for row in found:
        print(
            f"{row['way']:6}{row['before']:9.4f}{row['lowest']:9.4f}{row['mean']:9.4f}"
            f"{row['points_lost']:13.2f}{row['requests_per_s']:12,.0f}"
        )
        if row["report"]:
            print(f"      told after {row['told_after_s']:.1f} s: {row['report']}")


if __name__ == "__main__":
    main()

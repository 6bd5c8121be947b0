"""Requests per second through DiscoveryClient against pymemcache's HashClient, on three nodes.

    .venv/bin/python bench/discovery_client.py [--rounds 7] [--calls 3000] [--keys 10000] [--json]

Starts three nodes of one cluster. Each client makes each kind of call once a round, in turns, over
keys in random order, one request at a time. Shown are requests per second of the calling process's
CPU time, the median of the rounds, and the ratio to HashClient's within a round (smallest and
largest in brackets); the wall clock would tell of the machine's other work. HashClient has one
connection for each node, and threads may not share it; with `use_pooling` they may.
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from pymemcache.client.hash import HashClient

from memcachepy.client import DiscoveryClient
from memcachepy.client.aio import DiscoveryClient as AioClient
from memcachepy.client.hashing import HASHINGS
from memcachepy.membership.file import change_topology
from memcachepy.topology import Member

VALUE = b"x" * 100
BATCH = 30
NODES = 3
START_S = 20.0
BASE = "HashClient"

Work = Callable[[list[str]], None]


@contextmanager
def node(folder: Path, number: int, list_path: Path) -> Iterator[Member]:
    command = [sys.executable, "-m", "memcachepy", "serve", "-p", "-1", "-t", "1", "-m", "64"]
    command += ["--control-socket", str(folder / f"control{number}"), "--join", f"file:{list_path}"]
    log = folder / f"log{number}"
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stderr=sink, stdin=subprocess.DEVNULL)
    try:
        deadline_s = time.monotonic() + START_S
        while " serving listen=" not in log.read_text():
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise SystemExit(f"a node does not start: {log.read_text()}")
            time.sleep(0.01)
        address = log.read_text().partition(" serving listen=")[2].split()[0]
        host, _, port = address.rpartition(":")
        yield Member(host, int(port), host)
    finally:
        process.terminate()
        process.wait()


def discovering(members: list[Member], **options: Any) -> DiscoveryClient:
    """A client that has the whole list."""
    client = DiscoveryClient([member.address for member in members], **options)
    deadline_s = time.monotonic() + START_S
    while len(client.nodes) < NODES:
        if time.monotonic() > deadline_s:
            raise SystemExit(f"the list is {client.topology}")
        time.sleep(0.05)
        client.refresh()
    return client


def blocking_work(client: Any) -> dict[str, Work]:
    """Each kind of call, over keys."""

    def get(keys: list[str]) -> None:
        for key in keys:
            client.get(key)

    def store(keys: list[str]) -> None:
        for key in keys:
            client.set(key, VALUE, noreply=False)

    def get_many(keys: list[str]) -> None:
        for start in range(0, len(keys), BATCH):
            client.get_many(keys[start : start + BATCH])

    return {"get": get, "set": store, f"get_many of {BATCH}": get_many}


def asyncio_work(runner: asyncio.Runner, client: AioClient) -> dict[str, Work]:
    async def get(keys: list[str]) -> None:
        for key in keys:
            await client.get(key)

    async def store(keys: list[str]) -> None:
        for key in keys:
            await client.set(key, VALUE, noreply=False)

    async def get_many(keys: list[str]) -> None:
        for start in range(0, len(keys), BATCH):
            await client.get_many(keys[start : start + BATCH])

    return {
        "get": lambda keys: runner.run(get(keys)),
        "set": lambda keys: runner.run(store(keys)),
        f"get_many of {BATCH}": lambda keys: runner.run(get_many(keys)),
    }


def measure(
    clients: dict[str, dict[str, Work]], orders: list[list[str]]
) -> dict[str, dict[str, list[float]]]:
    """Keys per second of CPU time, by kind of call and client, one for each round."""
    found: dict[str, dict[str, list[float]]] = {}
    names = list(clients)
    for turn, keys in enumerate(orders):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            for kind, work in clients[name].items():
                begin_ns = time.process_time_ns()
                work(keys)
                spent_ns = time.process_time_ns() - begin_ns
                if turn > 0:  # The first round connects and warms up.
                    rates = found.setdefault(kind, {}).setdefault(name, [])
                    rates.append(len(keys) * 1e9 / spent_ns)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=3_000, help="keys of each kind of call")
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    keys = [f"key:{number:012d}" for number in range(args.keys)]
    orders = [rng.choices(keys, k=args.calls) for _ in range(args.rounds + 1)]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        list_path = folder / "topology.json"
        members = [stack.enter_context(node(folder, number, list_path)) for number in range(NODES)]
        change_topology(list_path, lambda old: old.changed(members, time.time()))
        servers = [member.address for member in members]
        clients: dict[str, dict[str, Work]] = {}
        for name, pooling in ((BASE, False), (f"{BASE}, use_pooling", True)):
            client = HashClient(servers, no_delay=True, use_pooling=pooling)
            stack.callback(client.close)
            clients[name] = blocking_work(client)
        for hashing in HASHINGS:
            client = stack.enter_context(discovering(members, hashing=hashing))
            client.set_many(dict.fromkeys(keys, VALUE), noreply=False)
            clients[f"DiscoveryClient, {hashing}"] = blocking_work(client)
        runner = stack.enter_context(asyncio.Runner())
        aio = AioClient(servers)
        stack.callback(lambda: runner.run(aio.aclose()))
        clients["aio.DiscoveryClient"] = asyncio_work(runner, aio)
        found = measure(clients, orders)
    if args.json:
        print(json.dumps(found))
        return
    print(f"{NODES} nodes, {args.keys:,} keys, {len(VALUE)} bytes; keys per second of CPU time")
    for kind, by_client in found.items():
        print(kind)
        for name in clients:
            rates = by_client[name]
            ratios = [a / b for a, b in zip(rates, by_client[BASE], strict=True)]
            spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
            print(f"  {name:28} {median(rates):9,.0f}  {median(ratios):5.2f} {spread}")


if __name__ == "__main__":
    main()

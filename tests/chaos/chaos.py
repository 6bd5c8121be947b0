"""Kills processes of a node at random, at full load, and looks whether anything gives.

Clients own their keys: they know what must be there. Every answer is compared with that; a request
that was not answered happened whole or not at all. At the end every key is read, everything is
deleted, the node is stopped and its segment is walked through.

    scripts/chaos --seconds 600 --kills-per-second 5
"""

import argparse
import json
import os
import random
import select
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from chaos_client import Client
from chaos_doors import Door, open_attached, open_socket
from chaos_node import Node, children_of, kill, run_watched

from memcachepy.config import NodeConfig

PROGRESS_EVERY_S = 5.0
TICK_S = 0.005
STALL_S = 0.02
"""A tick that is later than this says that the machine had no time for anybody."""
END_TIMEOUT_S = 60.0
EVENTS_SHOWN_MAX = 20
KEYS = 200
KEYS_TO_EVICT = 1500
_KINDS = ("worker", "acceptor", "maintainer", "attached")


@dataclass(slots=True)
class ClientProcess:
    pid: int
    fd: int
    received: bytes = b""
    figures: dict[str, Any] = field(default_factory=dict)
    is_done: bool = False


class Watcher:
    """Starts clients, kills, listens to the clients, and comes to a verdict."""

    def __init__(self, options: argparse.Namespace, node: Node, control_path: str) -> None:
        self._options = options
        self._node = node
        self._control_path = control_path
        self._rng = random.Random(options.seed)
        self._clients: list[ClientProcess] = []
        self._kills: Counter[str] = Counter()
        self._problems: list[dict[str, Any]] = []
        self._slow: list[dict[str, Any]] = []
        self._stalls: list[tuple[float, float]] = []
        self._began_s = time.monotonic()

    def run(self) -> dict[str, Any]:
        self._wait_until_serving()
        self._began_s = time.monotonic()
        until_s = self._began_s + self._options.seconds
        for index in range(self._options.clients + self._options.attached):
            self._clients.append(self._start_client(index, until_s))
        kill_at_s = self._began_s + 0.5
        progress_at_s = self._began_s + PROGRESS_EVERY_S
        while not all(client.is_done for client in self._clients):
            self._tick()
            now_s = time.monotonic()
            if self._node.has_ended():
                self._problems.append({"what": "the node ended by itself"})
                break
            if now_s > until_s + END_TIMEOUT_S:
                self._problems.append({"what": "clients did not come to an end"})
                break
            if kill_at_s <= now_s < until_s:
                self._kill_somebody()
                kill_at_s = now_s + self._rng.expovariate(self._options.kills_per_second)
            if now_s >= progress_at_s:
                self._say_progress()
                progress_at_s += PROGRESS_EVERY_S
        return self._verdict()

    def _wait_until_serving(self) -> None:
        for _ in range(2000):
            if len(self._node.children()) >= self._options.threads + 2:
                return
            time.sleep(0.005)
        self._problems.append({"what": "the node did not start"})

    def _start_client(self, index: int, until_s: float) -> ClientProcess:
        reading, writing = os.pipe()
        is_plain = index >= self._options.clients
        open_door: Callable[[], Door] = (
            partial(open_attached, self._control_path)
            if is_plain
            else partial(open_socket, ("127.0.0.1", self._node.port))
        )
        client = Client(
            name=f"{'attached' if is_plain else 'client'}{index}",
            rng=random.Random(f"{self._options.seed} {index}"),
            open_door=open_door,
            report_fd=writing,
            evicts=self._options.evict,
            is_plain=is_plain,
            key_count=self._options.keys,
            wait_s_max=self._options.wait_ms_max / 1000,
        )
        pid = os.fork()
        if pid == 0:
            try:
                os.close(reading)
                client.live(until_s)
            except BrokenPipeError:
                pass
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(0)
        os.close(writing)
        return ClientProcess(pid, reading)

    def _tick(self) -> None:
        """Listens for one tick, and notes when it took much longer than that."""
        began_s = time.monotonic()
        open_clients = {client.fd: client for client in self._clients if not client.is_done}
        for fd in select.select(list(open_clients), [], [], TICK_S)[0]:
            self._listen(open_clients[fd])
        ended_s = time.monotonic()
        if ended_s - began_s > STALL_S:
            self._stalls.append((began_s, ended_s))

    def _listen(self, client: ClientProcess) -> None:
        data = os.read(client.fd, 1 << 16)
        if not data:
            client.is_done = True
            self._problems.append({"what": f"client {client.pid} died"})
        *lines, client.received = (client.received + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            match message.pop("kind"):
                case "problem":
                    self._problems.append(message)
                    self._say(message)
                case "slow":
                    self._slow.append(message)
                case kind:
                    client.figures = message
                    client.is_done = kind == "done"

    def _kill_somebody(self) -> None:
        """A worker mostly; now and then all of them at once."""
        family = self._node.children()
        attached = [child for client in self._clients for child in children_of(client.pid)]
        choice = self._rng.random()
        if choice < 0.05:
            victims = family
        elif choice < 0.25 and attached:
            victims = [(self._rng.choice(attached)[0], "attached")]
        else:
            workers = [child for child in family if "worker" in child[1]]
            others = [child for child in family if "worker" not in child[1]]
            chosen = workers if workers and choice < 0.8 else others or workers
            victims = [self._rng.choice(chosen)] if chosen else []
        for pid, name in victims:
            kill(pid)
            kind = (word for word in _KINDS if word in name)
            self._kills[next(kind, name)] += 1

    def _sum(self, name: str) -> int:
        return sum(client.figures.get(name, 0) for client in self._clients)

    def _slow_ones(self) -> list[dict[str, Any]]:
        """Waits that were too long even without the time in which nobody ran."""
        found = []
        for event in self._slow:
            stalled_s = sum(
                max(0.0, min(ended_s, event["ended_s"]) - max(began_s, event["began_s"]))
                for began_s, ended_s in self._stalls
            )
            if event["ended_s"] - event["began_s"] - stalled_s > self._options.wait_ms_max / 1000:
                found.append(event)
        return found

    def _figures(self) -> dict[str, Any]:
        waits = [client.figures.get("wait_ms_max", 0.0) for client in self._clients]
        return {
            "seconds": round(time.monotonic() - self._began_s, 1),
            "kills": sum(self._kills.values()),
            "operations": self._sum("operations"),
            "unanswered": self._sum("unanswered"),
            "refused": self._sum("refused"),
            "doors_opened": self._sum("doors_opened"),
            "wait_ms_max": max(waits, default=0.0),
            "slow": len(self._slow_ones()),
            "problems": len(self._problems),
        }

    def _say_progress(self) -> None:
        print(" ".join(f"{name}={value}" for name, value in self._figures().items()), flush=True)

    def _say(self, event: dict[str, Any]) -> None:
        if len(self._problems) <= EVENTS_SHOWN_MAX:
            print(json.dumps(event), flush=True)

    def _verdict(self) -> dict[str, Any]:
        slow = self._slow_ones()
        for event in slow[:EVENTS_SHOWN_MAX]:
            print(json.dumps({"what": "slow", **event}), flush=True)
        figures = self._figures()
        self._say_progress()
        for client in self._clients:
            if not client.is_done:
                kill(client.pid)
        if not self._node.has_ended() and not self._node.stop():
            self._problems.append({"what": "the node did not stop"})
            kill(self._node.pid)
            self._node.has_ended(5.0)
        for sentence in self._node.segment.check():
            self._problems.append({"what": f"segment: {sentence}"})
        counters = self._node.segment.counters()
        if counters["curr_items"] != 0:
            self._problems.append({"what": f"{counters['curr_items']} items are left"})
        if counters["evictions"] != 0 and not self._options.evict:
            self._problems.append({"what": f"{counters['evictions']} items were evicted"})
        if counters["evictions"] == 0 and self._options.evict:
            self._problems.append({"what": "nothing was evicted"})
        stalls = [ended_s - began_s for began_s, ended_s in self._stalls]
        return {
            **figures,
            "verdict": "sound" if not self._problems and not slow else "broken",
            "seed": self._options.seed,
            "problems": len(self._problems),
            "first_problems": self._problems[:EVENTS_SHOWN_MAX],
            "kills_of": dict(self._kills),
            "evictions": counters["evictions"],
            "repairs": counters["repairs"],
            "rebuilds": counters["rebuilds"],
            "machine_late_ms_max": round(max(stalls, default=0.0) * 1000, 1),
        }


def options_from(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (60)")
    parser.add_argument("--seed", type=int, help="of everything drawn (a new one)")
    parser.add_argument("--kills-per-second", type=float, default=5.0, help="on average (5)")
    parser.add_argument("--clients", type=int, default=4, help="processes with sockets (4)")
    parser.add_argument("--attached", type=int, default=2, help="processes that attach (2)")
    parser.add_argument("--keys", type=int, help="of each client (200; 1500 with --evict)")
    parser.add_argument(
        "--wait-ms-max", type=float, default=500.0, help="longest wait for an answer (500)"
    )
    parser.add_argument("-t", "--threads", type=int, default=3, help="workers (3)")
    parser.add_argument("-m", "--memory-limit", type=int, help="megabytes (512; 32 with --evict)")
    parser.add_argument("--evict", action="store_true", help="a cache that is too small")
    parser.add_argument("--log", type=Path, help="keep the node's log here, with all details")
    parser.add_argument("--json", action="store_true", help="the verdict as JSON")
    options = parser.parse_args(arguments)
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1, 2**32)
    if options.memory_limit is None:
        options.memory_limit = 32 if options.evict else 512
    if options.keys is None:
        options.keys = KEYS_TO_EVICT if options.evict else KEYS
    return options


def run(options: argparse.Namespace) -> dict[str, Any]:
    """One whole run; returns the verdict."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        log = options.log or Path(folder) / "log"
        control_path = str(Path(folder) / "control")
        config = NodeConfig(
            port=-1,
            memory_limit=options.memory_limit,
            threads=options.threads,
            control_socket=control_path,
            verbose=1 if options.log else 0,
        )
        reading, writing = os.pipe()

        def watch(node: Node) -> None:
            verdict = Watcher(options, node, control_path).run()
            os.write(writing, json.dumps(verdict).encode())

        node_pid = run_watched(config, log, watch, [writing])
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            told = pipe.read()
        _, wait_status = os.waitpid(node_pid, 0)
        verdict: dict[str, Any] = (
            json.loads(told)
            if told
            else {"verdict": "broken", "seed": options.seed, "first_problems": ["no verdict"]}
        )
        verdict["node_status"] = os.waitstatus_to_exitcode(wait_status)
        if verdict["node_status"] != 0:
            verdict["verdict"] = "broken"
        if verdict["verdict"] != "sound":
            print("the end of the node's log:", *log.read_text().splitlines()[-20:], sep="\n")
        return verdict


def main(arguments: list[str]) -> int:
    options = options_from(arguments)
    print(f"seed {options.seed}", flush=True)
    verdict = run(options)
    if options.json:
        print(json.dumps(verdict, indent=1))
    else:
        print("\n".join(f"{name}: {value}" for name, value in verdict.items()))
    return 0 if verdict["verdict"] == "sound" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

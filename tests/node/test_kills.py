"""Children that are killed: what goes on meanwhile, and how soon another one serves."""

import datetime
import random
import re
import signal
import sys
import threading
import time
from pathlib import Path

import psutil
from nodes import Node, Start
from support.client import ClosedByPeer, RawClient
from support.waiting import wait_until

RESPAWN_S = 0.05


def stamp(line: str) -> float:
    return datetime.datetime.fromisoformat(line.split()[0]).timestamp()


def kill(node: Node, victim: psutil.Process) -> psutil.Process:
    """Kill a child and return the one that took its place."""
    name = victim.name()
    victim.kill()
    return node.wait_for_other(name, [victim])[0]


def is_open(client: RawClient) -> bool:
    try:
        client.ask(b"version\r\n", b"VERSION")
        client.line()
    except (AssertionError, OSError):
        return False
    return True


def test_killed_worker_costs_its_connections_and_no_item(start: Start) -> None:
    node = start("-t", "2")
    clients = [node.client() for _ in range(8)]
    for index, client in enumerate(clients):
        client.ask(b"set k%d 0 0 1\r\nv\r\n" % index, b"STORED\r\n")
    kill(node, node.worker())
    alive = [client for client in clients if is_open(client)]
    assert len(alive) == 4
    for index in range(8):
        alive[0].ask(b"get k%d\r\n" % index, b"VALUE k%d 0 1\r\nv\r\nEND\r\n" % index)
    for _ in range(8):
        assert is_open(node.client())
    assert node.client().stats()["curr_connections"] == str(4 + 8 + 1)
    assert node.stop() == 0


def test_killed_worker_is_replaced_within_fifty_milliseconds(start: Start) -> None:
    def seconds_to_respawn() -> float:
        node = start("-t", "1", "-v")
        for count in range(2, 6):
            node.worker().kill()
            births = node.wait_for_log("child ready name=worker-0", count)
        deaths = node.wait_for_log("child exited name=worker-0")
        return min(stamp(b) - stamp(a) for a, b in zip(deaths, births[1:], strict=True))

    # A busy machine may be late once; it is not late every time.
    assert any(seconds_to_respawn() < RESPAWN_S for _ in range(3))


def test_killed_acceptor_loses_no_connection(start: Start) -> None:
    node = start("-t", "2")
    old = node.client()
    victim = node.acceptor()
    victim.suspend()
    waiting = [node.client() for _ in range(10)]
    victim.kill()
    assert all(is_open(client) for client in [old, *waiting, node.client()])
    assert node.acceptor() != victim
    assert node.stop() == 0


def test_connections_on_their_way_to_a_killed_worker_survive(start: Start) -> None:
    node = start("-t", "1")
    victim = node.worker()
    victim.suspend()
    waiting = [node.client() for _ in range(20)]
    for client in waiting:
        client.send(b"version\r\n")
    fds = f"/proc/{node.acceptor().pid}/fdinfo"
    wait_until(lambda: len(list(Path(fds).iterdir())) < 20, "the acceptor to pass them on")
    victim.kill()
    for client in waiting:
        client.expect(b"VERSION")
    assert node.stop() == 0


def test_fifth_death_within_ten_seconds_backs_off(start: Start) -> None:
    node = start("-t", "1", "-v")
    for count in range(2, 7):
        node.worker().kill()
        node.wait_for_log("child ready name=worker-0", count)
    assert len(node.wait_for_log("respawn backs off")) == 1
    deaths = node.wait_for_log("child exited", 5)
    assert ["respawn_in_s=1" in line for line in deaths] == [False] * 4 + [True]
    births = node.wait_for_log("child ready name=worker-0", 6)
    assert 0.9 < stamp(births[5]) - stamp(deaths[4]) < 3
    node.client().ask(b"version\r\n", b"VERSION")
    assert node.stop() == 0


def test_stop_while_a_respawn_waits(start: Start) -> None:
    node = start("-t", "1", "-v")
    for count in range(5):
        node.wait_for_log("child ready name=worker-0", count + 1)
        node.worker().kill()
    node.wait_for_log("backs off")
    assert node.stop() == 0


def test_death_is_logged_with_its_facts(start: Start) -> None:
    node = start()
    victim = node.worker()
    kill(node, victim)
    (line,) = node.wait_for_log("child exited")
    assert re.search(
        rf"name=worker-\d pid={victim.pid} status=SIGKILL uptime_s=[\d.]+ .*respawn_in_s=0$", line
    )


def test_signal_without_a_name_is_a_death_like_any_other(start: Start) -> None:
    node = start("-t", "1")
    (victim,) = node.workers()
    victim.send_signal(signal.SIGRTMIN + 6)
    node.wait_for_other("worker", [victim])
    assert f"status=SIG{signal.SIGRTMIN + 6}" in node.log()
    node.client().ask(b"version\r\n", b"VERSION")
    assert node.stop() == 0


def test_drain_while_the_acceptors_respawn_waits(start: Start) -> None:
    node = start("-t", "1", "-v")
    client = node.client()
    client.ask(b"version\r\n", b"VERSION")
    client.line()
    for count in range(5):
        node.wait_for_log("child ready name=acceptor", count + 1)
        node.acceptor().kill()
    node.wait_for_log("backs off")
    node.process.send_signal(signal.SIGUSR1)
    node.wait_for_log("draining")
    client.ask(b"get k\r\n", b"END\r\n")
    client.send(b"quit\r\n")
    assert node.wait() == 0


def test_cpu_time_of_the_dead_still_counts(start: Start) -> None:
    node = start("-t", "1")
    client = node.client()
    for _ in range(50):
        client.send(b"get k\r\n" * 500)
        client.expect(b"END\r\n" * 500)
    user_s, system_s = node.worker().cpu_times()[:2]
    kill(node, node.worker())
    stats = node.client().stats()
    total_s = float(stats["rusage_user"]) + float(stats["rusage_system"])
    assert total_s >= user_s + system_s - 0.02


class Writer(threading.Thread):
    """Stores numbers under keys of its own, over as many connections as it takes."""

    KEYS = 50

    def __init__(self, node: Node, name: str, deadline_s: float) -> None:
        super().__init__()
        self.node = node
        self.prefix = name
        self.deadline_s = deadline_s
        self.kept: dict[bytes, set[bytes]] = {}
        """What each key may hold: the acknowledged value, and one whose reply never came."""
        self.connections = 0
        self.commands = 0
        self.wrong: list[str] = []

    def run(self) -> None:
        number = 0
        while time.monotonic() < self.deadline_s and not self.wrong:
            try:
                with RawClient(self.node.address) as client:
                    self.connections += 1
                    while time.monotonic() < self.deadline_s and not self.wrong:
                        number += 1
                        self.store_and_check(client, number)
            except (ClosedByPeer, OSError):
                continue

    def store_and_check(self, client: RawClient, number: int) -> None:
        key = b"%s:%d" % (self.prefix.encode(), number % self.KEYS)
        value = b"%d" % number
        self.kept.setdefault(key, set()).add(value)
        client.send(b"set %s 0 0 %d\r\n%s\r\n" % (key, len(value), value))
        client.expect(b"STORED\r\n")
        self.kept[key] = {value}
        self.check(client, b"%s:%d" % (self.prefix.encode(), (number + 7) % self.KEYS))
        self.commands += 2

    def check(self, client: RawClient, key: bytes) -> None:
        client.send(b"get %s\r\n" % key)
        found = None
        while (line := client.line()) != b"END":
            if not line.startswith(b"VALUE "):
                found = line
        allowed = self.kept.get(key)
        if (found is None) != (allowed is None) or (allowed and found not in allowed):
            self.wrong.append(f"{key!r} is {found!r}, not one of {allowed}")


def test_kills_under_load_lose_nothing_that_was_acknowledged(
    start: Start, rng: random.Random
) -> None:
    node = start("-t", "2")
    deadline_s = time.monotonic() + 4
    writers = [Writer(node, f"writer{index}", deadline_s) for index in range(4)]
    for writer in writers:
        writer.start()
    kills = 0
    while time.monotonic() < deadline_s:
        time.sleep(rng.uniform(0.01, 0.3))
        if family := node.children():
            rng.choice(family).kill()
            kills += 1
    for writer in writers:
        writer.join(20)
        assert not writer.is_alive()
        assert not writer.wrong
    assert kills >= 4
    assert sum(writer.connections for writer in writers) > len(writers)
    client = node.client()
    for writer in writers:
        for key in writer.kept:
            writer.check(client, key)
        assert not writer.wrong
    assert node.stop() == 0


FAILS = """
import sys
from memcachepy import _core, cli
from memcachepy.node.supervisor import Supervisor

make_worker = Supervisor._worker

def make_failing_worker(self, slot):
    child = make_worker(self, slot)
    def run():
        raise _core.CoreError("no luck today")
    child.run = run
    return child

Supervisor._worker = make_failing_worker
cli.main()
"""


def test_worker_that_never_served_ends_the_node_with_its_reason(launch: Start) -> None:
    node = launch("serve", "-p", "-1", command=[sys.executable, "-c", FAILS])
    assert node.wait() == 71
    assert re.search(r"worker-\d could not start: no luck today", node.log())
    assert "respawn" not in node.log()

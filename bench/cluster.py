"""A launched cluster: how long it takes to come up, to tell a change, and to replace a node.

Starts `memcachepy cluster up --nodes N -t 1 -m 8` in a folder of its own and measures

- from the command to all nodes in the list, in time and in CPU of all processes;
- CPU of the whole cluster while nobody asks it for anything (health checks, the watched list);
- from a change of the list to the last node that serves it, and whether a client's next poll has
  it;
- from SIGKILL of a node's supervisor to an item stored in it again;
- from `cluster down` to the end of all processes.

Prints a table. Whatever happens, the cluster is ended.

usage: cluster.py [--nodes 60] [--changes 10] [--kills 10] [--idle 10]
"""

import argparse
import contextlib
import functools
import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from servers import BenchError, process_cpu_ns, process_tree

from memcachepy.admin.client import Address, NodeConnection
from memcachepy.client import DiscoveryClient
from memcachepy.cluster.health import check
from memcachepy.cluster.state import StateFolder
from memcachepy.errors import NodeUnreachable
from memcachepy.membership.file import change_topology, read_topology
from memcachepy.topology import Member, Topology

NAME = "bench"
UP_TIMEOUT_S = 300.0
CHANGE_TIMEOUT_S = 20.0
KILL_TIMEOUT_S = 60.0
STRANGER = "198.51.100.1"
"""An address for documentation (RFC 5737): it comes into the list and leaves it; nobody asks it."""


class Cluster:
    """A cluster of its own; `up` first."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.folder = StateFolder(root, NAME)
        self._environ = {k: v for k, v in os.environ.items() if not k.startswith("MEMCACHEPY_")}
        self._environ["XDG_RUNTIME_DIR"] = str(root)

    def command(self, *words: str) -> None:
        where = ["--state-dir", str(self._root), "--name", NAME]
        # Not in the checkout: `python -m` would import the package from there, unbuilt.
        done = subprocess.run(
            [sys.executable, "-m", "memcachepy", "cluster", *words, *where],
            cwd="/",
            env=self._environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=UP_TIMEOUT_S,
        )
        if done.returncode != 0:
            raise BenchError(f"cluster {words[0]} failed: {done.stderr}")

    @property
    def topology(self) -> Topology:
        return read_topology(self.folder.topology_path) or Topology(0)

    @property
    def members(self) -> tuple[Member, ...]:
        return tuple(member for member in self.topology.members if member.host != STRANGER)

    def cpu_s(self) -> float:
        """Of all its processes until now, those that have ended included."""
        total_ns = 0
        for pid in process_tree(self.folder.supervisor_pid()):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                total_ns += process_cpu_ns(pid)
        return total_ns / 1e9

    def end(self) -> None:
        """By force where it does not end by itself."""
        with contextlib.suppress(BenchError, subprocess.TimeoutExpired):
            self.command("down")
        for pid in filter(None, [self.folder.supervisor_pid()]):
            os.kill(pid, signal.SIGKILL)
        for pid in self.folder.running_nodes().values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)


@contextlib.contextmanager
def cluster_folder() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="bench-cluster-") as root:
        cluster = Cluster(Path(root))
        try:
            yield cluster
        finally:
            cluster.end()


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float) -> float:
    """Seconds until it was so."""
    began_s = time.monotonic()
    while not condition():
        if time.monotonic() - began_s > timeout_s:
            raise BenchError(f"waited {timeout_s:g} s in vain for {what}")
        time.sleep(0.001)
    return time.monotonic() - began_s


class Listener:
    """A connection to a node that is asked for its list."""

    def __init__(self, member: Member) -> None:
        self._socket = socket.create_connection((member.host, member.port), CHANGE_TIMEOUT_S)
        self._file = self._socket.makefile("rb")

    def version(self) -> int:
        self._socket.sendall(b"config get cluster\r\n")
        header = self._file.readline()
        if not header.startswith(b"CONFIG"):
            return 0
        version = int(self._file.readline())
        while self._file.readline() != b"END\r\n":
            pass
        return version

    def close(self) -> None:
        self._file.close()
        self._socket.close()


def measure_up(cluster: Cluster, nodes: int) -> list[tuple[str, str]]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began_s = time.monotonic()
    cluster.command("up", "--detach", "--nodes", str(nodes), "-t", "1", "-m", "8", "-p", "-1")
    took_s = time.monotonic() - began_s
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = cluster.cpu_s()
    own_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if len(cluster.members) != nodes:
        raise BenchError(f"{len(cluster.members)} of {nodes} nodes are in the list")
    return [
        (f"{nodes} nodes up and in the list", f"{took_s:.1f} s"),
        ("CPU for that, all processes", f"{cpu_s + own_s:.1f} s, {cpu_s / nodes:.2f} s a node"),
    ]


def measure_idle(cluster: Cluster, seconds: float) -> list[tuple[str, str]]:
    before_s, began_s = cluster.cpu_s(), time.monotonic()
    supervisor = cluster.folder.supervisor_pid()
    own_ns = process_cpu_ns(supervisor)
    time.sleep(seconds)
    passed_s = time.monotonic() - began_s
    all_share = (cluster.cpu_s() - before_s) / passed_s
    own_share = (process_cpu_ns(supervisor) - own_ns) / 1e9 / passed_s
    return [
        (
            "CPU of the cluster while nobody asks it",
            f"{all_share:.1%} of a core, of which its supervisor {own_share:.1%}",
        )
    ]


def measure_changes(cluster: Cluster, count: int) -> list[tuple[str, str]]:
    """The list is changed in the file, as the supervisor does it, by a member that is nobody."""
    with contextlib.ExitStack() as opening:
        listeners = [
            opening.enter_context(contextlib.closing(Listener(member)))
            for member in cluster.members
        ]
        first = cluster.members[0]
        client = opening.enter_context(
            contextlib.closing(DiscoveryClient(first.address, poll_s=3600))
        )
        spread_s, first_s, poll_s = [], [], []
        for number in range(count):
            stranger = [Member(STRANGER, 11211, STRANGER)] if number % 2 == 0 else []
            members = [*cluster.members, *stranger]
            began_s = time.monotonic()
            changed = change_topology(
                cluster.folder.topology_path, lambda old, new=members: old.changed(new, time.time())
            )
            waiting = listeners
            seen_first_s = 0.0
            while waiting:
                waiting = [one for one in waiting if one.version() < changed.version]
                if len(waiting) < len(listeners) and not seen_first_s:
                    seen_first_s = time.monotonic() - began_s
                if time.monotonic() - began_s > CHANGE_TIMEOUT_S:
                    raise BenchError(f"{len(waiting)} nodes do not serve the changed list")
            spread_s.append(time.monotonic() - began_s)
            first_s.append(seen_first_s)
            began_s = time.monotonic()
            client.refresh()
            poll_s.append(time.monotonic() - began_s)
            if client.topology is None or client.topology.version != changed.version:
                raise BenchError("the client's next poll has not brought the changed list")
    return [
        ("a changed list at the first node", _spread_text(first_s)),
        ("a changed list at the last node", _spread_text(spread_s)),
        ("a client's poll that brings it", _spread_text(poll_s)),
    ]


def measure_kills(cluster: Cluster, count: int) -> list[tuple[str, str]]:
    """Each time another node, as long as there are any."""
    back_s = []
    members = cluster.members
    for number in range(count):
        member = members[number % len(members)]
        pid = cluster.folder.running_nodes()[member.node_id]

        began_s = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        is_back = functools.partial(_stores, Address(member.host, member.port), pid)
        wait_for(is_back, "the node to serve again", KILL_TIMEOUT_S)
        back_s.append(time.monotonic() - began_s)
    return [("from SIGKILL of a node's supervisor to a set", _spread_text(back_s))]


def _stores(address: Address, old_pid: int) -> bool:
    """A new process does; for a moment the killed one's workers may still answer."""
    try:
        with NodeConnection(address, KILL_TIMEOUT_S) as connection:
            pid = connection.stats()["pid"]
    except NodeUnreachable:
        return False
    return pid != str(old_pid) and check(address, KILL_TIMEOUT_S).is_healthy


def measure_down(cluster: Cluster) -> list[tuple[str, str]]:
    began_s = time.monotonic()
    cluster.command("down")
    return [("cluster down", f"{time.monotonic() - began_s:.1f} s")]


def _spread_text(seconds: list[float]) -> str:
    median_ms, most_ms = 1000 * statistics.median(seconds), 1000 * max(seconds)
    return f"{median_ms:.0f} ms (median of {len(seconds)}), {most_ms:.0f} ms at most"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--nodes", type=int, default=60)
    parser.add_argument("--changes", type=int, default=10)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--idle", type=float, default=10.0)
    args = parser.parse_args()
    rows: list[tuple[str, str]] = []
    try:
        with cluster_folder() as cluster:
            rows += measure_up(cluster, args.nodes)
            if args.idle:
                rows += measure_idle(cluster, args.idle)
            if args.changes:
                rows += measure_changes(cluster, args.changes)
            if args.kills:
                rows += measure_kills(cluster, args.kills)
            rows += measure_down(cluster)
    except (BenchError, OSError, subprocess.TimeoutExpired) as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 1
    print(f"| {args.nodes} nodes, `-t 1 -m 8`, {os.cpu_count()} CPUs | |")
    print("|---|---|")
    for what, figure in rows:
        print(f"| {what} | {figure} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())

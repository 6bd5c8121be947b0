"""Nodes on machines of their own, as network namespaces, that are cut off and joined again.

hub: a bridge, ZooKeeper ──┬── one: a node
└── two: a node
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from nodes import SERVE, Node, Start
from support.waiting import wait_until
from zookeeper_server import ZookeeperServer, require_zookeeper

from memcachepy.topology import Topology

pytestmark = pytest.mark.once

WAIT_S = 60.0
NET = "10.213.77"
NAMES = ("one", "two")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=WAIT_S)


class Machines:
    """Namespaces with a cable from each to the hub."""

    def __init__(self) -> None:
        self._prefix = f"mcpy{os.getpid()}"
        self._made: list[str] = []

    def make(self) -> None:
        """Raises CalledProcessError: it is not allowed."""
        self._make_namespace("hub")
        hub = self.name("hub")
        ip("-n", hub, "link", "add", "br0", "type", "bridge")
        ip("-n", hub, "addr", "add", f"{NET}.1/24", "dev", "br0")
        ip("-n", hub, "link", "set", "br0", "up")
        for number, name in enumerate(NAMES, 2):
            self._make_namespace(name)
            own = self.name(name)
            peer = ["peer", "name", "eth0", "netns", own]
            ip("-n", hub, "link", "add", f"to-{name}", "type", "veth", *peer)
            ip("-n", hub, "link", "set", f"to-{name}", "master", "br0", "up")
            ip("-n", own, "addr", "add", f"{NET}.{number}/24", "dev", "eth0")
            ip("-n", own, "link", "set", "eth0", "up")

    def _make_namespace(self, name: str) -> None:
        ip("netns", "add", self.name(name))
        self._made.append(name)
        ip("-n", self.name(name), "link", "set", "lo", "up")

    def name(self, name: str) -> str:
        return f"{self._prefix}-{name}"

    def inside(self, name: str) -> list[str]:
        return ["ip", "netns", "exec", self.name(name)]

    def cut(self, name: str) -> None:
        ip("-n", self.name("hub"), "link", "set", f"to-{name}", "down")

    def join(self, name: str) -> None:
        ip("-n", self.name("hub"), "link", "set", f"to-{name}", "up")

    def remove(self) -> None:
        for name in self._made:
            ip("netns", "del", self.name(name))


@pytest.fixture
def machines() -> Iterator[Machines]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and ip (Debian: apt-get install iproute2)")
    made = Machines()
    try:
        try:
            made.make()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces cannot be made here: {error.stderr.decode().strip()}")
        yield made
    finally:
        made.remove()


@pytest.fixture
def server(machines: Machines) -> Iterator[ZookeeperServer]:
    require_zookeeper()
    server = ZookeeperServer(f"{NET}.1", machines.inside("hub"))
    try:
        server.start()
        yield server
    finally:
        server.close()


def served(node: Node) -> Topology:
    segment = node.segment()
    try:
        found = segment.get_config("cluster")
    finally:
        segment.close()
    return Topology.parse(found[1]) if found else Topology(0)


def lists(node: Node, *names: str) -> Callable[[], bool]:
    hosts = [f"{NET}.{NAMES.index(name) + 2}" for name in names]
    return lambda: [member.host for member in served(node).members] == hosts


def test_a_machine_is_cut_off_and_joined_again(
    launch: Start, machines: Machines, server: ZookeeperServer, tmp_path: Path
) -> None:
    def start(name: str, grace_s: int) -> Node:
        url = f"zk://{server.address}/cache?session=1&grace={grace_s}"
        flags = ["-l", "*", "-p", "11211", "-m", "16", "-t", "1", "--node-id", name]
        flags += ["--join", url, "--discovery-state", str(tmp_path / name)]
        node = launch(*flags, command=[*machines.inside(name), *SERVE])
        node.wait_until_serving()
        return node

    one, two = start("one", 2), start("two", 3600)
    for node in (one, two):
        wait_until(lists(node, "one", "two"), "both, by their global addresses", WAIT_S)
    before = served(one)
    assert served(two) == before

    # Shorter than the grace: nothing changes for anybody.
    machines.cut("two")
    two.wait_for_log("no answer about the cluster", timeout_s=WAIT_S)
    machines.join("two")
    two.wait_for_log("the cluster answers again", timeout_s=WAIT_S)
    wait_until(lambda: served(one) == served(two), "one list", WAIT_S)

    # Longer: the others go on without it, and it goes on with what it knows.
    machines.cut("two")
    wait_until(lists(one, "one"), "one without two", WAIT_S)
    known = served(two)
    assert [member.node_id or member.host for member in known.members] == [f"{NET}.2", f"{NET}.3"]
    machines.join("two")
    for node in (one, two):
        wait_until(lists(node, "one", "two"), "both again", WAIT_S)
    wait_until(lambda: served(one) == served(two), "one list", WAIT_S)
    assert served(one).version > known.version >= before.version

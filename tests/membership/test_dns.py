"""The list as DNS has it: by fakes, and by a real dnsmasq; and how its version becomes one."""

import random
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from nodes import Node, Start
from support.waiting import wait_until
from zookeeper_server import free_port

from memcachepy.errors import MembershipError
from memcachepy.membership import open_membership
from memcachepy.membership.peers import ask_nodes
from memcachepy.membership.url import DnsPlace
from memcachepy.topology import Member, Topology

dns_membership = pytest.importorskip(
    "memcachepy.membership.dns", reason="dnspython is not installed: no test with DNS"
)
DnsMembership, Found = dns_membership.DnsMembership, dns_membership.Found

WAIT_S = 60.0
PORT = 11211


def members_of(*numbers: int) -> tuple[Member, ...]:
    ips = [f"10.0.0.{number}" for number in numbers]
    return tuple(Member(ip, PORT, ip) for ip in ips)


class World:
    """DNS as each node sees it, and nodes that ask each other."""

    def __init__(self) -> None:
        self.now_s = 1_800_000_000.0
        self.nodes: dict[int, FakeNode] = {}
        self.records: tuple[int, ...] = ()

    def node(self, number: int, last: Topology | None = None) -> "FakeNode":
        self.nodes[number] = FakeNode(self, number, last)
        return self.nodes[number]

    def ask(self, members: Iterable[Member], _timeout_s: float) -> dict[Member, Topology]:
        by_member = {node.member: node for node in self.nodes.values()}
        return {
            member: by_member[member].last
            for member in members
            if member in by_member and by_member[member].last.version
        }


class FakeNode:
    def __init__(self, world: World, number: int, last: Topology | None) -> None:
        self.world = world
        self.member = members_of(number)[0]
        self.last = last or Topology(0)
        self.records: tuple[int, ...] | None = None
        """What its resolver says, if not what the world says."""
        self.is_cut_off = False
        self.membership = DnsMembership(
            DnsPlace("cache.test", PORT), lambda: world.now_s, self._resolve, world.ask
        )
        self.membership.join(self.member)

    def _resolve(self, _place: DnsPlace, _timeout_s: float) -> object:
        if self.is_cut_off:
            raise MembershipError("SERVFAIL")
        return Found(members_of(*(self.records or self.world.records)), 30)

    def poll(self) -> None:
        with suppress(MembershipError):
            found = self.membership.poll(self.last)
            same = found.members == self.last.members
            assert found.version > self.last.version or (
                same and found.version == self.last.version
            )
            self.last = found


def test_the_first_version_is_the_second_of_the_change() -> None:
    world = World()
    world.records = (1, 2)
    one = world.node(1)
    one.poll()
    assert one.last == Topology(1_800_000_000, members_of(1, 2))


def test_who_sees_the_list_later_takes_its_version() -> None:
    world = World()
    world.records = (1, 2)
    one, two = world.node(1), world.node(2)
    one.poll()
    world.now_s += 100
    two.poll()
    assert one.last == two.last
    one.poll()
    assert one.last.version == 1_800_000_000


def test_two_that_see_it_at_once_agree_in_the_next_round() -> None:
    world = World()
    world.records = (1, 2)
    one, two = world.node(1), world.node(2)
    two.last = Topology(1_800_000_005, members_of(2))
    one.last = Topology(1_700_000_005, members_of(1))
    one.poll()
    two.poll()
    one.poll()
    assert one.last == two.last == Topology(1_800_000_006, members_of(1, 2))


def test_a_node_that_comes_back_with_an_old_list_takes_the_new_one() -> None:
    world = World()
    world.records = (1, 2)
    one = world.node(1)
    one.poll()
    two = world.node(2, Topology(1_700_000_000, members_of(1, 2)))
    two.poll()
    assert two.last == one.last


def test_no_answer_and_an_empty_one_leave_the_last_list() -> None:
    world = World()
    world.records = (1, 2)
    one = world.node(1)
    one.poll()
    before = one.last
    one.is_cut_off = True
    with pytest.raises(MembershipError, match="SERVFAIL"):
        one.membership.poll(one.last)
    assert one.last == before


def test_it_asks_again_when_the_ttl_is_over_and_soon_while_nodes_differ() -> None:
    world = World()
    world.records = (1, 2)
    one, two = world.node(1), world.node(2)
    one.poll()
    assert one.membership.pause_s == 5
    two.last = Topology(1_900_000_000, members_of(2))
    one.poll()
    assert one.membership.pause_s == 1
    two.poll()
    one.poll()
    assert one.last == two.last
    one.poll()
    assert one.membership.pause_s == 5


def test_all_agree_soon_after_their_resolvers_do(rng: random.Random) -> None:
    """Random lists, seen by each node at its own moment; versions never fall on the way."""
    for _ in range(20):
        world = World()
        numbers = range(1, rng.randrange(3, 40))
        for number in numbers:
            world.node(number)
        for _ in range(rng.randrange(1, 6)):
            world.records = tuple(rng.sample(numbers, rng.randrange(2, len(numbers) + 1)))
            for _ in range(rng.randrange(40)):
                node = world.nodes[rng.choice(numbers)]
                node.is_cut_off = rng.random() < 0.2
                node.records = rng.choice([None, world.records, node.records])
                node.poll()
                world.now_s += rng.choice([0, 0, 1, -1])
        for node in world.nodes.values():
            node.is_cut_off, node.records = False, None
        for _ in range(4):
            for number in rng.sample(numbers, len(numbers)):
                world.nodes[number].poll()
        lists = {world.nodes[number].last for number in world.records}
        assert len(lists) == 1


# ---- dnsmasq ---------------------------------------------------------------------------------


class Dnsmasq:
    """A name server on a port of its own, whose records can be changed."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._config = folder / "dnsmasq.conf"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *lines: str) -> None:
        """With these lines of configuration, in the place of those before."""
        self.kill()
        own = ["keep-in-foreground", "no-hosts", "no-resolv", "local=/test/", "user=root"]
        own += [f"port={self.port}", "listen-address=127.0.0.1", "bind-interfaces"]
        own += ["local-ttl=1", "pid-file="]
        self._config.write_text("\n".join([*own, *lines]) + "\n")
        self._process = subprocess.Popen(
            ["dnsmasq", "-C", str(self._config)], stderr=subprocess.DEVNULL
        )
        wait_until(self._answers, "dnsmasq to answer", WAIT_S)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "dnsmasq has ended"
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture
def dnsmasq(tmp_path: Path) -> Iterator[Dnsmasq]:
    if shutil.which("dnsmasq") is None:
        pytest.skip("dnsmasq (Debian: apt-get install dnsmasq-base) is missing")
    server = Dnsmasq(tmp_path)
    yield server
    server.kill()


def url(server: Dnsmasq, name: str) -> str:
    return f"{name}?nameserver=127.0.0.1:{server.port}"


def looked_up(server: Dnsmasq, name: str) -> list[tuple[str, str, int]]:
    with open_membership(url(server, name)) as membership:
        found = membership.topology()
    assert found is not None
    return [(member.host, member.ip, member.port) for member in found.members]


def host(name: str, *ips: str) -> str:
    return f"host-record={name}.test,{','.join(ips)}"


def srv(name: str, port: int) -> str:
    return f"srv-host=_mc._tcp.cache.test,{name}.test,{port}"


def test_addresses_of_a_name(dnsmasq: Dnsmasq) -> None:
    dnsmasq.start(host("cache", "127.9.0.2"), host("cache", "127.9.0.1"))
    assert looked_up(dnsmasq, "dns+cache.test:5") == [
        ("127.9.0.1", "127.9.0.1", 5),
        ("127.9.0.2", "127.9.0.2", 5),
    ]


def test_ipv6_only_where_there_is_no_ipv4(dnsmasq: Dnsmasq) -> None:
    dnsmasq.start(host("both", "127.9.0.1", "fd00::1"), host("six", "fd00::2"))
    assert looked_up(dnsmasq, "dns+both.test:5") == [("127.9.0.1", "127.9.0.1", 5)]
    assert looked_up(dnsmasq, "dns+six.test:5") == [("fd00::2", "fd00::2", 5)]


def test_services_with_their_ports_and_addresses(dnsmasq: Dnsmasq) -> None:
    """One target has no address: nobody can reach it."""
    dnsmasq.start(
        srv("n2", 7), srv("N1", 6), srv("n3", 8), host("n1", "127.9.0.1"), host("n2", "127.9.0.2")
    )
    assert looked_up(dnsmasq, "dnssrv+_mc._tcp.cache.test") == [
        ("n1.test", "127.9.0.1", 6),
        ("n2.test", "127.9.0.2", 7),
    ]


def test_a_list_too_long_for_a_datagram(dnsmasq: Dnsmasq) -> None:
    dnsmasq.start(*(host("cache", f"127.9.1.{number}") for number in range(1, 200)))
    assert len(looked_up(dnsmasq, "dns+cache.test:5")) == 199


def refusal(server: Dnsmasq, name: str) -> str:
    with open_membership(url(server, name)) as membership, pytest.raises(MembershipError) as caught:
        membership.poll(Topology(0))
    return str(caught.value)


def test_what_is_no_list_is_not_taken_for_one(
    dnsmasq: Dnsmasq, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DnsMembership, "WAIT_S", 0.5)
    dnsmasq.start(host("cache", "127.9.0.1"), "txt-record=text.test,x", srv("gone", 1))
    assert "does not exist" in refusal(dnsmasq, "dns+gone.test:5")
    assert "does not contain an answer" in refusal(dnsmasq, "dns+text.test:5")
    assert "there is no node" in refusal(dnsmasq, "dnssrv+_mc._tcp.cache.test")
    assert "REFUSED" in refusal(dnsmasq, "dns+cache.elsewhere:5")
    dnsmasq.signal(signal.SIGSTOP)
    assert "timed out" in refusal(dnsmasq, "dns+cache.test:5")
    dnsmasq.kill()
    assert refusal(dnsmasq, "dns+cache.test:5")


def served(node: Node) -> Topology:
    segment = node.segment()
    try:
        found = segment.get_config("cluster")
    finally:
        segment.close()
    return Topology.parse(found[1]) if found else Topology(0)


def test_nodes_are_asked_for_their_lists(start: Start) -> None:
    node, port = start("--advertise", "192.0.2.1:5"), free_port()
    here = Member("127.0.0.1", int(node.address[1]), "127.0.0.1")
    silent = socket.create_server(("127.0.0.1", 0))
    with silent:
        mute = Member("127.0.0.1", silent.getsockname()[1], "127.0.0.1")
        gone = Member("127.0.0.1", port, "127.0.0.1")
        unknown = Member("no.such.name.test", port)
        answers = ask_nodes([here, mute, gone, unknown], 0.5)
    assert answers == {here: served(node)}


def is_connected(node: Node) -> bool:
    return node.client().stats("memcachepy")["discovery:state"] == "connected"


def listing(node: Node, *ips: str) -> Callable[[], bool]:
    return lambda: [member.ip for member in served(node).members] == list(ips)


@pytest.mark.once
def test_nodes_follow_dns_with_one_version(start: Start, dnsmasq: Dnsmasq, tmp_path: Path) -> None:
    ips, port = ["127.9.0.1", "127.9.0.2", "127.9.0.3"], str(free_port())
    dnsmasq.start(*(host("cache", ip) for ip in ips[:2]))
    provider = url(dnsmasq, f"dns+cache.test:{port}")
    nodes = []
    for ip in ips:
        flags = ["-l", ip, "-p", port, "-t", "1", "--join", provider]
        nodes.append(start(*flags, "--discovery-state", str(tmp_path / ip)))
    for node in nodes:
        wait_until(listing(node, *ips[:2]), "the first list", WAIT_S)
    dnsmasq.start(*(host("cache", ip) for ip in ips))
    for node in nodes:
        wait_until(listing(node, *ips), "the new list", WAIT_S)
    wait_until(lambda: len({served(node) for node in nodes}) == 1, "one version", WAIT_S)
    before = served(nodes[0])
    dnsmasq.kill()
    nodes[0].wait_for_log("no answer about the cluster", timeout_s=WAIT_S)
    assert served(nodes[0]) == before
    assert nodes[0].stop() == 0
    flags = ["-l", ips[0], "-p", port, "-t", "1", "--join", provider]
    again = start(*flags, "--discovery-state", str(tmp_path / ips[0]))
    assert served(again) == before
    dnsmasq.start(*(host("cache", ip) for ip in ips))
    wait_until(lambda: is_connected(again), "the way back", WAIT_S)
    assert served(again) == before


def test_rounds_are_bounded() -> None:
    assert dns_membership.ASK_WAIT_S + DnsMembership.WAIT_S <= 4

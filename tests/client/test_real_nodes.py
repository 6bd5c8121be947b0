"""Clients of real nodes, which are told their list over loopback, killed, stopped and replaced."""

import asyncio
import signal
import time

import psutil
import pytest
from nodes import Node, Start
from pymemcache.client.hash import HashClient
from scripted import Connect
from support.waiting import wait_until

from memcachepy.client.aio import DiscoveryClient as AioClient
from memcachepy.topology import Member, Topology

KEYS = [f"key:{number}" for number in range(60)]
WAIT_S = 30.0


def member(node: Node) -> Member:
    host, port = node.address
    assert isinstance(port, int)
    return Member(host, port, host)


def tell(version: int, members: list[Node]) -> Topology:
    """Each of them is told the list."""
    topology = Topology(version, tuple(map(member, members)))
    payload = topology.payload()
    for node in members:
        client = node.client()
        client.ask(b"config set cluster 0 %d\r\n%s\r\n" % (len(payload), payload), b"STORED\r\n")
    return topology


def endpoint(node: Node) -> str:
    return member(node).address


def test_a_node_outside_any_cluster_is_one_of_one_node(start: Start, connect: Connect) -> None:
    node = start("-t", "1")
    client = connect(endpoint(node))
    assert [listed.address for listed in client.nodes] == [endpoint(node)]
    assert client.set("key", "value")
    assert client.get("key") == b"value"


def test_scaling_is_followed_while_the_client_is_used(start: Start, connect: Connect) -> None:
    nodes = [start("-t", "1") for _ in range(4)]
    tell(2_000_000_000, nodes[:3])
    client = connect(endpoint(nodes[0]), poll_s=0.1)
    assert len(client.nodes) == 3
    assert client.set_many({key: key for key in KEYS}) == []
    before = {key: client.node_of(key) for key in KEYS}
    topology = tell(2_000_000_001, nodes)

    def used() -> bool:
        assert set(client.get_many(KEYS).values()) <= {key.encode() for key in KEYS}
        return client.topology == topology

    wait_until(used, "the fourth node to be used", WAIT_S)
    moved = [key for key in KEYS if client.node_of(key) != before[key]]
    assert {client.node_of(key) for key in moved} == {member(nodes[3])}
    assert client.get_many(KEYS).keys() == set(KEYS) - set(moved)
    assert client.set_many({key: key for key in KEYS}) == []
    topology = tell(2_000_000_002, nodes[1:])
    # Who has left was told nothing, and then it stops: the others are asked.
    assert nodes[0].stop() == 0
    wait_until(used, "the first node to be gone", WAIT_S)
    assert client.set_many({key: key for key in KEYS}) == []
    assert len(client.get_many(KEYS)) == len(KEYS)
    assert all(state.breaker == "closed" for state in client.node_states().values())


def test_a_killed_node_costs_its_keys_only_until_it_is_back(start: Start, connect: Connect) -> None:
    nodes = [start("-t", "1") for _ in range(3)]
    tell(2_000_000_000, nodes)
    client = connect(endpoint(nodes[0]), retry_timeout=0.05, dead_timeout=0.1)
    assert client.set_many({key: "x" for key in KEYS}) == []
    address = endpoint(nodes[1])
    lost = {key for key in KEYS if client.node_of(key) == member(nodes[1])}
    nodes[1].process.kill()
    nodes[1].wait()
    wait_until(
        lambda: client.get_many(KEYS).keys() == set(KEYS) - lost, "the others to be served", WAIT_S
    )

    def is_open() -> bool:
        client.get_many(list(lost))
        return client.node_states()[address].opened_count > 0

    wait_until(is_open, "the breaker to open", WAIT_S)
    start("-t", "1", "-p", address.partition(":")[2])
    key = next(iter(lost))
    wait_until(lambda: client.set(key, "y"), "the node to be used again", WAIT_S)
    assert client.get(key) == b"y"
    assert client.node_states()[address].breaker == "closed"


def stop_all(node: Node, number: int) -> None:
    """The node's processes, so that none of them answers."""
    parent = psutil.Process(node.pid)
    for process in [parent, *parent.children(recursive=True)]:
        process.send_signal(number)


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_a_stopped_node_costs_timeouts_and_then_nothing(
    start: Start, connect: Connect, kind: str
) -> None:
    nodes = [start("-t", "1") for _ in range(2)]
    tell(2_000_000_000, nodes)
    options = {"timeout": 0.5, "connect_timeout": 0.5, "poll_s": 3600.0}
    stop_all(nodes[1], signal.SIGSTOP)
    try:
        if kind == "blocking":
            client = connect(endpoint(nodes[0]), **options, dead_timeout=3600, retry_timeout=3600)
            wait_until(client.refresh, "the list", WAIT_S)
            key = next(key for key in KEYS if client.node_of(key) == member(nodes[1]))
            began_s = time.monotonic()
            assert [client.get(key) for _ in range(1000)] == [None] * 1000
            states = client.node_states()
        else:

            async def use() -> None:
                nonlocal began_s, states
                long = {"dead_timeout": 3600.0, "retry_timeout": 3600.0}
                async with AioClient(endpoint(nodes[0]), **options, **long) as client:
                    while await client.refresh() is None:
                        pass
                    key = next(key for key in KEYS if client.node_of(key) == member(nodes[1]))
                    began_s = time.monotonic()
                    assert [await client.get(key) for _ in range(1000)] == [None] * 1000
                    states = client.node_states()

            began_s, states = 0.0, {}
            asyncio.run(use())
        # A thousand timeouts would be five minutes.
        assert time.monotonic() - began_s < 60
        state = states[endpoint(nodes[1])]
        assert (state.breaker, state.failed_count, state.refused_count) == ("open", 3, 997)
    finally:
        stop_all(nodes[1], signal.SIGCONT)


def test_hash_client_with_the_list_finds_the_same_values(start: Start, connect: Connect) -> None:
    nodes = [start("-t", "1") for _ in range(2)]
    tell(2_000_000_000, nodes)
    client = connect(endpoint(nodes[1]), hashing="pymemcache")
    assert client.set_many({key: key for key in KEYS}) == []
    other = HashClient([(listed.ip, listed.port) for listed in client.nodes])
    try:
        assert other.get_many(KEYS) == {key: key.encode() for key in KEYS}
    finally:
        other.close()

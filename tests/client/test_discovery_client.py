"""The blocking client over scripted nodes: its methods, changes of the list, nodes that fail."""

import gc
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from pymemcache.client.base import KeepaliveOpts
from pymemcache.client.hash import HashClient
from pymemcache.exceptions import MemcacheError, MemcacheIllegalInputError
from pymemcache.serde import pickle_serde
from scripted import Connect, ScriptedNode, tell
from support.waiting import wait_until

from memcachepy.client import DiscoveryClient, blocking
from memcachepy.client.errors import NodeDown, NoNodes, PoolExhausted
from memcachepy.client.hashing import HASHINGS, Hashing
from memcachepy.errors import ConfigError
from memcachepy.topology import Topology

StartNode = Callable[..., ScriptedNode]
StartCluster = Callable[..., list[ScriptedNode]]
KEYS = [f"key:{number}" for number in range(60)]
WAIT_S = 20.0


def keys_of(client: DiscoveryClient, node: ScriptedNode, keys: list[str] = KEYS) -> list[str]:
    """Those that belong to the node."""
    return [key for key in keys if client.node_of(key) == node.member]


def test_every_method_does_what_hash_clients_does(
    start_cluster: StartCluster, connect: Connect
) -> None:
    client = connect(start_cluster(3)[0].endpoint)
    for key in KEYS[:6]:
        assert client.get(key) is None
        assert client.get(key, "default") == "default"
        assert client.gets(key) == (None, None)
        assert client.gets(key, 1, 2) == (1, 2)
        assert not client.replace(key, "x")
        assert client.cas(key, "x", 1) is None
        assert client.incr(key, 1) is None
        assert client.decr(key, 1) is None
        assert not client.touch(key, 5)
        assert not client.delete(key)
        assert client.gat(key, 5, "default") == "default"
        assert client.add(key, "1")
        assert not client.add(key, "2")
        assert client.append(key, "2")
        assert client.prepend(key, "0")
        assert client.get(key) == b"012"
        assert client.incr(key, 8) == 20
        assert client.decr(key, 10) == 10
        value, cas = client.gets(key)
        assert value == b"10 "  # memcached pads a shorter number.
        assert client.cas(key, "new", cas)
        assert client.cas(key, "newer", cas) is False
        assert client.touch(key, 100)
        assert client.gat(key, 100) == b"new"
        assert client.gats(key, 100)[0] == b"new"
        assert client.set(key, "other", expire=100, flags=7)
        assert client.replace(key, b"third")
        assert client.delete(key)
    assert client.set_many({key: key for key in KEYS}) == []
    assert client.get_many(KEYS) == {key: key.encode() for key in KEYS}
    assert client.gets_many(iter(KEYS[:9])).keys() == set(KEYS[:9])
    assert client.delete_many(KEYS[:30])
    assert client.get_multi(KEYS).keys() == set(KEYS[30:])
    assert [stats[b"curr_items"] > 0 for stats in client.stats().values()] == [True] * 3
    assert client.flush_all()
    assert client.get_many(KEYS) == {}


@pytest.mark.parametrize("hashing", HASHINGS)
def test_every_key_is_on_its_node_only(
    start_cluster: StartCluster, connect: Connect, hashing: Hashing
) -> None:
    nodes = start_cluster(3)
    client = connect(nodes[0].endpoint, hashing=hashing)
    client.set_many({key: "value" for key in KEYS})
    for node in nodes:
        other = HashClient([node.endpoint])
        here = other.get_many(KEYS)
        other.close()
        assert sorted(here) == sorted(keys_of(client, node))


def test_hash_client_with_the_list_finds_what_pymemcaches_hashing_stored(
    start_cluster: StartCluster, connect: Connect
) -> None:
    nodes = start_cluster(3)
    client = connect(nodes[0].endpoint, hashing="pymemcache", key_prefix="p:")
    client.set_many({key: "value" for key in KEYS})
    other = HashClient([node.endpoint for node in nodes], key_prefix=b"p:")
    assert len(other.get_many(KEYS)) == len(KEYS)
    other.close()


def test_prefix_belongs_to_the_key(start_cluster: StartCluster, connect: Connect) -> None:
    nodes = start_cluster(3)
    prefixed = connect(nodes[0].endpoint, key_prefix="app:")
    whole = connect(nodes[0].endpoint)
    assert prefixed.set_many({key: key for key in KEYS}) == []
    assert whole.get_many([f"app:{key}" for key in KEYS]).keys() == {f"app:{key}" for key in KEYS}
    assert all(prefixed.node_of(key) == whole.node_of(f"app:{key}") for key in KEYS)


def test_values_go_through_the_serializer(start_cluster: StartCluster, connect: Connect) -> None:
    client = connect(start_cluster(2)[0].endpoint, serde=pickle_serde)
    client.set("key", {"a": [1, 2]})
    assert client.get("key") == {"a": [1, 2]}


def test_a_list_in_pieces_is_understood(start_cluster: StartCluster, connect: Connect) -> None:
    nodes = start_cluster(3, version=17)
    nodes[0].fragment_bytes = 7
    client = connect(nodes[0].endpoint)
    assert client.topology is not None
    assert client.topology.version == 17
    assert set(client.nodes) == {node.member for node in nodes}


def test_the_older_question_is_asked_where_the_newer_is_refused(
    start_node: StartNode, connect: Connect
) -> None:
    node = start_node()
    payload = Topology(5, (node.member,)).payload()
    node.legacy = b"VALUE AmazonElastiCache:cluster 0 %d\r\n%s\r\nEND\r\n" % (len(payload), payload)
    assert connect(node.endpoint).topology == Topology(5, (node.member,))


def test_plain_servers_are_a_cluster_of_those_that_are_named(
    start_node: StartNode, connect: Connect
) -> None:
    first, second = start_node(), start_node()
    alone = connect(first.endpoint)
    assert [member.address for member in alone.nodes] == [first.endpoint]
    both = connect([first.endpoint, second.endpoint])
    assert {member.address for member in both.nodes} == {first.endpoint, second.endpoint}
    assert both.set_many({key: "x" for key in KEYS}) == []
    assert both.refresh() == Topology(0, both.nodes)
    # A cluster that they are made into later is followed.
    tell(1_700_000_000, [first, second])
    refreshed = both.refresh()
    assert refreshed is not None
    assert refreshed.version == 1_700_000_000


def test_a_node_that_forgot_its_cluster_changes_nothing(
    start_cluster: StartCluster, connect: Connect
) -> None:
    nodes = start_cluster(3, version=9)
    client = connect(nodes[0].endpoint)
    nodes[0].answer = None
    nodes[1].tells(10, nodes[1], nodes[2])
    nodes[2].tells(10, nodes[1], nodes[2])
    client.refresh()
    assert set(client.nodes) == {nodes[1].member, nodes[2].member}


@pytest.mark.parametrize(
    "nonsense",
    [
        b"CONFIG cluster 0 3\r\n99\n\n\r\nEND\r\n",
        b"CONFIG cluster 0 3\r\n99\nnonsense\n\r\nEND\r\n",
        b"HTTP/1.1 400 Bad Request\r\nERROR\r\n\r\nEND\r\n",
        b"SERVER_ERROR out of order\r\n",
    ],
)
def test_nonsense_is_ignored_and_the_next_node_is_asked(
    start_cluster: StartCluster, connect: Connect, nonsense: bytes
) -> None:
    nodes = start_cluster(3, version=9)
    client = connect(nodes[0].endpoint)
    nodes[0].answer = nonsense
    assert client.refresh() == Topology(9, tuple(node.member for node in nodes))
    tell(10, nodes[1:])
    client.refresh()
    assert set(client.nodes) == {node.member for node in nodes[1:]}


def test_an_older_list_is_not_taken(start_cluster: StartCluster, connect: Connect) -> None:
    nodes = start_cluster(3, version=9)
    client = connect([nodes[0].endpoint, nodes[1].endpoint])
    nodes[0].tells(8, nodes[0])
    nodes[1].tells(10, nodes[1])
    assert client.refresh() == Topology(10, (nodes[1].member,))
    nodes[1].tells(9, *nodes)
    assert client.refresh() == Topology(10, (nodes[1].member,))


def test_the_poll_finds_a_change_and_keeps_connections_to_nodes_that_stay(
    start_cluster: StartCluster, start_node: StartNode, connect: Connect
) -> None:
    nodes = start_cluster(2)
    client = connect(nodes[0].endpoint, poll_s=0.05)
    client.set_many({key: "x" for key in KEYS})
    new = start_node()
    data_connections = [node.accepted - node.asked for node in nodes]
    tell(2, [*nodes, new])
    wait_until(lambda: len(client.nodes) == 3, "the new node to be in the client's list", WAIT_S)
    found = client.get_many(KEYS)
    assert [key for key in KEYS if key not in found] == keys_of(client, new)
    # Polls connect anew each time; nothing else did.
    wait_until(
        lambda: [node.accepted - node.asked for node in nodes] == data_connections,
        "connections that were kept",
        WAIT_S,
    )
    assert new.accepted == 1


def test_connections_to_a_node_that_leaves_are_closed(
    start_cluster: StartCluster, connect: Connect
) -> None:
    nodes = start_cluster(3)
    client = connect(nodes[0].endpoint)
    client.set_many({key: "x" for key in KEYS})
    assert nodes[2].connections == 1
    tell(2, nodes[:2], nodes[2])
    client.refresh()
    wait_until(lambda: nodes[2].connections == 0, "the connection to be closed", WAIT_S)
    assert client.set_many({key: "y" for key in KEYS}) == []
    assert len(client.get_many(KEYS)) == len(KEYS)
    assert nodes[2].connections == 0


def test_a_request_in_flight_outlives_its_nodes_leaving(
    start_cluster: StartCluster, connect: Connect
) -> None:
    nodes = start_cluster(2)
    client = connect(nodes[0].endpoint)
    (key, *_) = keys_of(client, nodes[1])
    client.set(key, "value")
    arrived, go_on = threading.Event(), threading.Event()

    def hold(data: bytes) -> None:
        if data.startswith(b"get "):
            arrived.set()
            assert go_on.wait(WAIT_S)

    nodes[1].inject = hold
    results: list[object] = []
    request = threading.Thread(target=lambda: results.append(client.get(key)))
    request.start()
    assert arrived.wait(WAIT_S)
    tell(2, nodes[:1], nodes[1])
    client.refresh()
    assert client.nodes == (nodes[0].member,)
    go_on.set()
    request.join(WAIT_S)
    assert results == [b"value"]
    wait_until(lambda: nodes[1].connections == 0, "its connection to be closed", WAIT_S)


def test_a_dead_nodes_keys_are_misses_and_the_others_are_served(
    start_cluster: StartCluster, connect: Connect
) -> None:
    nodes = start_cluster(3)
    client = connect(nodes[0].endpoint, poll_s=3600, retry_timeout=3600, dead_timeout=3600)
    client.set_many({key: "x" for key in KEYS})
    lost = keys_of(client, nodes[2])
    nodes[2].close()
    key = lost[0]
    assert client.get(key) is None
    assert client.get(key, "default") == "default"
    assert client.set(key, "y") is False
    state = client.node_states()[nodes[2].endpoint]
    assert (state.breaker, state.failed_count, state.opened_count) == ("open", 3, 1)
    assert "refused" in state.last_error
    # Failing fast from here on, in each method.
    assert client.gets(key) == (None, None)
    assert client.gat(key, 1) is None
    assert client.gats(key, 1) == (None, None)
    assert client.add(key, "y") is False
    assert client.replace(key, "y") is False
    assert client.append(key, "y") is False
    assert client.prepend(key, "y") is False
    assert client.cas(key, "y", 1) is None
    assert client.incr(key, 1) is None
    assert client.decr(key, 1) is None
    assert client.touch(key) is False
    assert client.delete(key) is False
    assert client.delete_many(KEYS[:1] + lost) is False
    assert client.flush_all(delay=1000) is False
    assert client.stats()[nodes[2].endpoint] == {}
    assert client.stats()[nodes[0].endpoint]
    assert sorted(client.set_many({key: "z" for key in KEYS})) == sorted(lost)
    assert client.get_many(KEYS).keys() == set(KEYS) - set(lost)
    state = client.node_states()[nodes[2].endpoint]
    assert state.failed_count == 3
    assert state.refused_count > 10
    assert client.node_states()[nodes[0].endpoint].breaker == "closed"
    # Not moved elsewhere until the list changes.
    tell(2, nodes[:2])
    client.refresh()
    assert client.set(key, "moved")
    assert client.get(key) == b"moved"


def test_a_node_that_comes_back_is_used_again(
    start_cluster: StartCluster, start_node: StartNode, connect: Connect
) -> None:
    nodes = start_cluster(2)
    client = connect(nodes[0].endpoint, poll_s=3600, retry_timeout=0.01, dead_timeout=0.02)
    (key, *_) = keys_of(client, nodes[1])
    nodes[1].close()
    for _ in range(3):
        client.get(key)
    assert client.node_states()[nodes[1].endpoint].breaker != "closed"
    start_node(nodes[1].port)
    wait_until(lambda: client.set(key, "back"), "the node to be used", WAIT_S)
    assert client.get(key) == b"back"
    assert client.node_states()[nodes[1].endpoint].breaker == "closed"


def test_a_restarted_node_costs_no_request(start_cluster: StartCluster, connect: Connect) -> None:
    nodes = start_cluster(2)
    client = connect(nodes[0].endpoint)
    (key, *_) = keys_of(client, nodes[1])
    client.set(key, "x")
    nodes[1].drop_connections()
    wait_until(lambda: nodes[1].connections == 0, "the connections to be closed", WAIT_S)
    assert client.get(key) == b"x"
    assert client.node_states()[nodes[1].endpoint].failed_count == 0


def test_a_silent_node_costs_its_timeout_and_then_nothing(
    start_cluster: StartCluster, connect: Connect
) -> None:
    nodes = start_cluster(2)
    client = connect(
        nodes[0].endpoint, timeout=0.1, poll_s=3600, retry_timeout=3600, dead_timeout=3600
    )
    wait_until(client.refresh, "the list", WAIT_S)  # Not within the timeout, perhaps.
    (key, *_) = keys_of(client, nodes[1])
    nodes[1].silent = True
    for _ in range(20):
        assert client.get(key) is None
    state = client.node_states()[nodes[1].endpoint]
    assert (state.failed_count, state.refused_count) == (3, 17)
    assert "timed out" in state.last_error


def test_many_keys_lose_little_time_on_many_silent_nodes(
    start_cluster: StartCluster, connect: Connect
) -> None:
    nodes = start_cluster(3)
    client = connect(nodes[0].endpoint, timeout=1.0, poll_s=3600, retry_attempts=9)
    wait_until(client.refresh, "the list", WAIT_S)
    assert client.set_many({key: "x" for key in KEYS}) == []
    for node in nodes[1:]:
        node.silent = True
    client._bad_time_s = 0.5
    for failed_count in (1, 2):
        client.get_many(KEYS)
        states = client.node_states().values()
        assert sum(state.failed_count for state in states) == failed_count
    # What is known to be bad is asked last.
    assert client.get_many(KEYS).keys() == set(keys_of(client, nodes[0]))


def test_an_answer_that_comes_late_is_nobodys(
    start_cluster: StartCluster, connect: Connect
) -> None:
    nodes = start_cluster(1)
    client = connect(nodes[0].endpoint, timeout=1.0, retry_attempts=100)
    client.set_many({"a": "1", "b": "2"})
    go_on = threading.Event()

    def hold(data: bytes) -> None:
        if data.startswith(b"get a"):
            go_on.wait(WAIT_S)

    nodes[0].inject = hold
    assert client.get("a") is None
    go_on.set()
    nodes[0].inject = lambda _: None
    for _ in range(5):
        assert client.get("b") == b"2"


def test_without_ignore_exc_it_raises(start_cluster: StartCluster, connect: Connect) -> None:
    nodes = start_cluster(2)
    client = connect(
        nodes[0].endpoint, ignore_exc=False, poll_s=3600, retry_timeout=3600, dead_timeout=3600
    )
    lost = keys_of(client, nodes[1])
    nodes[1].close()
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            client.get(lost[0])
    with pytest.raises(NodeDown, match=f"{nodes[1].endpoint} is not tried .* refused") as down:
        client.set(lost[0], "x")
    assert isinstance(down.value, MemcacheError)
    with pytest.raises(NodeDown):
        client.get_many(KEYS)
    with pytest.raises(NodeDown):
        client.flush_all()
    with pytest.raises(MemcacheError):
        client.set(keys_of(client, nodes[0])[0], "x" * (2 << 20))


def test_refusals_say_that_a_node_is_well(start_cluster: StartCluster, connect: Connect) -> None:
    nodes = start_cluster(1)
    client = connect(nodes[0].endpoint, retry_attempts=0)
    client.set("key", "text")
    for _ in range(5):
        assert client.incr("key", 1) is None
        assert client.set("large", "x" * (2 << 20)) is False
    assert client.get("key") == b"text"
    state = client.node_states()[nodes[0].endpoint]
    assert (state.breaker, state.failed_count, state.error_count) == ("closed", 0, 10)


def test_a_value_that_cannot_be_read_is_a_miss(
    start_cluster: StartCluster, connect: Connect
) -> None:
    class Serde:
        def serialize(self, _: object, value: object) -> tuple[object, int]:
            return value, 0

        def deserialize(self, *_: object) -> object:
            raise LookupError("this class is gone")

    nodes = start_cluster(1)
    client = connect(nodes[0].endpoint, serde=Serde(), retry_attempts=0)
    client.set("key", "text")
    assert client.get("key") is None
    assert client.get("key", 1) == 1
    state = client.node_states()[nodes[0].endpoint]
    assert (state.breaker, state.error_count) == ("closed", 2)
    assert state.last_error == "LookupError: this class is gone"


@pytest.mark.parametrize("key", ["with space", "x" * 251, "größe", "nul\0"])
def test_wrong_arguments_are_always_raised(
    start_cluster: StartCluster, connect: Connect, key: str
) -> None:
    nodes = start_cluster(2)
    client = connect(nodes[0].endpoint)
    for ask in (client.get, client.delete, client.touch):
        with pytest.raises(MemcacheIllegalInputError):
            ask(key)
    with pytest.raises(MemcacheIllegalInputError):
        client.set_many({key: "x"})
    assert client.set_many({key: "x" for key in KEYS}) == []
    for good in KEYS:
        with pytest.raises(MemcacheIllegalInputError):
            client.set(good, "x", expire="soon")  # type: ignore[arg-type]
    assert client.set_many({key: "x" for key in KEYS}) == []
    # Nothing was sent, so the connections are as good as before.
    assert [node.accepted - node.asked for node in nodes] == [1, 1]
    assert all(state.breaker == "closed" for state in client.node_states().values())


def test_an_unreachable_endpoint_is_asked_again_until_it_answers(
    start_node: StartNode, connect: Connect
) -> None:
    node = start_node()
    port = node.port
    node.close()
    client = connect(f"127.0.0.1:{port}", poll_s=0.05)
    assert client.topology is None
    assert client.nodes == ()
    assert client.node_of("key") is None
    assert client.get("key", "default") == "default"
    assert client.set("key", "x") is False
    assert client.get_many(KEYS) == {}
    assert client.set_many({"a": 1}) == ["a"]
    assert client.delete_many(["a"]) is False
    assert client.flush_all() is False
    assert client.stats() == {}
    assert client.node_states() == {}
    assert client.polls.unanswered_count >= 1
    assert "refused" in client.polls.last_error
    node = start_node(port)
    node.tells(3, node)
    wait_until(lambda: client.set("key", "x"), "the client to find the node", WAIT_S)
    assert client.get("key") == b"x"


def test_an_unreachable_endpoint_is_raised_without_ignore_exc(
    start_node: StartNode, connect: Connect
) -> None:
    node = start_node()
    node.close()
    with pytest.raises(NoNodes, match="refused"):
        connect(node.endpoint, ignore_exc=False)


def test_any_of_the_endpoints_suffices(
    start_node: StartNode, start_cluster: StartCluster, connect: Connect
) -> None:
    gone = start_node()
    gone.close()
    nodes = start_cluster(2)
    client = connect([gone.endpoint, nodes[1].endpoint])
    assert len(client.nodes) == 2


def test_nodes_are_asked_when_the_endpoint_is_gone(
    start_cluster: StartCluster, connect: Connect
) -> None:
    nodes = start_cluster(3)
    client = connect(nodes[0].endpoint)
    nodes[0].close()
    tell(2, nodes[1:])
    client.refresh()
    assert set(client.nodes) == {node.member for node in nodes[1:]}


def test_an_error_makes_it_ask_for_the_list(start_cluster: StartCluster, connect: Connect) -> None:
    nodes = start_cluster(3)
    client = connect(nodes[0].endpoint, poll_s=3600)
    (key, *_) = keys_of(client, nodes[2])
    nodes[2].close()
    tell(2, nodes[:2])
    client.get(key)
    wait_until(lambda: len(client.nodes) == 2, "the new list", WAIT_S)
    assert client.set(key, "x")


def test_threads_share_a_client_while_the_list_changes(
    start_cluster: StartCluster, connect: Connect
) -> None:
    nodes = start_cluster(3)
    client = connect(nodes[0].endpoint, poll_s=0.01)
    stop = threading.Event()
    wrong: list[object] = []
    served = [0] * 6

    def use(number: int) -> None:
        keys = [f"{number}:{i}" for i in range(8)]
        while not stop.is_set():
            for key in keys:
                client.set(key, key)
                if client.get(key, key.encode()) != key.encode():
                    wrong.append((key, client.get(key)))
            for key, value in client.get_many(keys).items():
                if value != str(key).encode():
                    wrong.append((key, value))
            served[number] += 1

    threads = [threading.Thread(target=use, args=(number,)) for number in range(len(served))]
    for thread in threads:
        thread.start()
    try:
        for version in range(2, 12):
            members = nodes if version % 2 else nodes[:2]
            tell(version, members, *nodes)
            count = len(members)
            wait_until(lambda count=count: len(client.nodes) == count, "the list", WAIT_S)
            goal = [count + 1 for count in served]
            wait_until(
                lambda goal=goal: all(a >= b for a, b in zip(served, goal, strict=True)),
                "every thread to go on",
                WAIT_S,
            )
    finally:
        stop.set()
        for thread in threads:
            thread.join(WAIT_S)
    assert wrong == []
    assert all(state.failed_count == 0 for state in client.node_states().values())


def test_a_pool_has_its_limit(start_cluster: StartCluster, connect: Connect) -> None:
    nodes = start_cluster(1)
    client = connect(nodes[0].endpoint, max_pool_size=2)
    threads = [
        threading.Thread(target=lambda: [client.set("key", "x") for _ in range(30)])
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert nodes[0].lines.count(b"set key 0 0 1") == 180
    # Two, and the one that asked for the list.
    assert nodes[0].accepted <= 3


def test_who_finds_no_room_in_a_pool_gives_up(
    start_cluster: StartCluster, connect: Connect
) -> None:
    arrived, go_on = threading.Event(), threading.Event()

    class Serde:
        def serialize(self, _: object, value: object) -> tuple[object, int]:
            arrived.set()
            go_on.wait(WAIT_S)
            return value, 0

        def deserialize(self, _: object, value: object, __: int) -> object:
            return value

    nodes = start_cluster(1)
    client = connect(
        nodes[0].endpoint, max_pool_size=1, timeout=1.0, ignore_exc=False, serde=Serde()
    )

    slow = threading.Thread(target=lambda: client.set("slow", "x"))
    slow.start()
    assert arrived.wait(WAIT_S)
    with pytest.raises(PoolExhausted, match=nodes[0].endpoint):
        client.get("other")
    go_on.set()
    slow.join(WAIT_S)
    assert client.get("slow") == b"x"


def test_a_probe_that_a_signal_cuts_off_before_it_is_sent_leaves_room_for_another(
    start_cluster: StartCluster, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a handler raises while the request waits for room in the pool."""
    nodes = start_cluster(1)
    client = connect(nodes[0].endpoint, max_pool_size=1, retry_attempts=0, ignore_exc=False)
    pool = client._home("key")
    pool.breaker.failed()
    pool.breaker.try_now()

    class SoftLimit(Exception):
        pass

    class Room:
        def acquire(self, timeout: float) -> bool:
            raise SoftLimit(timeout)

    with monkeypatch.context() as patch:
        patch.setattr(pool, "_room", Room())
        with pytest.raises(SoftLimit):
            client.get("key")
    assert client.get("key") is None
    assert pool.breaker.state == "closed"


def test_what_a_signal_handler_raises_is_not_taken_for_a_failure(
    start_cluster: StartCluster, connect: Connect
) -> None:
    """As a soft time limit does; the request is cut off, the node is well."""

    class SoftLimit(Exception):
        pass

    def handle(*_: object) -> None:
        raise SoftLimit

    nodes = start_cluster(1)
    client = connect(nodes[0].endpoint, retry_attempts=0)
    assert client.set("key", "x")
    go_on = threading.Event()
    main_thread = threading.get_ident()

    def strike(_: bytes) -> None:
        signal.pthread_kill(main_thread, signal.SIGUSR1)
        assert go_on.wait(WAIT_S)

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        nodes[0].inject = strike
        with pytest.raises(SoftLimit):
            client.get("key")
    finally:
        signal.signal(signal.SIGUSR1, before)
        nodes[0].inject = lambda _: None
        go_on.set()
    assert client.get("key") == b"x"
    state = client.node_states()[nodes[0].endpoint]
    assert (state.breaker, state.failed_count, state.error_count) == ("closed", 0, 0)


def test_connections_that_nobody_needs_any_more_are_closed(
    start_cluster: StartCluster, connect: Connect
) -> None:
    nodes = start_cluster(1)
    client = connect(nodes[0].endpoint)
    together = threading.Barrier(6)
    nodes[0].inject = lambda _: together.wait(WAIT_S) and None
    threads = [threading.Thread(target=client.get, args=("key",)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    nodes[0].inject = lambda _: None
    assert nodes[0].connections == 6
    for _ in range(3):
        client.get("key")
        client.refresh()
    wait_until(lambda: nodes[0].connections == 1, "the others to be closed", WAIT_S)


def test_a_request_that_outlives_the_client_leaves_no_connection(
    start_cluster: StartCluster, connect: Connect
) -> None:
    nodes = start_cluster(1)
    client = connect(nodes[0].endpoint)
    arrived, go_on = threading.Event(), threading.Event()

    def hold(_: bytes) -> None:
        arrived.set()
        assert go_on.wait(WAIT_S)

    nodes[0].inject = hold
    request = threading.Thread(target=client.set, args=("key", "x"))
    request.start()
    assert arrived.wait(WAIT_S)
    client.close()
    go_on.set()
    request.join(WAIT_S)
    wait_until(lambda: nodes[0].connections == 0, "its connection to be closed", WAIT_S)
    # Used again, it keeps its connections again.
    for _ in range(3):
        assert client.get("key") == b"x"
    assert nodes[0].accepted - nodes[0].asked == 2


def pollers() -> int:
    return sum(thread.name == "memcachepy-poll" for thread in threading.enumerate())


def test_the_thread_begins_with_the_first_use_and_ends_with_the_client(
    start_cluster: StartCluster,
) -> None:
    nodes = start_cluster(1)
    client = DiscoveryClient(nodes[0].endpoint)
    assert pollers() == 0
    client.get("key")
    assert pollers() == 1
    client.close()
    wait_until(lambda: pollers() == 0, "the thread to end", WAIT_S)
    client.get("key")
    assert pollers() == 1
    reference = weakref.ref(client)
    del client
    gc.collect()
    assert reference() is None
    wait_until(lambda: pollers() == 0, "the thread to end", WAIT_S)
    wait_until(lambda: nodes[0].connections == 0, "its connections to be closed", WAIT_S)


def test_a_cut_off_request_leaves_no_answer_behind(
    start_cluster: StartCluster, connect: Connect
) -> None:
    """As when Ctrl-C or a timeout of gevent comes in the middle."""

    class Interrupt(BaseException):
        pass

    class Serde:
        armed = True

        def serialize(self, _: object, value: object) -> tuple[object, int]:
            return value, 0

        def deserialize(self, _: object, value: object, __: int) -> object:
            if self.armed:
                self.armed = False
                raise Interrupt
            return value

    client = connect(start_cluster(1)[0].endpoint, serde=Serde())
    client.set_many({"a": "1", "b": "2", "c": "3"})
    with pytest.raises(Interrupt):
        client.get_many(["a", "b", "c"])
    assert client.get("b") == b"2"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hashing", "modulo"),
        ("timeout", None),
        ("timeout", 0),
        ("poll_s", -1),
        ("max_pool_size", 0),
        ("retry_attempts", -1),
        ("key_prefix", 7),
    ],
)
def test_wrong_options_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        DiscoveryClient("127.0.0.1:1", **{name: value})  # type: ignore[arg-type]


def test_a_node_that_stays_is_tried_at_once_when_the_list_changes(
    start_cluster: StartCluster, start_node: StartNode, connect: Connect
) -> None:
    nodes = start_cluster(3)
    client = connect(nodes[0].endpoint, poll_s=3600, retry_timeout=3600, dead_timeout=3600)
    (key, *_) = keys_of(client, nodes[1])
    nodes[1].close()
    for _ in range(5):
        assert client.set(key, "x") is False
    nodes[1] = start_node(nodes[1].port)
    assert client.set(key, "x") is False
    tell(2, nodes[:2])
    client.refresh()
    assert client.set(key, "x")


def test_sockets_are_kept_alive_and_not_delayed(
    start_cluster: StartCluster, connect: Connect
) -> None:
    client = connect(start_cluster(1)[0].endpoint, socket_keepalive=KeepaliveOpts(idle=7))
    assert client.set("key", "x")
    sock = client._known.pools[0]._idle[0].sock
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 7
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def test_what_goes_wrong_in_a_poll_does_not_end_the_polling(
    start_cluster: StartCluster,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    nodes = start_cluster(1)
    client = connect(nodes[0].endpoint, poll_s=0.02)
    failures = iter(range(2))
    survey = blocking.survey

    def failing(*args: Any) -> Any:
        if next(failures, None) is not None:
            raise LookupError("nobody thought of this")
        return survey(*args)

    monkeypatch.setattr(blocking, "survey", failing)
    client.get("key")
    wait_until(lambda: client.polls.answered_count > 2, "polls that go on", WAIT_S)
    assert "nobody thought of this" in caplog.text


@pytest.mark.parametrize("module", ["memcachepy.client", "memcachepy.client.aio"])
def test_the_extra_is_named_where_pymemcache_is_missing(module: str) -> None:
    program = (
        "import sys; sys.modules['pymemcache'] = None\n"
        "import memcachepy.client.hashing\n"
        f"from {module} import DiscoveryClient"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "pip install 'memcachepy[client]'" in done.stderr


def test_noreply_does_not_wait(start_cluster: StartCluster, connect: Connect) -> None:
    nodes = start_cluster(1)
    client = connect(nodes[0].endpoint, default_noreply=True)
    held = threading.Event()
    nodes[0].inject = lambda data: held.wait(WAIT_S) and None if data.startswith(b"set") else None
    started_s = time.monotonic()
    assert client.set("key", "x") is True
    assert time.monotonic() - started_s < WAIT_S
    held.set()
    assert client.get("key") == b"x"

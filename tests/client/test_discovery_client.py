"""The blocking client over scripted nodes: its methods, its connections, its options."""

import socket
import subprocess
import sys
import threading
import time

import pytest
from pymemcache.client.base import KeepaliveOpts
from pymemcache.client.hash import HashClient
from pymemcache.exceptions import MemcacheIllegalInputError
from pymemcache.serde import pickle_serde
from scripted import KEYS, Connect, StartCluster, keys_of, tell
from support.waiting import wait_until

from memcachepy.client import DiscoveryClient
from memcachepy.client.errors import PoolExhausted
from memcachepy.client.hashing import HASHINGS, Hashing
from memcachepy.errors import ConfigError

WAIT_S = 20.0


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


def test_sockets_are_kept_alive_and_not_delayed(
    start_cluster: StartCluster, connect: Connect
) -> None:
    client = connect(start_cluster(1)[0].endpoint, socket_keepalive=KeepaliveOpts(idle=7))
    assert client.set("key", "x")
    sock = client._known.pools[0]._idle[0].sock
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 7
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


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

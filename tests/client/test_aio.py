"""The asyncio client over scripted nodes: as the blocking one, with tasks instead of threads."""

import asyncio
import gc
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import pytest
from pymemcache.client.base import KeepaliveOpts
from pymemcache.exceptions import MemcacheError, MemcacheIllegalInputError
from pymemcache.serde import pickle_serde
from scripted import KEYS, StartCluster, StartNode, keys_of, tell

from memcachepy.client import DiscoveryClient as BlockingClient
from memcachepy.client import aio_client
from memcachepy.client.aio import DiscoveryClient
from memcachepy.client.errors import NodeDown, NoNodes, PoolExhausted
from memcachepy.client.hashing import HASHINGS, Hashing
from memcachepy.errors import ConfigError
from memcachepy.topology import Topology

T = TypeVar("T")
WAIT_S = 20.0
LONG = {"poll_s": 3600.0, "retry_timeout": 3600.0, "dead_timeout": 3600.0}


def run(test: Coroutine[Any, Any, T]) -> T:
    """In a loop of its own, in which nothing may go wrong unseen."""
    unseen: list[dict[str, Any]] = []

    async def watched() -> T:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: unseen.append(context))
        async with asyncio.timeout(60):
            return await test

    result = asyncio.run(watched())
    assert unseen == []
    return result


def connect(servers: Any, **options: Any) -> DiscoveryClient:
    """Waits for every answer and is patient, where the test says nothing."""
    patient = {"default_noreply": False, "timeout": 20.0, "connect_timeout": 20.0}
    return DiscoveryClient(servers, **{**patient, **options})


async def until(condition: Callable[[], Any], what: str) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.002)
    assert condition(), what


async def until_true(condition: Callable[[], Awaitable[Any]]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not await condition():
            await asyncio.sleep(0.002)


def test_every_method_does_what_the_blocking_ones_do(start_cluster: StartCluster) -> None:
    endpoint = start_cluster(3)[0].endpoint

    async def test() -> None:
        async with connect(endpoint) as client:
            for key in KEYS[:6]:
                assert await client.get(key) is None
                assert await client.get(key, "default") == "default"
                assert await client.gets(key) == (None, None)
                assert await client.gets(key, 1, 2) == (1, 2)
                assert not await client.replace(key, "x")
                assert await client.cas(key, "x", 1) is None
                assert await client.incr(key, 1) is None
                assert await client.decr(key, 1) is None
                assert not await client.touch(key, 5)
                assert not await client.delete(key)
                assert await client.gat(key, 5, "default") == "default"
                assert await client.add(key, "1")
                assert not await client.add(key, "2")
                assert await client.append(key, "2")
                assert await client.prepend(key, "0")
                assert await client.get(key) == b"012"
                assert await client.incr(key, 8) == 20
                assert await client.decr(key, 10) == 10
                value, cas = await client.gets(key)
                assert value == b"10 "
                assert await client.cas(key, "new", cas)
                assert await client.cas(key, "newer", cas) is False
                assert await client.touch(key, 100)
                assert await client.gat(key, 100) == b"new"
                assert (await client.gats(key, 100))[0] == b"new"
                assert await client.set(key, "other", expire=100, flags=7)
                assert await client.replace(key, b"third")
                assert await client.delete(key)
                assert await client.set(key, "silent", noreply=True)
                assert await client.touch(key, 100, noreply=True)
                assert await client.get(key) == b"silent"
                assert await client.delete(key, noreply=True)
                assert await client.incr(key, 1, noreply=True) is None
                assert await client.get(key) is None
            assert await client.set_many({key: key for key in KEYS}) == []
            assert await client.get_many(KEYS) == {key: key.encode() for key in KEYS}
            assert (await client.gets_many(iter(KEYS[:9]))).keys() == set(KEYS[:9])
            assert await client.delete_many(KEYS[:30])
            assert (await client.get_multi(KEYS)).keys() == set(KEYS[30:])
            stats = await client.stats()
            assert [figures[b"curr_items"] > 0 for figures in stats.values()] == [True] * 3
            assert await client.flush_all()
            assert await client.get_many(KEYS) == {}
            assert await client.get_many([]) == {}

    run(test())


@pytest.mark.parametrize("hashing", HASHINGS)
def test_both_clients_find_each_others_values(
    start_cluster: StartCluster, hashing: Hashing
) -> None:
    nodes = start_cluster(3)
    options: dict[str, Any] = {"hashing": hashing, "key_prefix": "p:", "serde": pickle_serde}
    with BlockingClient(nodes[0].endpoint, default_noreply=False, **options) as blocking:
        blocking.set_many({key: (key, 1) for key in KEYS})

        async def test() -> None:
            async with connect(nodes[1].endpoint, **options) as client:
                assert await client.get_many(KEYS) == {key: (key, 1) for key in KEYS}
                assert await client.set_many({key: [key] for key in KEYS}) == []

        run(test())
        assert blocking.get_many(KEYS) == {key: [key] for key in KEYS}


def test_answers_come_in_any_fragmentation(start_cluster: StartCluster) -> None:
    nodes = start_cluster(2)

    async def test() -> None:
        async with connect(nodes[0].endpoint) as client:
            values = {key: key + "\r\nEND\r\n" for key in KEYS}
            assert await client.set_many(values) == []
            for node in nodes:
                node.fragment_bytes = 3
            assert await client.get_many(KEYS) == {k: v.encode() for k, v in values.items()}
            assert (await client.refresh()) is not None

    run(test())


def test_large_values_pass_both_ways(start_cluster: StartCluster) -> None:
    nodes = start_cluster(1)
    go_on = threading.Event()

    async def test() -> None:
        async with connect(nodes[0].endpoint) as client:
            assert await client.set("key", "x")
            # The node reads nothing until the client has filled what lies between them.
            nodes[0].inject = lambda _: go_on.wait(WAIT_S) and None
            values = {f"k{i}": "x" * 500_000 for i in range(12)}
            storing = asyncio.create_task(client.set_many(values))
            await until(lambda: b"set k0 0 0 500000" in nodes[0].lines, "the request")
            go_on.set()
            assert await storing == []
            found = await client.get_many(values)
            assert all(value == b"x" * 500_000 for value in found.values())
            assert await client.get("k5") == b"x" * 500_000

    run(test())


def test_tasks_share_a_client_while_the_list_changes(start_cluster: StartCluster) -> None:
    nodes = start_cluster(3)

    async def test() -> None:
        async with connect(nodes[0].endpoint, poll_s=0.01) as client:
            stop = asyncio.Event()
            served = [0] * 20

            async def use(number: int) -> None:
                keys = [f"{number}:{i}" for i in range(5)]
                while not stop.is_set():
                    for key in keys:
                        await client.set(key, key)
                        assert await client.get(key, key.encode()) == key.encode()
                    for key, value in (await client.get_many(keys)).items():
                        assert value == str(key).encode()
                    served[number] += 1

            async with asyncio.TaskGroup() as tasks:
                for number in range(len(served)):
                    tasks.create_task(use(number))
                for version in range(2, 8):
                    members = nodes if version % 2 else nodes[:2]
                    tell(version, members, *nodes)
                    count = len(members)
                    await until(lambda count=count: len(client.nodes) == count, "the list")
                    goal = [count + 1 for count in served]
                    await until(
                        lambda goal=goal: all(a >= b for a, b in zip(served, goal, strict=True)),
                        "every task to go on",
                    )
                stop.set()
            assert all(state.failed_count == 0 for state in client.node_states().values())

    run(test())


def test_connections_to_a_node_that_leaves_are_closed(start_cluster: StartCluster) -> None:
    nodes = start_cluster(3)

    async def test() -> None:
        async with connect(nodes[0].endpoint) as client:
            await client.set_many({key: "x" for key in KEYS})
            stays = [node.accepted - node.asked for node in nodes[:2]]
            tell(2, nodes[:2], nodes[2])
            await client.refresh()
            await until(lambda: nodes[2].connections == 0, "the connection to be closed")
            assert await client.set_many({key: "y" for key in KEYS}) == []
            assert [node.accepted - node.asked for node in nodes[:2]] == stays
            assert len(await client.get_many(KEYS)) == len(KEYS)

    run(test())


def test_a_dead_nodes_keys_are_misses_and_the_others_are_served(
    start_cluster: StartCluster,
) -> None:
    nodes = start_cluster(3)

    async def test() -> None:
        async with connect(nodes[0].endpoint, **LONG) as client:
            await client.set_many({key: "x" for key in KEYS})
            lost = keys_of(client, nodes[2])
            await asyncio.to_thread(nodes[2].close)
            key = lost[0]
            assert await client.get(key) is None
            assert await client.get(key, "default") == "default"
            assert await client.set(key, "y") is False
            state = client.node_states()[nodes[2].endpoint]
            assert (state.breaker, state.failed_count, state.opened_count) == ("open", 3, 1)
            assert await client.gets(key) == (None, None)
            assert await client.cas(key, "y", 1) is None
            assert await client.incr(key, 1) is None
            assert await client.touch(key) is False
            assert await client.delete(key) is False
            assert await client.delete_many(KEYS[:1] + lost) is False
            assert await client.flush_all(delay=1000) is False
            assert (await client.stats())[nodes[2].endpoint] == {}
            assert sorted(await client.set_many({key: "z" for key in KEYS})) == sorted(lost)
            assert (await client.get_many(KEYS)).keys() == set(KEYS) - set(lost)
            assert client.node_states()[nodes[2].endpoint].failed_count == 3
            tell(2, nodes[:2])
            await client.refresh()
            assert await client.set(key, "moved")

    run(test())


def test_a_node_that_comes_back_is_used_again(
    start_cluster: StartCluster, start_node: StartNode
) -> None:
    nodes = start_cluster(2)

    async def test() -> None:
        options = {"poll_s": 3600, "retry_timeout": 0.01, "dead_timeout": 0.02}
        async with connect(nodes[0].endpoint, **options) as client:
            (key, *_) = keys_of(client, nodes[1])
            await asyncio.to_thread(nodes[1].close)
            for _ in range(3):
                await client.get(key)
            assert client.node_states()[nodes[1].endpoint].breaker != "closed"
            start_node(nodes[1].port)
            await until_true(lambda: client.set(key, "back"))
            assert await client.get(key) == b"back"

    run(test())


def test_a_restarted_node_costs_no_request(start_cluster: StartCluster) -> None:
    nodes = start_cluster(2)

    async def test() -> None:
        async with connect(nodes[0].endpoint) as client:
            (key, *_) = keys_of(client, nodes[1])
            await client.set(key, "x")
            nodes[1].drop_connections()
            await until(lambda: nodes[1].connections == 0, "the connections to be closed")
            # The end of the connection has come to this process; let the loop see it.
            node = client._known.pools[client._known.index_of(key)]
            await until(lambda: node._idle[0].is_stale, "the loop to have seen it")
            assert await client.get(key) == b"x"
            assert client.node_states()[nodes[1].endpoint].failed_count == 0

    run(test())


def test_a_silent_node_holds_up_nobody_else(start_cluster: StartCluster) -> None:
    nodes = start_cluster(2)

    async def test() -> None:
        async with connect(nodes[0].endpoint, **LONG) as client:
            (silent_key, *_) = keys_of(client, nodes[1])
            (key, *_) = keys_of(client, nodes[0])
            nodes[1].silent = True
            slow = asyncio.create_task(client.get(silent_key))
            await until(lambda: f"get {silent_key}".encode() in nodes[1].lines, "the request")
            for _ in range(50):
                assert await client.set(key, "x")
            assert not slow.done()
            slow.cancel()
            with pytest.raises(asyncio.CancelledError):
                await slow

    run(test())


def test_a_silent_node_costs_its_timeout_and_then_nothing(start_cluster: StartCluster) -> None:
    nodes = start_cluster(2)

    async def test() -> None:
        async with connect(nodes[0].endpoint, **{**LONG, "timeout": 0.1}) as client:
            await until_true(client.refresh)  # Not within the timeout, perhaps.
            (key, *_) = keys_of(client, nodes[1])
            nodes[1].silent = True
            for _ in range(20):
                assert await client.get(key) is None
            state = client.node_states()[nodes[1].endpoint]
            assert (state.failed_count, state.refused_count) == (3, 17)
            assert state.last_error == "TimeoutError: within 0.1 s"

    run(test())


def test_a_cancelled_requests_connection_is_not_used_again(start_cluster: StartCluster) -> None:
    nodes = start_cluster(1)
    go_on = threading.Event()

    def hold(data: bytes) -> None:
        if data.startswith(b"get a"):
            assert go_on.wait(WAIT_S)

    async def test() -> None:
        async with connect(nodes[0].endpoint) as client:
            await client.set_many({"a": "1", "b": "2"})
            nodes[0].inject = hold
            for _ in range(3):
                request = asyncio.create_task(client.get("a"))
                await until(lambda: b"get a" in nodes[0].lines, "the request")
                nodes[0].lines.clear()
                request.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await request
                assert await client.get("b") == b"2"
            go_on.set()
            for _ in range(5):
                assert await client.get("b") == b"2"
                assert await client.get("a") == b"1"
            assert client.node_states()[nodes[0].endpoint].failed_count == 0

    run(test())


def test_a_cancelled_probe_leaves_room_for_another(
    start_cluster: StartCluster, start_node: StartNode
) -> None:
    nodes = start_cluster(2)

    async def test() -> None:
        options = {"poll_s": 3600, "retry_timeout": 0.01, "dead_timeout": 0.01, "retry_attempts": 0}
        async with connect(nodes[0].endpoint, **options) as client:
            (key, *_) = keys_of(client, nodes[1])
            await asyncio.to_thread(nodes[1].close)
            await client.get(key)
            new = start_node(nodes[1].port)
            new.silent = True
            probe = None

            async def probing() -> bool:
                nonlocal probe
                if probe is None or probe.done():
                    probe = asyncio.create_task(client.get(key))
                await asyncio.sleep(0)
                return f"get {key}".encode() in new.lines

            await until_true(probing)
            assert probe is not None
            probe.cancel()
            with pytest.raises(asyncio.CancelledError):
                await probe
            new.silent = False
            await until_true(lambda: client.set(key, "x"))

    run(test())


def test_without_ignore_exc_it_raises(start_cluster: StartCluster) -> None:
    nodes = start_cluster(2)

    async def test() -> None:
        async with connect(nodes[0].endpoint, ignore_exc=False, **LONG) as client:
            lost = keys_of(client, nodes[1])
            await asyncio.to_thread(nodes[1].close)
            for _ in range(3):
                with pytest.raises(OSError, match="refused|Connect"):
                    await client.get(lost[0])
            with pytest.raises(NodeDown, match=nodes[1].endpoint):
                await client.set(lost[0], "x")
            with pytest.raises(NodeDown):
                await client.get_many(KEYS)
            with pytest.raises(NodeDown):
                await client.flush_all()
            with pytest.raises(MemcacheError):
                await client.set(keys_of(client, nodes[0])[0], "x" * (2 << 20))

    run(test())


@pytest.mark.parametrize("key", ["with space", "x" * 251, "größe", "nul\0"])
def test_wrong_arguments_are_always_raised(start_cluster: StartCluster, key: str) -> None:
    nodes = start_cluster(2)

    async def test() -> None:
        async with connect(nodes[0].endpoint) as client:
            for ask in (client.get, client.delete, client.touch):
                with pytest.raises(MemcacheIllegalInputError):
                    await ask(key)
            many = [*KEYS, key]
            with pytest.raises(MemcacheIllegalInputError):
                await client.get_many(many)
            with pytest.raises(MemcacheIllegalInputError):
                await client.set_many(dict.fromkeys(many, "x"))
            with pytest.raises(MemcacheIllegalInputError):
                await client.delete_many(many)
            with pytest.raises(MemcacheIllegalInputError):
                await client.set("key", "x", expire="soon")  # type: ignore[arg-type]
            with pytest.raises(MemcacheIllegalInputError):
                await client.cas("key", "x", "y")
            with pytest.raises(MemcacheIllegalInputError):
                await client.set("key", "größe")
            assert await client.set("key", "x")

    run(test())


def test_refusals_and_unreadable_values_say_nothing_about_the_node(
    start_cluster: StartCluster,
) -> None:
    class Serde:
        def serialize(self, _: object, value: object) -> tuple[object, int]:
            return value, 0

        def deserialize(self, *_: object) -> object:
            raise LookupError("this class is gone")

    nodes = start_cluster(1)

    async def test() -> None:
        async with connect(nodes[0].endpoint, retry_attempts=0, serde=Serde()) as client:
            assert await client.set("key", "text")
            for _ in range(3):
                assert await client.incr("key", 1) is None
                assert await client.set("large", "x" * (2 << 20)) is False
                assert await client.get("key", "miss") == "miss"
            state = client.node_states()[nodes[0].endpoint]
            assert (state.breaker, state.failed_count, state.error_count) == ("closed", 0, 9)

    run(test())


@pytest.mark.parametrize(
    "garbage",
    [b"VALUE other 0 1\r\nx\r\nEND\r\n", b"VALUE key x 1\r\nx\r\nEND\r\n", b"hello\r\n", b"\r\n"],
)
def test_garbage_is_a_failure_of_the_node(start_cluster: StartCluster, garbage: bytes) -> None:
    nodes = start_cluster(1)

    async def test() -> None:
        async with connect(nodes[0].endpoint, **LONG) as client:
            nodes[0].legacy = garbage
            for _ in range(3):
                # What the scripted node answers as it is told.
                fetch = client._wire.fetch("get", ["AmazonElastiCache:cluster"])
                assert await client._known.pools[0].run(fetch, {}) == {}
            assert client.node_states()[nodes[0].endpoint].breaker == "open"

    run(test())


def test_an_unreachable_endpoint_is_asked_again_until_it_answers(start_node: StartNode) -> None:
    node = start_node()
    node.close()

    async def test() -> None:
        async with connect(node.endpoint, poll_s=0.05) as client:
            assert client.topology is None
            assert await client.get("key", "default") == "default"
            assert await client.set("key", "x") is False
            assert await client.get_many(KEYS) == {}
            assert await client.set_many({"a": 1}) == ["a"]
            assert await client.delete_many(["a"]) is False
            assert await client.flush_all() is False
            assert await client.stats() == {}
            new = start_node(node.port)
            new.tells(3, new)
            await until_true(lambda: client.set("key", "x"))
            assert client.topology == Topology(3, (new.member,))

    run(test())


def test_an_unreachable_endpoint_is_raised_without_ignore_exc(start_node: StartNode) -> None:
    node = start_node()
    node.close()

    async def test() -> None:
        with pytest.raises(NoNodes):
            async with connect(node.endpoint, ignore_exc=False):
                pass
        client = connect(node.endpoint, ignore_exc=False)
        with pytest.raises(NoNodes):
            await client.get("key")
        await client.aclose()

    run(test())


def test_first_requests_wait_for_one_list(start_cluster: StartCluster) -> None:
    nodes = start_cluster(2)

    async def test() -> None:
        client = connect(nodes[0].endpoint)
        first, *others = [asyncio.create_task(client.set(key, "x")) for key in KEYS]
        await asyncio.sleep(0)
        first.cancel()
        assert all(await asyncio.gather(*others))
        assert nodes[0].asked == 1
        await client.aclose()
        # Used again, it begins anew.
        assert await client.get(KEYS[1]) == b"x"
        await client.close()

    run(test())


def test_closing_cancels_nobody_who_waits_for_the_first_list(start_node: StartNode) -> None:
    node = start_node()
    node.silent = True

    async def test() -> None:
        client = connect(node.endpoint)
        requests = [asyncio.create_task(client.get(key, "miss")) for key in KEYS]
        await until(lambda: node.lines, "the question")
        requests[0].cancel()
        await client.aclose()
        results = await asyncio.gather(*requests, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        assert results[1:] == ["miss"] * (len(KEYS) - 1)

    run(test())


def test_a_request_that_outlives_the_client_leaves_no_connection(
    start_cluster: StartCluster,
) -> None:
    nodes = start_cluster(1)
    go_on = threading.Event()
    nodes[0].inject = lambda _: go_on.wait(WAIT_S) and None

    async def test() -> None:
        client = connect(nodes[0].endpoint)
        request = asyncio.create_task(client.set("key", "x"))
        await until(lambda: any(line.startswith(b"set") for line in nodes[0].lines), "the request")
        await client.aclose()
        go_on.set()
        assert await request
        await until(lambda: nodes[0].connections == 0, "its connection to be closed")
        async with client:
            assert await client.get("key") == b"x"
            await until(lambda: nodes[0].connections == 1, "the one connection to be left")

    run(test())


def test_who_forgets_to_close_is_told(start_node: StartNode) -> None:
    node = start_node()
    node.close()

    async def test() -> None:
        client = connect(node.endpoint)
        await client.get("key")
        with pytest.warns(ResourceWarning, match="not closed"):
            del client
            await asyncio.sleep(0)
            gc.collect()

    run(test())


def test_one_loop_after_another_may_use_it(start_cluster: StartCluster) -> None:
    nodes = start_cluster(2)
    client = connect(nodes[0].endpoint)

    async def test() -> None:
        async with client:
            assert await client.set("key", "x")
            assert await client.get("key") == b"x"

    run(test())
    run(test())


def test_a_pool_has_its_limit_in_each_loop(start_cluster: StartCluster) -> None:
    nodes = start_cluster(1)
    client = connect(nodes[0].endpoint, max_pool_size=1, ignore_exc=False)

    async def test() -> None:
        async with client:
            assert all(await asyncio.gather(*(client.set("key", "x") for _ in range(4))))

    run(test())
    run(test())


def test_a_pool_has_its_limit(start_cluster: StartCluster) -> None:
    nodes = start_cluster(1)

    async def test() -> None:
        async with connect(nodes[0].endpoint, max_pool_size=2) as client:
            assert all(await asyncio.gather(*(client.set("key", "x") for _ in range(100))))
            assert nodes[0].accepted - nodes[0].asked <= 2
            # Those whose tasks are cancelled give their place back.
            nodes[0].silent = True
            waiting = [asyncio.create_task(client.get("key")) for _ in range(6)]
            await until(lambda: nodes[0].lines.count(b"get key") == 2, "two requests")
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            nodes[0].silent = False
            assert await client.get("key") == b"x"

    run(test())


def test_who_finds_no_room_in_a_pool_gives_up(start_cluster: StartCluster) -> None:
    nodes = start_cluster(1)

    async def test() -> None:
        options = {"max_pool_size": 1, "timeout": 1.0, "ignore_exc": False}
        async with connect(nodes[0].endpoint, **options) as client:
            assert await client.set("key", "x")
            async with client._known.pools[0]._room:
                with pytest.raises(PoolExhausted, match=nodes[0].endpoint):
                    await client.get("key")
            assert await client.get("key") == b"x"

    run(test())


def test_sockets_are_kept_alive(start_cluster: StartCluster) -> None:
    nodes = start_cluster(1)

    async def test() -> None:
        keep = KeepaliveOpts(idle=7)
        async with connect(nodes[0].endpoint, socket_keepalive=keep) as client:
            assert await client.set("key", "x")
            sock = client._known.pools[0]._idle[0].info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 7

    run(test())


def test_what_goes_wrong_in_a_poll_does_not_end_the_polling(
    start_cluster: StartCluster,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    nodes = start_cluster(1)
    failures = iter(range(2))
    survey = aio_client.survey

    def failing(*args: Any) -> Any:
        if next(failures, None) is not None:
            raise LookupError("nobody thought of this")
        return survey(*args)

    monkeypatch.setattr(aio_client, "survey", failing)

    async def test() -> None:
        async with connect(nodes[0].endpoint, poll_s=0.02) as client:
            await until(lambda: client.polls.answered_count > 2, "polls that go on")
            assert await client.set("key", "x")

    run(test())
    assert "nobody thought of this" in caplog.text


def test_wrong_options_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="timeout"):
        DiscoveryClient("127.0.0.1:1", timeout=0)

"""The blocking client over scripted nodes that die, hang, refuse, or are cut off half-way."""

import signal
import threading

import pytest
from pymemcache.exceptions import MemcacheError
from scripted import KEYS, Connect, StartCluster, StartNode, keys_of, tell
from support.waiting import wait_until

from memcachepy.client.errors import NodeDown

WAIT_S = 20.0


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

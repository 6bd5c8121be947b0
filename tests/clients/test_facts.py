"""What every memcached client may rely on, asked through the clients that applications use."""

import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from adapter import Adapter
from clients import CLIENTS
from support.server import Server
from support.waiting import wait_until

pytestmark = [
    pytest.mark.once,
    # pylibmc asks for what is not there in a way that Python 3.13 complains about.
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in PyMapping_HasKeyString:pytest.PytestUnraisableExceptionWarning"
    ),
]

KEYS = 150
LARGE_BYTES = 1_000_000
EXPIRY_TIMEOUT_S = 10.0


class Connections:
    """Connections of one client, closed at the end of the test."""

    def __init__(self, make: Callable[[], Adapter], stack: ExitStack) -> None:
        self._make = make
        self._stack = stack

    def new(self) -> Adapter:
        client = self._make()
        self._stack.callback(client.close)
        return client


def needs(*methods: str) -> pytest.MarkDecorator:
    """The fact for every client that has these methods."""
    names = [name for name, kind in CLIENTS.items() if not kind.lacks & set(methods)]
    return pytest.mark.parametrize("name", names)


@pytest.fixture
def connections(name: str, empty_server: Server) -> Iterator[Connections]:
    with ExitStack() as stack:
        yield Connections(lambda: CLIENTS[name](empty_server.address), stack)


@pytest.fixture
def client(connections: Connections) -> Adapter:
    return connections.new()


@pytest.fixture
def other(connections: Connections) -> Adapter:
    """The same client again, at another worker."""
    return connections.new()


@needs()
def test_what_was_set_is_read_at_another_worker(client: Adapter, other: Adapter) -> None:
    assert client.get("key") is None
    assert client.set("key", b"value")
    assert other.get("key") == b"value"
    assert client.set("key", b"another")
    assert other.get("key") == b"another"


@needs()
def test_values_are_any_bytes(client: Adapter, other: Adapter) -> None:
    for value in (b"", b"\r\n", b"END\r\n", bytes(range(256)) * 8):
        assert client.set("key", value)
        assert other.get("key") == value


@needs()
def test_client_flags_come_back(client: Adapter, other: Adapter) -> None:
    """The client notes there what a value was."""
    for value in (b"bytes", "text, größer", 42):
        assert client.set("key", value)
        found = other.get("key")
        assert found == value
        assert type(found) is type(value)


@needs()
def test_many_keys_at_once(client: Adapter, other: Adapter) -> None:
    values = {f"key-{i}": b"value-%d" % i for i in range(KEYS)}
    assert client.set_many(values)
    assert other.get_many([*values, "none"]) == values


@needs()
def test_keys_beyond_ascii(client: Adapter, other: Adapter) -> None:
    keys = ["schlüssel", "ключ", "鍵", "🔑"]
    for key in keys:
        assert client.set(key, key)
    assert other.get_many(keys) == {key: key for key in keys}
    assert other.delete(keys[0])
    assert client.get(keys[0]) is None


@needs()
def test_the_longest_key(client: Adapter) -> None:
    assert client.set("k" * 250, b"value")
    assert client.get("k" * 250) == b"value"


@needs()
def test_a_large_value(client: Adapter, other: Adapter, rng: random.Random) -> None:
    value = rng.randbytes(LARGE_BYTES)
    assert client.set("large", value)
    assert other.get("large") == value


@needs("add")
def test_add_stores_what_is_not_there(client: Adapter) -> None:
    assert client.add("key", b"first")
    assert not client.add("key", b"second")
    assert client.get("key") == b"first"


@needs("replace")
def test_replace_stores_what_is_there(client: Adapter) -> None:
    assert not client.replace("key", b"value")
    assert client.get("key") is None
    assert client.set("key", b"value")
    assert client.replace("key", b"another")
    assert client.get("key") == b"another"


@needs("append", "prepend")
def test_append_and_prepend(client: Adapter, other: Adapter) -> None:
    assert not client.append("key", b"c")
    assert client.set("key", b"b")
    assert client.append("key", b"c")
    assert other.prepend("key", b"a")
    assert client.get("key") == b"abc"


@needs()
def test_delete_says_whether_something_was_there(client: Adapter, other: Adapter) -> None:
    assert not client.delete("key")
    assert client.set("key", b"value")
    assert other.delete("key")
    assert client.get("key") is None


@needs()
def test_cas_stores_over_what_was_read(client: Adapter, other: Adapter) -> None:
    assert client.set("key", b"1")
    value, token = client.gets("key")
    assert value == b"1"
    assert client.cas("key", b"2", token)
    assert client.get("key") == b"2"
    value, token = client.gets("key")
    assert other.set("key", b"3")
    assert not client.cas("key", b"4", token)
    assert client.get("key") == b"3"


@needs()
def test_counting(client: Adapter, other: Adapter) -> None:
    assert client.incr("n", 1) is None
    assert client.decr("n", 1) is None
    assert client.set("n", 10)
    assert client.incr("n", 5) == 15
    assert other.decr("n", 7) == 8
    assert client.decr("n", 100) == 0
    assert client.incr("n", 2**31 - 1) == 2**31 - 1
    assert client.incr("n", 2**31 - 1) == 2**32 - 2


@needs("touch")
def test_touch_moves_the_expiry(client: Adapter, other: Adapter) -> None:
    assert not client.touch("key", 100)
    assert client.set("key", b"value")
    assert client.touch("key", 100)
    assert other.get("key") == b"value"


@needs("set_silently")
def test_what_is_not_answered_is_done_in_order(client: Adapter) -> None:
    for i in range(100):
        client.set_silently("key", b"%d" % i)
    assert client.get("key") == b"99"


def test_expiry_through_every_client(empty_server: Server) -> None:
    """One test, because it waits for the clock."""
    with ExitStack() as stack:
        clients = {}
        for name, kind in CLIENTS.items():
            clients[name] = kind(empty_server.address)
            stack.callback(clients[name].close)
        for name, client in clients.items():
            assert client.set(f"short-{name}", b"value", 2)
            assert client.set(f"long-{name}", b"value", 1000)
        for name, client in clients.items():
            wait_until(
                lambda client=client, name=name: client.get(f"short-{name}") is None,
                f"the key of {name} to expire",
                EXPIRY_TIMEOUT_S,
            )
            assert client.get(f"long-{name}") == b"value"


def test_clients_read_what_others_wrote(empty_server: Server) -> None:
    """Counters are text to all of them, and need no client flags."""
    with ExitStack() as stack:
        clients = {}
        for name, kind in CLIENTS.items():
            clients[name] = kind(empty_server.address)
            stack.callback(clients[name].close)
        assert clients["pymemcache"].set("n", 0)
        expected = 0
        for _ in range(3):
            for client in clients.values():
                expected += 1
                assert client.incr("n", 1) == expected


def test_an_adapter_has_all_that_it_does_not_lack() -> None:
    methods = {name for name, _ in inspect.getmembers(Adapter, inspect.isfunction)}
    for name, kind in CLIENTS.items():
        for method in methods - kind.lacks:
            assert getattr(kind, method) is not getattr(Adapter, method), f"{name}: {method}"

"""pymemcache, as an application uses it."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from pymemcache.client.base import Client, PooledClient
from pymemcache.client.hash import HashClient
from pymemcache.exceptions import MemcacheClientError, MemcacheIllegalInputError
from support.server import Server, node

KEYS = 300


@pytest.fixture(params=[Client, PooledClient])
def client(request: pytest.FixtureRequest, empty_server: Server) -> Iterator[Client]:
    client = request.param(empty_server.address, timeout=10, connect_timeout=10)
    yield client
    client.close()


def test_set_get_delete(client: Client) -> None:
    assert client.set("key", b"value", noreply=False)
    assert client.get("key") == b"value"
    assert client.delete("key", noreply=False)
    assert client.get("key") is None
    assert not client.delete("key", noreply=False)


def test_values_of_any_bytes(client: Client) -> None:
    value = bytes(range(256)) * 10
    assert client.set("key", value, noreply=False)
    assert client.get("key") == value


def test_many_keys_at_once(client: Client) -> None:
    values = {f"key-{i}": b"value-%d" % i for i in range(KEYS)}
    assert client.set_many(values, noreply=False) == []
    assert client.get_many([*values, "none"]) == values
    assert client.delete_many(list(values), noreply=False)
    assert client.get_many(list(values)) == {}


def test_noreply_is_the_default_and_is_done_in_order(client: Client) -> None:
    for i in range(100):
        client.set("key", b"%d" % i)
    assert client.get("key") == b"99"


def test_add_replace_append_prepend(client: Client) -> None:
    assert client.add("key", b"b", noreply=False)
    assert not client.add("key", b"x", noreply=False)
    assert client.append("key", b"c", noreply=False)
    assert client.prepend("key", b"a", noreply=False)
    assert client.get("key") == b"abc"
    assert client.replace("key", b"d", noreply=False)
    assert not client.replace("none", b"d", noreply=False)
    assert client.get("key") == b"d"


def test_cas(client: Client) -> None:
    client.set("key", b"1", noreply=False)
    value, token = client.gets("key")
    assert value == b"1"
    assert client.cas("key", b"2", token, noreply=False)
    assert not client.cas("key", b"3", token, noreply=False)
    assert client.cas("none", b"3", token, noreply=False) is None
    assert client.get("key") == b"2"


def test_gets_many_gives_tokens(client: Client) -> None:
    client.set_many({"a": b"1", "b": b"2"}, noreply=False)
    found = client.gets_many(["a", "b"])
    assert {key: value for key, (value, _) in found.items()} == {"a": b"1", "b": b"2"}
    assert found["a"][1] != found["b"][1]


def test_counting(client: Client) -> None:
    client.set("n", b"10", noreply=False)
    assert client.incr("n", 5, noreply=False) == 15
    assert client.decr("n", 20, noreply=False) == 0
    assert client.incr("none", 1, noreply=False) is None
    client.set("text", b"abc", noreply=False)
    with pytest.raises(MemcacheClientError):
        client.incr("text", 1, noreply=False)


def test_touch(client: Client) -> None:
    client.set("key", b"value", noreply=False)
    assert client.touch("key", 100, noreply=False)
    assert not client.touch("none", 100, noreply=False)
    assert client.get("key") == b"value"
    assert client.touch("key", -1, noreply=False)
    assert client.get("key") is None


def test_flush_all(client: Client) -> None:
    client.set("key", b"value", noreply=False)
    assert client.flush_all(noreply=False)
    assert client.get("key") is None


def test_version_and_stats(client: Client) -> None:
    assert client.version().count(b".") == 2
    stats = client.stats()
    assert stats[b"pid"] > 0
    assert b"curr_items" in stats
    assert client.stats("settings")[b"maxconns"] > 0


def test_a_large_value(client: Client) -> None:
    value = bytes(range(251)) * 20_000
    assert client.set("large", value, noreply=False)
    assert client.get("large") == value


def test_keys_that_the_client_refuses_never_reach_the_server(client: Client) -> None:
    for key in ("a b", "k" * 251, "a\r\nb"):
        with pytest.raises(MemcacheIllegalInputError):
            client.get(key)


def test_a_pool_serves_threads(empty_server: Server) -> None:
    client = PooledClient(empty_server.address, max_pool_size=8, timeout=10)
    client.set("n", b"0", noreply=False)
    failures: list[Exception] = []

    def work(number: int) -> None:
        try:
            for i in range(100):
                client.set(f"{number}-{i}", b"%d" % i, noreply=False)
                client.incr("n", 1, noreply=False)
                assert client.get(f"{number}-{i}") == b"%d" % i
        except Exception as error:  # To be seen by the test's own thread.
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert client.get("n") == b"800"
    client.close()


def test_a_hash_client_spreads_keys_over_three_nodes() -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(node("-m", "16")) for _ in range(3)]
        client = HashClient([s.address for s in servers], use_pooling=True, timeout=10)
        values = {f"key-{i}": b"value-%d" % i for i in range(KEYS)}
        assert client.set_many(values, noreply=False) == []
        assert client.get_many(list(values)) == values
        for key, value in values.items():
            assert client.get(key) == value
        client.set("n", b"1", noreply=False)
        assert client.incr("n", 41) == 42
        counts = [int(s.stats()["curr_items"]) for s in servers]
        assert sum(counts) == KEYS + 1
        assert min(counts) > 0, f"a node got nothing: {counts}"
        client.close()


def test_a_hash_client_goes_on_when_one_of_three_nodes_is_gone() -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(node("-m", "16")) for _ in range(3)]
        client = HashClient(
            [s.address for s in servers], ignore_exc=True, retry_attempts=0, timeout=5
        )
        values = {f"key-{i}": b"value-%d" % i for i in range(60)}
        client.set_many(values, noreply=False)
        assert servers[0].stop() == 0
        for key, value in values.items():
            assert client.get(key) in (None, value)
        for key, value in values.items():
            client.set(key, value, noreply=False)
        assert sum(client.get(key) == value for key, value in values.items()) == len(values)
        client.close()

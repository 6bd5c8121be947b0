"""What an attached cache does with keys and values, beside the node's other clients."""

import array
import random
import threading
from pathlib import Path
from typing import Any

import pytest
from nodes import Node, Start
from support.waiting import wait_until

from memcachepy import Cache, errors


def test_value_comes_back_as_bytes(cache: Cache) -> None:
    cache.set("key", b"value")
    assert cache.get("key") == b"value"
    assert cache.get(b"key") == b"value"
    cache.set("key", b"")
    assert cache.get("key") == b""


def test_missing_key_is_the_default(cache: Cache) -> None:
    assert cache.get("key") is None
    assert cache.get("key", b"other") == b"other"
    assert cache.get("key", default=1) == 1
    assert cache.get(key="key", default=cache) is cache


def test_delete_says_whether_it_was_there(cache: Cache) -> None:
    cache.set("key", b"value")
    assert cache.delete("key") is True
    assert cache.delete("key") is False
    assert cache.get("key") is None


def test_arithmetic_is_memcacheds(cache: Cache) -> None:
    assert cache.incr("n") is None
    assert cache.decr("n", 5) is None
    cache.set("n", b"9")
    assert cache.incr("n") == 10
    assert cache.incr("n", 5) == 15
    assert cache.decr("n", delta=6) == 9
    assert cache.get("n") == b"9 "
    assert cache.decr("n", 100) == 0
    assert cache.incr("n", 2**64 - 1) == 2**64 - 1
    assert cache.incr("n") == 0


def test_arithmetic_on_text_is_refused(cache: Cache) -> None:
    cache.set("text", b"abc")
    with pytest.raises(errors.NotANumber, match="'text'"):
        cache.incr("text")
    assert cache.get("text") == b"abc"


@pytest.mark.parametrize("delta", [-1, 2**64])
def test_delta_out_of_range_is_refused(cache: Cache, delta: int) -> None:
    with pytest.raises(ValueError, match=r"delta is .*: the range is 0 to 2\*\*64 - 1"):
        cache.incr("n", delta)


@pytest.mark.parametrize(
    "value", [bytearray(b"four"), memoryview(b"four"), array.array("B", b"four")]
)
def test_value_may_be_anything_with_bytes(cache: Cache, value: Any) -> None:
    cache.set("key", value)
    assert cache.get("key") == b"four"


@pytest.mark.parametrize("value", ["text", 1, None, memoryview(b"1234")[::2]])
def test_value_without_bytes_is_an_error(cache: Cache, value: Any) -> None:
    cache.set("key", b"old")
    with pytest.raises((TypeError, BufferError)):
        cache.set("key", value)
    assert cache.get("key") == b"old"


@pytest.mark.parametrize("key", ["k", "k" * 250, "\u20ac" * 83, b"\x80\xff", "a/b:c"])
def test_keys_that_memcached_takes(cache: Cache, key: str | bytes) -> None:
    cache.set(key, b"value")
    assert cache.get(key) == b"value"
    assert cache.delete(key)


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("", "has 0 bytes; the range is 1 to 250"),
        ("k" * 251, "'kkk.* has 251 bytes; the range is 1 to 250"),
        ("\u20ac" * 84, "has 252 bytes"),
        ("a b", "'a b' has a space or control character at byte 1"),
        ("ab\n", "at byte 2"),
        (b"\x00", "at byte 0"),
        ("\x7f", "at byte 0"),
    ],
)
def test_other_keys_are_refused_by_every_operation(
    cache: Cache, key: str | bytes, why: str
) -> None:
    for operation in (cache.get, cache.delete, cache.incr, cache.decr):
        with pytest.raises(errors.InvalidKey, match=why):
            operation(key)
    with pytest.raises(errors.InvalidKey, match=why):
        cache.set(key, b"value")


def test_key_of_another_type_is_a_type_error(cache: Cache) -> None:
    for key in (1, None, bytearray(b"k"), ("k",)):
        with pytest.raises(TypeError, match="must be str or bytes"):
            cache.get(key)  # type: ignore[arg-type]
    with pytest.raises(UnicodeEncodeError):
        cache.get("\ud800")


def test_wrong_arguments_are_type_errors(cache: Cache) -> None:
    calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
        (cache.get, (), {}),
        (cache.get, ("k", None, 1), {}),
        (cache.get, ("k",), {"key": "k"}),
        (cache.get, ("k",), {"other": 1}),
        (cache.set, ("k",), {}),
        (cache.set, ("k", b"v", 0, 0), {}),
        (cache.set, ("k", b"v"), {"expire": 1.5}),
        (cache.set, ("k", b"v"), {"expire": "1"}),
        (cache.incr, ("k", "1"), {}),
        (cache.delete, (), {}),
    ]
    for function, args, keywords in calls:
        with pytest.raises(TypeError):
            function(*args, **keywords)


def test_expiry_is_memcacheds(cache: Cache) -> None:
    cache.set("soon", b"v", 1)
    cache.set("later", b"v", 1000)
    cache.set("never", b"v", expire=0)
    cache.set("past", b"v", expire=-1)
    assert cache.get("past") is None
    wait_until(lambda: cache.get("soon") is None, "the value to expire", 10)
    assert cache.get("later") == cache.get("never") == b"v"
    for expire in (-(2**31) - 1, 2**32, 2**70):
        with pytest.raises(ValueError, match="expire is"):
            cache.set("key", b"v", expire)


def test_both_doors_lead_to_the_same_items(cache: Cache, node: Node) -> None:
    client = node.client()
    cache.set("ours", b"value")
    client.ask(b"get ours\r\n", b"VALUE ours 0 5\r\nvalue\r\nEND\r\n")
    client.ask(b"set theirs 7 0 2\r\nhi\r\n", b"STORED\r\n")
    assert cache.get("theirs") == b"hi"
    client.ask(b"delete ours\r\n", b"DELETED\r\n")
    assert cache.get("ours") is None
    client.ask(b"flush_all\r\n", b"OK\r\n")
    assert cache.get("theirs") is None


def test_operations_are_counted_as_the_nodes(cache: Cache, node: Node) -> None:
    cache.set("n", b"1")
    cache.get("n")
    cache.get("missing")
    cache.incr("n")
    cache.decr("missing")
    cache.delete("n")
    cache.delete("n")
    stats = node.client().stats()
    names = "cmd_get get_hits get_misses cmd_set incr_hits decr_misses delete_hits delete_misses"
    assert [stats[name] for name in names.split()] == ["2", "1", "1", "1", "1", "1", "1", "1"]


def test_values_of_every_length_go_both_ways(cache: Cache, node: Node, rng: random.Random) -> None:
    client = node.client()
    lens = [rng.randrange(1 << rng.randrange(1, 20)) for _ in range(60)]
    for length in [*lens, (1 << 20) - 100]:
        value = rng.randbytes(length)
        cache.set("ours", value)
        assert cache.get("ours") == value
        client.ask(b"get ours\r\n", b"VALUE ours 0 %d\r\n%s\r\nEND\r\n" % (length, value))
        client.ask(b"set theirs 0 0 %d\r\n%s\r\n" % (length, value), b"STORED\r\n")
        assert cache.get("theirs") == value
    assert client.stats("memcachepy")["held_bytes"] == "0"


def test_value_beyond_the_limit_is_refused_and_the_old_one_gone(cache: Cache) -> None:
    cache.set("key", b"old")
    with pytest.raises(errors.ValueTooLarge, match=r"'key' has 1048577 bytes.* 1048576"):
        cache.set("key", bytes((1 << 20) + 1))
    assert cache.get("key") is None


def test_no_memory_and_no_eviction(start: Start, path: Path) -> None:
    start("-M", "-m", "1", "--control-socket", str(path))

    def fill(cache: Cache) -> None:
        for key in range(100):
            cache.set(f"k{key}", bytes(100_000))

    with Cache.attach(path) as cache:
        with pytest.raises(errors.CacheFull, match="'k[0-9]+'"):
            fill(cache)
        assert cache.get("k0") == bytes(100_000)


def test_threads_share_one_cache(cache: Cache, node: Node) -> None:
    cache.set("n", b"0")
    rounds = 2000
    wrong: list[int] = []

    def count(index: int) -> None:
        for number in range(rounds):
            cache.incr("n")
            cache.set(f"t{index}", b"%d" % number)
            if cache.get(f"t{index}") != b"%d" % number:
                wrong.append(number)

    threads = [threading.Thread(target=count, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert cache.get("n") == b"%d" % (4 * rounds)
    assert node.client().stats("memcachepy")["attached_processes"] == "1"
    assert node.segment().check() == []


def test_closed_cache_says_so(cache: Cache) -> None:
    cache.close()
    cache.close()
    for operation in (cache.get, cache.delete, cache.incr):
        with pytest.raises(ValueError, match="the cache is closed"):
            operation("key")

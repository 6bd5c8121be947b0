"""Much at once: long lines, many keys, large values, deep pipelines."""

import random

import pytest
from support.server import Server

pytestmark = pytest.mark.once

MEBIBYTE = 1 << 20


def server_is_memcached(server: Server) -> bool:
    return "pid" in server.stats() and "memcachepy" not in " ".join(map(str, server.process.args))


def _pattern(length: int, seed: int) -> bytes:
    """Bytes in which no two places look alike."""
    return random.Random(seed).randbytes(length)


def test_ten_thousand_keys_in_one_get(empty_server: Server) -> None:
    with empty_server.client() as client:
        client.send(b"".join(b"set k%d 1 0 5 noreply\r\n%05d\r\n" % (i, i) for i in range(10_000)))
        client.send(b"get " + b" ".join(b"k%d x%d" % (i, i) for i in range(10_000)) + b"\r\n")
        reply = client.take_until(b"END\r\n")
    expected = b"".join(b"VALUE k%d 1 5\r\n%05d\r\n" % (i, i) for i in range(10_000))
    assert reply == expected + b"END\r\n"


def test_a_get_line_of_several_mebibytes(empty_server: Server) -> None:
    if server_is_memcached(empty_server):
        pytest.skip("memcached looks at such a line from its start again with every read")
    key = b"k" * 249
    with empty_server.client(timeout_s=30) as client:
        client.ask(b"set %s1 0 0 3\r\nabc\r\n" % key, b"STORED\r\n")
        client.send(b"get " + b" ".join([b"%s0" % key] * 8000 + [b"%s1" % key]) + b"\r\n")
        client.expect(b"VALUE %s1 0 3\r\nabc\r\nEND\r\n" % key)


def test_a_get_of_sixteen_large_values(empty_server: Server) -> None:
    values = [_pattern(900_000 + i, i) for i in range(16)]
    with empty_server.client(timeout_s=30) as client:
        for i, value in enumerate(values):
            client.ask(b"set large%d %d 0 %d\r\n%s\r\n" % (i, i, len(value), value), b"STORED\r\n")
        client.send(b"get " + b" ".join(b"large%d" % i for i in range(16)) + b"\r\n")
        for i, value in enumerate(values):
            client.expect(b"VALUE large%d %d %d\r\n" % (i, i, len(value)))
            assert client.take(len(value)) == value
            client.expect(b"\r\n")
        client.expect(b"END\r\n")


@pytest.mark.parametrize("mebibytes", [2, 31])
def test_a_value_of_many_mebibytes_with_a_larger_item_size(
    empty_server: Server, mebibytes: int
) -> None:
    value = _pattern(mebibytes * MEBIBYTE + 12_345, mebibytes)
    with empty_server.client(timeout_s=30) as client:
        client.ask(b"set huge 7 0 %d\r\n%s\r\n" % (len(value), value), b"STORED\r\n")
        client.send(b"get huge\r\n")
        client.expect(b"VALUE huge 7 %d\r\n" % len(value))
        assert client.take(len(value)) == value
        client.expect(b"\r\nEND\r\n")


def test_more_than_the_larger_item_size_is_refused(empty_server: Server) -> None:
    length = 32 * MEBIBYTE
    with empty_server.client(timeout_s=30) as client:
        client.send(b"set huge 0 0 %d\r\n" % length + b"x" * length + b"\r\n")
        client.expect(b"SERVER_ERROR object too large for cache\r\n")
        client.ask(b"get huge\r\n", b"END\r\n")


def test_a_deep_pipeline_is_answered_in_order(empty_server: Server) -> None:
    count = 30_000
    with empty_server.client(timeout_s=30) as client:
        client.ask(b"set n 0 0 1\r\n0\r\n", b"STORED\r\n")
        client.send(b"incr n 1\r\n" * count)
        client.expect(b"".join(b"%d\r\n" % i for i in range(1, count + 1)))


def test_a_pipeline_of_different_commands_keeps_its_order(
    empty_server: Server, rng: random.Random
) -> None:
    sent, expected = [], []
    stored: dict[int, bytes] = {}
    for _ in range(5000):
        number = rng.randrange(50)
        if rng.random() < 0.4:
            value = rng.randbytes(rng.choice((0, 10, 100, 2000, 30_000)))
            sent.append(b"set p%d 0 0 %d\r\n%s\r\n" % (number, len(value), value))
            expected.append(b"STORED\r\n")
            stored[number] = value
        elif rng.random() < 0.9:
            sent.append(b"get p%d\r\n" % number)
            if number in stored:
                value = stored[number]
                expected.append(b"VALUE p%d 0 %d\r\n%s\r\n" % (number, len(value), value))
            expected.append(b"END\r\n")
        else:
            sent.append(b"delete p%d\r\n" % number)
            known = stored.pop(number, None) is not None
            expected.append(b"DELETED\r\n" if known else b"NOT_FOUND\r\n")
    with empty_server.client(timeout_s=30) as client:
        client.send(b"".join(sent))
        client.expect(b"".join(expected))


def test_pipelined_mg_of_large_values_answer_in_order_and_win_once(empty_server: Server) -> None:
    large = _pattern(950_000, 1)
    lines = b"mg big v k Oa\r\nmg small v\r\nmg big v T500\r\nmg nope v q\r\nmg big s R2000\r\n"
    value = b"VA 950000%s\r\n" + large + b"\r\n"
    with empty_server.client(timeout_s=30) as client:
        client.ask(b"ms big 950000 T1000\r\n%s\r\n" % large, b"HD\r\n")
        client.ask(b"ms small 3\r\nabc\r\n", b"HD\r\n")
        client.send(lines * 20 + b"mn\r\n")
        for i in range(20):
            sent = b" Z" if i > 0 else b""
            client.expect(value.replace(b"%s", b" kbig Oa" + sent, 1))
            client.expect(b"VA 3\r\nabc\r\n")
            client.expect(value.replace(b"%s", sent, 1))
            client.expect(b"HD s950000%s\r\n" % (sent or b" W"))
        client.expect(b"MN\r\n")

"""Readers that take their time get values as they were when they asked, and delay nobody."""

import random
import socket
from collections.abc import Callable

import pytest
from support.client import RawClient
from support.server import Server

pytestmark = pytest.mark.once

# More than the socket buffers of both sides can hold.
VALUE_BYTES = 16 << 20

Change = Callable[[RawClient], None]


def _overwrite(other: RawClient) -> None:
    value = b"n" * VALUE_BYTES
    other.ask(b"set big 9 0 %d\r\n%s\r\n" % (len(value), value), b"STORED\r\n")


def _delete(other: RawClient) -> None:
    other.ask(b"delete big\r\n", b"DELETED\r\n")


def _flush(other: RawClient) -> None:
    other.ask(b"flush_all\r\n", b"OK\r\n")


def _append(other: RawClient) -> None:
    other.ask(b"append big 0 0 3\r\nxyz\r\n", b"STORED\r\n")


def _expire(other: RawClient) -> None:
    other.ask(b"touch big -1\r\n", b"TOUCHED\r\n")
    other.ask(b"get big\r\n", b"END\r\n")


def _slow_reader(server: Server) -> RawClient:
    """A connection on which the test reads only what it must."""
    return RawClient(server.address, timeout_s=30)


@pytest.mark.parametrize("change", [_overwrite, _delete, _flush, _append, _expire])
def test_a_large_value_is_sent_as_it_was_when_asked_for(
    empty_server: Server, change: Change
) -> None:
    value = random.Random(1).randbytes(VALUE_BYTES)
    with empty_server.client(timeout_s=30) as other, _slow_reader(empty_server) as reader:
        other.ask(b"set big 5 0 %d\r\n%s\r\n" % (len(value), value), b"STORED\r\n")
        reader.send(b"get big\r\n")
        reader.expect(b"VALUE big 5 %d\r\n" % len(value))
        change(other)
        # Whatever memory the old value gave up is written over.
        filler = b"f" * 800_000
        for i in range(20):
            other.ask(b"set fill%d 0 0 %d\r\n%s\r\n" % (i, len(filler), filler), b"STORED\r\n")
        assert reader.take(len(value)) == value
        reader.expect(b"\r\nEND\r\n")
        reader.ask(b"get none\r\n", b"END\r\n")


def test_small_values_are_sent_as_they_were_when_asked_for(empty_server: Server) -> None:
    """Sixteen thousand replies are made, and partly wait, before the values change."""
    old, new = b"o" * 2000, b"n" * 2000
    with empty_server.client(timeout_s=30) as other, _slow_reader(empty_server) as reader:
        other.ask(b"set small 0 0 2000\r\n%s\r\n" % old, b"STORED\r\n")
        reader.send(b"get small\r\n" * 10)
        reader.expect(b"VALUE small 0 2000\r\n")
        other.ask(b"set small 0 0 2000\r\n%s\r\n" % new, b"STORED\r\n")
        reader.expect(old + b"\r\nEND\r\n")
        for _ in range(9):
            reader.expect(b"VALUE small 0 2000\r\n")
            assert reader.take(2000) in (old, new)
            reader.expect(b"\r\nEND\r\n")


def test_others_are_served_while_one_does_not_read(empty_server: Server) -> None:
    value = b"v" * VALUE_BYTES
    with empty_server.client(timeout_s=30) as other, _slow_reader(empty_server) as reader:
        other.ask(b"set big 0 0 %d\r\n%s\r\n" % (len(value), value), b"STORED\r\n")
        reader.send(b"get big\r\n")
        reader.expect(b"VALUE big 0 ")
        for i in range(500):
            other.ask(
                b"set k%d 0 0 1\r\n1\r\nget k%d\r\n" % (i, i),
                b"STORED\r\nVALUE k%d 0 1\r\n1\r\nEND\r\n" % i,
            )


def test_a_reader_that_leaves_in_the_middle_leaves_nothing_behind(empty_server: Server) -> None:
    value = b"v" * VALUE_BYTES
    with empty_server.client(timeout_s=30) as other:
        other.ask(b"set big 0 0 %d\r\n%s\r\n" % (len(value), value), b"STORED\r\n")
        for _ in range(20):
            with _slow_reader(empty_server) as reader:
                reader.send(b"get big\r\n")
                reader.expect(b"VALUE big 0 ")
        other.ask(b"delete big\r\n", b"DELETED\r\n")
        other.ask(b"set big 0 0 %d\r\n%s\r\n" % (len(value), value), b"STORED\r\n")


def test_half_a_close_still_gets_the_whole_answer(empty_server: Server) -> None:
    value = b"v" * VALUE_BYTES
    with empty_server.client(timeout_s=30) as other, _slow_reader(empty_server) as reader:
        other.ask(b"set big 0 0 %d\r\n%s\r\n" % (len(value), value), b"STORED\r\n")
        reader.send(b"get big\r\nget big\r\nquit\r\n")
        reader.socket.shutdown(socket.SHUT_WR)
        for _ in range(2):
            reader.expect(b"VALUE big 0 %d\r\n" % len(value))
            assert reader.take(len(value)) == value
            reader.expect(b"\r\nEND\r\n")
        reader.expect_close()

"""Binary packets and what depends on settings: -B, -C, -F, -I, -M, statistics and counters."""

import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest
from support.binary import (
    AUTH_ERROR,
    BUSY,
    INVALID,
    NO_MEMORY,
    NOT_FOUND,
    NOT_STORED,
    TOO_LARGE,
    Reply,
    arith,
    error,
    hit,
    number,
    replies,
    request,
    store,
    touch,
)
from support.client import RawClient
from support.server import memcached, node
from support.waiting import wait_until

_core = pytest.importorskip("memcachepy._core", reason="memcachepy is not built")

NOOP = request("noop", opaque=7)


class Line:
    """A connection to the protocol in this process."""

    def __init__(self, segment: Any) -> None:
        self.segment = segment
        self._connection = _core.Connection(segment)

    @property
    def closed(self) -> bool:
        return bool(self._connection.closed)

    def raw(self, data: bytes) -> bytes:
        return bytes(self._connection.feed(data))

    def ask(self, *packets: bytes) -> list[Reply]:
        found, rest = replies(self.raw(b"".join(packets)))
        assert rest == b""
        return found

    def close(self) -> None:
        self._connection.close()


@contextmanager
def line(**settings: object) -> Iterator[Line]:
    segment = _core.Segment({"memory_limit_bytes": 64 << 20, **settings})
    segment.claim_slot(_core.SLOT_WORKER_FIRST)
    found = Line(segment)
    try:
        yield found
    finally:
        found.close()
        assert segment.check() == []
        segment.close()


# ---- which protocol ------------------------------------------------------------------------------


def test_the_first_byte_decides_for_the_whole_connection() -> None:
    with line() as client:
        assert client.ask(NOOP) == [Reply("noop", opaque=7)]
        assert client.raw(b"version\r\n" * 3) == b""
        assert client.closed
    with line() as client:
        assert client.raw(b"version\r\n") == b"VERSION 1.6.45\r\n"
        assert client.raw(request("version") + b"\r\n") == b"ERROR\r\n"
        assert not client.closed


def test_ascii_takes_a_packet_for_text() -> None:
    with line(binding_protocol="ascii") as client:
        assert client.raw(request("version") + b"\r\n") == b"ERROR\r\n"
        assert client.raw(b"version\r\n") == b"VERSION 1.6.45\r\n"


def test_binary_closes_on_text() -> None:
    with line(binding_protocol="binary") as client:
        assert client.raw(b"version\r\n") == b""
        assert not client.closed, "24 bytes are a header"
        assert client.raw(b"get some_key_of_some_len\r\n") == b""
        assert client.closed
    with line(binding_protocol="binary") as client:
        assert client.ask(NOOP) == [Reply("noop", opaque=7)]


@pytest.mark.parametrize(
    ("flags", "shown"),
    [(("-B", "auto"), "auto-negotiate"), (("-B", "ascii"), "ascii"), (("-B", "binary"), "binary")],
)
@pytest.mark.parametrize("start", [node, memcached])
def test_servers_bind_the_protocol(start: Any, flags: tuple[str, ...], shown: str) -> None:
    with start(*flags) as server:
        with RawClient(server.address) as client:
            client.send(NOOP + b"\r\n")
            binary = client.take(1) == b"\x81"
        assert binary == (shown != "ascii")
        if binary:
            with RawClient(server.address) as client:
                client.send(request("stat", b"settings"))
                assert {one.key: one.value for one in _listed(client)}[
                    b"binding_protocol"
                ] == shown.encode()
        else:
            assert server.stats("settings")["binding_protocol"] == shown
        with RawClient(server.address) as client:
            client.send(b"get a_key_of_enough_bytes_for_a_header\r\n")
            if shown == "binary":
                client.expect_close()
            else:
                client.expect(b"END\r\n")


def _listed(client: RawClient) -> list[Reply]:
    """The statistics up to the packet that ends them."""
    while True:
        found, _ = replies(bytes(client.buffer))
        if found and found[-1].key == b"":
            return found[:-1]
        assert client.more()


# ---- statistics ----------------------------------------------------------------------------------


def _stats(client: Line, part: bytes = b"") -> dict[str, str]:
    *found, last = client.ask(request("stat", part, opaque=0x01020304))
    assert last == Reply("stat", opaque=0x01020304)
    assert all(one.opaque == 0x01020304 and one.name == "stat" for one in found)
    return {one.key.decode(): one.value.decode() for one in found}


@pytest.mark.parametrize("part", ["", "settings", "memcachepy", "items", "slabs", "sizes", "conns"])
def test_stat_has_what_text_has(part: str) -> None:
    with line() as client:
        client.ask(store("set", b"k", b"v" * 100), store("set", b"l", b"v" * 50_000))
        text = Line(client.segment)
        try:
            lines = text.raw(b"stats %s\r\n" % part.encode() if part else b"stats\r\n")
        finally:
            text.close()
        *stats, end = lines.decode().splitlines()
        assert end == "END"
        expected = [tuple((stat + " ").split(" ", 2)[1:]) for stat in stats]
        found = _stats(client, part.encode())
        assert list(found) == [name for name, _ in expected]
        moving = ("time", "uptime", "rusage")
        for name, value in expected:
            if not name.startswith(moving):
                assert found[name] == value.rstrip(), name


def test_stat_of_what_there_is_not() -> None:
    with line() as client:
        for part in (b"nonsense", b"settingsx", b"setting", b"reset now", b"\xff" * 250):
            assert client.ask(request("stat", part)) == [error("stat", NOT_FOUND)]
        assert client.ask(NOOP) == [Reply("noop", opaque=7)]


@pytest.mark.parametrize("start", [node, memcached])
def test_stat_detail_counts_by_prefix(start: Any) -> None:
    with start() as server, RawClient(server.address) as client:
        client.send(request("stat", b"detail on", opaque=5))
        assert _listed(client) == []
        client.buffer.clear()
        value = (store("setq", b"a:1", b"v"), arith("incrq", b"a:n", 1, initial=1, exptime=0))
        reads = (request("getq", b"a:1"), request("getkq", b"b:1"), touch("gatq", b"b:2", 0))
        touches = (touch("touch", b"a:1", 0), touch("touch", b"a:2", 0))
        deletes = (request("deleteq", b"a:1"), request("delete", b"a:3"), store("set", b"x", b""))
        client.send(b"".join((*value, *reads, *touches, *deletes, NOOP)))
        while not client.buffer.endswith(request("noop", opaque=7, magic=0x81)):
            assert client.more()
        client.buffer.clear()
        client.send(request("stat", b"detail dump"))
        (dump,) = _listed(client)
        client.buffer.clear()
        assert dump.key == b"detailed"
        assert sorted(dump.value.splitlines()) == [
            b"END",
            b"PREFIX a get 3 hit 2 set 1 del 2",
            b"PREFIX b get 2 hit 0 set 0 del 0",
        ]
        client.send(request("stat", b"detail off"))
        assert _listed(client) == []
        client.buffer.clear()
        # memcached reads on behind the key, and may find there what was asked before.
        for word in (b"detail nonsense", *((b"detail", b"detail on now") if start is node else ())):
            client.send(request("stat", word))
            assert replies(client.take(24 + 9))[0] == [error("stat", NOT_FOUND)]


def test_stat_conns_knows_who_asks() -> None:
    with node(workers=2) as server, RawClient(server.address) as client:
        client.send(request("stat", b"conns"))
        states = [one.value for one in _listed(client) if one.key.endswith(b":state")]
        assert sorted(states) == [b"conn_listening", b"conn_parse_cmd"]


def test_stat_reset_resets() -> None:
    with line() as client:
        client.ask(request("get", b"k"))
        assert _stats(client)["get_misses"] == "1"
        assert client.ask(request("stat", b"reset", opaque=9)) == [Reply("stat", opaque=9)]
        assert _stats(client)["get_misses"] == "0"


def test_counters_move_as_for_text() -> None:
    key = b"k"
    moves = [
        (request("get", key), {"cmd_get": 1, "get_misses": 1}),
        (request("getkq", key), {"cmd_get": 1, "get_misses": 1}),
        (touch("touch", key, 0), {"cmd_touch": 1, "touch_misses": 1}),
        (touch("gatq", key, 0), {"cmd_touch": 1, "touch_misses": 1}),
        (request("delete", key), {"delete_misses": 1}),
        (arith("incr", key, 1), {"incr_misses": 1}),
        (arith("decr", key, 1), {"decr_misses": 1}),
        (store("set", key, b"v", cas=9), {"cmd_set": 1, "cas_misses": 1}),
        (store("replace", key, b"v"), {"cmd_set": 1}),
        (request("append", key, value=b"v"), {"cmd_set": 1}),
        (store("setq", key, b"1"), {"cmd_set": 1}),
        (store("set", key, b"2", cas=99), {"cmd_set": 1, "cas_badval": 1}),
        (store("set", key, b"2", cas=1), {"cmd_set": 1, "cas_hits": 1}),
        (store("set", key, bytes(2 << 20)), {"store_too_large": 1}),
        (arith("incr", key, 1, initial=4, exptime=0), {}),
        (arith("incr", key, 1), {"incr_hits": 1}),
        (arith("decrq", key, 1), {"decr_hits": 1}),
        (arith("incr", key, 1, cas=99), {}),
        (request("getq", key), {"cmd_get": 1, "get_hits": 1}),
        (touch("gat", key, 0), {"cmd_touch": 1, "touch_hits": 1}),
        (touch("touch", key, 0), {"cmd_touch": 1, "touch_hits": 1}),
        (request("deleteq", key, cas=99), {}),
        (request("deleteq", key), {"delete_hits": 1}),
        (request("flush"), {"cmd_flush": 1}),
        (NOOP, {}),
        (request("version"), {}),
    ]
    names = {name for _, changes in moves for name in changes}
    with line() as client:
        for packet, changes in moves:
            before = client.segment.counters()
            client.ask(packet)
            after = client.segment.counters()
            moved = {name: after[name] - before[name] for name in names}
            assert {name: by for name, by in moved.items() if by} == changes, packet[:40]


# ---- flushes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("extras", [b"", bytes(4)])
def test_flush_drops_what_was_stored_before(extras: bytes) -> None:
    with line() as client:
        client.ask(store("set", b"k", b"v"))
        assert client.ask(request("flush", extras=extras, opaque=3)) == [Reply("flush", opaque=3)]
        assert client.ask(request("get", b"k")) == [error("get", NOT_FOUND)]
        client.ask(store("set", b"k", b"v"))
        assert client.ask(request("flushq", extras=extras), request("getkq", b"k"), NOOP) == [
            Reply("noop", opaque=7)
        ]


def test_a_delayed_flush_waits() -> None:
    with line() as client:
        client.ask(store("set", b"k", b"v"))
        assert client.ask(request("flushq", extras=(100).to_bytes(4, "big"))) == []
        assert client.ask(request("get", b"k")) == [hit("get", b"v", cas=1)]
        client.segment.advance_clock(101)
        assert client.ask(request("get", b"k")) == [error("get", NOT_FOUND)]


def test_flush_may_be_forbidden() -> None:
    with line(flush_enabled=False) as client:
        client.ask(store("set", b"k", b"v"))
        assert client.ask(request("flush")) == [error("flush", AUTH_ERROR)]
        assert client.ask(request("flushq")) == [error("flushq", AUTH_ERROR)]
        assert client.ask(request("get", b"k")) == [hit("get", b"v", cas=1)]


# ---- cas, sizes, memory --------------------------------------------------------------------------


def test_without_cas_stores_have_no_condition() -> None:
    with line(cas_enabled=False) as client:
        assert client.ask(store("set", b"k", b"1", cas=5)) == [Reply("set")]
        assert client.ask(store("add", b"k", b"2", cas=5)) == [error("add", 2)]
        assert client.ask(request("append", b"k", value=b"2", cas=5)) == [Reply("append")]
        assert client.ask(arith("incr", b"k", 1, cas=5)) == [error("incr", 2)]
        assert client.ask(arith("incr", b"k", 1)) == [number("incr", 13, cas=0)]
        assert client.ask(request("delete", b"k", cas=5)) == [error("delete", 2)]
        assert client.ask(request("get", b"k")) == [hit("get", b"13", cas=0)]


def test_an_item_may_be_as_large_as_in_text() -> None:
    largest = (1 << 20) - 59 - 1
    with line() as client:
        for size, flags, stored in [
            (largest, 0, True),
            (largest + 1, 0, False),
            (largest - 4, 1, True),
            (largest - 3, 1, False),
        ]:
            (reply,) = client.ask(store("set", b"k", bytes(size), client_flags=flags))
            assert reply.status == (0 if stored else TOO_LARGE), (size, flags)
            assert len(client.ask(request("getq", b"k"))) == stored


@pytest.mark.parametrize("piece_bytes", [1 << 17, 1000, 24, 7])
def test_a_key_of_16_bits_of_length_is_awaited_and_refused(piece_bytes: int) -> None:
    packet = request("getq", b"k" * 0xFFFF, extras=bytes(0xFF))
    with line() as client:
        for at in range(0, len(packet) - 1, piece_bytes):
            assert client.raw(packet[at : min(at + piece_bytes, len(packet) - 1)]) == b""
        assert not client.closed
        assert client.ask(packet[-1:]) == [error("getq", INVALID)]
        assert client.closed


@pytest.mark.parametrize("value_bytes", [1000, 400_000])
def test_full_memory_that_may_not_evict_is_told(value_bytes: int) -> None:
    value = bytes(value_bytes)
    with line(memory_limit_bytes=8 << 20, eviction_policy="noeviction") as client:
        full = [
            error("set", NO_MEMORY, b"Out of memory " + when)
            for when in (b"allocating item", b"during read")
        ]
        for i in range(10_000):
            (reply,) = client.ask(store("set", b"k%d" % i, value))
            if reply.status != 0:
                assert reply in full
                break
        else:
            pytest.fail("never full")
        # A set that fails takes with it what it would have replaced, unless it had begun to arrive.
        (reply,) = client.ask(store("set", b"k0", value + value))
        assert reply in full
        assert len(client.ask(request("getq", b"k0"))) == (reply == full[1])
        # An append that fails leaves it.
        while client.ask(store("addq", b"x%d" % random.randrange(1 << 60), value)) == []:
            pass
        (reply,) = client.ask(request("append", b"k1", value=value))
        assert reply.status == (NOT_STORED if value_bytes < 10_000 else NO_MEMORY)
        assert client.ask(request("getq", b"k1")) == [hit("getq", value, cas=2)]


# ---- a stopped process ---------------------------------------------------------------------------


def _write_for_ever(segment: Any, slot: int) -> None:
    segment.claim_slot(slot)
    connection = _core.Connection(segment, slot)
    burst = store("setq", b"k", b"v" * 10_000) * 500
    while True:
        connection.feed(burst)


def _stop_with_lock(segment: Any, process: psutil.Process) -> None:
    """Stop the process until it happens to hold a shard's lock."""
    for _ in range(10_000):
        process.suspend()
        wait_until(lambda: process.status() == psutil.STATUS_STOPPED, "the process to stop")
        if any(pid == process.pid and shard >= 0 for _, pid, shard, _ in segment.lock_holders()):
            return
        process.resume()
    raise AssertionError("it never held a lock")


def test_what_a_stopped_process_keeps_locked_is_busy() -> None:
    with line(worker_count=2) as client:
        writer = os.fork()
        if writer == 0:
            try:
                _write_for_ever(client.segment, _core.SLOT_WORKER_FIRST + 1)
            finally:
                os._exit(1)
        try:
            _stop_with_lock(client.segment, psutil.Process(writer))
            busy = b"shard is locked by a stopped process"
            for packet in (
                store("set", b"k", b"w"),
                store("setq", b"k", bytes(200_000)),
                store("setq", b"k", bytes(2 << 20)),
                request("appendq", b"k", value=b"w"),
                request("deleteq", b"k"),
                arith("incrq", b"k", 1),
                touch("touch", b"k", 0),
                touch("gatq", b"k", 0),
            ):
                (reply,) = client.ask(packet)
                assert (reply.status, reply.value) == (BUSY, busy), reply
            assert client.ask(NOOP) == [Reply("noop", opaque=7)]
        finally:
            os.kill(writer, signal.SIGKILL)
            os.waitpid(writer, 0)
            client.segment.recover(_core.SLOT_WORKER_FIRST + 1)

"""Random packets, whole and malformed, to our protocol in this process and to Debian's memcached.

What the two differ in on purpose is not drawn: the version, unknown commands with a key or extras,
parts of `stats` (test_binary.py has those).
"""

import random
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from support.binary import OPCODES, Reply, replies, request, store
from support.client import RawClient
from support.server import Server, memcached

pytestmark = pytest.mark.once

_core = pytest.importorskip("memcachepy._core", reason="NOT COMPARED: memcachepy is not built")

SEEDS = range(60)
PACKETS = 40
ARITHMETIC = ("incr", "incrq", "decr", "decrq")
TOUCHES = ("touch", "gat", "gatq", "gatk", "gatkq")
FLUSHES = ("flush", "flushq")
"""Not drawn: what memcached -C stores in the second of a flush is flushed, too."""
FLAGS: dict[str, dict[str, object]] = {"": {}, "-C": {"cas_enabled": False}}
NOOP = request("noop", opaque=0x4E4F4F50)

Draft = Callable[[int], bytes]
"""A packet, given the cas of the last store before the first packet."""


class Generator:
    """Draws packets that mostly do something to a few keys."""

    def __init__(self, dice: random.Random, prefix: bytes) -> None:
        self._dice = dice
        self._keys = [prefix + name for name in (b"a", b"b", b"number", b"\0 \r\n", b"k" * 200)]

    def _key(self) -> bytes:
        return self._dice.choice(self._keys)

    def _cas(self) -> int | None:
        """How many stores before; None for none."""
        return self._dice.randrange(12) if self._dice.random() < 0.3 else None

    def _value(self) -> bytes:
        kind = self._dice.random()
        if kind < 0.4:
            return b"%d" % self._dice.choice([0, 9, 10, 99, 2**63, 2**64 - 1, 2**64, 5_000])
        if kind < 0.5:
            return self._dice.choice([b" 7 ", b"+7", b"-7", b"7x", b"\x007", b"7\r\n8", b""])
        # Not a number: beyond 1,024 bytes we read none, and 1.6.18 does.
        size = self._dice.choice([0, 1, 100, 1000, 4096, 17_000, 40_000, 200_000, 1 << 20])
        return b"x" + self._dice.randbytes(size)

    def _exptime(self) -> int:
        now_is_past = 30 * 86400 + 1
        return self._dice.choice([0, 0, 0, 100, now_is_past, 1 << 31, 0xFFFFFFF0, 0xFFFFFFFF])

    def _draw(self, name: str) -> tuple[bytes, bytes, bytes]:
        """Key, extras and value that belong to a command."""
        dice = self._dice
        plain = name.removesuffix("q")
        if plain in ("set", "add", "replace"):
            extras = struct.pack("!II", dice.choice([0, 1, 0xFFFFFFFF]), self._exptime())
            return self._key(), extras, self._value()
        if plain in ("append", "prepend"):
            return self._key(), b"", self._value()
        if plain in ("incr", "decr"):
            numbers = [0, 1, 9, 2**63, 2**64 - 1]
            extras = struct.pack(
                "!QQI", dice.choice(numbers), dice.choice(numbers), self._exptime()
            )
            return self._key(), extras, b""
        if plain in ("touch", "gat", "gatk"):
            return self._key(), struct.pack("!I", self._exptime()), b""
        if plain in ("sasl_auth", "sasl_step"):
            return b"PLAIN", b"", dice.randbytes(dice.choice([0, 10, 30_000]))
        if plain == "stat":
            return dice.choice([b"reset", b"nonsense"]), b"", b""
        if plain in ("noop", "quit", "flush", "sasl_list", "version", "verbosity"):
            return b"", b"", b""
        return self._key(), b"", b""

    def packet(self) -> Draft:
        """One that does not close the connection."""
        without = {"quit", "quitq", "version", "verbosity", *FLUSHES}
        name = self._dice.choice([name for name in OPCODES if name not in without])
        # memcached changes a number where it lies, also below a reply that has not left; it has by
        # the time a noop is answered.
        before = NOOP if name in ARITHMETIC else b""
        key, extras, value = self._draw(name)
        opaque = self._dice.getrandbits(32)
        back = self._cas()
        return lambda cas: before + request(
            name,
            key,
            extras=extras,
            value=value,
            opaque=opaque,
            cas=0 if back is None else cas + back,
        )

    def last(self) -> Draft:
        """Something that may be malformed in any way."""
        dice = self._dice
        name: str | int = dice.choice([name for name in OPCODES if name not in FLUSHES])
        key, extras, value = self._draw(str(name))
        # memcached has read all of it when it closes, or its reply may be lost.
        value = value[:1000]
        changes: dict[str, Any] = {}
        for _ in range(dice.randrange(3)):
            match dice.randrange(6):
                case 0:
                    key = dice.choice([b"", key, key.ljust(250), key.ljust(251), key.ljust(3000)])
                case 1:
                    extras = bytes(dice.choice([0, 1, 3, 4, 8, 20, 21, 255]))
                case 2:
                    value = bytes(dice.choice([0, 1, 30]))
                    if name in TOUCHES:  # Takes it for the next packet.
                        value = b""
                case 3:
                    changes["body_len"] = dice.randrange(len(key) + len(extras) + 1)
                case 4:
                    changes["magic"] = dice.choice([0, 0x81, 0xFF, ord("g")])
                case 5:
                    name = dice.choice([0x1F, 0x25, 0x30, 0x50, 0xFF])
        if name in ("version", "verbosity", "stat") or (
            isinstance(name, int) and (key or extras) and len(key) <= 250
        ):
            name = "get"
        return lambda _cas: request(name, key, extras=extras, value=value, **changes)


@pytest.fixture(scope="module", params=list(FLAGS))
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Any, Server]]:
    """A segment of ours and a memcached."""
    segment = _core.Segment({"memory_limit_bytes": 64 << 20, **FLAGS[request.param]})
    segment.claim_slot(_core.SLOT_WORKER_FIRST)
    with memcached(*request.param.split()) as server:
        yield segment, server
    assert segment.check() == []
    segment.close()


PROBE = store("set", b"probe", b"")


def _ours(segment: Any, drafts: list[Draft]) -> tuple[list[Reply], bytes]:
    connection = _core.Connection(segment)
    try:
        (probe,), _ = replies(connection.feed(PROBE))
        received = connection.feed(b"".join(draft(probe.cas) for draft in drafts))
    finally:
        connection.close()
    found, rest = replies(received)
    return [reply.relative_to(probe.cas) for reply in found], rest


def _theirs(server: Server, drafts: list[Draft]) -> tuple[list[Reply], bytes]:
    with RawClient(server.address) as client:
        client.send(PROBE)
        (probe,), _ = replies(client.take(24))
        client.send(b"".join(draft(probe.cas) for draft in drafts))
        with suppress(OSError):  # It may have closed already.
            client.socket.shutdown(socket.SHUT_WR)
        while client.more():
            pass
        assert client.closed
        found, rest = replies(bytes(client.buffer))
    return [reply.relative_to(probe.cas) for reply in found], rest


@pytest.mark.parametrize("seed", SEEDS)
def test_random_packets_are_answered_as_by_memcached(pair: tuple[Any, Server], seed: int) -> None:
    segment, server = pair
    generator = Generator(random.Random(seed), b"s%d:" % seed)
    drafts = [generator.packet() for _ in range(PACKETS)]
    # What waits when a connection ends may not be sent by memcached; a noop sends it.
    drafts += [lambda _cas: NOOP, generator.last(), lambda _cas: NOOP * 20]
    ours, our_rest = _ours(segment, drafts)
    theirs, their_rest = _theirs(server, drafts)
    for i, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        before = ours[max(0, i - 3) : i]
        assert one == other, f"seed {seed}, reply {i}: {one}, memcached {other}, behind {before}"
    last = drafts[-2](0)[:100]
    assert (len(ours), our_rest) == (len(theirs), their_rest), f"seed {seed}, behind {last!r}"

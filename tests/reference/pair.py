"""The same bytes to us and to Debian's memcached, both on an empty cache."""

import socket
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import pytest
from differences import Exchange, agree
from support.client import RawClient
from support.server import memcached, memcached_version

PROBE = b"get probe-of-the-state\r\n"
VERSION = "1.6.18"


class Pair:
    """Our protocol in this process, and a memcached.

    `compare` may be called several times: both sides then keep what they stored, so cas tokens
    stay in step only as long as everything agrees. `restart` empties both.
    """

    def __init__(self, *flags: str) -> None:
        self._core = pytest.importorskip(
            "memcachepy._core", reason="NOT COMPARED with memcached: memcachepy is not built"
        )
        if memcached_version() != VERSION:
            pytest.skip(f"NOT COMPARED: the table of differences is about {VERSION}")
        self._flags = flags
        self._stack = ExitStack()
        self.restart()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def restart(self) -> None:
        self._stack.close()
        self._segment = self._core.Segment({"memory_limit_bytes": 64 << 20})
        self._segment.claim_slot(self._core.SLOT_WORKER_FIRST)
        self._stack.callback(self._segment.close)
        self._server = self._stack.enter_context(memcached(*self._flags))

    def ours(self, requests: Sequence[bytes]) -> list[Exchange]:
        connection = self._core.Connection(self._segment)
        exchanges = [Exchange(request, connection.feed(request)) for request in requests]
        connection.close()
        return exchanges

    def theirs(self, requests: Sequence[bytes]) -> bytes:
        """All replies, read until memcached closes because we have said all."""
        with RawClient(self._server.address) as client:
            client.send(b"".join(requests))
            if not client.closed:
                client.socket.shutdown(socket.SHUT_WR)
            while client.more():
                pass
            assert client.closed, "memcached did not close after the end of the input"
            return bytes(client.buffer)

    def compare(self, requests: Sequence[bytes]) -> None:
        """Send the same to both, with a probe at the end that shows the state they are left in."""
        asked = [*requests, PROBE]
        theirs = self.theirs(asked)
        ours = self.ours(asked)
        agreed, furthest = agree(ours, theirs)
        if agreed:
            return
        where = ours[min(furthest, len(ours) - 1)]
        before = b"".join(exchange.reply for exchange in ours[:furthest])
        raise AssertionError(
            f"request {furthest}: {_shorten(where.request)}\n"
            f"ours:   {_shorten(where.reply)}\n"
            f"theirs, all: {_shorten(theirs[max(0, len(before) - 200) :])}\n"
            f"the requests: {[_shorten(r) for r in requests[max(0, furthest - 8) : furthest + 2]]}"
        )


def _shorten(data: bytes) -> str:
    return repr(data) if len(data) <= 400 else f"{data[:250]!r}… {len(data)} …{data[-80:]!r}"

"""The peers to which transcripts and corpora are played."""

import re
import socket
import struct
from collections.abc import Iterable, Sequence

import pytest

from support.client import RawClient
from support.server import Server
from support.transcript import Link

# The letters of the command line that transcripts use, as settings of the segment.
_SWITCHES: dict[str, tuple[str, object]] = {
    "-A": ("shutdown_enabled", True),
    "-C": ("cas_enabled", False),
    "-F": ("flush_enabled", False),
    "-X": ("dump_enabled", False),
    "-M": ("eviction_policy", "noeviction"),
}
KEY_BYTES_MAX = 250
# The head of a request in which keys are looked for; what comes later is a value.
_KEYS_BYTES = 1000
_UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def settings_of(flags: Sequence[str], memory_mb: int) -> dict[str, object]:
    """What a node's command line means to the segment.

    Raises:
        ValueError: a letter that the transcripts have not needed so far.
    """
    settings: dict[str, object] = {"memory_limit_bytes": memory_mb << 20}
    words = iter(flags)
    for word in words:
        if word in _SWITCHES:
            name, value = _SWITCHES[word]
            settings[name] = value
        elif word == "-I":
            text = next(words)
            unit = _UNITS.get(text[-1].lower())
            settings["item_size_max_bytes"] = int(text[:-1]) * unit if unit else int(text)
        elif word == "-m":
            settings["memory_limit_bytes"] = int(next(words)) << 20
        elif word in ("-t", "-R"):
            next(words)
        else:
            raise ValueError(f"no setting known for {word}")
    return settings


class InProcessLink:
    """A connection without a socket."""

    def __init__(self, connection) -> None:  # type: ignore[no-untyped-def]
        self._connection = connection
        self.buffer = bytearray()

    @property
    def closed(self) -> bool:
        return bool(self._connection.closed)

    def send(self, data: bytes) -> None:
        self.buffer += self._connection.feed(data)

    def more(self) -> bool:
        return False


class InProcessPeer:
    """The protocol and the store in this process, on a fresh segment."""

    def __init__(self, flags: Sequence[str] = (), memory_mb: int = 64) -> None:
        core = pytest.importorskip(
            "memcachepy._core", reason="NOT PLAYED to the core: memcachepy is not built"
        )
        self._core = core
        self.version: str = core.PROTOCOL_VERSION
        self.segment = core.Segment(settings_of(flags, memory_mb))
        self.segment.claim_slot(self._core.SLOT_WORKER_FIRST)

    def connect(self) -> Link:
        return InProcessLink(self._core.Connection(self.segment))

    def counters(self) -> dict[str, int]:
        return dict(self.segment.counters())

    def move_clock(self, action: str, seconds: int) -> None:
        if action == "advance":
            self.segment.advance_clock(seconds)
        else:
            self.segment.step_system_clock(seconds)

    def close(self) -> None:
        assert self.segment.check() == []
        self.segment.close()


class SocketPeer:
    """A running server.

    Args:
        sent: what the case will send. Every word of it that could be a key is deleted first, so
            that a case begins without these keys. (A flush would not do: what it leaves behind
            is counted when it is found.)
    """

    def __init__(self, server: Server, version: str, sent: Iterable[bytes] = ()) -> None:
        self.version = version
        self._server = server
        self._control = RawClient(server.address)
        self._links: list[RawClient] = []
        words = {word for data in sent for word in re.split(rb"[ \n]+", data[:_KEYS_BYTES])}
        # A get first: what was flushed is found, counted and dropped here.
        keys = [word for raw in words if 0 < len(word := raw.rstrip(b"\r")) <= KEY_BYTES_MAX]
        self._control.send(b"".join(b"get %s\r\ndelete %s\r\n" % (key, key) for key in keys))
        self._control.send(b"version\r\n")
        self._control.take_until(b"VERSION " + version.encode() + b"\r\n")

    def connect(self) -> Link:
        link = RawClient(self._server.address, timeout_s=3.0)
        self._links.append(link)
        return link

    def counters(self) -> dict[str, int]:
        return {
            name: int(value) for name, value in self._control.stats().items() if value.isdecimal()
        }

    def move_clock(self, action: str, seconds: int) -> None:
        raise NotImplementedError("a running server keeps its own time")

    def abort(self) -> None:
        """Drop every connection with a reset, so that the server holds nothing of this case."""
        for link in [*self._links, self._control]:
            link.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            link.close()

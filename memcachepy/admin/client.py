"""A connection to any server that speaks memcached's text protocol.

Blocking, with a timeout for each wait. It only moves lines and bytes; what they mean is the
business of who asks.
"""

import os
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import unquote_to_bytes

from memcachepy.errors import ConfigError, NodeRefuses, NodeUnreachable

PORT_DEFAULT = 11211
TIMEOUT_S = 30.0
BUSY_WAIT_S = 30.0
"""How long `listing` asks again while the server's crawler does something else."""
KEY_LEN_MAX = 250
_LINE_BYTES_MAX = 1 << 16
_BUFFER_BYTES = 1 << 18
_REFUSALS = (b"ERROR", b"CLIENT_ERROR", b"SERVER_ERROR")
_BUSY_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens: a path, or a host and a port."""

    host: str
    port: int
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """HOST, HOST:PORT, [IPv6]:PORT, or a UNIX socket's path, which has a slash.

        Raises:
            ConfigError: it is none of these.
        """
        if "/" in text:
            return cls("", 0, text)
        match = re.fullmatch(r"(\[[^\]]+\]|[^:]*)(?::(\d{1,5}))?", text)
        if match is None:  # An IPv6 address without brackets has no port.
            return cls(text, PORT_DEFAULT)
        port = int(match[2] or PORT_DEFAULT)
        if not 1 <= port <= 65535:
            raise ConfigError("address", text, "the port must be 1 to 65535")
        return cls(match[1].strip("[]") or "127.0.0.1", port)

    def __str__(self) -> str:
        if self.path:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class NodeConnection:
    """One connection; a context that closes it.

    Raises:
        NodeUnreachable: in every method, when the server cannot be reached, hangs up, or says
            nothing for `timeout_s` seconds. The connection is of no more use then.
    """

    def __init__(self, address: Address, timeout_s: float = TIMEOUT_S) -> None:
        self.address = address
        self._timeout_s = timeout_s
        try:
            if address.path:
                self._socket = socket.socket(socket.AF_UNIX)
                try:
                    self._socket.settimeout(timeout_s)
                    self._socket.connect(address.path)
                except BaseException:
                    self._socket.close()
                    raise
            else:
                self._socket = socket.create_connection((address.host, address.port), timeout_s)
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            raise self._unreachable(error) from None
        self._file = self._socket.makefile("rb", buffering=_BUFFER_BYTES)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def send(self, data: bytes | bytearray | memoryview) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise self._unreachable(error) from None

    def line(self) -> bytes:
        """The next line without its end, which may be a bare line feed."""
        try:
            line = self._file.readline(_LINE_BYTES_MAX)
        except OSError as error:
            raise self._unreachable(error) from None
        if not line.endswith(b"\n"):
            why = "sends a line without end" if len(line) == _LINE_BYTES_MAX else "hung up"
            raise NodeUnreachable(f"{self.address} {why}")
        return line.rstrip(b"\r\n")

    def exactly(self, count: int) -> bytes:
        """So many bytes; None of them are kept here, so ask for pieces of what is long."""
        try:
            data: bytes = self._file.read(count)
        except OSError as error:
            raise self._unreachable(error) from None
        if len(data) != count:
            raise NodeUnreachable(f"{self.address} hung up")
        return data

    def end_of_value(self) -> None:
        """The line end behind a value.

        Raises:
            NodeUnreachable: something else is there, so nothing that follows can be believed.
        """
        if self.exactly(2) != b"\r\n":
            raise NodeUnreachable(f"{self.address} does not speak memcached's protocol")

    def ask(self, command: bytes) -> bytes:
        """Send a line; the first line of its answer."""
        self.send(command + b"\r\n")
        return self.line()

    def stats(self, group: str = "") -> dict[str, str]:
        """The answer to `stats` in its order.

        Raises:
            NodeRefuses: the server does not know this group.
        """
        command = b"stats" + (b" " + group.encode() if group else b"")
        self.send(command + b"\r\n")
        found: dict[str, str] = {}
        while (line := self.line()) != b"END":
            if line.startswith(_REFUSALS):
                raise NodeRefuses(f"{self.address} answers {text_of(command)}: {text_of(line)}")
            name, _, value = line.removeprefix(b"STAT ").partition(b" ")
            found[text_of(name)] = text_of(value)
        return found

    def listing(self, which: str = "all") -> Iterator[bytes]:
        """The lines of `lru_crawler metadump`: all items, or those of one slab class.

        To be read to its end before anything else is asked.

        Raises:
            NodeRefuses: the server has no such command, or it is switched off (-X).
        """
        command = b"lru_crawler metadump " + which.encode()
        deadline_s = time.monotonic() + BUSY_WAIT_S
        while (line := self.ask(command)).startswith(b"BUSY"):
            if time.monotonic() > deadline_s:
                raise NodeRefuses(f"{self.address}: its LRU crawler is busy, try again later")
            time.sleep(_BUSY_PAUSE_S)
        if line.startswith(b"NOTSTARTED"):
            return  # The class is empty.
        if not (line.startswith(b"key=") or line in (b"OK", b"END")):
            raise NodeRefuses(f"{self.address} answers {text_of(command)}: {text_of(line)}")
        while line != b"END":
            if line.startswith(b"key="):
                yield line
            elif line.startswith((*_REFUSALS, b"BUSY")):
                raise NodeRefuses(f"{self.address} breaks the list off: {text_of(line)}")
            line = self.line()

    def _unreachable(self, error: OSError) -> NodeUnreachable:
        if isinstance(error, TimeoutError):
            return NodeUnreachable(f"{self.address} does not answer within {self._timeout_s:g} s")
        reason = error.strerror or str(error)
        return NodeUnreachable(f"{self.address} cannot be reached: {reason}")


@dataclass(frozen=True, slots=True)
class Listed:
    """What a line of `metadump` says of an item."""

    key: bytes
    expire_at_s: int
    """Unix time; 0: never."""
    class_id: int
    size_bytes: int
    """As the server counts it, with its header."""
    fields: dict[str, str]
    """All of them by their names, undecoded."""

    @classmethod
    def parse(cls, line: bytes) -> Self:
        """Raises ValueError if the line is no item's."""
        fields = dict(word.split("=", 1) for word in line.decode("ascii", "replace").split())
        try:
            expire_at_s = int(fields["exp"])
            return cls(
                unquote_to_bytes(fields["key"]),
                max(0, expire_at_s),
                int(fields.get("cls", 0)),
                int(fields.get("size", 0)),
                fields,
            )
        except KeyError as error:
            raise ValueError(f"no {error.args[0]} in {line!r}") from None


def text_of(data: bytes) -> str:
    """For people; what is no UTF-8 shows as escapes."""
    return data.decode("utf-8", "backslashreplace")


def is_plain(key: bytes) -> bool:
    """Whether the key can be written as it is into a command line of the text protocol."""
    return bool(_PLAIN.fullmatch(key))


_PLAIN = re.compile(rb"[^\x00-\x20\x7f]{1,250}")


def key_of_argument(text: str) -> bytes:
    """The bytes that the user's terminal sent."""
    return os.fsencode(text)

"""A raw socket client: sends exactly the bytes it is given, reads exactly what is expected."""

import select
import socket
import time
from types import TracebackType
from typing import Self

Address = tuple[str, int] | str
"""Host and port, or the path of a UNIX socket."""

_RECEIVE_BYTES = 1 << 16


class ClosedByPeer(AssertionError):
    """The server closed the connection while more was expected."""


class RawClient:
    """One connection without any idea of the protocol beyond line ends.

    Bytes that were received and not yet taken stand in `buffer`.
    """

    def __init__(self, address: Address, *, timeout_s: float = 10.0) -> None:
        self.timeout_s = timeout_s
        self.buffer = bytearray()
        self.closed = False
        if isinstance(address, str):
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.socket.settimeout(timeout_s)
            self.socket.connect(address)
        else:
            self.socket = socket.create_connection(address, timeout=timeout_s)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)

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
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send all of it, collecting replies meanwhile so that neither side waits for the other.

        A peer that has closed ends the sending silently: what it said before is what matters.
        """
        view = memoryview(data)
        deadline = time.monotonic() + self.timeout_s
        while view and not self.closed:
            readable, writable, _ = select.select([self.socket], [self.socket], [], self.timeout_s)
            if readable:
                self._receive()
            if writable and not self.closed:
                try:
                    view = view[self.socket.send(view) :]
                    deadline = time.monotonic() + self.timeout_s
                except BlockingIOError:
                    pass
                except (BrokenPipeError, ConnectionResetError):
                    # What was answered before the close may still wait in the socket.
                    while self.more():
                        pass
                    self.closed = True
                    return
            if time.monotonic() > deadline:
                raise AssertionError(f"the server took nothing for {self.timeout_s} s")

    def more(self, timeout_s: float | None = None) -> bool:
        """Wait for further bytes; false after the deadline or when the peer has closed."""
        if self.closed:
            return False
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        if not select.select([self.socket], [], [], timeout_s)[0]:
            return False
        return self._receive()

    def _receive(self) -> bool:
        try:
            data = self.socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return True
        except ConnectionResetError:
            data = b""
        if not data:
            self.closed = True
            return False
        self.buffer += data
        return True

    def _need_more(self, wanted: str) -> None:
        if not self.more():
            how = "closed" if self.closed else f"silent for {self.timeout_s} s"
            kind = ClosedByPeer if self.closed else AssertionError
            raise kind(
                f"{wanted} expected, connection {how}, received {bytes(self.buffer[:200])!r}"
            )

    def take(self, count: int) -> bytes:
        """Exactly so many bytes."""
        while len(self.buffer) < count:
            self._need_more(f"{count} bytes")
        taken = bytes(self.buffer[:count])
        del self.buffer[:count]
        return taken

    def take_until(self, end: bytes) -> bytes:
        """Everything up to and with the first occurrence of `end`."""
        start = 0
        while (found := self.buffer.find(end, start)) < 0:
            start = max(0, len(self.buffer) - len(end) + 1)
            self._need_more(f"{end!r}")
        return self.take(found + len(end))

    def line(self) -> bytes:
        """One line without its end."""
        return self.take_until(b"\n").rstrip(b"\r\n")

    def expect(self, expected: bytes) -> None:
        """The next bytes are these."""
        received = self.take(len(expected))
        assert received == expected, f"expected {expected[:200]!r}, received {received[:200]!r}"

    def ask(self, request: bytes, reply: bytes) -> None:
        """Send a request whose whole reply is known."""
        self.send(request)
        self.expect(reply)

    def stats(self, argument: str = "") -> dict[str, str]:
        """The reply to `stats`, by name."""
        self.send(b"stats %s\r\n" % argument.encode() if argument else b"stats\r\n")
        found = {}
        while (line := self.line()) != b"END":
            word, name, *value = line.decode().split(" ", 2)
            assert word == "STAT", line
            found[name] = value[0] if value else ""
        return found

    def expect_close(self) -> None:
        """The server closes, and has nothing left to say."""
        while not self.closed and self.more():
            pass
        assert self.closed, f"still open after {self.timeout_s} s"
        assert not self.buffer, f"closed, but only after {bytes(self.buffer[:200])!r}"

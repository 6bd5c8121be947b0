"""Ways into the node: a socket, or a process of one's own that is attached to its memory."""

import os
import socket
from contextlib import suppress
from typing import BinaryIO, NoReturn

from chaos_ledger import Content

from memcachepy import Cache
from memcachepy.errors import AttachError

TIMEOUT_S = 15.0
"""Who waits longer waits for ever."""


class Closed(Exception):
    """The other end is gone: what was not answered may have happened."""


class Door:
    """Sends requests of the text protocol and reads the answers, one at a time."""

    def __init__(self, connected: socket.socket) -> None:
        connected.settimeout(TIMEOUT_S)
        self._socket = connected
        self._reader: BinaryIO = connected.makefile("rb", 1 << 16)

    def send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except TimeoutError:
            raise
        except OSError as error:
            raise Closed from error

    def line(self) -> bytes:
        try:
            line = self._reader.readline()
        except TimeoutError:
            raise
        except OSError as error:
            raise Closed from error
        if not line.endswith(b"\r\n"):
            raise Closed
        return line[:-2]

    def content(self) -> tuple[Content | None, int, bytes]:
        """What a read of one key found, its cas if told, and the line if it is neither."""
        line = self.line()
        if line == b"END":
            return None, 0, b""
        if not line.startswith(b"VALUE "):
            return None, 0, line
        _, _, client_flags, length, *cas = line.split(b" ")
        try:
            value = self._reader.read(int(length) + 2)
        except TimeoutError:
            raise
        except OSError as error:
            raise Closed from error
        if len(value) != int(length) + 2 or self.line() != b"END":
            raise Closed
        return Content(value[:-2], int(client_flags)), int(cas[0]) if cas else 0, b""

    def close(self) -> None:
        with suppress(OSError):
            self._reader.close()
        self._socket.close()


def open_socket(address: tuple[str, int]) -> Door:
    try:
        connected = socket.create_connection(address, TIMEOUT_S)
    except TimeoutError:
        raise
    except OSError as error:
        raise Closed from error
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Door(connected)


def open_attached(control_path: str) -> Door:
    """Forks a process that attaches to the node and answers what it is asked for."""
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        _serve_attached(theirs, control_path)
    theirs.close()
    return Door(ours)


def _serve_attached(peer: socket.socket, control_path: str) -> NoReturn:
    """Ends with its peer; nothing is to be cleaned up but by the node."""
    try:
        keep = peer.fileno()
        os.closerange(3, keep)
        os.closerange(keep + 1, 1024)
        cache = Cache.attach(control_path)
        reader = peer.makefile("rb", 1 << 16)
        while line := reader.readline():
            peer.sendall(_answer(cache, line.split(), reader))
    except (AttachError, OSError):
        pass  # The node has no time for us just now, or the peer is gone.
    except Exception as error:
        peer.sendall(b"SERVER_ERROR %r\r\n" % error)
    finally:
        os._exit(0)


def _answer(cache: Cache, words: list[bytes], reader: BinaryIO) -> bytes:
    key = words[1]
    match words[0]:
        case b"get":
            value = cache.get(key)
            if value is None:
                return b"END\r\n"
            return b"VALUE %s 0 %d\r\n%s\r\nEND\r\n" % (key, len(value), value)
        case b"set":
            value = reader.read(int(words[4]) + 2)[:-2]
            cache.set(key, value)
            return b"STORED\r\n"
        case b"delete":
            return b"DELETED\r\n" if cache.delete(key) else b"NOT_FOUND\r\n"
        case b"incr" | b"decr":
            change = cache.incr if words[0] == b"incr" else cache.decr
            number = change(key, int(words[2]))
            return b"NOT_FOUND\r\n" if number is None else b"%d\r\n" % number
    raise AssertionError(words)


def reap_attached() -> None:
    """Children that were killed or have lost their peer."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass

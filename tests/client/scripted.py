"""A node in this process, which tells the list that a test wants, and misbehaves on demand."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any

from memcachepy import _core
from memcachepy.client import DiscoveryClient
from memcachepy.client.view import Follower
from memcachepy.topology import Member, Topology

_CONFIG_GET = b"config get cluster"
_LEGACY_GET = b"get AmazonElastiCache:cluster"

Connect = Callable[..., DiscoveryClient]
"""A fixture that makes clients: endpoints, then options."""


def list_answer(topology: Topology) -> bytes:
    payload = topology.payload()
    return b"CONFIG cluster 0 %d\r\n%s\r\nEND\r\n" % (len(payload), payload)


class ScriptedNode:
    """The real protocol and store behind a socket; a context that stops it.

    Attributes:
        answer: to `config get cluster`; None: as a plain memcached.
        legacy: to the older question; None: as a plain memcached.
        fragment_bytes: answers are sent in pieces of so many; 0: at once.
        silent: what comes is read and not answered, like a stopped process.
        inject: called with each chunk of data requests before it is served.
        accepted: how many connections there were.
        asked: how often the list was asked for.
        lines: first words of the requests that came, one for each chunk received.
    """

    def __init__(self, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.answer: bytes | None = None
        self.legacy: bytes | None = None
        self.fragment_bytes = 0
        self.silent = False
        self.inject: Callable[[bytes], None] = lambda _: None
        self.accepted = 0
        self.asked = 0
        self.lines: list[bytes] = []
        self._segment = _core.Segment({"memory_limit_bytes": 8 << 20})
        self._segment.claim_slot(_core.SLOT_WORKER_FIRST)
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._closed = False
        self._start(self._accept)

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def member(self) -> Member:
        return Member("127.0.0.1", self.port, "127.0.0.1")

    @property
    def connections(self) -> int:
        """Open ones."""
        with self._lock:
            return len(self._open)

    def tells(self, version: int, *nodes: "ScriptedNode") -> None:
        """Answer with this list from now on."""
        self.answer = list_answer(Topology(version, tuple(node.member for node in nodes)))

    def drop_connections(self) -> None:
        """Hang up on everybody, as when the node is restarted; who connects anew is served."""
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._closed = True
        # Only a shutdown wakes the thread that waits in accept().
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop_connections()
        for thread in self._threads:
            thread.join(20.0)
        self._segment.close()

    def __enter__(self) -> "ScriptedNode":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            with self._lock:
                self._open.add(sock)
            self._start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        connection = _core.Connection(self._segment)
        try:
            if self._tls is not None:
                with self._lock:
                    self._open.discard(sock)
                sock = self._tls.wrap_socket(sock, server_side=True)
                with self._lock:
                    self._open.add(sock)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while data := sock.recv(1 << 16):
                self._answer(sock, connection, data)
        except OSError:
            pass
        finally:
            with self._lock:
                self._open.discard(sock)
            sock.close()

    def _answer(self, sock: socket.socket, connection: _core.Connection, data: bytes) -> None:
        self.lines.append(data.partition(b"\r\n")[0])
        if self.silent:
            return
        if data.startswith(_CONFIG_GET):
            self.asked += 1
            answer = self.answer if self.answer is not None else b"ERROR\r\n"
        elif data.startswith(_LEGACY_GET):
            answer = self.legacy if self.legacy is not None else b"END\r\n"
        else:
            self.inject(data)
            with self._lock:
                answer = connection.feed(data)
        step = self.fragment_bytes or len(answer) or 1
        for start in range(0, len(answer), step):
            sock.sendall(answer[start : start + step])


def tell(version: int, members: list[ScriptedNode], *others: ScriptedNode) -> None:
    """All of them tell the list of `members` from now on."""
    for node in [*members, *others]:
        node.tells(version, *members)


StartNode = Callable[..., ScriptedNode]
StartCluster = Callable[..., list[ScriptedNode]]
KEYS = [f"key:{number}" for number in range(60)]


def keys_of(client: Follower[Any], node: ScriptedNode, keys: list[str] = KEYS) -> list[str]:
    """Those that belong to the node."""
    return [key for key in keys if client.node_of(key) == node.member]

"""A memcached of a few lines in a thread, that can be told to misbehave."""

import contextlib
import socket
import threading
from collections.abc import Callable


class TinyServer:
    """Serves get, set and mg from a dict, a thread for each connection.

    Args:
        listener: where it accepts; closed by `close`.

    What a test may set before a run: `change` turns each reply into what is sent instead; `send`
    sends it, all at once unless replaced.
    """

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.items: dict[bytes, bytes] = {}
        self.gets = 0
        self.sets = 0
        self.hits = 0
        self.accepted = 0
        self.change: Callable[[bytes], bytes | None] = lambda reply: reply
        self.send: Callable[[socket.socket, bytes], None] = lambda peer, reply: peer.sendall(reply)
        self._lock = threading.Lock()
        self._peers: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def target(self) -> dict[str, object]:
        """Where it listens, as settings of the generator."""
        name = self.listener.getsockname()
        if isinstance(name, str):
            return {"address": name, "port": 0}
        return {"address": name[0], "port": name[1]}

    def close(self) -> None:
        """End it and every connection."""
        for peer in [self.listener, *self._peers]:
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)
            peer.close()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            self.accepted += 1
            self._peers.append(peer)
            if peer.family != socket.AF_UNIX:
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        # A closed or reset connection ends the thread; that is not what these tests look at.
        with contextlib.suppress(OSError, ValueError), peer, peer.makefile("rb") as requests:
            while line := requests.readline():
                words = line.split()
                data = requests.read(int(words[4]) + 2) if words[0] == b"set" else b""
                with self._lock:
                    reply = self.change(self._answer(words, data))
                if reply is None:
                    return
                self.send(peer, reply)

    def _answer(self, words: list[bytes], data: bytes) -> bytes:
        if words[0] == b"set":
            self.sets += 1
            self.items[words[1]] = data[:-2]
            return b"STORED\r\n"
        self.gets += 1
        if words[0] == b"mg":
            value = self.items.get(words[1])
            self.hits += value is not None
            return b"EN\r\n" if value is None else b"VA %d\r\n%b\r\n" % (len(value), value)
        found = [(key, self.items[key]) for key in words[1:] if key in self.items]
        self.hits += len(found)
        values = [b"VALUE %b 0 %d\r\n%b\r\n" % (key, len(value), value) for key, value in found]
        return b"".join(values) + b"END\r\n"

"""Whether a node serves: a set and a get as any client would make them, not a TCP accept.

Each check is a connection of its own, because that is what a new client gets; the set and the get
go out together, and the value is random, so that an old answer cannot pass for a new one. A node
speaks the text protocol or, if it hangs up on that, the binary one (`-B binary`).

    check()   waits for one node: `memcachepy health`
    Checks    many nodes in somebody's loop, none of which is waited for

`Checks` keeps the last connection that was answered, in case that a node takes no new ones.

Healthy is also who has no room (`SERVER_ERROR out of memory`: nothing may be evicted) and who has
no connection to spare: a restart would empty a cache that does its work. A process that is stopped
accepts connections, because the kernel does that, and answers none: it is not healthy.

What one check may take is counted in steps that the checker itself has run: after Ctrl-Z, or on a
machine that was paused, no node is found guilty of the time in which nobody looked.
"""

import errno
import os
import selectors
import socket
import struct
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from memcachepy.admin.client import Address, text_of

KEY = b"memcachepy:health"
"""Nodes leave it out of their hit counters."""
TTL_S = 10
TIMEOUT_S = 2.0
INTERVAL_S = 2.0
_STEP_S = 0.5
"""At most so much counts between two looks at the clock."""
_TRIES = 3
"""Several may check one node at a time, and one reads what another has just stored."""
_ANSWER_BYTES_MAX = 4096
_FULL = b"server_error out of memory"
_CROWDED = b"ERROR Too many open connections"


@dataclass(frozen=True, slots=True)
class Health:
    """What a check has found."""

    is_healthy: bool
    reason: str
    """As in "stores and returns" or "connection refused"; to be read behind the node's name."""
    took_s: float
    is_own_trouble: bool = False
    """The checker lacks descriptors, ports or memory: this says nothing of the node."""


_OWN_TROUBLE = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}
)


class _Verdict(NamedTuple):
    is_healthy: bool
    reason: str
    is_closed: bool = False
    """The server has answered and hung up."""
    is_doubtful: bool = False
    """Another check of the same node may have come between."""


_SERVES = _Verdict(True, "stores and returns")
_IS_FULL = _Verdict(True, "answers; it has no room, and nothing may be evicted")
_IS_CROWDED = _Verdict(True, "answers; it has no connection to spare", is_closed=True)
_LOSES = _Verdict(False, "does not return what was set", is_doubtful=True)


class _Exchange(Protocol):
    """A set and a get in one of the protocols."""

    request: bytes

    def verdict(self, answer: bytes) -> _Verdict | None:
        """From all that came so far; None: more must come."""


class _Text:
    def __init__(self, value: bytes) -> None:
        self._value = value
        head = b"set %b 0 %d %d\r\n" % (KEY, TTL_S, len(value))
        self.request = head + value + b"\r\nget %b\r\n" % KEY

    def verdict(self, answer: bytes) -> _Verdict | None:
        first, line_end, second = answer.partition(b"\r\n")
        if not line_end:
            return None
        if first == _CROWDED:
            return _IS_CROWDED
        is_stored = first == b"STORED"
        if not is_stored and not first.lower().startswith(_FULL):
            return _Verdict(False, f"answers set: {text_of(first)}")
        if b"ERROR" in second.partition(b"\r\n")[0] and second.endswith(b"\r\n"):
            return _Verdict(False, f"answers get: {text_of(second.rstrip())}")
        if not second.endswith(b"END\r\n"):
            return None
        if not is_stored:
            return _IS_FULL
        found = b"VALUE %b 0 %d\r\n%b\r\nEND\r\n" % (KEY, len(self._value), self._value)
        return _SERVES if second == found else _LOSES


class _Binary:
    """The packets: https://docs.memcached.org/protocols/binary/."""

    _HEADER = struct.Struct("!BBHBBHIIQ")
    _SET, _GET = 0x01, 0x00
    _NOT_FOUND, _NO_MEMORY = 0x01, 0x82

    def __init__(self, value: bytes) -> None:
        self._value = value
        extras = struct.pack("!II", 0, TTL_S)
        self.request = self._packet(self._SET, extras, value) + self._packet(self._GET)

    def _packet(self, opcode: int, extras: bytes = b"", value: bytes = b"") -> bytes:
        body = extras + KEY + value
        return self._HEADER.pack(0x80, opcode, len(KEY), len(extras), 0, 0, len(body), 0, 0) + body

    def verdict(self, answer: bytes) -> _Verdict | None:
        if answer.startswith(_CROWDED[: len(answer)]):
            return _IS_CROWDED if answer.startswith(_CROWDED) else None
        found: list[tuple[int, bytes]] = []
        while len(answer) >= self._HEADER.size:
            magic, _, _, extras_len, _, status, body_len, _, _ = self._HEADER.unpack_from(answer)
            if magic != 0x81 or body_len > _ANSWER_BYTES_MAX:
                break
            packet_len = self._HEADER.size + body_len
            if len(answer) < packet_len:
                return None
            found.append((status, answer[self._HEADER.size + extras_len : packet_len]))
            answer = answer[packet_len:]
        if answer and answer[0] != 0x81:
            return _Verdict(False, "does not speak memcached's protocol")
        if len(found) < 2:
            return None
        (set_status, set_text), (get_status, value) = found[:2]
        if set_status not in (0, self._NO_MEMORY):
            return _Verdict(False, f"answers set: {text_of(set_text)}")
        if get_status not in (0, self._NOT_FOUND):
            return _Verdict(False, f"answers get: {text_of(value)}")
        if set_status:
            return _IS_FULL
        return _SERVES if (get_status, value) == (0, self._value) else _LOSES


class _Check:
    """One check of one node, over as many connections as it needs.

    With a connection of an earlier check it is not the end when a new one brings no answer within
    half of the time: a node that lets clients wait when it is full (`no_maxconns_fast`) serves
    those that it has.

    Args:
        address: a path or an IP address; a name would be waited for.
        selector: the loop's; calls what it finds in `key.data`.
        on_result: called once, from `start`, from the loop or from `count`.
        timeout_s: for all of it.
        clock: seconds, monotonic.
        is_binary: which protocol to begin with.
        standing: an idle connection of an earlier check, owned from now on.
    """

    def __init__(
        self,
        address: Address,
        selector: selectors.BaseSelector,
        on_result: Callable[[Health], None],
        timeout_s: float,
        clock: Callable[[], float],
        is_binary: bool = False,
        standing: socket.socket | None = None,
    ) -> None:
        self._address = address
        self._selector = selector
        self._on_result = on_result
        self._clock = clock
        self._timeout_s = timeout_s
        self._started_at_s = clock()
        self._tries = 0
        self._socket: socket.socket | None = None
        self._standing = standing
        self._is_on_standing = False
        self._may_change_protocol = True
        self.kept: socket.socket | None = None
        """With the result: a connection to be the standing one of the next check."""
        self.is_binary = is_binary
        self.left_s = timeout_s

    def start(self) -> None:
        self._tries += 1
        self._new_exchange()
        try:
            family, where = _place(self._address)
            self._socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            code = self._socket.connect_ex(where)
        except OSError as error:
            self._fail(error)
            return
        if code == errno.EAGAIN:
            self._end(False, "accepts no connections: its queue is full")
        elif code not in (0, errno.EINPROGRESS):
            self._fail(OSError(code, os.strerror(code)))
        else:
            self._selector.register(self._socket, selectors.EVENT_WRITE, self._on_connected)

    def count(self, passed_s: float) -> None:
        """So much time has passed in which answers were looked for."""
        self.left_s -= passed_s
        if self.left_s <= 0:
            self._end(False, f"does not answer within {self._timeout_s:g} s")
        elif self.left_s <= self._timeout_s / 2 and self._standing:
            standing, self._standing = self._standing, None
            if _is_idle(standing):
                self._go_on_with(standing)
            else:
                standing.close()

    def close(self) -> None:
        """Without a result."""
        self._hang_up()
        if self._standing:
            self._standing.close()
            self._standing = None

    def _hang_up(self) -> None:
        if self._socket:
            self._unregister(self._socket)
            self._socket.close()
            self._socket = None

    def _unregister(self, connection: socket.socket) -> None:
        if connection.fileno() in self._selector.get_map():
            self._selector.unregister(connection)

    def _new_exchange(self) -> None:
        value = os.urandom(16).hex().encode()
        self._exchange: _Exchange = _Binary(value) if self.is_binary else _Text(value)
        self._answer = b""

    def _go_on_with(self, standing: socket.socket) -> None:
        self._hang_up()
        self._socket = standing
        self._is_on_standing = True
        self._may_change_protocol = False
        self._new_exchange()
        with suppress(OSError):
            self._socket.send(self._exchange.request)
        self._selector.register(self._socket, selectors.EVENT_READ, self._on_answer)

    def _on_connected(self) -> None:
        if self._socket is None:
            return  # What was ready before it may have given this check up.
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._fail(OSError(code, os.strerror(code)))
            return
        with suppress(OSError):  # Then there may be a last word to be read.
            self._socket.send(self._exchange.request)  # Shorter than any send buffer.
        self._selector.modify(self._socket, selectors.EVENT_READ, self._on_answer)

    def _on_answer(self) -> None:
        if self._socket is None:
            return
        try:
            data = self._socket.recv(_ANSWER_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError as error:
            self._on_hung_up(_reason(error))
            return
        if not data:
            self._on_hung_up("hung up")
            return
        self._answer += data
        verdict = self._exchange.verdict(self._answer)
        if verdict is None:
            if len(self._answer) > _ANSWER_BYTES_MAX:
                self._end(False, "does not speak memcached's protocol")
        elif verdict.is_doubtful and self._tries < _TRIES and not self._is_on_standing:
            self._again()
        elif verdict.is_healthy and self._is_on_standing:
            self._end(True, "answers; it takes no new connections")
        else:
            self._end(verdict.is_healthy, verdict.reason, is_closed=verdict.is_closed)

    def _on_hung_up(self, reason: str) -> None:
        """Without a word, it may be that a node speaks only the other protocol."""
        if self._answer or not self._may_change_protocol:
            self._end(False, reason)
            return
        self._may_change_protocol = False
        self.is_binary = not self.is_binary
        self._again()

    def _again(self) -> None:
        self._hang_up()
        self.start()

    def _fail(self, error: OSError) -> None:
        self._end(False, _reason(error), is_own_trouble=error.errno in _OWN_TROUBLE)

    def _end(
        self,
        is_healthy: bool,
        reason: str,
        *,
        is_own_trouble: bool = False,
        is_closed: bool = False,
    ) -> None:
        if is_healthy and not is_closed:
            assert self._socket
            self._unregister(self._socket)
            self.kept, self._socket = self._socket, None
        elif is_healthy or is_own_trouble:
            self.kept, self._standing = self._standing, None
        self.close()
        took_s = self._clock() - self._started_at_s
        self._on_result(Health(is_healthy, reason, took_s, is_own_trouble))


def _place(address: Address) -> tuple[socket.AddressFamily, str | tuple[object, ...]]:
    if address.path:
        return socket.AF_UNIX, address.path
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    family, _, _, _, where = found[0]
    return family, where


def _is_idle(connection: socket.socket) -> bool:
    """Open, and nothing is there that nobody has asked for."""
    try:
        connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def _reason(error: OSError) -> str:
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]


def check(
    address: Address, timeout_s: float = TIMEOUT_S, clock: Callable[[], float] = time.monotonic
) -> Health:
    """Wait for one node's health, `timeout_s` at most (and for its name to be looked up)."""
    found: list[Health] = []
    with selectors.DefaultSelector() as selector:
        running = _Check(address, selector, found.append, timeout_s, clock)
        looked_at_s = clock()
        running.start()
        while not found:
            for key, _ in selector.select(min(running.left_s, _STEP_S)):
                key.data()
            now_s = clock()
            if not found:
                running.count(min(now_s - looked_at_s, _STEP_S))
            looked_at_s = now_s
    if running.kept:
        running.kept.close()
    return found[0]


class Checks:
    """Checks nodes again and again in a loop that has other things to do.

    The loop waits with `selector` until `due_at_s` at the latest, calls `key.data()` for what is
    ready, and then `tick()`. Not thread-safe. `close()` it before the selector.

    Args:
        on_result: called with the node's name from `tick` or from the selector's data; may watch
            and forget nodes.
        interval_s: from the start of a node's check to the start of its next.
        timeout_s: for a check, at most the interval.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        on_result: Callable[[str, Health], None],
        interval_s: float = INTERVAL_S,
        timeout_s: float = TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._selector = selector
        self._on_result = on_result
        self._interval_s = interval_s
        self._timeout_s = min(timeout_s, interval_s)
        self._clock = clock
        self._looked_at_s = clock()
        self._addresses: dict[str, Address] = {}
        self._starts_at_s: dict[str, float] = {}
        self._running: dict[str, _Check] = {}
        self._standing: dict[str, socket.socket] = {}
        self._speaks_binary: set[str] = set()

    @property
    def watched(self) -> Mapping[str, Address]:
        return self._addresses

    @property
    def due_at_s(self) -> float:
        """When `tick` must be called next; infinite if nobody is watched."""
        waiting = self._starts_at_s.keys() - self._running.keys()
        due_at_s = min((self._starts_at_s[name] for name in waiting), default=float("inf"))
        if self._running:
            left_s = min(running.left_s for running in self._running.values())
            due_at_s = min(due_at_s, self._looked_at_s + min(left_s, _STEP_S))
        return due_at_s

    def watch(self, name: str, address: Address) -> None:
        """Check it from the next tick on; a running check of that name is given up.

        Args:
            name: what it is called in results.
            address: a path or an IP address: a name's look-up would hold up the loop.
        """
        self.forget(name)
        self._addresses[name] = address
        self._starts_at_s[name] = self._clock()

    def forget(self, name: str) -> None:
        """No further result of it comes; also if it was not watched."""
        self._addresses.pop(name, None)
        self._starts_at_s.pop(name, None)
        self._speaks_binary.discard(name)
        if running := self._running.pop(name, None):
            running.close()
        if standing := self._standing.pop(name, None):
            standing.close()

    def close(self) -> None:
        for name in list(self._addresses):
            self.forget(name)

    def tick(self) -> None:
        """Give up what takes too long, and start what is due."""
        now_s = self._clock()
        passed_s = min(now_s - self._looked_at_s, _STEP_S)
        self._looked_at_s = now_s
        # A result may make the caller forget nodes, or watch them at another address.
        for name, running in list(self._running.items()):
            if self._running.get(name) is running:
                running.count(passed_s)
        for name in list(self._starts_at_s):
            at_s = self._starts_at_s.get(name)
            if at_s is not None and at_s <= now_s and name not in self._running:
                # What was missed while nobody ran is not made up for.
                self._starts_at_s[name] = max(at_s, now_s - self._interval_s) + self._interval_s
                self._start(name)

    def _start(self, name: str) -> None:
        def on_result(health: Health) -> None:
            if running.is_binary:
                self._speaks_binary.add(name)
            else:
                self._speaks_binary.discard(name)
            del self._running[name]
            if running.kept:
                self._standing[name] = running.kept
            self._on_result(name, health)

        running = _Check(
            self._addresses[name],
            self._selector,
            on_result,
            self._timeout_s,
            self._clock,
            name in self._speaks_binary,
            self._standing.pop(name, None),
        )
        self._running[name] = running
        running.start()

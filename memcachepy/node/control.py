"""The node's control socket: where other processes ask the supervisor for something.

Runs inside the supervisor's loop and never makes it wait: sockets are non-blocking, lines and peers
are bounded, and a peer that does not read its answers is dropped. Every peer is checked by the
credentials that the kernel tells of it, whatever the file's mode says.

An attached process has a slot of the segment until it says that it detaches, or has ended. A closed
connection alone proves neither: the process may have closed all its descriptors and still use the
mapping. While it lives and maps the segment, its slot stays its own.
"""

import array
import base64
import errno
import logging
import os
import pwd
import selectors
import signal
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from memcachepy import __version__, _core
from memcachepy.log import fact
from memcachepy.node.aside import ChildDied, recover, run_aside
from memcachepy.node.control_config import config_delete, config_get, config_set
from memcachepy.node.control_settings import settings_change
from memcachepy.node.discovery import read_state
from memcachepy.node.listeners import Listener
from memcachepy.node.rendezvous import LINE_BYTES_MAX, decode, encode

log = logging.getLogger("memcachepy.control")

WAITING_PEERS_MAX = 64
"""Connections that have not attached. What is more is closed at once."""
SILENCE_S = 30.0
"""How long such a connection may say nothing."""
_SO_PEERGROUPS = 59
_SO_PEERPIDFD = 77
_CREDENTIALS = struct.Struct("iII")
_GROUPS_BYTES_MAX = 1024
"""The most that Python's getsockopt() asks for: 256 groups."""


@dataclass(eq=False, slots=True)
class Peer:
    """A process at the other end of a connection, or the slot that one has left behind."""

    socket: socket.socket | None
    """None when the connection is over and the slot is not free yet."""
    pid: int
    uid: int
    look_at_s: float
    """When `tick` looks at it: it has said nothing for long, or its slot could not be freed."""
    pidfd: int = -1
    """Readable when the process has ended; -1 if the kernel has none."""
    slot: int | None = None
    has_left: bool = False
    """It no longer uses its slot, which could not be freed yet."""
    received: bytearray = field(default_factory=bytearray)


class Refusal(Exception):
    """What a peer asks for cannot be; the message is its answer."""


class Control:
    """Answers peers. Lives in the supervisor's process and is driven by its loop.

    Args:
        segment: what attached processes map.
        listener: closed by `close`.
        gid: members of this group may connect, too; None is nobody but the node's user and root.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        segment: _core.Segment,
        listener: Listener,
        gid: int | None,
        clock: Callable[[], float],
    ) -> None:
        self._segment = segment
        self._listener = listener
        self._gid = gid
        self._clock = clock
        self._peers: set[Peer] = set()
        self._is_accepting = False
        self._selector: selectors.BaseSelector | None = None
        self._operations: Mapping[str, Callable[[Peer, Mapping[str, object]], None]] = {
            "attach": self._attach,
            "detach": self._detach,
            "status": self._status,
            "explain": self._explain,
            "config_get": partial(self._answer_from, config_get),
            "config_set": partial(self._answer_from, config_set),
            "config_delete": partial(self._answer_from, config_delete),
            "settings_change": partial(self._answer_from, settings_change),
        }

    @property
    def path(self) -> Path | None:
        return self._listener.path

    def start(self, selector: selectors.BaseSelector) -> None:
        """Register with a loop that calls the `data` of every key that is ready."""
        self._selector = selector
        self._accept_again()

    def close(self) -> None:
        """Accept nothing more and let every peer go; slots stay as they are."""
        for peer in list(self._peers):
            self._forget(peer)
        self._pause_accepting()
        self._listener.close()

    def peer_in(self, slot: int) -> Peer | None:
        return next((peer for peer in self._peers if peer.slot == slot), None)

    def kill(self, peer: Peer) -> None:
        """End an attached process; its slot is freed when it is gone.

        Raises:
            OSError: it may not be killed by this user, or the kernel has no pidfd.
        """
        signal.pidfd_send_signal(peer.pidfd, signal.SIGKILL)

    def tick(self) -> None:
        """Once a second or so: what could not be done before, and who has been silent too long."""
        now_s = self._clock()
        for peer in list(self._peers):
            if peer.look_at_s > now_s:
                continue
            peer.look_at_s = now_s + SILENCE_S
            if peer.slot is None:
                self._forget(peer)
            elif peer.has_left or (peer.socket is None and not self._may_use_segment(peer)):
                self._free_slot(peer)
        self._accept_again()

    # ---- connections ---------------------------------------------------------------------------

    def _accept_again(self) -> None:
        if self._selector is not None and not self._is_accepting:
            self._selector.register(self._listener.socket, selectors.EVENT_READ, self._on_connect)
            self._is_accepting = True

    def _pause_accepting(self) -> None:
        if self._selector is not None and self._is_accepting:
            self._selector.unregister(self._listener.socket)
            self._is_accepting = False

    def _on_connect(self) -> None:
        try:
            connection, _ = self._listener.socket.accept()
        except (BlockingIOError, InterruptedError, ConnectionError):
            return
        except OSError as error:  # Out of descriptors: until the next tick.
            log.warning(fact("control connection not accepted", reason=error.strerror))
            self._pause_accepting()
            return
        with ExitStack() as opening:
            opening.callback(connection.close)
            connection.setblocking(False)
            peer = Peer(connection, *_pid_and_uid(connection), self._clock() + SILENCE_S)
            reason = self._reason_to_refuse(peer, connection)
            if reason:
                log.warning(fact("control peer refused", pid=peer.pid, uid=peer.uid, why=reason))
                _send(connection, encode({"ok": False, "error": reason}))
                return
            opening.pop_all()
        self._peers.add(peer)
        self._watch(connection, partial(self._on_readable, peer))

    def _reason_to_refuse(self, peer: Peer, connection: socket.socket) -> str:
        if peer.uid not in (0, os.geteuid()) and self._gid not in _groups(connection):
            return f"user {peer.uid} is neither the node's user nor in its control group"
        if sum(other.slot is None for other in self._peers) >= WAITING_PEERS_MAX:
            return f"{WAITING_PEERS_MAX} control connections wait already"
        return ""

    def _watch(self, file: int | socket.socket, act: Callable[[], None]) -> None:
        assert self._selector is not None
        self._selector.register(file, selectors.EVENT_READ, act)

    def _unwatch(self, file: int | socket.socket) -> None:
        assert self._selector is not None
        self._selector.unregister(file)

    def _on_readable(self, peer: Peer) -> None:
        if peer.socket is None:
            return  # Dropped in this very round.
        try:
            data = peer.socket.recv(LINE_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._on_disconnect(peer)
            return
        peer.look_at_s = self._clock() + SILENCE_S
        peer.received += data
        while peer.socket is not None and (end := peer.received.find(b"\n")) >= 0:
            line = bytes(peer.received[:end])
            del peer.received[: end + 1]
            self._answer(peer, line)
        if len(peer.received) >= LINE_BYTES_MAX:
            self._on_disconnect(peer)

    def _answer(self, peer: Peer, line: bytes) -> None:
        try:
            request = decode(line)
            operation = self._operations.get(str(request.get("op")))
            if operation is None:
                raise Refusal(f"there is no operation {request.get('op')!r}")
            operation(peer, request)
        except (ValueError, Refusal) as error:
            self._reply(peer, {"ok": False, "error": str(error)})

    def _reply(self, peer: Peer, message: Mapping[str, object], fds: Sequence[int] = ()) -> None:
        if peer.socket is not None and not _send(peer.socket, encode(message), fds):
            self._on_disconnect(peer)

    def _on_disconnect(self, peer: Peer) -> None:
        self._close_connection(peer)
        if peer.slot is None:
            self._forget(peer)
        elif not self._may_use_segment(peer):
            self._free_slot(peer)
        else:
            log.info(fact("attached process has closed its connection", pid=peer.pid))

    def _close_connection(self, peer: Peer) -> None:
        if peer.socket is not None:
            self._unwatch(peer.socket)
            peer.socket.close()
            peer.socket = None

    def _forget(self, peer: Peer) -> None:
        self._close_connection(peer)
        if peer.pidfd >= 0:
            self._unwatch(peer.pidfd)
            os.close(peer.pidfd)
            peer.pidfd = -1
        self._peers.discard(peer)

    # ---- operations ----------------------------------------------------------------------------

    def _attach(self, peer: Peer, request: Mapping[str, object]) -> None:
        if peer.slot is not None or peer.socket is None:
            raise Refusal("a connection attaches once")
        if request.get("pid") != peer.pid:
            raise Refusal(
                f"you call yourself process {request.get('pid')} and are {peer.pid} here: "
                "only processes of the node's own PID namespace can attach"
            )
        try:
            peer.pidfd = _pidfd(peer.socket, peer.pid)
            peer.slot = self._segment.open_slot(peer.pid)
        except ProcessLookupError:
            self._on_disconnect(peer)
            return
        except (OSError, _core.CoreError) as error:
            raise Refusal(str(error)) from None
        finally:
            if peer.pidfd >= 0:
                self._watch(peer.pidfd, partial(self._on_end, peer))
        log.info(fact("attached", pid=peer.pid, uid=peer.uid, slot=peer.slot))
        self._reply(
            peer,
            {
                "ok": True,
                "slot": peer.slot,
                "layout_version": _core.LAYOUT_VERSION,
                "version": __version__,
            },
            (self._segment.fd, self._segment.run_fd),
        )

    def _detach(self, peer: Peer, _request: Mapping[str, object]) -> None:
        if peer.slot is None:
            raise Refusal("this connection has not attached")
        self._close_connection(peer)
        self._free_slot(peer)

    def _status(self, peer: Peer, _request: Mapping[str, object]) -> None:
        attached = [other for other in self._peers if other.slot is not None]
        self._reply(
            peer,
            {
                "ok": True,
                "pid": os.getpid(),
                "version": __version__,
                "layout_version": _core.LAYOUT_VERSION,
                "connections": self._segment.connection_count(),
                "attached": len(attached),
                "discovery": read_state(self._segment),
            },
        )

    def _explain(self, peer: Peer, request: Mapping[str, object]) -> None:
        key = request.get("key")
        if not isinstance(key, str):
            raise Refusal("key is missing, in base64")
        try:
            decoded = base64.b64decode(key, validate=True)
            answer = run_aside(self._segment, lambda: self._explained(decoded))
        except ValueError as error:
            raise Refusal(str(error)) from None
        except (ChildDied, OSError) as error:
            raise Refusal(f"the key cannot be looked for now: {error}") from None
        assert isinstance(answer, dict)
        self._reply(peer, answer)

    def _explained(self, key: bytes) -> dict[str, object]:
        try:
            return {"ok": True, **self._segment.explain(key)}
        except ValueError as error:
            return {"ok": False, "error": str(error)}

    def _answer_from(
        self,
        find: Callable[[_core.Segment, Mapping[str, object]], dict[str, object]],
        peer: Peer,
        request: Mapping[str, object],
    ) -> None:
        try:
            answer = find(self._segment, request)
        except _core.CoreError as error:
            raise Refusal(str(error)) from None
        self._reply(peer, {"ok": True, **answer})

    # ---- slots ---------------------------------------------------------------------------------

    def _on_end(self, peer: Peer) -> None:
        """The process is gone, whoever else may hold a copy of its connection."""
        if peer not in self._peers:
            return
        self._close_connection(peer)
        if peer.slot is None:
            self._forget(peer)
        else:
            self._free_slot(peer)

    def _may_use_segment(self, peer: Peer) -> bool:
        """Whether the process lives and has the segment mapped, as far as one can see."""
        if peer.pidfd < 0 or _has_ended(peer.pidfd):
            return False
        inode = b"%d" % os.fstat(self._segment.fd).st_ino
        try:
            with Path(f"/proc/{peer.pid}/maps").open("rb") as maps:
                return any(b"/memfd:" in line and inode == line.split()[4] for line in maps)
        except (FileNotFoundError, ProcessLookupError):
            return not _has_ended(peer.pidfd)  # It may only be hidden from us: hidepid of proc(5).
        except OSError:
            return True

    def _free_slot(self, peer: Peer) -> None:
        """Tried again at the next tick if a stopped process holds what is to be repaired."""
        assert peer.slot is not None
        peer.has_left = True
        repaired = recover(self._segment, peer.slot)
        if repaired is None:
            peer.look_at_s = self._clock()
            return
        counts = {name: count for name, count in repaired.items() if count}
        facts = {"pid": peer.pid, "slot": peer.slot, **counts}
        log.log(logging.WARNING if counts else logging.INFO, fact("detached", **facts))
        peer.slot = None
        self._forget(peer)


def _send(connection: socket.socket, data: bytes, fds: Sequence[int] = ()) -> bool:
    """Whole or not at all, without waiting; with copies of the descriptors if there are some."""
    rights = array.array("i", fds)
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if fds else []
    with suppress(OSError):
        flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
        return connection.sendmsg([data], ancillary, flags) == len(data)
    return False


def _pid_and_uid(connection: socket.socket) -> tuple[int, int]:
    """As the kernel noted them when the peer connected; see unix(7)."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return pid, uid


def _groups(connection: socket.socket) -> set[int]:
    """The peer's group and supplementary groups, when it connected."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, gid = _CREDENTIALS.unpack(raw)
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES_MAX)
    except OSError:  # It has more of them: those that the system's tables give its user.
        with suppress(KeyError):
            return {gid, *os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)}
        return {gid}
    return {gid, *struct.unpack(f"{len(raw) // 4}I", raw)}


def _pidfd(connection: socket.socket, pid: int) -> int:
    """Of the very process that connected, where the kernel tells it (Linux 6.5).

    Raises:
        ProcessLookupError: it has ended.
        OSError: there is no descriptor left.
    """
    with suppress(OSError):
        return connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            return -1  # Before Linux 5.3.
        raise


def _has_ended(pidfd: int) -> bool:
    with selectors.PollSelector() as selector:
        selector.register(pidfd, selectors.EVENT_READ)
        return bool(selector.select(0))

"""The cluster's control socket: where commands ask the cluster's supervisor for something.

A UNIX stream socket in the cluster's folder. Messages are lines of JSON, as on a node's control
socket (node/rendezvous.py). A request has `op` and its arguments; its answer is any number of lines
`{"progress": text, "done": n, "count": n}` and then one with `"ok": true` and what there is to
say, or `"ok": false` and `error`, a sentence. Only the supervisor's own user and root are answered.

A change may take long and say nothing; whoever asks for one first asks whether the supervisor is
there (`hello`). One that is stopped has then got no request to carry out some time later, when
nobody waits for it any more.

One change at a time: whoever asks for another one is told what is going on. A change goes on when
who asked for it is no longer there.
"""

import asyncio
import logging
import os
import socket
import struct
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from memcachepy.errors import ClusterError, MemcachepyError, NoCluster
from memcachepy.log import fact
from memcachepy.node.rendezvous import PATH_BYTES_MAX, decode, encode

log = logging.getLogger("memcachepy.cluster")

ANSWER_S = 5.0
"""Within this a supervisor that runs says that it is there."""
_HELLO = "hello"
LINE_BYTES_MAX = 1 << 20
"""The status of some hundreds of nodes is on one line."""
_GOODBYE_S = 2.0
"""How long the last answers may take to leave."""
_CREDENTIALS = struct.Struct("iII")


@dataclass(frozen=True, slots=True)
class Step:
    """How far a change is."""

    text: str
    done: int
    count: int


Tell: TypeAlias = Callable[[Step], None]
Operation: TypeAlias = Callable[[Mapping[str, Any], Tell], Coroutine[Any, Any, dict[str, object]]]
_Send: TypeAlias = Callable[[Mapping[str, object]], None]


class ControlServer:
    """Answers commands in the supervisor's loop.

    Args:
        path: of the socket; whoever opens it is the only one to do so.
        status: what `status` answers.
        operations: changes, by name: arguments and whom to tell how far it is.
        on_down: called when the cluster is to end; whoever asked is answered by `close`.
    """

    def __init__(
        self,
        path: Path,
        status: Callable[[], dict[str, object]],
        operations: Mapping[str, Operation],
        on_down: Callable[[], None],
    ) -> None:
        self._path = path
        self._status = status
        self._operations = operations
        self._on_down = on_down
        self._change: asyncio.Task[dict[str, object]] | None = None
        self._handlers: set[asyncio.Task[None]] = set()
        self._waiting_for_end: list[_Send] = []
        self._is_over = asyncio.Event()
        self.is_open_for_changes = False
        self.change_text = ""
        """What is being changed, and how far it is; empty if nothing is."""

    async def open(self) -> None:
        """Raises ClusterError: the socket cannot be had."""
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._path.unlink(missing_ok=True)  # A killed supervisor's.
            with short_path(self._path) as path:
                old_mask = os.umask(0o177)
                try:
                    listening.bind(path)
                finally:
                    os.umask(old_mask)
            # Python 3.13 would remove the file by the name that it was bound to.
            how: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
            self._server = await asyncio.start_unix_server(
                self._serve, sock=listening, limit=LINE_BYTES_MAX, **how
            )
        except OSError as error:
            listening.close()
            raise ClusterError(f"{self._path} cannot be had: {error.strerror}") from None

    async def close(self) -> None:
        """The cluster is over: say so to who waits for it, and to nobody else."""
        self._is_over.set()
        self._server.close()
        if self._handlers:
            await asyncio.wait(self._handlers, timeout=_GOODBYE_S)
        for handler in self._handlers:
            handler.cancel()
        with suppress(OSError):
            self._path.unlink()

    async def finish_change(self) -> None:
        """Give up a change where it is; what is written down of it can be gone on with later."""
        if self._change is not None:
            self._change.cancel()
            await asyncio.wait([self._change])

    def tell_end(self, step: Step) -> None:
        """To those who wait for the end."""
        for send in self._waiting_for_end:
            send(_as_message(step))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = asyncio.current_task()
        assert handler is not None
        self._handlers.add(handler)

        def send(message: Mapping[str, object]) -> None:
            if not writer.is_closing():
                writer.write(encode(message))

        try:
            if _uid_of(writer.get_extra_info("socket")) not in (0, os.geteuid()):
                send({"ok": False, "error": "this cluster belongs to another user"})
                return
            while line := await self._next_line(reader):
                send(await self._answer(line, send))
                await writer.drain()
        except (OSError, ValueError):
            pass  # It has gone, or talks without end.
        finally:
            self._handlers.discard(handler)
            writer.close()

    async def _next_line(self, reader: asyncio.StreamReader) -> bytes:
        """Empty at the end of the connection or of the cluster."""
        if self._is_over.is_set():
            return b""
        reading = asyncio.ensure_future(reader.readline())
        over = asyncio.ensure_future(self._is_over.wait())
        try:
            await asyncio.wait({reading, over}, return_when=asyncio.FIRST_COMPLETED)
            return reading.result() if reading.done() else b""
        finally:
            reading.cancel()
            over.cancel()

    async def _answer(self, line: bytes, send: _Send) -> dict[str, object]:
        try:
            request = decode(line)
            name = str(request.get("op"))
            if name == _HELLO:
                return {"ok": True}
            if name == "status":
                return {"ok": True, "change": self.change_text, **self._status()}
            if name == "down":
                self._waiting_for_end.append(send)
                self._on_down()
                await self._is_over.wait()
                return {"ok": True}
            if name not in self._operations:
                raise ClusterError(f"there is no operation {name!r}")
            return {"ok": True, **await self._carry_out(name, request, send)}
        except (MemcachepyError, ValueError) as error:
            return {"ok": False, "error": str(error)}

    async def _carry_out(
        self, name: str, request: Mapping[str, Any], send: _Send
    ) -> dict[str, object]:
        if self._change is not None:
            raise ClusterError(f"the cluster is being changed ({self.change_text}): wait for it")
        if not self.is_open_for_changes:
            raise ClusterError("the cluster is coming up or going down: try again")
        self.change_text = name

        def tell(step: Step) -> None:
            self.change_text = f"{name}: {step.text}"
            send(_as_message(step))

        self._change = asyncio.create_task(self._operations[name](request, tell))
        self._change.add_done_callback(self._on_change_over)
        try:
            return await asyncio.shield(self._change)
        except asyncio.CancelledError:
            raise ClusterError("the cluster is being stopped") from None

    def _on_change_over(self, change: asyncio.Task[dict[str, object]]) -> None:
        self._change = None
        text, self.change_text = self.change_text, ""
        if not change.cancelled() and (error := change.exception()):
            log.warning(fact("change not done", change=text, reason=error))


def _as_message(step: Step) -> dict[str, object]:
    return {"progress": step.text, "done": step.done, "count": step.count}


class ControlConnection:
    """A command's side; blocking. To be closed.

    Args:
        path: of the socket.
        name: of the cluster, for messages.
        timeout_s: how long it may say nothing; None: as long as it likes.

    Raises:
        NoCluster: nobody answers there.
    """

    def __init__(self, path: Path, name: str, timeout_s: float | None = None) -> None:
        self._name = name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_s)
        try:
            with short_path(path) as text:
                self._socket.connect(text)
        except OSError as error:
            self._socket.close()
            raise NoCluster(f"cluster {name} does not run: {error.strerror}") from None
        self._file = self._socket.makefile("rb")

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def ask(
        self,
        operation: str,
        arguments: Mapping[str, object] | None = None,
        on_progress: Callable[[str, int, int], None] = lambda _text, _done, _count: None,
    ) -> dict[str, Any]:
        """The answer, however long it takes, unless the connection has a timeout of its own.

        Raises:
            ClusterError: the supervisor refuses, or it failed; in its words.
            NoCluster: it has gone away meanwhile, or does not answer; then nothing is begun.
        """
        timeout_s = self._socket.gettimeout()
        if timeout_s is None:
            self._socket.settimeout(ANSWER_S)
            self._send({"op": _HELLO})
            self._next()
            self._socket.settimeout(None)
        self._send({"op": operation, **(arguments or {})})
        while "progress" in (message := self._next()):
            on_progress(message["progress"], message["done"], message["count"])
        if not message.get("ok"):
            raise ClusterError(str(message.get("error")))
        return {key: value for key, value in message.items() if key not in ("v", "ok")}

    def _send(self, message: Mapping[str, object]) -> None:
        try:
            self._socket.sendall(encode(message))
        except OSError as error:
            raise NoCluster(f"cluster {self._name} hung up: {error.strerror}") from None

    def _next(self) -> dict[str, Any]:
        """A line; that to `hello` may be an error: whoever does not know it is there, too."""
        try:
            line = self._file.readline(LINE_BYTES_MAX)
        except TimeoutError:
            raise NoCluster(
                f"the supervisor of cluster {self._name} does not answer: it may be stopped; "
                "nothing is changed"
            ) from None
        except OSError as error:
            raise NoCluster(f"cluster {self._name} hung up: {error.strerror}") from None
        if line:
            return decode(line)
        raise NoCluster(
            f"cluster {self._name}: its supervisor has ended; its nodes go on without it, and "
            "`memcachepy cluster up` takes them over"
        )


@contextmanager
def short_path(path: Path) -> Iterator[str]:
    """The same socket under a name that fits into an address; see unix(7)."""
    if len(os.fsencode(path)) <= PATH_BYTES_MAX:
        yield str(path)
        return
    folder_fd = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder_fd}/{path.name}"
    finally:
        os.close(folder_fd)


def _uid_of(connection: socket.socket) -> int:
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(raw)[1])

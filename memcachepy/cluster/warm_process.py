"""A `WarmChange` in a process of its own, for an event loop that must not be held up.

    async with WarmProcess(old, new, hashing="rendezvous", sockets=control_sockets) as warm:
        await warm.copy(show_progress)
        ...                         # the new list is told, and every node serves it
        await warm.settle(show_progress)

Parent and child speak lines of JSON. The child's input begins with what is to be changed and goes
on with `"settle"`; its end, also when the parent is killed, ends the change: what is not settled is
taken back. Its output are steps, each with a report, the last of which is `settled` or `failed`.
"""

import asyncio
import json
import os
import select
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from memcachepy import _core
from memcachepy.client.hashing import Hashing
from memcachepy.cluster.warm import SETTLE_S, WarmChange, WarmReport
from memcachepy.errors import MemcachepyError, WarmError
from memcachepy.node.limits import become_user
from memcachepy.topology import Member, Topology

Progress = Callable[[dict[str, int]], None]
"""Takes a `WarmReport` as a dict."""

_SHOW_EVERY_S = 0.2
_END_S = 10.0
_LINE_BYTES_MAX = 1 << 20


# ---- the parent's side --------------------------------------------------------------------------


class WarmProcess:
    """Brings items to their new home, as `WarmChange`; see above.

    Args:
        old: the list that clients have.
        new: the list that they will be told.
        hashing: how the clients spread their keys.
        sockets: the nodes' control sockets, or ports, by `Member.address`.
        settle_s: how long clients with the old list go on, in seconds.
        key_prefix: as of `WarmChange`.
        user: of the nodes, if this process is root and they are not.
    """

    def __init__(
        self,
        old: Topology,
        new: Topology,
        *,
        hashing: Hashing = "rendezvous",
        sockets: Mapping[str, str | int],
        settle_s: float = SETTLE_S,
        key_prefix: bytes = b"",
        user: str | None = None,
    ) -> None:
        self._request = {
            "old": old.as_dict(),
            "new": new.as_dict(),
            "hashing": hashing,
            "sockets": dict(sockets),
            "settle_s": settle_s,
            "key_prefix": key_prefix.hex(),
            "user": user,
        }
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "memcachepy.cluster.warm_process",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LINE_BYTES_MAX,
            # Ctrl-C is for the parent, whose end this process sees.
            start_new_session=True,
        )
        await self._say(self._request)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for the child, which takes back what is not settled."""
        process = self._process
        if process is None or process.stdin is None:
            return
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), _END_S)
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()  # Which hides the copies.
            await process.wait()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def copy(self, progress: Progress | None = None) -> dict[str, int]:
        """Before clients are told of the new list; returns the report.

        Raises:
            WarmError: it could not be done. Nothing has changed.
        """
        return await self._until("copied", progress)

    async def settle(self, progress: Progress | None = None) -> dict[str, int]:
        """After clients have been told; returns the report when the copies are the nodes' own.

        A node that leaves must serve until then.

        Raises:
            WarmError: a node has ended meanwhile: the copies are misses.
        """
        await self._say("settle")
        return await self._until("settled", progress)

    async def _say(self, message: object) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with suppress(OSError):  # Then its output ends, too.
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            await self._process.stdin.drain()

    async def _until(self, step: str, progress: Progress | None) -> dict[str, int]:
        assert self._process is not None
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            message = json.loads(line)
            if message["step"] == "failed":
                raise WarmError(message["error"])
            if message["step"] == step:
                return dict(message["report"])
            if progress is not None:
                progress(message["report"])
        raise WarmError("the process that copies the items has ended")


# ---- the child's side ---------------------------------------------------------------------------


class _ParentLeft(Exception):
    """The input has ended."""


class _Parent:
    """Commands from the standard input, steps to the standard output."""

    def __init__(self) -> None:
        self._pending = b""
        self._shown_at_s = 0.0

    def pause(self, seconds: float) -> None:
        """Sleep; raises `_ParentLeft` as soon as there is nobody to do it for."""
        readable, _, _ = select.select([0], [], [], seconds)
        if readable:
            self._read()

    def message(self) -> Any:
        """The next, waited for."""
        while b"\n" not in self._pending:
            self._read()
        line, _, self._pending = self._pending.partition(b"\n")
        return json.loads(line)

    def has_message(self) -> bool:
        return b"\n" in self._pending

    def _read(self) -> None:
        data = os.read(0, 65536)
        if not data:
            raise _ParentLeft
        self._pending += data

    def tell(self, step: str, **facts: object) -> None:
        try:
            os.write(1, json.dumps({"step": step, **facts}).encode() + b"\n")
        except OSError:
            raise _ParentLeft from None

    def show(self, report: WarmReport) -> None:
        now_s = time.monotonic()
        if now_s - self._shown_at_s >= _SHOW_EVERY_S:
            self._shown_at_s = now_s
            self.tell("going on", report=report.as_dict())


def _become(user: str | None) -> None:
    """The nodes' user, who may open this process's descriptors."""
    if user is not None and os.geteuid() == 0:
        become_user(user)
        _core.allow_core()


def _change(parent: _Parent) -> WarmChange:
    request = parent.message()
    sockets = request["sockets"]

    def address(member: Member) -> str | int:
        found: str | int = sockets[member.address]
        return found

    return WarmChange(
        Topology.from_dict(request["old"]),
        Topology.from_dict(request["new"]),
        hashing=request["hashing"],
        address=address,
        settle_s=request["settle_s"],
        key_prefix=bytes.fromhex(request["key_prefix"]),
        pause=parent.pause,
        on_attached=lambda: _become(request["user"]),
    )


def main() -> int:
    parent = _Parent()
    try:
        with _change(parent) as change:
            parent.tell("copied", report=change.copy(parent.show).as_dict())
            # Copies are shown only while the nodes are looked at.
            change.wait_for(parent.has_message)
            parent.message()
            parent.tell("settled", report=change.settle(parent.show).as_dict())
    except _ParentLeft:
        return 1
    except MemcachepyError as error:
        with suppress(_ParentLeft):
            parent.tell("failed", error=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

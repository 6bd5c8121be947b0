"""Finding a node's control socket and asking for its segment; the other side is node/control.py."""

import errno
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

from memcachepy.errors import AttachError
from memcachepy.node.rendezvous import (
    LINE_BYTES_MAX,
    PATH_BYTES_MAX,
    decode,
    encode,
    is_private,
    socket_directories,
    socket_name,
)

Address: TypeAlias = str | os.PathLike[str] | int | None

PORT_DEFAULT = 11211
_NO_NODE = {errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR}


@dataclass(frozen=True, slots=True)
class Attachment:
    """What a node has given; a context that closes it."""

    connection: socket.socket
    fd: int
    run_fd: int
    slot: int

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.connection.close()
        os.close(self.fd)
        os.close(self.run_fd)


def say(operation: str) -> bytes:
    """A request with its own pid."""
    return encode({"op": operation, "pid": os.getpid()})


def attach_to(address: Address, timeout_s: float) -> Attachment:
    """Ask the node at this address for its segment and a slot.

    Args:
        address: as of `Cache.attach`.
        timeout_s: for all of it.

    Raises:
        AttachError: no node answers there, or it refuses.
    """
    deadline_s = time.monotonic() + timeout_s
    connection, path = connect_to_node(address, deadline_s)
    try:
        fd, run_fd, slot = _ask(connection, path, deadline_s)
    except BaseException:
        connection.close()
        raise
    return Attachment(connection, fd, run_fd, slot)


def connect_to_node(address: Address, deadline_s: float) -> tuple[socket.socket, Path]:
    """A connection to the node's control socket, the caller's to close, and where that lies.

    Args:
        address: as of `Cache.attach`.
        deadline_s: of the monotonic clock.

    Raises:
        AttachError: no node answers there.
    """
    paths = list(_places(address, os.environ))
    for path in paths:
        connection = _connect(path, deadline_s)
        if connection is not None:
            return connection, path
    raise AttachError(
        f"no node answers at {' or '.join(map(str, paths))}: is it running on this machine, as "
        "this user? Else give the path of its control socket (--control-socket)"
    )


def _places(address: Address, environ: Mapping[str, str]) -> Iterator[Path]:
    """Where a control socket may lie; a directory that others may write to is not believed."""
    if address is None:
        address = environ.get("MEMCACHEPY_CONTROL_SOCKET")
    if address is None:
        port = environ.get("MEMCACHEPY_PORT", "")
        address = int(port) if port.isdecimal() else PORT_DEFAULT
    if not isinstance(address, int):
        yield Path(address)
        return
    uid = os.geteuid()
    for directory in socket_directories(uid, environ):
        if not directory.exists() or is_private(directory, uid):
            yield directory / socket_name(address)


def _connect(path: Path, deadline_s: float) -> socket.socket | None:
    """None if no node is there."""
    if len(os.fsencode(path)) > PATH_BYTES_MAX:
        raise AttachError(f"{path} is longer than the {PATH_BYTES_MAX} bytes of a socket's path")
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(_seconds_to(deadline_s))
        connection.connect(str(path))
    except OSError as error:
        connection.close()
        if error.errno in _NO_NODE:
            return None
        if isinstance(error, TimeoutError):
            raise AttachError(f"the node at {path} does not answer in time") from None
        if error.errno == errno.EACCES:
            raise AttachError(
                f"{path} is not for this user: attach as the node's user, or have it started with "
                "--control-group"
            ) from None
        raise AttachError(f"cannot connect to {path}: {error.strerror}") from None
    return connection


def _ask(connection: socket.socket, path: Path, deadline_s: float) -> tuple[int, int, int]:
    """The segment's two descriptors and the slot."""
    fds: list[int] = []
    line = b""
    try:
        with suppress(OSError):  # It may have said why before it hung up.
            connection.sendall(say("attach"))
        while not line.endswith(b"\n") and len(line) <= LINE_BYTES_MAX:
            connection.settimeout(_seconds_to(deadline_s))
            data, more, _, _ = socket.recv_fds(connection, LINE_BYTES_MAX, 2)
            fds += more
            if not data:
                raise AttachError(f"the node at {path} hung up")
            line += data
        answer = decode(line)
        if not answer.get("ok"):
            raise AttachError(f"the node at {path} refuses: {answer.get('error')}")
        if len(fds) != 2 or not isinstance(answer.get("slot"), int):
            raise AttachError(f"what answers at {path} is no node of memcachepy")
        run_fd, fd = fds.pop(), fds.pop()
        return fd, run_fd, answer["slot"]
    except TimeoutError:
        raise AttachError(f"the node at {path} does not answer in time") from None
    except (OSError, ValueError) as error:
        raise AttachError(f"the node at {path} does not answer as it should: {error}") from None
    finally:
        for fd in fds:
            os.close(fd)


def _seconds_to(deadline_s: float) -> float:
    """At least a little, for 0 would mean not to wait at all."""
    return max(0.001, deadline_s - time.monotonic())

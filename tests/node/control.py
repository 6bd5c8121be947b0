"""A control connection as any program might make one, and children that become somebody else."""

import array
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any


class ControlClient:
    """Talks to a node's control socket. Not the package's own client: bytes as documented."""

    def __init__(self, path: Path | str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(10)
        self.socket.connect(str(path))
        self.fds: list[int] = []

    def __enter__(self) -> "ControlClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()
        for fd in self.fds:
            os.close(fd)
        self.fds = []

    def answer(self) -> dict[str, Any]:
        """The next line; descriptors that come with it are kept until `close`."""
        data, ancillary, _, _ = self.socket.recvmsg(65536, socket.CMSG_SPACE(8))
        for level, kind, rights in ancillary:
            assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
            fds = array.array("i")
            fds.frombytes(rights)
            self.fds += fds
        assert data.endswith(b"\n"), data
        found = json.loads(data)
        assert isinstance(found, dict)
        return found

    def ask(self, **request: object) -> dict[str, Any]:
        self.socket.sendall(json.dumps({"v": 1, **request}).encode() + b"\n")
        return self.answer()

    def attach(self) -> dict[str, Any]:
        return self.ask(op="attach", pid=os.getpid())


def as_user(uid: int, groups: list[int], act: Callable[[], object]) -> str:
    """What it returns, or the error it raises, in a child with this user and these groups."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups(groups)
            os.setgid(uid)
            os.setuid(uid)
            text = repr(act())
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(writing, text.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return text

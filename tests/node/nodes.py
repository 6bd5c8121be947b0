"""A node in real processes, and how to look at it from outside."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
from support.client import Address, RawClient
from support.waiting import wait_until

from memcachepy import _core

SERVE = [sys.executable, "-m", "memcachepy", "serve"]
PARTS = ("memcachepy", "memcachepy-run")
"""The memfds of a node: what would survive it, and what belongs to its run."""
ROOM_FOR_STOP_S = 15.0


def name_of(process: psutil.Process) -> str:
    """Empty if it is gone."""
    try:
        return str(process.name())
    except psutil.NoSuchProcess:
        return ""


def is_alive(process: psutil.Process) -> bool:
    """Neither gone nor a zombie that nobody has reaped yet."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class Node:
    """A node that was started by a test, and how to look at it from outside."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log
        self._clients = ExitStack()

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self) -> str:
        return self._log.read_text()

    def wait_for_log(self, pattern: str, count: int = 1, timeout_s: float = 10.0) -> list[str]:
        """Lines that match, as soon as there are so many."""

        def found() -> list[str]:
            lines = [line for line in self.log().splitlines() if re.search(pattern, line)]
            return lines if len(lines) >= count else []

        return wait_until(found, f"{count} log lines like {pattern!r}", timeout_s)

    def serves(self) -> bool:
        """Whether it does, as soon as it does or has ended."""

        def serving_or_ended() -> bool:
            return " serving " in self.log() or self.process.poll() is not None

        wait_until(serving_or_ended, "the node to serve", 20.0)
        return self.process.poll() is None

    def wait_until_serving(self) -> None:
        assert self.serves(), self.log()

    @property
    def addresses(self) -> list[str]:
        match = re.search(r" serving listen=(\S+)", self.log())
        assert match, self.log()
        return match[1].split(",")

    @property
    def address(self) -> Address:
        """The first one, for a client."""
        first = self.addresses[0]
        if first.startswith("/"):
            return first
        host, _, port = first.rpartition(":")
        return host.strip("[]"), int(port)

    def client(self) -> RawClient:
        """A connection, closed at the end of the test at the latest."""
        return self._clients.enter_context(RawClient(self.address))

    def children(self, name: str = "") -> list[psutil.Process]:
        """Live children whose name has this in it, by pid."""
        found = filter(is_alive, psutil.Process(self.pid).children())
        return sorted((child for child in found if name in name_of(child)), key=lambda c: c.pid)

    def workers(self) -> list[psutil.Process]:
        return self.children("worker")

    def child(self, name: str) -> psutil.Process:
        """The first of the name, as soon as it bears it: that is after it has reported."""
        return wait_until(lambda: self.children(name), name)[0]

    def worker(self) -> psutil.Process:
        return self.child("worker")

    def acceptor(self) -> psutil.Process:
        return self.child("acceptor")

    def maintainer(self) -> psutil.Process:
        return self.child("maintainer")

    def segment(self) -> _core.Segment:
        """The node's shared memory, to look at. Needs the node's user."""
        fds: dict[str, int] = {}
        try:
            for link in Path(f"/proc/{self.pid}/fd").iterdir():
                with suppress(FileNotFoundError):  # Closed since it was listed.
                    name = str(link.readlink())
                    if "memfd:memcachepy" in name and name not in fds:
                        fds[name] = os.open(link, os.O_RDWR)
            parts = [fds.get(f"/memfd:{part} (deleted)", -1) for part in PARTS]
            assert -1 not in parts, "the node has no segment"
            return _core.Segment.attach(*parts)
        finally:
            for fd in fds.values():
                os.close(fd)

    def wait_for_other(self, name: str, old: list[psutil.Process]) -> list[psutil.Process]:
        """As many processes of this name as before, none of them killed ones."""
        dead = {process.pid for process in old}
        count = len(old)

        def replaced() -> list[psutil.Process]:
            new = [child for child in self.children(name) if child.pid not in dead]
            return new if len(new) >= count else []

        return wait_until(replaced, f"a new {name}")

    def wait(self, timeout_s: float = ROOM_FOR_STOP_S) -> int:
        return self.process.wait(timeout_s)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.wait()

    def end(self) -> None:
        """For the fixture: nothing of the node is left, whatever the test did to it."""
        self._clients.close()
        family = []
        if self.process.poll() is None:
            family = psutil.Process(self.pid).children(recursive=True)
            self.process.kill()
            self.process.wait()
        for process in family:
            if process.is_running():
                process.kill()


Start = Callable[..., Node]
"""A fixture that starts nodes: flags, then keywords for Popen."""

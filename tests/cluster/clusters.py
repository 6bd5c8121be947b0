"""Clusters in real processes, and how to look at them from outside."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.client import RawClient
from support.waiting import wait_until

from memcachepy.cluster.state import StateFolder
from memcachepy.membership.file import read_topology
from memcachepy.topology import Topology

COMMAND = [sys.executable, "-m", "memcachepy", "cluster"]
SMALL = ("-t", "1", "-m", "8", "-p", "-1")
PATIENCE_S = 60.0


class Cluster:
    """One name in one state folder, whether a cluster of it runs or not."""

    def __init__(self, root: Path, name: str, environ: dict[str, str]) -> None:
        self.root = root
        self.name = name
        self.environ = environ
        self.folder = StateFolder(root, name)
        self._foreground: list[subprocess.Popen[str]] = []

    def words(self, command: str, *words: str) -> list[str]:
        where = ["--state-dir", str(self.root), "--name", self.name]
        return [*COMMAND, *command.split(), *where, *words]

    def run(self, command: str, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.words(command, *words),
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE_S,
        )

    def do(self, command: str, *words: str) -> dict[str, Any]:
        """What it says as JSON; it must succeed."""
        done = self.run(command, "--json", *words)
        assert done.returncode == 0, done.stderr + self.log()
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def refused(self, command: str, *words: str, status: int = 1) -> str:
        """The sentence with which it is refused."""
        done = self.run(command, *words)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stderr.strip().removeprefix("memcachepy: ")

    def up(self, *words: str) -> dict[str, Any]:
        """Detached, with nodes that are small unless the words are another command's."""
        return self.do("up", "--detach", *words)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """In the foreground."""
        with (self.root / f"{self.name}.stderr").open("w") as log:
            process = subprocess.Popen(
                self.words("up", *words),
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                preexec_fn=_signals_as_in_a_terminal,
            )
        self._foreground.append(process)
        return process

    @contextmanager
    def started(self, command: str, *words: str) -> Iterator[subprocess.Popen[str]]:
        """A command that runs until the block is left."""
        with subprocess.Popen(
            self.words(command, *words),
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=_signals_as_in_a_terminal,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def status(self) -> dict[str, Any]:
        done = self.run("status", "--json")
        assert done.returncode in (0, 1), done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    @property
    def supervisor_pid(self) -> int:
        return self.folder.supervisor_pid()

    def kill_supervisor(self) -> None:
        pid = self.supervisor_pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not self.supervisor_pid, "the supervisor's end", PATIENCE_S)

    def node_pids(self) -> dict[str, int]:
        return self.folder.running_nodes()

    @property
    def topology(self) -> Topology:
        found = read_topology(self.folder.topology_path)
        assert found is not None
        return found

    @property
    def ids(self) -> list[str]:
        """Of the list."""
        return sorted(member.node_id for member in self.topology.members)

    def address(self, node_id: str) -> tuple[str, int]:
        member = self.topology.member(node_id)
        assert member is not None
        return member.host, member.port

    def addresses(self) -> list[tuple[str, int]]:
        return [(member.host, member.port) for member in self.topology.members]

    def log(self) -> str:
        texts = [self.folder.log_path, *self.folder.path.glob("nodes/*/log")]
        return "\n".join(f"--- {path}\n{path.read_text()}" for path in texts if path.exists())

    def end(self) -> None:
        """For the fixture: nothing of it is left, whatever the test did to it."""
        for process in self._foreground:
            process.kill()
            process.communicate()
        if pid := self.supervisor_pid:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not self.supervisor_pid, "the supervisor's end", PATIENCE_S)
        for pid in self.node_pids().values():
            os.killpg(pid, signal.SIGKILL)
        wait_until(lambda: not self.node_pids(), "the nodes' end", PATIENCE_S)


def _signals_as_in_a_terminal() -> None:
    """Who runs the tests may have them ignored."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def served_list(address: tuple[str, int]) -> Topology:
    """What a node answers to a client; without ids, and version 0 if it knows no list."""
    with RawClient(address) as client:
        client.send(b"config get cluster\r\n")
        if not re.fullmatch(rb"CONFIG cluster 0 \d+", client.line()):
            return Topology(0)
        return Topology.parse(client.line() + b"\n" + client.line())


def answers(address: tuple[str, int]) -> bool:
    try:
        with RawClient(address) as client:
            client.ask(b"mn\r\n", b"MN\r\n")
    except (OSError, AssertionError):
        return False
    return True

"""A real ZooKeeper, from Debian's package `zookeeper`, and a way to cut its connections."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from support.waiting import wait_until

JAR = Path("/usr/share/java/zookeeper.jar")
MAIN = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
PORTS = (15_000, 28_000)
START_S = 120.0
"""A JVM on a machine that has other things to do."""


def require_zookeeper() -> None:
    """Skip the test where there is no server or no client for it."""
    pytest.importorskip("kazoo", reason="kazoo is not installed: no test with ZooKeeper")
    if not JAR.exists() or shutil.which("java") is None:
        pytest.skip("ZooKeeper (Debian: apt-get install zookeeper default-jre-headless) is missing")


def free_port() -> int:
    """Free a moment ago, on the loopback interface, and below those that the kernel gives to
    clients: none of these takes it before it is used.
    """
    while True:
        port = random.SystemRandom().randrange(*PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class ZookeeperServer:
    """One server; its data outlives a kill, but not `close`.

    Args:
        host: the address it listens on.
        inside: words before its command, which put it elsewhere.
    """

    def __init__(self, host: str = "127.0.0.1", inside: Sequence[str] = ()) -> None:
        self.port = free_port()
        self._host = host
        self._inside = inside
        self._folder = Path(tempfile.mkdtemp(prefix="memcachepy-zookeeper-"))
        self._process: subprocess.Popen[bytes] | None = None
        (self._folder / "zoo.cfg").write_text(
            f"tickTime=200\ndataDir={self._folder}/data\nclientPort={self.port}\n"
            f"clientPortAddress={host}\nadmin.enableServer=false\nmaxClientCnxns=0\n"
            "minSessionTimeout=400\nmaxSessionTimeout=60000\n4lw.commands.whitelist=ruok\n"
        )

    @property
    def address(self) -> str:
        return f"{self._host}:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        command = [*self._inside, "java", "-Xmx64m", "-Xshare:auto", "-XX:TieredStopAtLevel=1"]
        command += ["-XX:+UseSerialGC", "-cp", str(JAR), MAIN, str(self._folder / "zoo.cfg")]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder)
        wait_until(self._serves, "ZooKeeper to serve", START_S)

    def _serves(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError((self._folder / "log").read_text()[-2000:])
        question = "import socket, sys; s = socket.create_connection((sys.argv[1], sys.argv[2]), 1)"
        question += "; s.sendall(b'ruok'); sys.exit(s.recv(4) != b'imok')"
        command = [*self._inside, sys.executable, "-c", question, self._host, str(self.port)]
        return subprocess.run(command, capture_output=True).returncode == 0

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """It keeps its connections, and says nothing from when this returns."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def revive(self) -> None:
        if self._process is None:
            self.start()
        else:
            self.resume()

    def lose_everything(self) -> None:
        """While it does not run: as if its disks were gone."""
        assert self._process is None
        shutil.rmtree(self._folder / "data")

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self._folder)


class Wire:
    """A TCP proxy that can be cut: what is sent meanwhile goes nowhere, and nobody is told.

    Args:
        port: of the server on the loopback interface.
    """

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._is_cut = threading.Event()
        self._is_closed = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def cut(self) -> None:
        self._is_cut.set()

    def join(self) -> None:
        """What was under way when it was cut is lost, as with a router that forgot it."""
        self._is_cut.clear()
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._is_closed.set()
        self.join()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while not self._is_closed.is_set():
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._server_port), 5)
            except OSError:
                near.close()
                continue
            self._ends += [near, far]
            for source, sink in ((near, far), (far, near)):
                thread = threading.Thread(target=self._carry, args=(source, sink))
                self._threads.append(thread)
                thread.start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with source:
            with suppress(OSError):
                while data := source.recv(1 << 16):
                    if not self._is_cut.is_set():
                        sink.sendall(data)
            with suppress(OSError):
                sink.shutdown(socket.SHUT_RDWR)

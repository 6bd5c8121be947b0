"""Starting and stopping servers, ours and Debian's memcached: on loopback, with deadlines."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.client import RawClient
from support.waiting import wait_until

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0


class DidNotStart(AssertionError):
    """The process ended, or never answered; carries what it wrote."""


class Server:
    """A running server process and where it listens."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, errors: Path) -> None:
        self.process = process
        self.pid = process.pid
        self.port = port
        self.address = ("127.0.0.1", port)
        self._errors = errors
        self._clients: list[RawClient] = []

    def client(self, timeout_s: float = 10.0) -> RawClient:
        """A new connection, closed with the server if not before."""
        client = RawClient(self.address, timeout_s=timeout_s)
        self._clients.append(client)
        return client

    def stats(self, argument: str = "") -> dict[str, str]:
        """The reply to `stats`, over a connection of its own."""
        with RawClient(self.address) as client:
            return client.stats(argument)

    def errors(self) -> str:
        """All that the process wrote to stderr and stdout."""
        return self._errors.read_text(errors="replace")

    def children(self) -> list[int]:
        """Process ids of the direct children."""
        return [
            int(pid)
            for task in Path(f"/proc/{self.pid}/task").iterdir()
            for pid in (task / "children").read_text().split()
        ]

    def worker_pids(self) -> list[int]:
        """Process ids of the workers of one of our nodes, by the names they give themselves."""
        return [pid for pid in self.children() if "worker" in _title(pid)]

    def stop(self) -> int:
        """SIGTERM, then the exit status; SIGKILL when it does not end in time, which fails."""
        for client in self._clients:
            client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(
                f"did not end within {STOP_TIMEOUT_S} s of SIGTERM\n{self.errors()}"
            ) from None


def _title(pid: int) -> str:
    """What a process calls itself: command line and short name."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        return line + " " + Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""


def memcached_path() -> str:
    """Debian's memcached; skips the test, and says so, where it is not installed."""
    path = shutil.which("memcached")
    if path is None:
        pytest.skip("NOT COMPARED with memcached: it is not installed (apt-get install memcached)")
    return path


def memcached_version() -> str:
    """As in `1.6.18`."""
    text = subprocess.run([memcached_path(), "-V"], capture_output=True, text=True, check=True)
    return text.stdout.split()[-1]


@contextmanager
def memcached(*flags: str) -> Iterator[Server]:
    """Debian's memcached with one thread, pinned to loopback, on a port of its own choice."""
    path = memcached_path()
    with tempfile.TemporaryDirectory(prefix="reference-") as folder:
        ports = Path(folder, "ports")
        Path(folder).chmod(0o777)
        command = [path, "-l", "127.0.0.1", "-p", "-1", "-U", "0", "-t", "1"]
        # Nothing happens in the background: counters move by what a test does, and only by that.
        command += ["-o", "no_lru_crawler,no_lru_maintainer"]
        if os.geteuid() == 0:
            command += ["-u", "nobody"]
        environment = {**os.environ, "MEMCACHED_PORT_FILENAME": str(ports)}
        errors = Path(folder, "errors")
        with errors.open("wb") as sink:
            process = subprocess.Popen(
                [*command, *flags], env=environment, stdout=sink, stderr=sink
            )
        try:

            def port_or_death() -> int:
                if process.poll() is not None:
                    raise DidNotStart(f"memcached ended at once: {errors.read_text()}")
                text = ports.read_text() if ports.exists() else ""
                return int(text.split("TCP INET:")[1].split()[0]) if "TCP INET:" in text else 0

            port = wait_until(port_or_death, "memcached's port file", START_TIMEOUT_S)
            server = Server(process, port, errors)
            yield server
        finally:
            # Not SIGTERM: it would take up to a second, and there is nothing to lose.
            process.kill()
            process.wait()


@contextmanager
def node(*flags: str, workers: int = 1, expected_status: int | None = 0) -> Iterator[Server]:
    """One of our nodes on loopback.

    Args:
        flags: further words of the command line.
        workers: processes that serve.
        expected_status: the exit status after SIGTERM that is right; None for any.
    """
    pytest.importorskip("memcachepy._core", reason="NO NODE: memcachepy is not built")
    with tempfile.TemporaryDirectory(prefix="node-") as folder:
        errors = Path(folder, "errors")
        server = _start_node(flags, workers, errors)
        try:
            yield server
            status = server.stop()
            if expected_status is not None:
                assert status == expected_status, f"exit status {status}\n{server.errors()}"
        except AssertionError:
            print(f"--- what the node wrote ---\n{server.errors()}")
            raise
        finally:
            if server.process.poll() is None:
                server.process.kill()
                server.process.wait()


def _start_node(flags: Sequence[str], workers: int, errors: Path) -> Server:
    """Start a node on a port of its own choice and wait until it says that it serves."""
    command = [sys.executable, "-m", "memcachepy", "serve", "-l", "127.0.0.1", "-p", "-1"]
    command += ["-t", str(workers), *flags]
    clean = {name: text for name, text in os.environ.items() if not name.startswith("MEMCACHEPY_")}
    with errors.open("wb") as sink:
        process = subprocess.Popen(
            command, env=clean, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink
        )

    def port_or_death() -> int:
        written = errors.read_text(errors="replace")
        if process.poll() is not None:
            raise DidNotStart(f"the node ended with status {process.returncode}\n{written}")
        found = re.search(r" serving listen=127\.0\.0\.1:([0-9]+)", written)
        return int(found[1]) if found else 0

    try:
        return Server(
            process, wait_until(port_or_death, "the node to serve", START_TIMEOUT_S), errors
        )
    except AssertionError:
        process.kill()
        process.wait()
        raise


def cpu_s(pid: int) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def private_dirty_kb(pid: int) -> int:
    """Private dirty memory of a process without the shared segment's pages.

    The kernel counts a page of a shared mapping as private while only one process maps it, so
    shared mappings are left out by name and by permission.
    """
    total = 0
    shared = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        head = line.split()
        if len(head) >= 5 and "-" in head[0] and len(head[1]) == 4:
            shared = head[1][3] == "s"
        elif line.startswith("Private_Dirty:") and not shared:
            total += int(head[1])
    return total

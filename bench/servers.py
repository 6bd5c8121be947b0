"""The servers under load: how each is started, stopped, and what it has used."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

FLOOR_SOURCE = Path(__file__).parent / "floor" / "floor.c"
START_TIMEOUT_S = 15.0
STOP_TIMEOUT_S = 10.0
_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """A run cannot be made; the message is a sentence."""


def build_floor(folder: Path) -> Path:
    """Compile the floor server into a folder."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise BenchError("no C compiler for the floor server; install gcc")
    binary = folder / "floor"
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O2"]
    subprocess.run([compiler, *flags, "-o", str(binary), str(FLOOR_SOURCE)], check=True)
    return binary


def memcached_version() -> str:
    """What `memcached -V` says."""
    if shutil.which("memcached") is None:
        raise BenchError("no memcached to compare with; install the package memcached")
    done = subprocess.run(["memcached", "-V"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def server_command(kind: str, address: str, memory_mb: int, floor: Path) -> list[str]:
    """The command line of a server with one worker on a port or a socket's path."""
    where = ["-s", address] if "/" in address else ["-l", "127.0.0.1", "-p", address]
    if kind == "floor":
        return [str(floor), address]
    common = [*where, "-t", "1", "-m", str(memory_mb), "-U", "0"]
    if kind == "memcached":
        user = ["-u", "root"] if os.geteuid() == 0 else []
        return ["memcached", *common, *user]
    return [sys.executable, "-m", "memcachepy", "serve", *common]


def _stat_fields(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third on: the second may hold spaces."""
    text = Path(f"/proc/{pid}/stat").read_text()
    return text[text.rindex(")") + 2 :].split()


def _parents() -> dict[int, int]:
    parents = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int(_stat_fields(int(entry.name))[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    return parents


def process_tree(root: int) -> list[int]:
    """The process and all its descendants, itself first."""
    parents = _parents()
    tree = [root]
    for pid in tree:
        tree.extend(child for child, parent in parents.items() if parent == pid)
    return tree


def process_cpu_ns(pid: int) -> int:
    """Of all threads in nanoseconds, and of reaped children in ticks."""
    fields = _stat_fields(pid)
    reaped_ns = (int(fields[13]) + int(fields[14])) * _TICK_NS
    try:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        own_ns = sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)
    except FileNotFoundError:
        own_ns = (int(fields[11]) + int(fields[12])) * _TICK_NS
    return own_ns + reaped_ns


def private_dirty_bytes(pid: int) -> int:
    """Of the private mappings only.

    /proc counts a page of a shared mapping as private while just one process has touched it, so
    smaps_rollup would count the items themselves.
    """
    total_kb = 0
    is_private = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            is_private = words[1].endswith("p")
        elif is_private and words[0] == "Private_Dirty:":
            total_kb += int(words[1])
    return total_kb * 1024


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@dataclass(frozen=True)
class Memory:
    """Private dirty bytes of each process of a server, the first process first."""

    by_pid: Mapping[int, int]

    @property
    def worker_bytes(self) -> int:
        """Of the largest process below the first; of the first when it is alone."""
        sizes = list(self.by_pid.values())
        return max(sizes[1:] or sizes)


class Server:
    """A running server; stopped at the end of the `with` block."""

    def __init__(self, kind: str, command: Sequence[str], address: str, cpu: int) -> None:
        self.kind = kind
        self.address = address
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop()
        # Not in the checkout: `python -m` would import the package from there, unbuilt.
        self._process = subprocess.Popen(
            ["taskset", "-c", str(cpu), *command],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.stop()
            raise

    def target(self) -> dict[str, object]:
        """The generator's settings for where it listens."""
        if "/" in self.address:
            return {"address": self.address, "port": 0}
        return {"address": "127.0.0.1", "port": int(self.address)}

    def cpu_ns(self) -> int:
        """CPU time of the whole process tree until now, reaped children included."""
        total_ns = 0
        for pid in process_tree(self._process.pid):
            try:
                total_ns += process_cpu_ns(pid)
            except (FileNotFoundError, ProcessLookupError):
                continue
        return total_ns

    def memory(self) -> Memory:
        """Private dirty memory of the tree now."""
        return Memory({pid: private_dirty_bytes(pid) for pid in process_tree(self._process.pid)})

    def log(self) -> str:
        """What it has written."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def stop(self) -> None:
        """End it, by force if it does not end by itself."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._log.close()

    def _wait_until_it_answers(self) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None:
                raise BenchError(
                    f"{self.kind} ended with status {self._process.returncode}: {self.log()}"
                )
            if time.monotonic() > deadline_s:
                raise BenchError(f"{self.kind} did not answer in {START_TIMEOUT_S:g} s")
            time.sleep(0.02)

    def _answers(self) -> bool:
        family = socket.AF_UNIX if "/" in self.address else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.settimeout(1)
            try:
                if family == socket.AF_UNIX:
                    probe.connect(self.address)
                else:
                    probe.connect(("127.0.0.1", int(self.address)))
                probe.sendall(b"get probe\r\n")
                return probe.recv(64) != b""
            except OSError:
                return False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

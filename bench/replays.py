"""Replaying streams of keys: against our store in this process, and against a server.

Both are read-through: get, and on a miss set. Our store is `_core.Segment.replay`, the same code
and the same eviction as below a node's sockets; a server is driven over a UNIX socket by
`readthrough/readthrough.c`.
"""

import argparse
import contextlib
import datetime
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from run import RESULTS, describe_machine
from servers import BenchError, Server, server_command

from memcachepy import _core

CLIENT_SOURCE = Path(__file__).parent / "readthrough" / "readthrough.c"
ONE_CACHE_SOURCE = Path(__file__).parent / "onecache" / "onecache.c"
MEGABYTE = 1 << 20
ITEM_BYTES_MAX = 1 << 20
CLIENT_DEPTH = 16
_CLIENT_TIMEOUT_S = 1800.0


def build_program(source: Path, folder: Path) -> Path:
    """Compile a program of one file into a folder."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise BenchError(f"no C compiler for {source.name}; install gcc")
    binary = folder / source.stem
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O2"]
    subprocess.run([compiler, *flags, "-o", str(binary), str(source)], check=True)
    return binary


def build_client(folder: Path) -> Path:
    """Compile the read-through client into a folder."""
    return build_program(CLIENT_SOURCE, folder)


def _write(path: Path, numbers: "array[int]") -> str:
    with path.open("wb") as file:
        numbers.tofile(file)
    return str(path)


class OurStore:
    """A segment of this process."""

    kind = "memcachepy"

    def __init__(self, memory_mb: float, policy: str) -> None:
        memory_bytes = round(memory_mb * MEGABYTE)
        settings = {
            "memory_limit_bytes": memory_bytes,
            "eviction_policy": policy,
            # As `serve` does at -m 1.
            "item_size_max_bytes": min(ITEM_BYTES_MAX, memory_bytes // 2),
        }
        self.segment = _core.Segment(settings)
        self.segment.claim_slot(_core.SLOT_WORKER_FIRST)

    def replay(
        self, stream: "array[int]", value_lens: "int | array[int]", key_len: int, window: int
    ) -> list[int]:
        """Misses in each window of the stream."""
        misses = []
        for at in range(0, len(stream), window):
            end = at + window
            lens = value_lens if isinstance(value_lens, int) else value_lens[at:end]
            misses.append(self.segment.replay(stream[at:end], lens, key_len)[1])
        return misses

    def stats(self) -> Mapping[str, int]:
        """Evictions and curr_items, by memcached's names."""
        return self.segment.counters()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.segment.close()


class ServerStore:
    """A server with a UNIX socket: memcached, or a node of ours."""

    def __init__(self, server: Server, client: Path, depth: int = CLIENT_DEPTH) -> None:
        self.kind = server.kind
        self._server = server
        self._client = client
        self._depth = depth

    def replay(
        self, stream: "array[int]", value_lens: "int | array[int]", key_len: int, window: int
    ) -> list[int]:
        """Misses in each window of the stream."""
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            ids = _write(Path(folder, "ids"), stream)
            if isinstance(value_lens, int):
                lens = str(value_lens)
            else:
                lens = _write(Path(folder, "lens"), value_lens)
            arguments = [self._server.address, ids, key_len, lens, window, self._depth]
            done = subprocess.run(
                [str(self._client), *map(str, arguments)],
                capture_output=True,
                text=True,
                timeout=_CLIENT_TIMEOUT_S,
                check=False,
            )
        if done.returncode != 0:
            raise BenchError(f"{self.kind}: {done.stderr.strip()}; it wrote: {self._server.log()}")
        return [int(line) for line in done.stdout.split()]

    def stats(self, what: str = "") -> dict[str, Any]:
        """What `stats` answers; numbers as numbers."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self._server.address)
            connection.sendall(b"stats %s\r\n" % what.encode() if what else b"stats\r\n")
            reply = b""
            while not reply.endswith(b"END\r\n"):
                received = connection.recv(1 << 16)
                if not received:
                    raise BenchError(f"{self.kind} closed the connection: {self._server.log()}")
                reply += received
        pairs = (line.split(" ", 2)[1:] for line in reply.decode().split("\r\n")[:-2])
        return {name: int(value) if value.isdigit() else value for name, value in pairs}


@contextlib.contextmanager
def server_store(
    kind: str, memory_mb: int, client: Path, depth: int = CLIENT_DEPTH, policy: str | None = None
) -> Iterator[ServerStore]:
    """A server of one worker that ends with the block."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        address = f"{folder}/{kind}.sock"
        command = server_command(kind, address, memory_mb, Path())
        if policy is not None:
            command += ["--eviction-policy", policy]
        cpu = min(os.sched_getaffinity(0))
        with Server(kind, command, address, cpu) as server:
            yield ServerStore(server, client, depth)


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Where the figures go."""
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the figures as JSON")
    parser.add_argument(
        "--publish",
        action="store_true",
        help="write them to results/, where report.py finds them: an undisturbed machine's only",
    )


def begin_results(*, needs_memcached: bool = True) -> dict[str, Any]:
    """When and where the figures are taken."""
    now = datetime.datetime.now(datetime.UTC)
    return {
        "started_at": now.isoformat(timespec="seconds"),
        "machine": describe_machine(needs_memcached=needs_memcached),
    }


def write_results(name: str, results: Mapping[str, Any], args: argparse.Namespace) -> None:
    """As the options say."""
    stamp = datetime.datetime.fromisoformat(results["started_at"]).strftime("%Y-%m-%d-%H%M%S")
    published = [RESULTS / f"{name}-{stamp}.json"] if args.publish else []
    for path in [*published, *([args.output] if args.output else [])]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n")
        say(str(path))


def made_on(results: Mapping[str, Any]) -> str:
    """The line below a table."""
    machine = results["machine"]
    return (
        f"{machine['memcached']} against memcachepy {machine['memcachepy']} ({machine['commit']});"
        f" {machine['cpu']}, {machine['cpu_count']} CPUs, {machine['system']}, on"
        f" {results['started_at'][:10]}."
    )


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)

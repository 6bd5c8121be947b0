"""Writers, deleters and readers at full load while items are copied, and what each read must be.

A key has one writer, which numbers its changes, so that the newest acknowledged one is known; the
number is noted after the answer, and looked at before a question. A value says in which node it was
written. So what a reader finds in the new home is a copy if it was written in the old one, and must
not be older than the newest change of the key anywhere; else it must not be older than the newest
change in that node.
"""

import multiprocessing
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

from memcachepy import Cache

FORK = multiprocessing.get_context("fork")

# What clients know of the list.
OLD, MIXED, NEW, OVER = range(4)

WRITERS = 2
READERS = 2


class Door(Protocol):
    """A way into a node."""

    def set(self, key: str, value: bytes) -> object: ...
    def delete(self, key: str) -> object: ...
    def get(self, key: str) -> bytes | None: ...


class SocketDoor:
    """The text protocol, of which this is all that is needed here."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._socket.makefile("rb")

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def _ask(self, request: bytes) -> bytes:
        self._socket.sendall(request)
        return self._file.readline()

    def set(self, key: str, value: bytes) -> None:
        answer = self._ask(b"set %b 0 0 %d\r\n%b\r\n" % (key.encode(), len(value), value))
        assert answer == b"STORED\r\n", answer

    def delete(self, key: str) -> None:
        answer = self._ask(b"delete %b\r\n" % key.encode())
        assert answer in (b"DELETED\r\n", b"NOT_FOUND\r\n"), answer

    def get(self, key: str) -> bytes | None:
        first = self._ask(b"get %b\r\n" % key.encode())
        if first == b"END\r\n":
            return None
        assert first.startswith(b"VALUE "), first
        value = self._file.read(int(first.split()[3]))
        assert self._file.readline() == b"\r\n"
        assert self._file.readline() == b"END\r\n"
        return value


@dataclass(frozen=True)
class End:
    """One of a key's two homes."""

    port: int
    control: Path

    def door(self, by_socket: bool) -> Any:
        return SocketDoor(self.port) if by_socket else Cache.attach(self.control)


class Race:
    """The keys that move from one node to another, and what is known of each.

    Args:
        homes: the keys whose home changes, and their old one and new one; nobody else may touch
            them.
        value_bytes: of values; long ones are chains in the nodes.
    """

    def __init__(self, homes: dict[str, tuple[End, End]], seed: int, value_bytes: int) -> None:
        self.keys = keys = list(homes)
        self._ends = [{"old": old, "new": new} for old, new in homes.values()]
        self._seed = seed
        self._padding = b"." * value_bytes
        count = len(keys)
        self.newest = FORK.RawArray("Q", count)
        self.newest_in = {"old": FORK.RawArray("Q", count), "new": FORK.RawArray("Q", count)}
        self.was_deleted_in = {"old": FORK.RawArray("B", count), "new": FORK.RawArray("B", count)}
        self.phase = FORK.RawValue("i", OLD)
        self.copies_read = FORK.RawValue("Q", 0)
        self.reads = FORK.RawValue("Q", 0)
        self.writes = FORK.RawArray("Q", WRITERS)
        self._seen = FORK.RawArray("i", WRITERS)
        self._wrongs = FORK.SimpleQueue()
        self._processes: list[BaseProcess] = []

    # ---- values ------------------------------------------------------------------------------

    def value(self, where: str, number: int) -> bytes:
        return f"{where} {number} ".encode() + self._padding

    def fill(self) -> None:
        """The first version of all keys, in the old home; what the new one has goes."""
        with self._doors(by_socket=False) as doors:
            for index, key in enumerate(self.keys):
                doors(index, "new").delete(key)
                doors(index, "old").set(key, self.value("old", 1))
                self.newest[index] = self.newest_in["old"][index] = 1

    @contextmanager
    def _doors(self, *, by_socket: bool) -> Iterator[Callable[[int, str], Any]]:
        """Into the homes of keys, by number and which one it is."""
        with ExitStack() as opened:
            doors = {
                end: opened.enter_context(closing(end.door(by_socket)))
                for end in {end for ends in self._ends for end in ends.values()}
            }
            yield lambda index, where: doors[self._ends[index][where]]

    # ---- processes ---------------------------------------------------------------------------

    def start(self) -> None:
        """Half of the processes are attached, half ask over sockets."""
        for number in range(WRITERS):
            self._run(self._write, number, number % 2 == 1)
        for number in range(READERS):
            self._run(self._read, number, number % 2 == 0)

    def all_have_seen(self, phase: int) -> bool:
        """Whether every writer is through with what it began in an earlier phase."""
        self.check()
        return all(seen >= phase for seen in self._seen)

    def _run(self, work: Callable[..., None], *arguments: object) -> None:
        process = FORK.Process(target=self._guarded, args=(work, *arguments), daemon=True)
        process.start()
        self._processes.append(process)

    def _guarded(self, work: Callable[..., None], *arguments: object) -> None:
        try:
            work(*arguments)
        except BaseException as error:
            self._wrongs.put(f"{type(error).__name__}: {error}")

    def stop(self) -> None:
        """End the processes.

        Raises:
            AssertionError: one of them saw what must not be.
        """
        self.phase.value = OVER
        deadline_s = time.monotonic() + 60
        for process in self._processes:
            process.join(max(0.1, deadline_s - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
                self._wrongs.put("a process did not end")
        self._processes.clear()
        self.check()

    def check(self) -> None:
        """Raises AssertionError: one of the processes saw what must not be."""
        if not self._wrongs.empty():
            raise AssertionError(self._wrongs.get())

    def _write(self, number: int, by_socket: bool) -> None:
        random_source = random.Random(self._seed * 8 + number)
        mine = range(number, len(self.keys), WRITERS)
        with self._doors(by_socket=by_socket) as doors:
            while (phase := self.phase.value) != OVER:
                self._seen[number] = phase
                # Most of them a few times, some often.
                index = mine[int(random_source.random() ** 3 * len(mine))]
                choices = {OLD: ["old"], MIXED: ["old", "new"], NEW: ["new"]}[phase]
                where = random_source.choice(choices)
                version = self.newest[index] + 1
                is_delete = random_source.random() < 0.3
                if is_delete:
                    doors(index, where).delete(self.keys[index])
                else:
                    doors(index, where).set(self.keys[index], self.value(where, version))
                self.newest_in[where][index] = version
                self.was_deleted_in[where][index] = is_delete
                self.newest[index] = version
                self.writes[number] += 1
                if random_source.random() < 0.02:
                    time.sleep(0.001)

    def _read(self, number: int, by_socket: bool) -> None:
        random_source = random.Random(self._seed * 8 + 4 + number)
        with self._doors(by_socket=by_socket) as doors:
            while self.phase.value != OVER:
                index = random_source.randrange(len(self.keys))
                self._read_one(doors(index, "new"), index)

    def _read_one(self, new: Door, index: int) -> None:
        anywhere, here = self.newest[index], self.newest_in["new"][index]
        value = new.get(self.keys[index])
        self.reads.value += 1
        if value is None:
            return
        where, version_text, padding = value.split(b" ", 2)
        version = int(version_text)
        assert padding == self._padding
        self.copies_read.value += where == b"old"
        least = anywhere if where == b"old" else here
        assert version >= least, (
            f"{self.keys[index]}: version {version}, written in the {where.decode()} home, was "
            f"read in the new one after {least} had been acknowledged; seed {self._seed}"
        )

    # ---- afterwards --------------------------------------------------------------------------

    def check_ends(self) -> None:
        """When nobody is at work any more: each node has what was written last in it."""
        with self._doors(by_socket=False) as doors:
            for index, key in enumerate(self.keys):
                self._check_end(index, "old", doors(index, "old").get(key))
                if self.newest_in["new"][index] != 0:
                    self._check_end(index, "new", doors(index, "new").get(key))
                else:
                    self._read_one(doors(index, "new"), index)

    def _check_end(self, index: int, where: str, value: bytes | None) -> None:
        last = self.newest_in[where][index]
        expected = None if self.was_deleted_in[where][index] else self.value(where, last)
        assert value == expected, (
            f"{self.keys[index]} in the {where} home: {value!r:.60}, expected {expected!r:.60}; "
            f"seed {self._seed}"
        )

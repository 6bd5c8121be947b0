"""Writes random words into a node's segment, and knows whose answer is wrong all the same.

A value is a row of blocks of 16 bytes, each of which says whose it is in two ways: one word that
the scribbler changes cannot make it another key's.
"""

import mmap
import os
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

CONSTANTS_BYTES = 4096
SLOT_BYTES = 10752
HELD_BYTES = 17344
DATA_HEAD = struct.Struct("8sII14Q8I")
"""Of struct superblock in mem/data_segment.h, up to eviction_policy."""
RUN_HEAD = struct.Struct("8sII9Q")
"""Of struct run_head in mem/run_segment.h, up to tracks_at."""

BLOCK = re.compile(rb"\[([0-9a-f]{6})~([0-9a-f]{6})\]")
INVERSE = 0xFFFFFF
ANSWER_S = 30.0
"""How long a request may take: waits for a lock end after a second, a worker that goes round in
circles is killed after three, and the machine may be slow."""


class Area(NamedTuple):
    memory: mmap.mmap
    begin: int
    bytes: int


class Scribbler:
    """Random words anywhere in the memory that a node's processes use.

    Args:
        pid: of a process that has the segment open.
        seed: of everything that is drawn.
        worker_count: of the node; more slots than theirs and a few others are not used.
    """

    def __init__(self, pid: int, seed: int, worker_count: int) -> None:
        self._random = random.Random(seed)
        self._data, self._run = _map(pid, "memcachepy"), _map(pid, "memcachepy-run")
        head = DATA_HEAD.unpack_from(self._data)
        held, shards, words, tables, freemap, pages, data = head[6:13]
        page_bytes, _, _, shard_count, table_pages_max, _, _, _ = head[17:]
        head = RUN_HEAD.unpack_from(self._run)
        slots, locks, _, prefixes, conns, configs, tracks = head[5:]
        shard_bytes = (words - shards) // shard_count
        slot_count = 4 + worker_count + 2
        self._page_bytes = page_bytes
        self.areas = {
            "superblock": Area(self._data, CONSTANTS_BYTES, held - CONSTANTS_BYTES),
            "held": Area(self._data, held, HELD_BYTES * slot_count),
            "shards": Area(self._data, shards, shard_bytes * shard_count),
            "shard heads": Area(self._data, shards, 0),
            "table words": Area(self._data, words, 8 * shard_count),
            "tables": Area(self._data, tables, 4 * shard_count * min(table_pages_max, 16)),
            "free map": Area(self._data, freemap, 4096),
            "pages": Area(self._data, pages, 24 * 1024),
            "data": Area(self._data, data, page_bytes * 16),
            "run head": Area(self._run, CONSTANTS_BYTES, slots - CONSTANTS_BYTES),
            "slots": Area(self._run, slots, SLOT_BYTES * slot_count),
            "locks": Area(self._run, locks, 64 * shard_count),
            "prefixes": Area(self._run, prefixes, 4096),
            "connections": Area(self._run, conns, 4096 * (1 + worker_count)),
            "configurations": Area(self._run, configs, 4096),
            "tracks": Area(self._run, tracks, 4096),
        }
        self._shard_starts = [shards + shard_bytes * i for i in range(shard_count)]
        self.written = 0

    def close(self) -> None:
        self._data.close()
        self._run.close()

    def scribble(self, count: int, names: list[str] | None = None) -> None:
        """Write so many words into areas drawn at random, or into these."""
        names = names or list(self.areas)
        for _ in range(count):
            self._write(*self._place(self._random.choice(names)))

    def _place(self, name: str) -> tuple[mmap.mmap, int]:
        draw = self._random
        memory, begin, size = self.areas[name]
        if name == "shard heads":
            return memory, draw.choice(self._shard_starts) + draw.randrange(0, 4800, 4)
        if name == "data":
            populated = 16  # pages at least; what was never used is worth nothing
            size = self._page_bytes * max(populated, self.pages_used())
        return memory, begin + draw.randrange(0, size, 4)

    def pages_used(self) -> int:
        """Pages that have an owner, by the directory, up to the last; at most a few hundred."""
        pages = self.areas["pages"]
        owners = pages.memory[pages.begin : pages.begin + 24 * 512]
        used = [i for i in range(512) if owners[i * 24 : i * 24 + 4] != b"\0\0\0\0"]
        return used[-1] + 1 if used else 1

    def _write(self, memory: mmap.mmap, at: int) -> None:
        draw = self._random
        old = int.from_bytes(memory[at : at + 4], "little")
        new = draw.choice(
            (
                lambda: draw.getrandbits(32),
                lambda: draw.randrange(0, 16),
                lambda: 0xFFFFFFFF - draw.randrange(0, 16),
                lambda: old ^ 1 << draw.randrange(32),
                lambda: (old + draw.choice((-1, 1))) & 0xFFFFFFFF,
                lambda: int.from_bytes(self._word_elsewhere(), "little"),
            )
        )()
        memory[at : at + 4] = new.to_bytes(4, "little")
        self.written += 1

    def _word_elsewhere(self) -> bytes:
        memory, at = self._place(self._random.choice(("slots", "shard heads", "pages", "data")))
        return memory[at : at + 4]


def _map(pid: int, name: str) -> mmap.mmap:
    """The memfd of this name that the process has open."""
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        if str(entry.readlink()) == f"/memfd:{name} (deleted)":
            fd = os.open(entry, os.O_RDWR)
            try:
                return mmap.mmap(fd, os.fstat(fd).st_size)
            finally:
                os.close(fd)
    raise AssertionError(f"process {pid} has no {name} open")


def value_of(number: int, length: int) -> bytes:
    block = b"[%06x~%06x]." % (number, number ^ INVERSE)
    return (block * (length // 16 + 1))[:length]


def strangers_in(value: bytes, number: int) -> set[int]:
    """Other keys whose blocks stand in the value."""
    found = {(int(a, 16), int(b, 16)) for a, b in BLOCK.findall(value)}
    return {a for a, b in found if b == a ^ INVERSE and a != number}


class Wrong(AssertionError):
    """An answer that no scribbling excuses."""


class Client:
    """Sets, gets and deletes keys of its own range, one request at a time.

    Whatever it is answered is fine, as is a connection that is closed: but not silence, and not
    another key's value.
    """

    LENGTHS = (10, 60, 300, 1500, 7000, 40_000, 200_000)

    def __init__(self, port: int, seed: int, first: int, count: int) -> None:
        self._random = random.Random(seed)
        self._port = port
        self._keys = range(first, first + count)
        self._socket: socket.socket | None = None
        self._received = b""
        self._request = b""
        self.answers = 0
        self.hits = 0
        self.closed = 0

    def run(self, is_over: threading.Event) -> None:
        try:
            while not is_over.is_set():
                self.step()
        finally:
            self.hang_up()

    def step(self) -> None:
        number = self._random.choice(self._keys)
        try:
            match self._random.randrange(8):
                case 0 | 1 | 2:
                    self.set(number, self._random.choice(self.LENGTHS))
                case 3:
                    self.ask(b"delete key%d\r\n" % number)
                case _:
                    self.get(number)
        except (ConnectionError, EOFError):
            self.closed += 1
            self.hang_up()
            time.sleep(0.002)

    def set(self, number: int, length: int) -> bytes:
        return self.ask(b"set key%d 0 0 %d\r\n%s\r\n" % (number, length, value_of(number, length)))

    def get(self, number: int) -> bytes | None:
        """The value; None is a miss or an error.

        Raises:
            Wrong: it is another's, or took too long.
            ConnectionError, EOFError: the connection is closed.
        """
        line = self.ask(b"get key%d\r\n" % number)
        if not line.startswith(b"VALUE "):
            return None
        words = line.split()
        if words[1] != b"key%d" % number:
            raise Wrong(f"asked for key{number} and got {line!r}")
        length = int(words[3])
        value = self._take(length + 2)[:length]
        self.hits += 1
        if strangers := strangers_in(value, number):
            raise Wrong(f"key{number} has {length} bytes, some of keys {sorted(strangers)[:5]}")
        if (end := self._line()) != b"END":
            raise Wrong(f"behind the value of key{number} stands {end[:80]!r}")
        return value

    def ask(self, request: bytes) -> bytes:
        """The first line of the answer."""
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), ANSWER_S)
            self._socket.settimeout(ANSWER_S)
            self._received = b""
        self._request = request[:40]
        self._socket.sendall(request)
        line = self._line()
        self.answers += 1
        return line

    def _line(self) -> bytes:
        while (end := self._received.find(b"\r\n")) < 0:
            self._receive()
        line, self._received = self._received[:end], self._received[end + 2 :]
        return line

    def _take(self, length: int) -> bytes:
        while len(self._received) < length:
            self._receive()
        taken, self._received = self._received[:length], self._received[length:]
        return taken

    def _receive(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(1 << 18)
        except TimeoutError:
            raise Wrong(f"no answer to {self._request!r} within {ANSWER_S} s") from None
        if not data:
            raise EOFError
        self._received += data

    def hang_up(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def keys_that_fail(client: Client, numbers: range) -> Iterator[tuple[int, bytes]]:
    """Those that cannot be set and read at this moment, and what was answered."""
    for number in numbers:
        length = Client.LENGTHS[number % 5]
        try:
            answer = client.set(number, length)
            value = client.get(number)
        except (ConnectionError, EOFError) as error:
            client.hang_up()
            yield number, repr(error).encode()
            return  # The others are tried when there is a connection again.
        if answer != b"STORED" or value != value_of(number, length):
            yield number, answer + b", then " + (b"a miss" if value is None else value[:40])

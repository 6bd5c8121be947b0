"""Writes random words into the two parts of a node's segment."""

import mmap
import os
import random
import struct
from pathlib import Path
from typing import NamedTuple

CONSTANTS_BYTES = 4096
SLOT_BYTES = 10752
HELD_BYTES = 17344
SHARD_HEAD_BYTES = 5184
"""Up to the journal, or nearly; what follows is written by each transaction anew."""
LOCK_BYTES = 64
CONFIG_COPIES = 32
DATA_HEAD = struct.Struct("8sII14Q8I")
"""Of struct superblock in mem/data_segment.h, up to eviction_policy."""
RUN_HEAD = struct.Struct("8sII10QI4x")
"""Of struct run_head in mem/run_segment.h, up to boot_settings."""
SETTINGS_BYTES = 1744


class Area(NamedTuple):
    """Words that are drawn alike: of `count` parts, each `stride` bytes from the one before it."""

    memory: mmap.mmap
    begin: int
    bytes: int
    stride: int = 0
    count: int = 1


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
        slot_count = 4 + worker_count + 2
        self._shard_count = DATA_HEAD.unpack_from(self._data)[20]
        self.areas = self._data_areas(slot_count) | self._run_areas(slot_count, worker_count)
        self.written = 0

    def _data_areas(self, slot_count: int) -> dict[str, Area]:
        memory = self._data
        head = DATA_HEAD.unpack_from(memory)
        held, shards, words, tables, freemap, pages, data = head[6:13]
        page_bytes, _, _, _, table_pages_max, _, _, _ = head[17:]
        shard_count = self._shard_count
        shard_bytes = (words - shards) // shard_count
        self._page_bytes = page_bytes
        return {
            "superblock": Area(memory, CONSTANTS_BYTES, held - CONSTANTS_BYTES),
            "held": Area(memory, held, HELD_BYTES * slot_count),
            "shards": Area(memory, shards, shard_bytes * shard_count),
            "shard heads": Area(memory, shards, SHARD_HEAD_BYTES, shard_bytes, shard_count),
            "table words": Area(memory, words, 8 * shard_count),
            "tables": Area(memory, tables, 4 * shard_count * min(table_pages_max, 16)),
            "free map": Area(memory, freemap, 4096),
            "pages": Area(memory, pages, 24 * 1024),
            "data": Area(memory, data, page_bytes * 16),
        }

    def _run_areas(self, slot_count: int, worker_count: int) -> dict[str, Area]:
        memory = self._run
        head = RUN_HEAD.unpack_from(memory)
        slots, locks, logs, prefixes, conns, configs, tracks, _, ring_bytes = head[5:]
        conns_bytes = (configs - conns) // (1 + worker_count)
        config_bytes = (tracks - configs) // CONFIG_COPIES
        return {
            "run head": Area(memory, CONSTANTS_BYTES, slots - CONSTANTS_BYTES),
            "settings": Area(memory, self._settings_at(slots), SETTINGS_BYTES),
            "slots": Area(memory, slots, SLOT_BYTES * slot_count),
            "slot heads": Area(memory, slots, 512, SLOT_BYTES, slot_count),
            "locks": Area(memory, locks, LOCK_BYTES, LOCK_BYTES, self._shard_count),
            "log rings": Area(memory, logs, ring_bytes * slot_count),
            "log ring heads": Area(memory, logs, 192, ring_bytes, slot_count),
            "prefixes": Area(memory, prefixes, 1 << 20),
            "prefix entries": Area(memory, prefixes + (1 << 20), 64 * 1024),
            "connections": Area(memory, conns, 64 * 64, conns_bytes, 1 + worker_count),
            "configurations": Area(memory, configs, 512, config_bytes, CONFIG_COPIES),
            "tracks": Area(memory, tracks, 16384),
        }

    def close(self) -> None:
        self._data.close()
        self._run.close()

    def scribble(self, count: int, names: list[str] | None = None) -> None:
        """Write so many words into areas drawn at random, or into these."""
        names = names or list(self.areas)
        for _ in range(count):
            self._write(*self._place(self._random.choice(names)))

    def locks(self) -> str:
        """What the shards' locks and the slots say of each other, for a test that has failed."""
        locks, slots = self.areas["locks"], self.areas["slot heads"]
        shards = [
            " ".join(f"{word:x}" for word in struct.unpack_from("10I", locks.memory, at))
            for at in range(locks.begin, locks.begin + locks.stride * locks.count, locks.stride)
        ]
        words = [
            struct.unpack_from("i4I", slots.memory, at)
            for at in range(slots.begin, slots.begin + slots.stride * slots.count, slots.stride)
        ]
        return f"locks {shards}; pid, serving, locked, lock count, wanted {words}"

    def fill(self, area: Area, byte: bytes) -> None:
        area.memory[area.begin : area.begin + area.bytes] = byte * area.bytes

    def write(self, area: Area, word: int) -> None:
        area.memory[area.begin : area.begin + 4] = word.to_bytes(4, "little")

    def read(self, area: Area) -> bytes:
        return area.memory[area.begin : area.begin + area.bytes]

    def _settings_at(self, end: int) -> int:
        """Of the settings that can change; they begin as those of the constants, that cannot."""
        begin = self._run[RUN_HEAD.size : RUN_HEAD.size + 64]
        at = self._run.find(begin, CONSTANTS_BYTES, end)
        assert at > 0, "the head of the run has no copy of the settings"
        return at

    def _place(self, name: str) -> tuple[mmap.mmap, int]:
        draw = self._random
        area = self.areas[name]
        length = area.bytes
        if name == "data":
            populated = 16  # pages at least; what was never used is worth nothing
            length = self._page_bytes * max(populated, self.pages_used())
        part = area.begin + area.stride * draw.randrange(area.count)
        return area.memory, part + draw.randrange(0, length, 4)

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

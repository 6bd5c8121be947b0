"""Writes random words into a node's segment."""

import mmap
import os
import random
import struct
from pathlib import Path
from typing import NamedTuple

CONSTANTS_BYTES = 4096
SLOT_BYTES = 27136
SHARD_HEAD_BYTES = 5184
"""Up to the journal; what follows is written by each transaction anew."""
LOCK_BYTES = 40
CONFIG_COPIES = 32
CLASSES_MAX = 64
CONSTANTS = struct.Struct("8sII13Q8I")
"""The head of struct superblock in mem/segment.h, up to page_count_max."""
BOOT_SETTINGS_AT = CONSTANTS.size + 2 * 4 * CLASSES_MAX + 16 + 16
"""Behind the sizes of chunks, the hash key and the bases of the clocks."""
SETTINGS_BYTES = 1744


class Area(NamedTuple):
    """Words that are drawn alike: of `count` parts, each `stride` bytes from the one before it."""

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
        fd = os.open(_memfd(pid), os.O_RDWR)
        try:
            self._memory = mmap.mmap(fd, os.fstat(fd).st_size)
        finally:
            os.close(fd)
        head = CONSTANTS.unpack_from(self._memory)
        slots, logs, shards, words, tables, prefixes, conns, configs = head[4:12]
        tracks, freemap, pages, data = head[12:16]
        page_bytes, _, _, ring_bytes, shard_count, table_pages_max, _, _ = head[16:]
        shard_bytes = (words - shards) // shard_count
        conns_bytes = (configs - conns) // (1 + worker_count)
        config_bytes = (tracks - configs) // CONFIG_COPIES
        slot_count = 4 + worker_count + 2
        self._page_bytes = page_bytes
        self.areas = {
            "superblock": Area(CONSTANTS_BYTES, slots - CONSTANTS_BYTES),
            "settings": Area(self._settings_at(slots), SETTINGS_BYTES),
            "slots": Area(slots, SLOT_BYTES * slot_count),
            "slot heads": Area(slots, 512, SLOT_BYTES, slot_count),
            "log rings": Area(logs, ring_bytes * slot_count),
            "log ring heads": Area(logs, 192, ring_bytes, slot_count),
            "shards": Area(shards, shard_bytes * shard_count),
            "shard heads": Area(shards, SHARD_HEAD_BYTES, shard_bytes, shard_count),
            "locks": Area(shards, LOCK_BYTES, shard_bytes, shard_count),
            "table words": Area(words, 8 * shard_count),
            "tables": Area(tables, 4 * shard_count * min(table_pages_max, 16)),
            "prefixes": Area(prefixes, 1 << 20),
            "prefix entries": Area(prefixes + (1 << 20), 64 * 1024),
            "connections": Area(conns, 64 * 64, conns_bytes, 1 + worker_count),
            "configurations": Area(configs, 512, config_bytes, CONFIG_COPIES),
            "tracks": Area(tracks, 16384),
            "free map": Area(freemap, 4096),
            "pages": Area(pages, 24 * 1024),
            "data": Area(data, page_bytes * 16),
        }
        self.written = 0

    def close(self) -> None:
        self._memory.close()

    def scribble(self, count: int, names: list[str] | None = None) -> None:
        """Write so many words into areas drawn at random, or into these."""
        names = names or list(self.areas)
        for _ in range(count):
            self._write(self._place(self._random.choice(names)))

    def locks(self) -> str:
        """What the shards' locks and the slots say of each other, for a test that has failed."""
        locks, slots = self.areas["locks"], self.areas["slot heads"]
        shards = [
            " ".join(f"{word:x}" for word in struct.unpack_from("10I", self._memory, at))
            for at in range(locks.begin, locks.begin + locks.stride * locks.count, locks.stride)
        ]
        words = [
            struct.unpack_from("i4I", self._memory, at)
            for at in range(slots.begin, slots.begin + slots.stride * slots.count, slots.stride)
        ]
        return f"locks {shards}; pid, serving, locked, lock count, wanted {words}"

    def fill(self, area: Area, byte: bytes) -> None:
        self._memory[area.begin : area.begin + area.bytes] = byte * area.bytes

    def write(self, area: Area, word: int) -> None:
        self._memory[area.begin : area.begin + 4] = word.to_bytes(4, "little")

    def read(self, area: Area) -> bytes:
        return self._memory[area.begin : area.begin + area.bytes]

    def _settings_at(self, end: int) -> int:
        """Of the settings that can change; they begin as those of the constants, that cannot."""
        begin = self._memory[BOOT_SETTINGS_AT : BOOT_SETTINGS_AT + 64]
        at = self._memory.find(begin, CONSTANTS_BYTES, end)
        assert at > 0, "the superblock has no copy of the settings"
        return at

    def _place(self, name: str) -> int:
        draw = self._random
        area = self.areas[name]
        if name == "data":
            populated = 16  # pages at least; what was never used is worth nothing
            area = Area(area.begin, self._page_bytes * max(populated, self.pages_used()))
        part = area.begin + area.stride * draw.randrange(area.count)
        return part + draw.randrange(0, area.bytes, 4)

    def pages_used(self) -> int:
        """Pages that have an owner, by the directory, up to the last; at most a few hundred."""
        pages = self.areas["pages"]
        owners = self._memory[pages.begin : pages.begin + 24 * 512]
        used = [i for i in range(512) if owners[i * 24 : i * 24 + 4] != b"\0\0\0\0"]
        return used[-1] + 1 if used else 1

    def _write(self, at: int) -> None:
        draw = self._random
        old = int.from_bytes(self._memory[at : at + 4], "little")
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
        self._memory[at : at + 4] = new.to_bytes(4, "little")
        self.written += 1

    def _word_elsewhere(self) -> bytes:
        at = self._place(self._random.choice(("slots", "shard heads", "pages", "data")))
        return self._memory[at : at + 4]


def _memfd(pid: int) -> str:
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        if "memfd:memcachepy" in str(entry.readlink()):
            return str(entry)
    raise AssertionError(f"process {pid} has no segment open")

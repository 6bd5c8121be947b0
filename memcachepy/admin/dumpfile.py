"""The file of `memcachepy dump`; README.md of this folder documents it to the byte.

Blocks of about a megabyte, each with a checksum, so that nothing of a damaged block is ever used
and neither side holds more than one block in memory.
"""

import json
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from memcachepy import _core
from memcachepy.errors import DamagedDump, MemcachepyError

MAGIC = b"MCPYDUMP"
VERSION = 1
BLOCK_BYTES = 1 << 20
"""The largest payload of a block."""

ITEMS = 1
PIECE = 2
CLASS_END = 3
END = 4

_FILE_HEADER = struct.Struct("<8sHHI")  # magic, version, 0, length of the JSON text
_SUM = struct.Struct("<Q")
_BLOCK_HEADER = struct.Struct("<4sBBHIIQ")  # magic, kind, class, 0, length, items, number
_BLOCK_MAGIC = b"MCPB"
BLOCK_HEADER_BYTES = _BLOCK_HEADER.size + _SUM.size
_RECORD = struct.Struct("<BxxxIIQ")  # key length, client flags, value length, expiry
_TOTALS = struct.Struct("<5Q")
_HEADER_TEXT_MAX = 1 << 16


@dataclass(slots=True)
class Totals:
    """What became of the items that the server had listed."""

    items: int = 0
    value_bytes: int = 0
    vanished: int = 0
    """Gone between listing and reading: deleted, expired or evicted."""
    stale: int = 0
    """Marked stale by an invalidation (`md I`): left out, for a restored item would look fresh."""
    unreadable: int = 0
    """With a key that the text protocol cannot name, or that the server did not want to give."""


@dataclass(frozen=True, slots=True)
class Record:
    """An item, or the beginning of a long one whose value goes on in the pieces that follow."""

    key: bytes
    client_flags: int
    expire_at_s: int
    """Unix time; 0: never."""
    value_len: int
    value: memoryview


@dataclass(frozen=True, slots=True)
class Block:
    """A block whose checksum was right."""

    number: int
    offset: int
    kind: int
    class_id: int
    item_count: int
    payload: memoryview

    @property
    def end_offset(self) -> int:
        return self.offset + BLOCK_HEADER_BYTES + len(self.payload)

    @property
    def totals(self) -> Totals:
        """Of CLASS_END and END."""
        return Totals(*_TOTALS.unpack(self.payload))

    def records(self) -> Iterator[Record]:
        """Of ITEMS.

        Raises:
            ValueError: the payload is not what the header says.
        """
        at = 0
        for _ in range(self.item_count):
            if at + _RECORD.size > len(self.payload):
                raise ValueError("its items do not fill it")
            key_len, client_flags, value_len, expire_at_s = _RECORD.unpack_from(self.payload, at)
            at += _RECORD.size
            key = bytes(self.payload[at : at + key_len])
            at += key_len
            value = self.payload[at : at + value_len]
            at += len(value)
            if len(value) < value_len and self.item_count > 1:
                raise ValueError("its items do not fill it")
            yield Record(key, client_flags, expire_at_s, value_len, value)
        if at != len(self.payload):
            raise ValueError("its items do not fill it")


def _seal(header: bytes, payload: bytes, seed: int) -> bytes:
    return _SUM.pack(_core.xxh64(payload, _core.xxh64(header, seed)))


class DumpWriter:
    """Writes a dump into an open file that stands at its beginning, or where a class has ended.

    Args:
        file: stays the caller's.
        seed: what `write_header` or `DumpReader.seed` gave.
        number: of the next block.
        totals: of what is in the file already.
    """

    def __init__(self, file: BinaryIO, seed: int, number: int = 0, totals: Totals | None = None):
        self._file = file
        self._seed = seed
        self._number = number
        self._class_id = 0
        self._payload = bytearray()
        self._item_count = 0
        self._missing = 0
        self.totals = totals or Totals()

    @staticmethod
    def write_header(file: BinaryIO, facts: Mapping[str, object]) -> int:
        """Begin a file; returns the seed of its blocks."""
        text = json.dumps(facts, sort_keys=True).encode()
        header = _FILE_HEADER.pack(MAGIC, VERSION, 0, len(text)) + text
        seed = _core.xxh64(header)
        file.write(header + _SUM.pack(seed))
        return seed

    def begin_class(self, class_id: int) -> None:
        self._class_id = class_id

    def begin_item(self, key: bytes, client_flags: int, expire_at_s: int, value_len: int) -> None:
        """An item; exactly so many bytes of `value` have to follow."""
        assert self._missing == 0, "the item before is not whole"
        bytes_needed = _RECORD.size + len(key) + value_len
        if self._payload and len(self._payload) + bytes_needed > BLOCK_BYTES:
            self._write_block(ITEMS)
        self._payload += _RECORD.pack(len(key), client_flags, value_len, expire_at_s)
        self._payload += key
        self._item_count += 1
        self._missing = value_len
        self.totals.items += 1
        self.totals.value_bytes += value_len

    def value(self, data: bytes) -> None:
        """The next bytes of the item's value, at most BLOCK_BYTES of them."""
        self._missing -= len(data)
        assert self._missing >= 0, "more than was announced"
        room = BLOCK_BYTES - len(self._payload)
        self._payload += data[:room]
        if len(data) > room:
            self._write_block(ITEMS if self._item_count else PIECE)
            self._payload += data[room:]
        if self._missing == 0 and self._item_count == 0:
            self._write_block(PIECE)

    def end_class(self) -> None:
        """The class is whole: a dump can be resumed behind it."""
        self._flush()
        self._payload += _TOTALS.pack(*astuple(self.totals))
        self._write_block(CLASS_END)
        self._file.flush()

    def end(self) -> None:
        self._flush()
        self._class_id = 0
        self._payload += _TOTALS.pack(*astuple(self.totals))
        self._write_block(END)

    def _flush(self) -> None:
        assert self._missing == 0, "the last item is not whole"
        if self._item_count:
            self._write_block(ITEMS)

    def _write_block(self, kind: int) -> None:
        payload = bytes(self._payload)
        header = _BLOCK_HEADER.pack(
            _BLOCK_MAGIC, kind, self._class_id, 0, len(payload), self._item_count, self._number
        )
        self._file.write(header + _seal(header, payload, self._seed) + payload)
        self._number += 1
        self._payload.clear()
        self._item_count = 0


class DumpReader:
    """Reads a dump block by block; a context that closes the file.

    Raises:
        DamagedDump: while it is opened or read.
        MemcachepyError: the file cannot be opened, or is of another version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise MemcachepyError(f"cannot read {path}: {error.strerror}") from None
        try:
            self.facts, self.seed = self._read_header()
            self.bytes = os.fstat(self._file.fileno()).st_size
            self.first_offset = self._file.tell()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def _read_header(self) -> tuple[dict[str, object], int]:
        start = self._file.read(_FILE_HEADER.size)
        if start[: len(MAGIC)] != MAGIC[: len(start)] or not start:
            raise DamagedDump(self.path, None, 0, "it does not begin as a dump of memcachepy does")
        if len(start) < _FILE_HEADER.size:
            raise DamagedDump(self.path, None, len(start), "the file ends here")
        _, version, zero, text_len = _FILE_HEADER.unpack(start)
        rest = self._file.read(min(text_len, _HEADER_TEXT_MAX) + _SUM.size)
        text, checksum = rest[: -_SUM.size], rest[-_SUM.size :]
        seed = _core.xxh64(start + text)
        if len(text) != text_len or checksum != _SUM.pack(seed) or zero != 0:
            raise DamagedDump(self.path, None, 0, "its checksum is wrong")
        if version != VERSION:
            raise MemcachepyError(
                f"{self.path} has version {version} of the format; this program reads {VERSION}"
            )
        facts: dict[str, object] = json.loads(text)
        return facts, seed

    def blocks(self, offset: int = 0, number: int = 0) -> Iterator[Block]:
        """Blocks from this one on, up to and with the one that ends the dump.

        Args:
            offset: where the block begins; 0: the first.
            number: its number.
        """
        offset = offset or self.first_offset
        self._file.seek(offset)
        while True:
            block = self._read_block(offset, number)
            yield block
            offset = block.end_offset
            number += 1
            if block.kind == END:
                break
        if offset != self.bytes:
            raise DamagedDump(self.path, number, offset, "something follows the end of the dump")

    def _read_block(self, offset: int, number: int) -> Block:
        def damaged(why: str) -> DamagedDump:
            return DamagedDump(self.path, number, offset, why)

        head = self._file.read(BLOCK_HEADER_BYTES)
        if len(head) < BLOCK_HEADER_BYTES:
            raise damaged(f"the file ends at byte {offset + len(head)}, before the dump does")
        header, checksum = head[: _BLOCK_HEADER.size], head[_BLOCK_HEADER.size :]
        magic, kind, class_id, _, length, item_count, stored_number = _BLOCK_HEADER.unpack(header)
        if magic != _BLOCK_MAGIC or length > BLOCK_BYTES:
            raise damaged("no block begins here")
        payload = self._file.read(length)
        if len(payload) < length:
            end = offset + len(head) + len(payload)
            raise damaged(f"the file ends at byte {end}, in the middle of the block")
        if checksum != _seal(header, payload, self.seed):
            raise damaged("its checksum is wrong")
        totals_fit = kind not in (CLASS_END, END) or length == _TOTALS.size
        if stored_number != number or not ITEMS <= kind <= END or not totals_fit:
            raise damaged("it belongs elsewhere")
        return Block(number, offset, kind, class_id, item_count, memoryview(payload))

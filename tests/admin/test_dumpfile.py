"""The dump's file: what is written is read, and no change of a byte goes unnoticed."""

import random
import struct
from pathlib import Path

import pytest

from memcachepy import _core
from memcachepy.admin.dumpfile import (
    BLOCK_BYTES,
    END,
    ITEMS,
    PIECE,
    Block,
    DumpReader,
    DumpWriter,
)
from memcachepy.admin.restore import check
from memcachepy.errors import DamagedDump, MemcachepyError

Written = tuple[bytes, int, int, bytes]
"""Key, client flags, expiry, value."""


def write(path: Path, classes: dict[int, list[Written]]) -> None:
    with path.open("wb") as file:
        writer = DumpWriter(file, DumpWriter.write_header(file, {"source": "a test"}))
        for class_id, items in classes.items():
            writer.begin_class(class_id)
            for key, client_flags, expire_at_s, value in items:
                writer.begin_item(key, client_flags, expire_at_s, len(value))
                for at in range(0, len(value), 1000):
                    writer.value(value[at : at + 1000])
            writer.end_class()
        writer.end()


def read(path: Path) -> list[Written]:
    """All items that come out before the end, or before a DamagedDump."""
    return read_until_damage(path)[0]


def read_until_damage(path: Path) -> tuple[list[Written], DamagedDump | None]:
    items: list[Written] = []
    try:
        with DumpReader(path) as reader:
            for block in reader.blocks():
                if block.kind == ITEMS:
                    items += [
                        (one.key, one.client_flags, one.expire_at_s, bytes(one.value))
                        for one in block.records()
                    ]
                elif block.kind == PIECE:
                    key, client_flags, expire_at_s, value = items.pop()
                    items.append((key, client_flags, expire_at_s, value + bytes(block.payload)))
    except DamagedDump as error:
        return items, error
    return items, None


def blocks_of(path: Path) -> list[Block]:
    with DumpReader(path) as reader:
        return list(reader.blocks())


SMALL: dict[int, list[Written]] = {
    1: [(b"a", 1, 0, b"one"), (b"b", 2, 2_000_000_000, b"")],
    2: [(b"binary \0key", 0, 0, b"\r\n")],
    7: [],
}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "dump"
    write(path, SMALL)
    return path


def test_what_is_written_is_read(small: Path) -> None:
    assert read(small) == [item for items in SMALL.values() for item in items]
    ends = [(block.class_id, block.totals.items) for block in blocks_of(small) if block.kind == 3]
    assert ends == [(1, 2), (2, 3), (7, 3)]


@pytest.mark.parametrize("around", [-21, -20, -1, 0, 1, 20])
@pytest.mark.parametrize("blocks", [1, 3])
def test_values_about_as_long_as_blocks(tmp_path: Path, blocks: int, around: int) -> None:
    value = random.Random(around).randbytes(blocks * BLOCK_BYTES + around)
    items = [(b"before", 0, 0, b"x"), (b"long", 7, 9, value), (b"after", 0, 0, b"y" * 5000)]
    write(tmp_path / "dump", {5: items})
    assert read(tmp_path / "dump") == items
    assert all(len(block.payload) <= BLOCK_BYTES for block in blocks_of(tmp_path / "dump"))
    assert check(tmp_path / "dump", lambda _done, _all: None)["items"] == 3


def test_many_items_fill_blocks(tmp_path: Path, rng: random.Random) -> None:
    items = [(b"key%d" % i, i, i, rng.randbytes(rng.randrange(9000))) for i in range(1000)]
    write(tmp_path / "dump", {1: items[:300], 2: items[300:]})
    assert read(tmp_path / "dump") == items
    full = [len(block.payload) for block in blocks_of(tmp_path / "dump") if block.kind == ITEMS]
    assert len(full) < 8, "blocks are about a megabyte"


def test_every_flipped_byte_is_found_and_nothing_wrong_is_read(small: Path) -> None:
    good = small.read_bytes()
    whole = read(small)
    with DumpReader(small) as reader:
        blocks = list(reader.blocks())
        header_bytes = reader.first_offset
    for offset in range(len(good)):
        for flip in (0x01, 0x80, 0xFF):
            bad = bytearray(good)
            bad[offset] ^= flip
            small.write_bytes(bad)
            try:
                items, error = read_until_damage(small)
            except MemcachepyError as refusal:
                raise AssertionError(f"byte {offset}, {flip:#x}: {refusal}") from None
            assert error is not None, f"byte {offset} ^ {flip:#x} went unnoticed"
            assert items == whole[: len(items)]
            if offset < header_bytes:
                assert (error.block, items) == (None, [])
                continue
            hit = next(block for block in blocks if block.offset <= offset < block.end_offset)
            assert (error.block, error.offset) == (hit.number, hit.offset)
            assert f"block {hit.number}, at byte {hit.offset}:" in str(error)


def test_every_truncation_is_found(small: Path) -> None:
    good = small.read_bytes()
    whole = read(small)
    for length in range(len(good)):
        small.write_bytes(good[:length])
        items, error = read_until_damage(small)
        assert error is not None, f"cut off at byte {length}"
        assert items == whole[: len(items)]


def test_what_follows_the_end_is_damage(small: Path) -> None:
    with small.open("ab") as file:
        file.write(b"x")
    _, error = read_until_damage(small)
    assert error is not None
    assert "something follows" in str(error)


def test_a_block_of_another_dump_is_damage(small: Path, tmp_path: Path) -> None:
    """As after a copy that mixed two files of the same size."""
    other = tmp_path / "other"
    with other.open("wb") as file:
        writer = DumpWriter(file, DumpWriter.write_header(file, {"source": "a past"}))
        writer.begin_class(1)
        writer.begin_item(b"a", 1, 0, 3)
        writer.value(b"two")
        writer.end_class()
        writer.end()
    ours, theirs = blocks_of(small)[0], blocks_of(other)[0]
    assert ours.offset == theirs.offset
    mixed = other.read_bytes()[: theirs.end_offset] + small.read_bytes()[ours.end_offset :]
    small.write_bytes(small.read_bytes()[: ours.offset] + mixed[ours.offset :])
    items, error = read_until_damage(small)
    assert items == []
    assert error is not None
    assert error.block == 0


def test_another_version_is_refused_by_its_number(small: Path) -> None:
    bad = bytearray(small.read_bytes())
    bad[8:10] = struct.pack("<H", 2)
    text_len = struct.unpack_from("<I", bad, 12)[0]
    header = bytes(bad[: 16 + text_len])
    bad[16 + text_len : 24 + text_len] = struct.pack("<Q", _core.xxh64(header))
    small.write_bytes(bad)
    with pytest.raises(MemcachepyError, match="version 2 of the format"):
        DumpReader(small)


def test_a_long_value_that_breaks_off_is_damage(tmp_path: Path) -> None:
    """Every checksum is right, but a block is not there."""
    path = tmp_path / "dump"
    with path.open("wb") as file:
        writer = DumpWriter(file, DumpWriter.write_header(file, {}))
        writer.begin_class(1)
        writer.begin_item(b"k", 0, 0, 2 * BLOCK_BYTES)
        for _ in range(5):
            writer.value(bytes(BLOCK_BYTES // 4))
        writer._missing = 0
        writer._payload.clear()
        writer.end_class()
        writer.end()
    assert [block.kind for block in blocks_of(path)] == [ITEMS, 3, END]
    with pytest.raises(DamagedDump, match="block 1, at byte .*: a long value is not whole"):
        check(path, lambda _done, _all: None)


def test_a_file_that_is_not_there_or_no_dump_is_named(tmp_path: Path) -> None:
    with pytest.raises(MemcachepyError, match="cannot read .*nothing: No such file"):
        DumpReader(tmp_path / "nothing")
    (tmp_path / "text").write_text("just some text that is long enough")
    with pytest.raises(DamagedDump, match="does not begin as a dump"):
        DumpReader(tmp_path / "text")

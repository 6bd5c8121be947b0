"""Reading traces: every format and compression, cut anywhere, and what is wrong with a file."""

import gzip
import itertools
import random
import sys
from pathlib import Path

import pytest
import zstandard
from traces import COMPRESSIONS, SUFFIXES, columns, encode, write

from memcachepy._core import xxh64
from memcachepy.simulate import Trace, TraceError, stream
from memcachepy.simulate.trace import format_of


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("format_name", SUFFIXES)
@pytest.mark.parametrize("block_bytes", [1, 7, 4096, stream.BLOCK_BYTES])
def test_what_was_written_is_read(
    format_name: str,
    compression: str,
    block_bytes: int,
    tmp_path: Path,
    rng: random.Random,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream, "BLOCK_BYTES", block_bytes)
    count = 60 if block_bytes < 100 else 50_000
    keys = [rng.randrange(1 << 32) for _ in range(count)]
    sizes = [rng.randrange(1 << 21) for _ in range(count)]
    path = tmp_path / f"trace{SUFFIXES[format_name]}{compression}"
    trace = Trace(write(path, encode(format_name, keys, sizes)), value_len=77)
    batches = list(trace.requests())
    ids, value_lens, key_lens = columns(batches)
    if format_name == "text":
        names = [b"key:%d" % key for key in keys]
        assert key_lens == [len(name) for name in names]
        assert ids == [
            xxh64(name) if len(name) > 8 else int.from_bytes(name, "little") for name in names
        ]
    else:
        assert ids == keys
        assert set(key_lens) == {16}
    assert value_lens == ([77] * count if format_name == "u32" else sizes)
    if format_name == "oracle-general":
        times = itertools.chain.from_iterable(batch.times_s or () for batch in batches)
        assert list(times) == list(range(count))
    assert columns(list(trace.requests())) == (ids, value_lens, key_lens), "read a second time"


def test_oracle_general_ids_have_64_bits(tmp_path: Path) -> None:
    keys = [1, (1 << 64) - 1, 0x0123456789ABCDEF]
    path = write(tmp_path / "a.oracleGeneral.bin", encode("oracle-general", keys, [1, 2, 3]))
    assert columns(list(Trace(path).requests()))[0] == keys


@pytest.mark.parametrize(
    ("text", "keys", "value_lens"),
    [
        (b"a\nb\na", [b"a", b"b", b"a"], [100] * 3),
        (b"a\r\nb,5\r\n", [b"a", b"b"], [100, 5]),
        (b"a 5\nb\t6\nc,7\nd, 8\ne  9\n", [b"a", b"b", b"c", b"d", b"e"], [5, 6, 7, 8, 9]),
        (b"a,0\nb,4294967295\n", [b"a", b"b"], [0, 4294967295]),
        (b"\xc3\xa4\n" + b"k" * 250 + b"\n", [b"\xc3\xa4", b"k" * 250], [100, 100]),
    ],
)
def test_text_lines(text: bytes, keys: list[bytes], value_lens: list[int], tmp_path: Path) -> None:
    found = columns(list(Trace(write(tmp_path / "a.txt", text)).requests()))
    ids = [xxh64(key) if len(key) > 8 else int.from_bytes(key, "little") for key in keys]
    assert found == (ids, value_lens, [len(key) for key in keys])


def test_a_key_size_replaces_the_keys_own_lengths(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"a\nlong-enough-to-hash\n")
    assert columns(list(Trace(path, key_len=30).requests()))[2] == [30, 30]


def test_formats_by_suffix() -> None:
    names = {"a.TXT": "text", "b.csv.gz": "text", "x.keys": "text", "-": "text", "u32.u32": "u32"}
    names |= {"w.oracleGeneral.zst": "oracle-general", "w.oracleGeneral.bin": "oracle-general"}
    assert {name: format_of(name) for name in names} == names


LINES = b"".join(b"%d\n" % number for number in range(100_000))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "a.txt: there are no requests in it"),
        ("a.txt", b"a\n\nb\n", "a.txt: line 2: is empty"),
        ("a.txt", LINES + b"k" * 251 + b"\nx", "line 100,001: has a key of 251 bytes; the most is"),
        ("a.txt", LINES + b"k" * 300_000, "line 100,001: is longer than 4096 bytes"),
        ("a.txt", b"a\nb\0c\n", "line 2: has the control character 0x00"),
        ("a.csv", b"key,size\n", "line 1: is neither a key nor a key and a size: 'key,size'"),
        ("a.csv", b"a,1\nb,1,2\n", "line 2: is neither a key nor a key and a size: 'b,1,2'"),
        ("a.csv", b"a,4294967296\n", "line 1: is neither"),
        ("a.csv", b"a,-1\n", "line 1: is neither"),
        ("a.csv", b"a,1\n,1\n", "line 2: is neither"),
        ("a.u32", b"", "there are no requests in it"),
        ("a.u32", b"12345678abc", "byte 8: the file ends in the middle of a record of 4 bytes"),
        ("a.u32", b"abc", "byte 0: the file ends in the middle of a record of 4 bytes"),
        ("a.oracleGeneral", b"x" * 71, "byte 48: the file ends in the middle of a record of 24"),
        ("a.u32.gz", b"nonsense", "a.u32.gz: damaged gzip data"),
        ("a.u32.gz", gzip.compress(b"1234" * 300_000)[:-9], "damaged gzip data"),
        ("a.u32.zst", b"nonsense", "a.u32.zst: damaged zstd data"),
        ("a.u32.zst", zstandard.compress(b"1234" * 300_000)[:-9], "the last frame is cut off"),
        ("a.dat", b"1", "a.dat: the format cannot be told from the suffix"),
        ("a.gz", gzip.compress(b"1"), "a.gz: the format cannot be told from the suffix"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(TraceError) as caught:
        list(Trace(str(path)).requests())
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_damage_inside_compressed_data_is_named_with_the_byte_reached(tmp_path: Path) -> None:
    path = tmp_path / "a.u32.gz"
    packed = gzip.compress(random.Random(1).randbytes(3 << 20))
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(TraceError, match=r"after byte [1-9][0-9,]*: damaged gzip data"):
        list(Trace(str(path)).requests())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"nowhere\.txt: No such file"):
        Trace(str(tmp_path / "nowhere.txt"))


def test_a_folder_is_no_trace(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="directory"):
        Trace(str(tmp_path), "text")


def test_zstd_without_its_package_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.u32.zst", b"1234")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(TraceError, match=r"pip install 'memcachepy\[zstd\]'"):
        list(Trace(path).requests())

"""Writing traces of numbered keys in every format and compression."""

import gzip
import struct
from collections.abc import Sequence
from pathlib import Path

import zstandard

from memcachepy.simulate import Requests

SUFFIXES = {"text": ".txt", "u32": ".u32", "oracle-general": ".oracleGeneral"}
COMPRESSIONS = ("", ".gz", ".zst")


def encode(format_name: str, keys: Sequence[int], sizes: Sequence[int]) -> bytes:
    """The content of a trace; request i is made in second i."""
    if format_name == "u32":
        return struct.pack(f"<{len(keys)}I", *keys)
    if format_name == "text":
        pairs = zip(keys, sizes, strict=True)
        return b"".join(b"key:%d,%d\n" % pair for pair in pairs)
    records = enumerate(zip(keys, sizes, strict=True))
    return b"".join(struct.pack("<IQIq", at, key, size, -1) for at, (key, size) in records)


def write(path: Path, content: bytes) -> str:
    """Compressed as the suffix says."""
    if path.suffix == ".gz":
        content = gzip.compress(content, 1)
    elif path.suffix == ".zst":
        half = len(content) // 2
        compress = zstandard.ZstdCompressor().compress
        content = compress(content[:half]) + compress(
            content[half:]
        )  # Frames may follow each other.
    path.write_bytes(content)
    return str(path)


def columns(batches: Sequence[Requests]) -> tuple[list[int], list[int], list[int]]:
    """ids, value_lens and key_lens of all requests."""
    ids: list[int] = []
    value_lens: list[int] = []
    key_lens: list[int] = []
    for batch in batches:
        count = len(batch)
        ids += batch.ids
        for column, values in ((value_lens, batch.value_lens), (key_lens, batch.key_lens)):
            column += [values] * count if isinstance(values, int) else values
    return ids, value_lens, key_lens

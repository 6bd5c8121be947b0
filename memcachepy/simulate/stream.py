"""The bytes of a trace: a file, plain or compressed, or stdin, in blocks."""

import contextlib
import gzip
import os
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO

from memcachepy.errors import MemcachepyError

STDIN = "-"
BLOCK_BYTES = 256 << 10
_ZSTD_WINDOW_MAX = 1 << 31


class TraceError(MemcachepyError):
    """A trace cannot be read; the message names the file and the place in it."""

    exit_status = os.EX_DATAERR


class ByteStream:
    """Yields blocks of a file's content, decompressed by its suffix (`.gz`, `.zst`).

    `position_bytes` and `size_bytes` are those of the file as it lies on the disk, for a progress
    bar; the size of stdin is None.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.name = "stdin" if path == STDIN else path
        self.size_bytes = None if path == STDIN else self._file_size()
        self._file: BinaryIO | None = None
        self._content_bytes = 0

    @property
    def position_bytes(self) -> int:
        """How much of the file has been read."""
        return self._file.tell() if self._file is not None and self.size_bytes is not None else 0

    def blocks(self) -> Iterator[bytes]:
        """The content from its beginning, never an empty block.

        Raises:
            TraceError: the file cannot be read or decompressed, or ends too early.
        """
        self._content_bytes = 0
        try:
            with contextlib.ExitStack() as stack:
                if self.path == STDIN:
                    self._file = sys.stdin.buffer
                else:
                    self._file = stack.enter_context(Path(self.path).open("rb"))
                for block in self._decompressed(self._file):
                    self._content_bytes += len(block)
                    yield block
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise self.error(f"damaged gzip data: {error}") from None
        except OSError as error:
            raise self.error(error.strerror or str(error)) from None
        finally:
            self._file = None

    def error(self, what: str, where: str | None = None) -> TraceError:
        """An error that names the file and, without `where`, the byte of the content reached."""
        if where is None and self._content_bytes:
            where = f"after byte {self._content_bytes:,}"
        return TraceError(f"{self.name}: {where}: {what}" if where else f"{self.name}: {what}")

    def _file_size(self) -> int:
        try:
            with Path(self.path).open("rb") as file:
                return file.seek(0, os.SEEK_END)
        except OSError as error:
            raise TraceError(f"{self.path}: {error.strerror}") from None

    def _decompressed(self, file: BinaryIO) -> Iterator[bytes]:
        if self.path.endswith(".zst"):
            return self._zstd_blocks(file)
        if self.path.endswith(".gz"):
            return _read_blocks(gzip.GzipFile(fileobj=file))
        return _read_blocks(file)

    def _zstd_blocks(self, file: BinaryIO) -> Iterator[bytes]:
        try:
            import zstandard
        except ImportError:
            raise self.error(
                "zstd needs the package zstandard; pip install 'memcachepy[zstd]'"
            ) from None
        context = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_MAX)
        frame = context.decompressobj()
        is_inside = False
        for packed in _read_blocks(file):
            while packed:
                try:
                    block = frame.decompress(packed)
                except zstandard.ZstdError as error:
                    raise self.error(f"damaged zstd data: {error}") from None
                is_inside = not frame.eof
                packed = b""
                if frame.eof:  # Another frame may follow.
                    packed = frame.unused_data
                    frame = context.decompressobj()
                if block:
                    yield block
        if is_inside:
            raise self.error("damaged zstd data: the last frame is cut off")


def _read_blocks(file: IO[bytes] | gzip.GzipFile) -> Iterator[bytes]:
    while block := file.read(BLOCK_BYTES):
        yield block

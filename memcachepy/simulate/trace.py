"""Traces of keys in three formats.

- `text`: a key a line, or key and value size with a comma, blank or tab between them.
- `u32`: little-endian unsigned 32-bit numbers, a key each.
- `oracle-general`: libCacheSim's oracleGeneral, little-endian records of 24 bytes without padding:
  u32 time in seconds, u64 object id, u32 object size, i64 index of the object's next request.
"""

import re
import sys
from array import array
from collections.abc import Callable, Iterator
from itertools import count

from memcachepy._core import xxh64
from memcachepy.simulate.requests import Requests
from memcachepy.simulate.stream import STDIN, ByteStream, TraceError

KEY_LEN_MAX = 250
KEY_LEN_DEFAULT = 16
VALUE_LEN_DEFAULT = 100
_LINE_BYTES_MAX = 4096
_ID_BYTES = 8
_ORACLE_BYTES = 24

_SUFFIXES = {
    "text": (".txt", ".csv", ".keys"),
    "u32": (".u32",),
    "oracle-general": (".oraclegeneral", ".oraclegeneral.bin"),
}
FORMATS = tuple(_SUFFIXES)
"""The names of the formats."""

_CONTROL = bytes(number for number in [*range(32), 127] if chr(number) not in "\t\r\n")
_ALL_BUT_CONTROL = bytes(number for number in range(256) if number not in _CONTROL)
_SIZED_LINE = re.compile(rb"([^,\t ]+)[,\t ][\t ]*([0-9]{1,10})")


def format_of(path: str) -> str:
    """By the suffix, that of a compression aside; stdin is text.

    Raises:
        TraceError: the suffix is none of those known.
    """
    if path == STDIN:
        return "text"
    name = path.lower().removesuffix(".gz").removesuffix(".zst")
    for found, suffixes in _SUFFIXES.items():
        if name.endswith(suffixes):
            return found
    known = ", ".join(suffix for suffixes in _SUFFIXES.values() for suffix in suffixes)
    raise TraceError(
        f"{path}: the format cannot be told from the suffix; known are {known}, each also with .gz"
        f" or .zst; or give the format: {', '.join(FORMATS)}"
    )


class Trace:
    """A trace in a file, which can be read any number of times, or on stdin (`-`), once.

    Args:
        path: the file; `.gz` and `.zst` are decompressed.
        format: one of `FORMATS`; by the suffix without it.
        key_len: bytes of every key, 8 to 250; without it the keys' own lengths in text, else 16.
        value_len: bytes of the values that the trace gives no size for.

    Raises:
        TraceError: there is no such file, or its format is not known.
    """

    def __init__(
        self,
        path: str,
        format: str | None = None,  # noqa: A002 - the word for it
        *,
        key_len: int | None = None,
        value_len: int = VALUE_LEN_DEFAULT,
    ) -> None:
        self.path = path
        self.format = format or format_of(path)
        self._key_len = key_len
        self._value_len = value_len
        self._stream = ByteStream(path)

    @property
    def name(self) -> str:
        """For people."""
        return self._stream.name

    @property
    def size_bytes(self) -> int | None:
        """Of the file; None for stdin."""
        return self._stream.size_bytes

    @property
    def position_bytes(self) -> int:
        """How much of the file is read while `requests` runs."""
        return self._stream.position_bytes

    def requests(self) -> Iterator[Requests]:
        """All requests in order, some ten thousand at a time.

        Raises:
            TraceError: the trace is empty, damaged or in another format.
        """
        read: Callable[[], Iterator[Requests]] = {
            "text": self._read_text,
            "u32": self._read_u32,
            "oracle-general": self._read_oracle_general,
        }[self.format]
        is_empty = True
        for requests in read():
            is_empty = False
            yield requests
        if is_empty:
            raise TraceError(f"{self.name}: there are no requests in it")

    # ---- numbers ------------------------------------------------------------------------------

    def _read_u32(self) -> Iterator[Requests]:
        for words in self._words(record_words=1):
            yield Requests(array("Q", words), self._value_len, self._key_len or KEY_LEN_DEFAULT)

    def _read_oracle_general(self) -> Iterator[Requests]:
        for words in self._words(record_words=_ORACLE_BYTES // 4):
            halves = array("I", bytes(len(words) // 6 * _ID_BYTES))
            low_at, high_at = (0, 1) if sys.byteorder == "little" else (1, 0)
            halves[low_at::2] = words[1::6]
            halves[high_at::2] = words[2::6]
            ids = array("Q")
            ids.frombytes(halves.tobytes())
            yield Requests(ids, words[3::6], self._key_len or KEY_LEN_DEFAULT, words[0::6])

    def _words(self, record_words: int) -> Iterator["array[int]"]:
        """Whole records as 32-bit numbers in the machine's order."""
        record_bytes = record_words * 4
        rest = b""
        whole_bytes = 0
        for block in self._stream.blocks():
            content = rest + block
            end = len(content) - len(content) % record_bytes
            rest = content[end:]
            whole_bytes += end
            words = array("I")
            words.frombytes(content[:end])
            if sys.byteorder == "big":
                words.byteswap()
            if words:
                yield words
        if rest:
            raise self._stream.error(
                f"the file ends in the middle of a record of {record_bytes} bytes",
                f"byte {whole_bytes:,}",
            )

    # ---- text ---------------------------------------------------------------------------------

    def _read_text(self) -> Iterator[Requests]:
        rest = b""
        number = 1
        for block in self._stream.blocks():
            lines = (rest + block).split(b"\n")
            rest = lines.pop()
            if lines:
                yield self._text_requests(lines, number)
                number += len(lines)
            if len(rest) > _LINE_BYTES_MAX:
                raise self._line_error(number, f"is longer than {_LINE_BYTES_MAX} bytes")
        if rest:
            yield self._text_requests([rest], number)

    def _text_requests(self, lines: list[bytes], first_number: int) -> Requests:
        text = b"\n".join(lines)
        if text.translate(None, _ALL_BUT_CONTROL):
            self._refuse_control(lines, first_number)
        if b"\r" in text:
            lines = [line.removesuffix(b"\r") for line in lines]
        value_lens: int | array[int] = self._value_len
        if b"," in text or b" " in text or b"\t" in text:
            lines, value_lens = self._split_sizes(lines, first_number)
        key_lens = array("I", map(len, lines))
        for what, length in (("is empty", min(key_lens)), ("has a key of", max(key_lens))):
            if not 1 <= length <= KEY_LEN_MAX:
                number = first_number + key_lens.index(length)
                length_text = f" {length} bytes; the most is {KEY_LEN_MAX}" if length else ""
                raise self._line_error(number, what + length_text)
        if min(key_lens) > _ID_BYTES:
            ids = array("Q", map(xxh64, lines))
        else:
            # A short key is its own number: different keys of one length stay different.
            ids = array(
                "Q",
                [
                    xxh64(key) if len(key) > _ID_BYTES else int.from_bytes(key, "little")
                    for key in lines
                ],
            )
        return Requests(ids, value_lens, self._key_len or key_lens)

    def _split_sizes(
        self, lines: list[bytes], first_number: int
    ) -> tuple[list[bytes], "array[int]"]:
        keys = []
        value_lens = array("I")
        for number, line in zip(count(first_number), lines):
            if b"," not in line and b" " not in line and b"\t" not in line:
                keys.append(line)
                value_lens.append(self._value_len)
                continue
            match = _SIZED_LINE.fullmatch(line)
            if match is None or int(match[2]) >= 1 << 32:
                shown = line[:60].decode(errors="backslashreplace")
                raise self._line_error(number, f"is neither a key nor a key and a size: {shown!r}")
            keys.append(match[1])
            value_lens.append(int(match[2]))
        return keys, value_lens

    def _refuse_control(self, lines: list[bytes], first_number: int) -> None:
        for number, line in zip(count(first_number), lines):
            if found := line.translate(None, _ALL_BUT_CONTROL):
                raise self._line_error(
                    number,
                    f"has the control character 0x{found[0]:02x}: this is no text trace, or no key",
                )

    def _line_error(self, number: int, what: str) -> TraceError:
        return self._stream.error(what, f"line {number:,}")

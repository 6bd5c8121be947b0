"""Requests of memcached's text protocol as bytes, and how their answers are read: for asyncio.

What a request takes and gives is what pymemcache's Client takes and gives.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pymemcache.client.base import (
    STAT_TYPES,
    STORE_RESULTS_VALUE,
    VALID_STORE_RESULTS,
    check_key_helper,
)
from pymemcache.exceptions import (
    MemcacheClientError,
    MemcacheIllegalInputError,
    MemcacheServerError,
    MemcacheUnknownCommandError,
    MemcacheUnknownError,
)

from memcachepy.client.hashing import Key
from memcachepy.client.options import Options


class Reader(Protocol):
    """Where answers come from."""

    async def line(self) -> bytes:
        """The next line, without its end."""

    async def exactly(self, count: int) -> bytes:
        """So many bytes."""


class Request(Protocol):
    """What to send, and how to read what comes."""

    @property
    def data(self) -> bytes: ...

    async def read(self, reader: Reader) -> Any:
        """The result.

        Raises:
            MemcacheError: the server refuses, or says what is no answer.
        """


def _refused(line: bytes, command: str) -> None:
    """Raise what the line says if it is an error."""
    if line.startswith(b"ERROR"):
        raise MemcacheUnknownCommandError(command)
    if line.startswith(b"CLIENT_ERROR"):
        raise MemcacheClientError(line.partition(b" ")[2])
    if line.startswith(b"SERVER_ERROR"):
        raise MemcacheServerError(line.partition(b" ")[2])


@dataclass(frozen=True, slots=True)
class Fetch:
    """get, gets, gat, gats: the values that are there, with `cas` pairs of value and cas."""

    data: bytes
    command: str
    keys: Mapping[bytes, Key]
    """What the caller calls them, by what the server does."""
    serde: Any
    cas: bool

    async def read(self, reader: Reader) -> dict[Key, Any]:
        found: dict[Key, Any] = {}
        while (line := await reader.line()) != b"END":
            _refused(line, self.command)
            words = line.split()
            if len(words) != 4 + self.cas or words[0] != b"VALUE" or words[1] not in self.keys:
                raise MemcacheUnknownError(line[:32])
            if not words[2].isdigit() or not words[3].isdigit():
                raise MemcacheUnknownError(line[:32])
            size = int(words[3])
            value = await reader.exactly(size + 2)
            key = self.keys[words[1]]
            read = self.serde.deserialize(key, value[:size], int(words[2]))
            found[key] = (read, words[4]) if self.cas else read
        return found


@dataclass(frozen=True, slots=True)
class Store:
    """set, add and the others: by key, what came of it, as pymemcache tells it."""

    data: bytes
    command: str
    keys: Sequence[Key]
    noreply: bool

    async def read(self, reader: Reader) -> dict[Key, bool | None]:
        if self.noreply:
            return dict.fromkeys(self.keys, True)
        stored: dict[Key, bool | None] = {}
        for key in self.keys:
            line = await reader.line()
            _refused(line, self.command)
            if line not in VALID_STORE_RESULTS[self.command.encode()]:
                raise MemcacheUnknownError(line[:32])
            stored[key] = STORE_RESULTS_VALUE[line]
        return stored


@dataclass(frozen=True, slots=True)
class Lines:
    """delete, touch, incr, decr, flush_all: a line for each; none with noreply."""

    data: bytes
    command: str
    count: int
    noreply: bool

    async def read(self, reader: Reader) -> list[bytes]:
        if self.noreply:
            return []
        lines = []
        for _ in range(self.count):
            line = await reader.line()
            _refused(line, self.command)
            lines.append(line)
        return lines


@dataclass(frozen=True, slots=True)
class Stats:
    """stats: figures by name."""

    data: bytes

    async def read(self, reader: Reader) -> dict[bytes, Any]:
        found: dict[bytes, Any] = {}
        while (line := await reader.line()) not in (b"END", b"OK", b"RESET"):
            _refused(line, "stats")
            word, _, rest = line.partition(b" ")
            if word not in (b"STAT", b"ITEM"):
                raise MemcacheUnknownError(line[:32])
            name, _, value = rest.partition(b" ")
            try:
                found[name] = STAT_TYPES.get(name, int)(value)
            except ValueError:
                found[name] = value
        return found


class Wire:
    """Makes requests as the options want them.

    Raises:
        MemcacheIllegalInputError: in every method, an argument is wrong.
    """

    def __init__(self, options: Options) -> None:
        self._options = options

    def key(self, key: Key) -> bytes:
        """As the server knows it."""
        options = self._options
        checked: bytes = check_key_helper(key, options.allow_unicode_keys, options.key_prefix)
        return checked

    def fetch(self, command: str, keys: Iterable[Key], expire: int | None = None) -> Fetch:
        named = {self.key(key): key for key in keys}
        words = [command.encode(), *named]
        if expire is not None:
            words.insert(1, _integer(expire, "expire"))
        data = b" ".join(words) + b"\r\n"
        return Fetch(data, command, named, self._options.serde, command in ("gets", "gats"))

    def store(
        self,
        command: str,
        values: Mapping[Key, Any],
        expire: int,
        noreply: bool | None,
        flags: int | None,
        cas: int | str | bytes | None = None,
    ) -> Store:
        silent = self._is_silent(noreply)
        tail = b" noreply\r\n" if silent else b"\r\n"
        if cas is not None:
            tail = b" " + _cas(cas) + tail
        seconds = _integer(expire, "expire")
        name = command.encode()
        parts: list[bytes] = []
        for key, value in values.items():
            data, client_flags = self._options.serde.serialize(key, value)
            if not isinstance(data, bytes):
                data = self._encoded(data)
            if flags is not None:
                client_flags = flags
            numbers = b"%d %b %d" % (client_flags, seconds, len(data))
            parts += (b" ".join((name, self.key(key), numbers)), tail, data, b"\r\n")
        return Store(b"".join(parts), command, tuple(values), silent)

    def lines(
        self, command: str, heads: Sequence[bytes], noreply: bool | None, *numbers: tuple[str, int]
    ) -> Lines:
        """A line for each of the heads, which are keys or empty.

        Args:
            command: its name.
            heads: what follows it.
            noreply: None: as the options say.
            numbers: what follows that, with what it is called in an error.
        """
        silent = self._is_silent(noreply)
        words = [_integer(value, name) for name, value in numbers]
        if silent:
            words.append(b"noreply")
        data = [b" ".join(filter(None, (command.encode(), head, *words))) for head in heads]
        return Lines(b"\r\n".join(data) + b"\r\n", command, len(heads), silent)

    @staticmethod
    def stats(args: Sequence[str]) -> Stats:
        return Stats(" ".join(("stats", *args)).encode("ascii") + b"\r\n")

    def _is_silent(self, noreply: bool | None) -> bool:
        return self._options.default_noreply if noreply is None else noreply

    def _encoded(self, value: object) -> bytes:
        try:
            return str(value).encode(self._options.encoding)
        except UnicodeEncodeError as error:
            raise MemcacheIllegalInputError(f"Data values must be binary-safe: {error}") from None


def _integer(value: int, name: str) -> bytes:
    if not isinstance(value, int):
        raise MemcacheIllegalInputError(f"{name} must be integer, got bad value: {value!r}")
    return b"%d" % value


def _cas(cas: int | str | bytes) -> bytes:
    number = cas if isinstance(cas, bytes) else str(cas).encode("ascii", errors="replace")
    if not number.isdigit():
        raise MemcacheIllegalInputError(f"cas must only contain 0-9, got bad value: {cas!r}")
    return number

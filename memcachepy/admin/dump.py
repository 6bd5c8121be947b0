"""Reading all items of a running server into a file.

Class by class: the keys are listed first, into a temporary file, so that the server's crawler is
not held up, then their values are fetched in batches over a second connection. What an interruption
leaves is the file's beginning, FILE.part; it can be continued behind the last class that is whole.
"""

import os
import struct
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, BinaryIO

from memcachepy import __version__
from memcachepy.admin.client import Address, Listed, NodeConnection, is_plain, text_of
from memcachepy.admin.dumpfile import (
    BLOCK_BYTES,
    CLASS_END,
    END,
    DumpReader,
    DumpWriter,
    Totals,
)
from memcachepy.errors import (
    ConfigError,
    DamagedDump,
    DumpExists,
    MemcachepyError,
    NodeRefuses,
    NodeUnreachable,
)

BATCH_KEYS = 64
"""Requests on their way at the same time; together they fit a socket's buffer."""
_BASE64_KEY_LEN_MAX = 187
"""What is not longer than 250 bytes when encoded."""
_LISTED = struct.Struct("<BQ")
_SPOOL_BYTES = 1 << 22
_PROBE_KEY = b64encode(b"memcachepy")


@dataclass(frozen=True, slots=True)
class DumpOptions:
    """What is dumped, and how."""

    address: Address
    path: Path
    prefix: bytes = b""
    resume: bool = False
    overwrite: bool = False
    rate_bytes_s: float = 0.0
    """Bytes of values a second; 0: as fast as it goes."""
    timeout_s: float = 30.0


@dataclass(slots=True)
class DumpResult:
    """What the file holds."""

    totals: Totals
    file_bytes: int
    duration_s: float
    classes: list[int] = field(default_factory=list)
    resumed_classes: int = 0


def part_path(path: Path) -> Path:
    """Where a dump lies until it is whole."""
    return path.with_name(path.name + ".part")


def dump(options: DumpOptions, progress: Callable[[int, int], None]) -> DumpResult:
    """Dump the server's items into the file.

    Args:
        options: of the command.
        progress: called with how many items were dealt with and how many there are, as far as one
            knows.

    Raises:
        DumpExists: the file, or what an interruption left of it, is there.
        NodeUnreachable: FILE.part can be continued.
        NodeRefuses: the server does not list its items.
        DamagedDump: what is to be continued is not what was written.
    """
    began_s = time.monotonic()
    part = part_path(options.path)
    folder = str(options.path.parent)
    _look_for_files_in_the_way(options, part)
    with ExitStack() as stack:
        lister = stack.enter_context(NodeConnection(options.address, options.timeout_s))
        version = text_of(lister.ask(b"version")).removeprefix("VERSION ")
        fetcher = Fetcher(stack.enter_context(NodeConnection(options.address, options.timeout_s)))
        facts: dict[str, object] = {
            "source": str(options.address),
            "server_version": version,
            "prefix": b64encode(options.prefix).decode(),
            "created_by": f"memcachepy {__version__}",
        }
        file, writer, done = _open_part(options, part, facts)
        stack.enter_context(file)
        classes = [one for one in _classes(lister) if one not in done]
        pace = _Pace(options.rate_bytes_s, writer.totals)
        expected = int(lister.stats().get("curr_items", 0))
        for class_id in classes:
            writer.begin_class(class_id)
            with tempfile.SpooledTemporaryFile(_SPOOL_BYTES, dir=folder) as keys:
                _list_keys(lister, class_id, options, keys)
                for batch in _batches(keys):
                    fetcher.fetch(batch, writer)
                    handled = _handled(writer.totals)
                    progress(handled, max(expected, handled))
                    pace.keep(writer.totals)
            writer.end_class()
        writer.end()
        _finish(file, part, options.path)
        progress(_handled(writer.totals), _handled(writer.totals))
    return DumpResult(
        writer.totals,
        options.path.stat().st_size,
        time.monotonic() - began_s,
        sorted({*done, *classes}),
        len(done),
    )


def _handled(totals: Totals) -> int:
    return totals.items + totals.vanished + totals.stale + totals.unreadable


# ---- the file ------------------------------------------------------------------------------------


def _look_for_files_in_the_way(options: DumpOptions, part: Path) -> None:
    if options.overwrite:
        return
    if options.path.exists():
        raise DumpExists(f"{options.path} is there already: --overwrite replaces it")
    if part.exists() and not options.resume:
        raise DumpExists(
            f"{part} is there from a dump that was interrupted: --resume continues it, "
            "--overwrite begins anew"
        )


def _open_part(
    options: DumpOptions, part: Path, facts: dict[str, object]
) -> tuple[BinaryIO, DumpWriter, list[int]]:
    """The file, open where to go on, and the classes that are in it already."""
    try:
        if options.resume and part.exists():
            return _continue_part(part, facts)
        file: BinaryIO = part.open("wb")
    except OSError as error:
        raise MemcachepyError(f"cannot write {part}: {error.strerror}") from None
    facts = {**facts, "created_at_s": int(time.time())}
    return file, DumpWriter(file, DumpWriter.write_header(file, facts)), []


def _continue_part(part: Path, facts: dict[str, object]) -> tuple[BinaryIO, DumpWriter, list[int]]:
    with DumpReader(part) as reader:
        for name in ("source", "prefix"):
            if reader.facts.get(name) != facts[name]:
                raise ConfigError(
                    name, facts[name], f"{part} was begun with {reader.facts.get(name)!r}"
                )
        offset, number, totals = reader.first_offset, 0, Totals()
        done: list[int] = []
        try:
            for block in reader.blocks():
                if block.kind in (CLASS_END, END):
                    totals = block.totals
                if block.kind == CLASS_END:
                    offset, number = block.end_offset, block.number + 1
                    done.append(block.class_id)
        except DamagedDump:
            pass  # Where it was cut off. All before the last end of a class is good.
    file = part.open("r+b")
    file.truncate(offset)
    file.seek(offset)
    return file, DumpWriter(file, reader.seed, number, totals), done


def _finish(file: BinaryIO, part: Path, path: Path) -> None:
    """The file takes its name only when all of it is on the disk."""
    file.flush()
    os.fsync(file.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


# ---- listing -------------------------------------------------------------------------------------


def _classes(lister: NodeConnection) -> list[int]:
    """The slab classes that have items; [0] where the server does not tell: all at once."""
    try:
        names = lister.stats("items")
    except NodeRefuses:
        return [0]
    ids = {int(name.split(":")[1]) for name in names if name.startswith("items:")}
    return sorted(ids)


def _list_keys(
    lister: NodeConnection, class_id: int, options: DumpOptions, keys: IO[bytes]
) -> None:
    """Write the keys of a class with their expiry."""
    for line in lister.listing(str(class_id) if class_id else "all"):
        try:
            listed = Listed.parse(line)
        except ValueError as error:
            raise NodeUnreachable(f"{options.address} lists what is no item: {error}") from None
        # Some versions list all items whatever class is asked for: each is taken once.
        if class_id in (0, listed.class_id) and listed.key.startswith(options.prefix):
            keys.write(_LISTED.pack(len(listed.key), listed.expire_at_s) + listed.key)
    keys.seek(0)


def _batches(keys: IO[bytes]) -> Iterator[list[tuple[bytes, int]]]:
    batch: list[tuple[bytes, int]] = []
    while head := keys.read(_LISTED.size):
        key_len, expire_at_s = _LISTED.unpack(head)
        batch.append((keys.read(key_len), expire_at_s))
        if len(batch) == BATCH_KEYS:
            yield batch
            batch = []
    if batch:
        yield batch


class _Pace:
    """Holds the dump to a rate."""

    def __init__(self, rate_bytes_s: float, totals: Totals) -> None:
        self._rate_bytes_s = rate_bytes_s
        self._began_s = time.monotonic()
        self._began_bytes = totals.value_bytes

    def keep(self, totals: Totals) -> None:
        if self._rate_bytes_s > 0:
            due_s = (totals.value_bytes - self._began_bytes) / self._rate_bytes_s
            time.sleep(max(0.0, self._began_s + due_s - time.monotonic()))


# ---- fetching ------------------------------------------------------------------------------------


class Fetcher:
    """Fetches items over one connection: by `mg` where the server has it, else by `get`.

    With `mg`, a fetch leaves no trace (its flag `u`), the time to live is of the very moment, and
    keys that are no text can be named.
    """

    def __init__(self, connection: NodeConnection) -> None:
        self._connection = connection
        self.has_meta = connection.ask(b"mn") == b"MN"
        flags = b" b f t c u"
        if self.has_meta and connection.ask(b"mg " + _PROBE_KEY + flags).startswith(b"CLIENT"):
            flags = b" b f t c"
        self._flags = flags.removeprefix(b" b") + b" v\r\n"

    def fetch(self, batch: Sequence[tuple[bytes, int]], writer: DumpWriter) -> None:
        """Write what is still there of these keys, which come with their listed expiry."""
        if self.has_meta:
            self._fetch_meta([key for key, _ in batch], writer)
        else:
            self._fetch_classic(dict(batch), writer)

    def _fetch_meta(self, keys: Sequence[bytes], writer: DumpWriter) -> None:
        asked = []
        request = bytearray()
        for key in keys:
            name = _meta_name(key)
            if name is None:
                writer.totals.unreadable += 1
            else:
                asked.append((key, name))
                request += b"mg " + name + self._flags
        self._connection.send(request)
        won: list[bytes] = []
        for key, name in asked:
            line = self._connection.line()
            words = line.split(b" ")
            if words[0] == b"VA":
                try:
                    self._take(key, words, writer)
                except (ValueError, KeyError):
                    raise self._nonsense("mg", line) from None
                if b"W" in words[2:]:
                    won.append(name + b" C" + _flag(words, b"c"))
            elif words[0] == b"EN":
                writer.totals.vanished += 1
            else:
                writer.totals.unreadable += 1
        for condition in won:
            # An invalidated item gives the first who reads it the task to renew it. Not to us:
            # invalidated once more, unless somebody has stored it meanwhile, it asks the next.
            name, _, cas = condition.rpartition(b" ")
            self._connection.ask(b"md " + name + b" I " + cas)

    def _take(self, key: bytes, words: Sequence[bytes], writer: DumpWriter) -> None:
        value_len = int(words[1])
        is_stale = b"X" in words[2:]
        if is_stale:
            writer.totals.stale += 1
        else:
            ttl_s = int(_flag(words, b"t"))
            # Rounded as servers do: whoever restores it at once gives what was left.
            expire_at_s = 0 if ttl_s < 0 else int(time.time()) + ttl_s
            writer.begin_item(key, int(_flag(words, b"f")), expire_at_s, value_len)
        self._copy_value(value_len, None if is_stale else writer)

    def _fetch_classic(self, expiries: dict[bytes, int], writer: DumpWriter) -> None:
        asked = [key for key in expiries if is_plain(key)]
        writer.totals.unreadable += len(expiries) - len(asked)
        if not asked:
            return
        self._connection.send(b"get " + b" ".join(asked) + b"\r\n")
        found = 0
        while (line := self._connection.line()) != b"END":
            try:
                word, key, client_flags, value_len = line.split(b" ")
                if word != b"VALUE":
                    raise ValueError
                writer.begin_item(key, int(client_flags), expiries[key], int(value_len))
            except (ValueError, KeyError):
                raise self._nonsense("get", line) from None
            found += 1
            self._copy_value(int(value_len), writer)
        writer.totals.vanished += len(asked) - found

    def _nonsense(self, command: str, answer: bytes) -> NodeUnreachable:
        return NodeUnreachable(f"{self._connection.address} answers {command}: {text_of(answer)}")

    def _copy_value(self, value_len: int, writer: DumpWriter | None) -> None:
        while value_len > 0:
            piece = self._connection.exactly(min(value_len, BLOCK_BYTES))
            value_len -= len(piece)
            if writer is not None:
                writer.value(piece)
        self._connection.end_of_value()


def _meta_name(key: bytes) -> bytes | None:
    """The key as `mg` takes it; None: it cannot be named."""
    if is_plain(key):
        return key
    return b64encode(key) + b" b" if len(key) <= _BASE64_KEY_LEN_MAX else None


def _flag(words: Sequence[bytes], letter: bytes) -> bytes:
    """Raises KeyError if the answer has no such flag."""
    for word in words[2:]:
        if word[:1] == letter:
            return word[1:]
    raise KeyError(letter)

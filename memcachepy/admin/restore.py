"""Storing the items of a dump file in a running server.

Block by block: a block is stored only if its checksum is right, and all answers of the server have
been counted before the next one is noted as done, in FILE.restore beside the dump.
"""

import json
import time
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from memcachepy.admin.client import KEY_LEN_MAX, Address, NodeConnection, is_plain, text_of
from memcachepy.admin.dumpfile import END, ITEMS, PIECE, Block, DumpReader, Record
from memcachepy.errors import ConfigError, DamagedDump, MemcachepyError, NodeRefuses

RELATIVE_MAX_S = 30 * 24 * 3600
"""Longer exptimes are moments."""
_BATCH_BYTES = 1 << 16
_BATCH_ITEMS = 500
_BATCHES_IN_FLIGHT = 2
_KEPT = {b"NOT_STORED", b"NS"}
_STORED = {b"STORED", b"HD"}


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """What is restored, and how."""

    path: Path
    address: Address
    prefix: bytes = b""
    add: bool = False
    """Keep what the server has."""
    resume: bool = False
    timeout_s: float = 30.0


@dataclass(slots=True)
class RestoreCounts:
    """What became of the items in the file."""

    stored: int = 0
    stored_bytes: int = 0
    kept: int = 0
    """The server had the key, and --add was given."""
    expired: int = 0
    filtered: int = 0
    """Without the prefix."""
    refused: int = 0


@dataclass(slots=True)
class RestoreResult:
    """How far it came."""

    counts: RestoreCounts = field(default_factory=RestoreCounts)
    refusals: dict[str, int] = field(default_factory=dict)
    """The server's words when it refused, and how often."""
    blocks: int = 0
    duration_s: float = 0.0


def state_path(path: Path) -> Path:
    """Where an interrupted restore is noted."""
    return path.with_name(path.name + ".restore")


def check(path: Path, progress: Callable[[int, int], None]) -> dict[str, object]:
    """Read a dump to its end, without a server.

    Returns:
        Its header's facts, with `items`, `value_bytes`, `blocks` and `file_bytes`.

    Raises:
        DamagedDump: at the first block that is not what was written.
    """
    with DumpReader(path) as reader:
        items = value_bytes = blocks = 0
        for step in _steps(reader, reader.first_offset, 0):
            if isinstance(step, Block):
                blocks = step.number + 1
                progress(step.end_offset, reader.bytes)
            elif isinstance(step, Record):
                items += 1
                value_bytes += step.value_len
        found = {"items": items, "value_bytes": value_bytes, "blocks": blocks}
        return {**reader.facts, **found, "file_bytes": reader.bytes}


def restore(
    options: RestoreOptions, progress: Callable[[int, int], None], result: RestoreResult
) -> None:
    """Store the dump's items.

    Args:
        options: of the command.
        progress: called with the bytes of the file that are dealt with, and all of them.
        result: filled in as it goes on, also when it ends early.

    Raises:
        DamagedDump: nothing of the damaged block was stored; all before it is.
        NodeUnreachable: it can be resumed.
        NodeRefuses: the server does not take commands from here.
    """
    began_s = time.monotonic()
    try:
        with DumpReader(options.path) as reader:
            state = _State(options, reader)
            offset, number = state.load(result)
            with _Sink(options, result) as sink:
                for step in _steps(reader, offset, number):
                    if isinstance(step, Record):
                        sink.store(step)
                    elif isinstance(step, Block):
                        sink.settle()
                        result.blocks = step.number
                        state.save(step, result)
                        progress(step.offset, reader.bytes)
                    else:
                        sink.more(step)
                result.blocks += 1
            state.forget()
            progress(reader.bytes, reader.bytes)
    finally:
        result.duration_s = time.monotonic() - began_s


def _steps(reader: DumpReader, offset: int, number: int) -> Iterator[Block | Record | memoryview]:
    """The file's content in its order: a block before what is in it, each of its items, and the
    rest of a long item's value in pieces. A block comes when all before it is whole.
    """
    is_from_start = number == 0
    items = missing = 0
    for block in reader.blocks(offset, number):
        try:
            if (block.kind == PIECE) != (missing > 0):
                raise ValueError("a long value is not whole")
            if block.kind == PIECE:
                missing -= len(block.payload)
                if missing < 0:
                    raise ValueError("a long value is longer than it was said to be")
                yield block.payload
                continue
            records = list(block.records()) if block.kind == ITEMS else []
            items += len(records)
            if block.kind == END and is_from_start and items != block.totals.items:
                raise ValueError("items are missing")
        except ValueError as error:
            raise DamagedDump(reader.path, block.number, block.offset, str(error)) from None
        yield block
        yield from records
        if records:
            missing = records[-1].value_len - len(records[-1].value)


class _Sink:
    """Sends items to the server and counts its answers; a context that closes the connection.

    What is sent of a long value when the connection is closed is thrown away by the server.
    """

    def __init__(self, options: RestoreOptions, result: RestoreResult) -> None:
        self._options = options
        self._counts = result.counts
        self._refusals = result.refusals
        self._connection = NodeConnection(options.address, options.timeout_s)
        self._batch = bytearray()
        self._batch_lens: list[int] = []
        self._in_flight: deque[list[int]] = deque()
        self._missing = 0
        self._is_skipping = False
        try:
            version = self._connection.ask(b"version")
            if not version.startswith(b"VERSION"):
                raise NodeRefuses(f"{options.address} answers version: {text_of(version)}")
            self._has_meta = self._connection.ask(b"mn") == b"MN"
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()

    def store(self, record: Record) -> None:
        self._missing = record.value_len - len(record.value)
        command = self._command(record)
        self._is_skipping = command is None
        if command is None:
            return
        self._batch += command
        self._batch += record.value
        self._batch_lens.append(record.value_len)
        if self._missing > 0:
            self._send_batch()
            return
        self._batch += b"\r\n"
        if len(self._batch) >= _BATCH_BYTES or len(self._batch_lens) >= _BATCH_ITEMS:
            self._send_batch()

    def more(self, piece: memoryview) -> None:
        """The next bytes of a long value."""
        self._missing -= len(piece)
        if not self._is_skipping:
            self._connection.send(piece)
            if self._missing == 0:
                self._connection.send(b"\r\n")

    def settle(self) -> None:
        """Wait until the server has answered for all items."""
        self._send_batch()
        while self._in_flight:
            self._read_answers()

    def _command(self, record: Record) -> bytes | None:
        """The line that stores the item; None: it is not to be stored, and counted as such."""
        if not record.key.startswith(self._options.prefix):
            self._counts.filtered += 1
            return None
        exptime = 0
        if record.expire_at_s != 0:
            left_s = record.expire_at_s - int(time.time())
            if left_s <= 0:
                self._counts.expired += 1
                return None
            exptime = left_s if left_s <= RELATIVE_MAX_S else record.expire_at_s
        if is_plain(record.key):
            verb = b"add" if self._options.add else b"set"
            facts = b"%d %d %d" % (record.client_flags, exptime, record.value_len)
            return verb + b" " + record.key + b" " + facts + b"\r\n"
        name = b64encode(record.key)
        if not self._has_meta or len(name) > KEY_LEN_MAX:
            self._refuse("its text protocol has no name for a key like this")
            return None
        facts = b"%d b F%d T%d" % (record.value_len, record.client_flags, exptime)
        return b"ms " + name + b" " + facts + (b" ME" if self._options.add else b"") + b"\r\n"

    def _send_batch(self) -> None:
        if not self._batch_lens:
            return
        self._connection.send(self._batch)
        self._in_flight.append(self._batch_lens)
        self._batch.clear()
        self._batch_lens = []
        if len(self._in_flight) >= _BATCHES_IN_FLIGHT and self._missing == 0:
            self._read_answers()

    def _read_answers(self) -> None:
        for value_len in self._in_flight.popleft():
            answer = self._connection.line()
            word = answer.split(b" ")[0]
            if word in _STORED:
                self._counts.stored += 1
                self._counts.stored_bytes += value_len
            elif word in _KEPT and self._options.add:
                self._counts.kept += 1
            elif word in (b"SERVER_ERROR", *_KEPT):
                self._refuse(text_of(answer))
            else:  # Whether it has taken the value for commands is not to be tried out.
                raise NodeRefuses(f"{self._options.address} answers a set: {text_of(answer)}")

    def _refuse(self, words: str) -> None:
        self._counts.refused += 1
        self._refusals[words] = self._refusals.get(words, 0) + 1


class _State:
    """Which block comes next, on disk. Replaced whole, so it can be lost but never wrong."""

    def __init__(self, options: RestoreOptions, reader: DumpReader) -> None:
        self._path = state_path(options.path)
        self._resume = options.resume
        self._first = (reader.first_offset, 0)
        self._of: dict[str, object] = {
            "dump": f"{reader.seed:016x}",
            "address": str(options.address),
            "prefix": b64encode(options.prefix).decode(),
            "add": options.add,
        }

    def load(self, result: RestoreResult) -> tuple[int, int]:
        """Offset and number of the block to begin with; counts go on where they were.

        Raises:
            ConfigError: what was interrupted was another restore.
        """
        if not self._resume or not self._path.exists():
            return self._first
        try:
            saved = json.loads(self._path.read_text())
            for name, value in self._of.items():
                if saved[name] != value:
                    raise ConfigError(name, value, f"{self._path} is about {saved[name]!r}")
            result.counts = RestoreCounts(**saved["counts"])
            result.refusals = dict(saved["refusals"])
            return int(saved["offset"]), int(saved["block"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise MemcachepyError(
                f"{self._path} cannot be used ({error}): without --resume the restore begins anew"
            ) from None

    def save(self, block: Block, result: RestoreResult) -> None:
        """All before this block is done."""
        text = json.dumps(
            {
                **self._of,
                "block": block.number,
                "offset": block.offset,
                "counts": asdict(result.counts),
                "refusals": result.refusals,
            }
        )
        beside = self._path.with_name(self._path.name + ".new")
        beside.write_text(text)
        beside.replace(self._path)

    def forget(self) -> None:
        self._path.unlink(missing_ok=True)

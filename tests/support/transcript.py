"""The transcript format of transcripts/README.md: reading it, and playing it to a server.

A transcript file holds cases. A case is played to a peer, which is the protocol in this process,
one of our nodes or Debian's memcached, with its requests cut in one of several ways.
"""

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, Protocol

FOLDER = Path(__file__).parent.parent / "transcripts"
REFERENCE_VERSION = "1.6.18"

FRAGMENTATIONS = ("whole", "pipelined", "cut in CRLF", "byte by byte")

# Sent byte by byte at either end of a request; the middle of a megabyte teaches nothing.
_SINGLE_BYTES = 160
_MIDDLE_BYTES = 4093

# Beside the counters a `+++` names, these must not have moved.
WATCHED_COUNTERS = frozenset(
    "cmd_get cmd_set cmd_flush cmd_touch cmd_meta get_hits get_misses get_expired get_flushed "
    "delete_misses delete_hits incr_misses incr_hits decr_misses decr_hits cas_misses cas_hits "
    "cas_badval touch_hits touch_misses store_too_large store_no_memory evictions "
    "curr_items total_items".split()
)


class TranscriptError(ValueError):
    """A transcript file that cannot be read; names file and line."""


# The pieces of a line


@dataclass(frozen=True)
class Value:
    """`{name+offset}` or `{now+offset}`: known only when the case runs."""

    name: str
    offset: int


Template = tuple[bytes | Value, ...]

_ESCAPES = {"r": b"\r", "n": b"\n", "t": b"\t", "0": b"\0", "\\": b"\\"}
_PIECE = re.compile(
    r"\\x(?P<hex>[0-9a-fA-F]{2})|\\(?P<escape>[rnt0\\])"
    r"|\{(?P<repeat>[^{}]+)\*(?P<count>[0-9_]+)\}"
    r"|\{(?P<name>[a-z][a-z0-9_]*)(?P<offset>[+-][0-9_]+)?\}"
    r"|(?P<plain>[^\\{}])"
)


def parse_template(text: str) -> Template:
    """Turn the text of a line into bytes and values.

    Raises:
        ValueError: a lone backslash or brace.
    """
    pieces: list[bytes | Value] = []

    def add(data: bytes) -> None:
        if pieces and isinstance(pieces[-1], bytes):
            pieces[-1] += data
        else:
            pieces.append(data)

    at = 0
    while at < len(text):
        found = _PIECE.match(text, at)
        if found is None:
            raise ValueError(f"cannot read {text[at : at + 20]!r}; write a brace as \\x7b or \\x7d")
        at = found.end()
        if found["hex"]:
            add(bytes.fromhex(found["hex"]))
        elif found["escape"]:
            add(_ESCAPES[found["escape"]])
        elif found["repeat"]:
            unit = parse_template(found["repeat"])
            if not all(isinstance(piece, bytes) for piece in unit):
                raise ValueError(f"a value inside a repetition: {found[0]!r}")
            add(b"".join(p for p in unit if isinstance(p, bytes)) * int(found["count"]))
        elif found["name"]:
            pieces.append(Value(found["name"], int(found["offset"] or 0)))
        else:
            add(found["plain"].encode())
    return tuple(pieces)


# The steps of a case


@dataclass(frozen=True)
class Send:
    line: int
    connection: int
    template: Template


@dataclass(frozen=True)
class Expect:
    line: int
    connection: int
    template: Template


@dataclass(frozen=True)
class SkipTo:
    """Any lines, up to and with this one."""

    line: int
    connection: int
    template: Template


@dataclass(frozen=True)
class Closed:
    line: int
    connection: int


@dataclass(frozen=True)
class Counters:
    line: int
    deltas: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Clock:
    """`advance` or `step`, by seconds."""

    line: int
    action: str
    seconds: int


Step = Send | Expect | SkipTo | Closed | Counters | Clock


@dataclass(frozen=True)
class Case:
    """One sentence and the exchange that proves it."""

    path: Path
    line: int
    sentence: str
    flags: tuple[str, ...]
    ours_only: str
    """Why memcached cannot be asked; empty when it can."""
    reference_alone: str
    """Why memcached must be sent one request at a time; empty when it may be pipelined."""
    sync: bool
    """Whether the connection answers `version` at the end of the case."""
    steps: tuple[Step, ...]
    reference_steps: tuple[Step, ...]
    """The same, as the reference version answers."""

    @property
    def id(self) -> str:
        return f"{self.path.stem}:{self.line}"

    @property
    def moves_clock(self) -> bool:
        return any(isinstance(step, Clock) for step in self.steps)

    def sent(self) -> Iterator[bytes]:
        """What is sent, with a zero for every value that is not known yet."""
        for step in self.steps:
            if isinstance(step, Send):
                yield b"".join(p if isinstance(p, bytes) else b"0" for p in step.template)


# Reading

_NOTHING = "(nothing)"
_STEP = re.compile(
    r"(?P<mark>[>2]>[>-]|[<2]<[<.-]|<\.\.|[=2]==|\+\+\+|@@@|---)"
    r"(?P<version>[0-9]+\.[0-9]+\.[0-9]+)?(?: (?P<text>.*))?$"
)


@dataclass
class _Draft:
    line: int
    sentence: list[str]
    flags: list[str]
    ours_only: str
    reference_alone: str = ""
    sync: bool = True
    steps: list[Step] = field(default_factory=list)
    reference: list[Step] = field(default_factory=list)
    replaceable: bool = False

    def add(self, step: Step) -> None:
        self.steps.append(step)
        self.reference.append(step)
        self.replaceable = not isinstance(step, Send)

    def add_reference(self, step: Step | None) -> None:
        """The reference's form of the last expected line, or one more that only it sends."""
        if self.replaceable:
            self.reference.pop()
            self.replaceable = False
        if step is not None:
            self.reference.append(step)


def read(path: Path) -> list[Case]:
    """All cases of a file.

    Raises:
        TranscriptError: with the place.
    """
    cases: list[Case] = []
    head = _Draft(1, [], [], "")
    draft = head

    def finish() -> None:
        if draft is head:
            return
        if not draft.steps:
            raise TranscriptError(f"{path}:{draft.line}: a case without steps")
        cases.append(
            Case(
                path,
                draft.line,
                " ".join(draft.sentence),
                tuple(draft.flags),
                draft.ours_only,
                draft.reference_alone,
                draft.sync,
                tuple(draft.steps),
                tuple(draft.reference),
            )
        )

    for number, text in enumerate(path.read_text().splitlines(), 1):
        try:
            if not text or text.startswith("##"):
                continue
            if text.startswith("# "):
                if draft is head or draft.steps:
                    finish()
                    draft = _Draft(number, [], list(head.flags), head.ours_only)
                draft.sentence.append(text[2:])
                continue
            found = _STEP.match(text)
            if found is None:
                raise ValueError(f"not a transcript line: {text!r}")
            _read_line(draft, draft is head, number, found)
        except ValueError as error:
            raise TranscriptError(f"{path}:{number}: {error}") from None
    finish()
    return cases


def _read_line(draft: _Draft, in_head: bool, number: int, found: re.Match[str]) -> None:
    mark, version, text = found["mark"], found["version"], found["text"] or ""
    if mark == "---":
        word, _, rest = text.partition(" ")
        if draft.steps:
            raise ValueError("settings stand before the first exchange")
        if word == "flags":
            draft.flags += rest.split()
        elif word == "ours-only" and rest:
            draft.ours_only = rest
        elif word == "reference-alone" and rest:
            draft.reference_alone = rest
        elif text == "no sync":
            draft.sync = False
        else:
            raise ValueError(f"unknown setting {text!r}")
        return
    if in_head:
        raise ValueError("an exchange without its sentence")
    if version is not None:
        if version != REFERENCE_VERSION:
            raise ValueError(f"the reference is {REFERENCE_VERSION}, not {version}")
        draft.add_reference(None if text == _NOTHING else _step(number, mark, text))
    else:
        draft.add(_step(number, mark, text))


def _step(number: int, mark: str, text: str) -> Step:
    connection = 2 if mark[0] == "2" else 1
    if mark == "+++":
        return Counters(number, tuple(_deltas(text)))
    if mark == "@@@":
        action, _, seconds = text.partition(" ")
        if action not in ("advance", "step"):
            raise ValueError(f"unknown clock action {action!r}")
        return Clock(number, action, int(seconds))
    if mark.endswith("=="):
        if text != "closed":
            raise ValueError(f"expected `closed`, not {text!r}")
        return Closed(number, connection)
    template = parse_template(text if mark.endswith("-") else text + r"\r\n")
    if ">" in mark:
        return Send(number, connection, template)
    if mark.endswith("."):
        return SkipTo(number, connection, template)
    return Expect(number, connection, template)


def _deltas(text: str) -> Iterator[tuple[str, int]]:
    if text == "none":
        return
    for part in text.split(", "):
        name, _, amount = part.partition(" ")
        if not re.fullmatch(r"[+-][0-9]+", amount):
            raise ValueError(f"a counter moves by +n or -n: {part!r}")
        yield name, int(amount)


def read_all() -> list[Case]:
    """Every case of every file."""
    return [case for path in sorted(FOLDER.glob("*.txt")) for case in read(path)]


# Playing


class Link(Protocol):
    """One connection to whatever answers."""

    buffer: bytearray

    @property
    def closed(self) -> bool: ...
    def send(self, data: bytes) -> None: ...
    def more(self) -> bool:
        """Try to get more bytes; false when there will be none."""


class Peer(Protocol):
    """Whatever answers."""

    version: str

    def connect(self) -> Link: ...
    def counters(self) -> dict[str, int]: ...
    def move_clock(self, action: str, seconds: int) -> None: ...


def cut(data: bytes, fragmentation: str) -> Iterator[bytes]:
    """The pieces in which a request is sent."""
    if fragmentation == "byte by byte":
        if len(data) <= 2 * _SINGLE_BYTES:
            yield from (data[i : i + 1] for i in range(len(data)))
            return
        yield from cut(data[:_SINGLE_BYTES], fragmentation)
        middle = data[_SINGLE_BYTES:-_SINGLE_BYTES]
        yield from (middle[i : i + _MIDDLE_BYTES] for i in range(0, len(middle), _MIDDLE_BYTES))
        yield from cut(data[-_SINGLE_BYTES:], fragmentation)
    elif fragmentation == "cut in CRLF":
        start = 0
        while (found := data.find(b"\r\n", start)) >= 0:
            yield data[start : found + 1]
            start = found + 1
        yield data[start:]
    else:
        yield data


class Player:
    """Plays one case to a peer; raises AssertionError that names the line and what came instead."""

    def __init__(self, case: Case, peer: Peer, fragmentation: str, *, reference: bool) -> None:
        self.case = case
        self.peer = peer
        self.fragmentation = fragmentation
        self.steps: Sequence[Step] = case.reference_steps if reference else case.steps
        self.values: dict[str, int] = {}
        self.links: dict[int, Link] = {}
        self.now = int(time.time())

    def play(self) -> None:
        counted = self._counters()
        self.links = {number: self.peer.connect() for number in self._connections()}
        for batch in self._batches():
            first = batch[0]
            if isinstance(first, Clock):
                self.peer.move_clock(first.action, first.seconds)
            elif isinstance(first, Counters):
                now = self._counters()
                self._check_counters(first, counted, now)
                counted = now
            else:
                self._exchange(batch)
        for number, link in self.links.items():
            self._finish(number, link)

    def _connections(self) -> list[int]:
        used = {step.connection for step in self.steps if not isinstance(step, Clock | Counters)}
        return sorted(used | {1})

    def _counters(self) -> dict[str, int]:
        if any(isinstance(step, Counters) for step in self.steps):
            return self.peer.counters()
        return {}

    def _batches(self) -> Iterator[list[Step]]:
        """Steps that run together: an exchange, or as many as can be sent before the first reply.

        What needs a value from a reply waits for that reply; so does another connection.
        """
        batch: list[Step] = []
        captured: set[str] = set()
        for step in self.steps:
            if isinstance(step, Clock | Counters):
                if batch:
                    yield batch
                yield [step]
                batch, captured = [], set()
                continue
            if batch and self._must_wait(step, batch, captured):
                yield batch
                batch, captured = [], set()
            batch.append(step)
            if isinstance(step, Expect):
                captured |= {p.name for p in step.template if isinstance(p, Value)}
        if batch:
            yield batch

    def _must_wait(self, step: Step, batch: Sequence[Step], captured: Iterable[str]) -> bool:
        previous = batch[-1]
        assert not isinstance(step, Clock | Counters)
        assert not isinstance(previous, Clock | Counters)
        if step.connection != previous.connection:
            return True
        if not isinstance(step, Send) or isinstance(previous, Send):
            return False
        if self.fragmentation != "pipelined" or isinstance(previous, Closed):
            return True
        unknown = set(captured) - set(self.values)
        return any(isinstance(p, Value) and p.name in unknown for p in step.template)

    def _exchange(self, batch: Sequence[Step]) -> None:
        sent = b"".join(self._bytes(step.template) for step in batch if isinstance(step, Send))
        if sent:
            step = batch[0]
            assert not isinstance(step, Clock | Counters)
            for piece in cut(sent, self.fragmentation):
                self.links[step.connection].send(piece)
        for step in batch:
            if isinstance(step, Expect):
                self._expect(step)
            elif isinstance(step, SkipTo):
                self._skip_to(step)
            elif isinstance(step, Closed):
                self._expect_close(step.line, self.links[step.connection])

    def _bytes(self, template: Template) -> bytes:
        return b"".join(
            piece if isinstance(piece, bytes) else b"%d" % self._number(piece) for piece in template
        )

    def _number(self, value: Value) -> int:
        base = self.now if value.name == "now" else self.values[value.name]
        return base + value.offset

    def _expect(self, step: Expect) -> None:
        link = self.links[step.connection]
        fresh = [
            piece.name
            for piece in step.template
            if isinstance(piece, Value) and piece.name not in self.values and piece.name != "now"
        ]
        if not fresh:
            expected = self._bytes(step.template)
            while expected.startswith(link.buffer) and link.buffer != expected and link.more():
                pass
            received = bytes(link.buffer[: len(expected)])
            if received != expected:
                self._fail(step.line, expected, link)
            del link.buffer[: len(expected)]
            return
        pattern = b"".join(self._pattern(piece, fresh) for piece in step.template)
        line = self._take_lines(link, 1)
        found = re.fullmatch(pattern, line or b"", re.DOTALL)
        if found is None:
            link.buffer[:0] = line or b""
            self._fail(step.line, pattern, link)
        self.values |= {name: int(found[name]) for name in fresh}

    def _pattern(self, piece: bytes | Value, fresh: list[str]) -> bytes:
        if isinstance(piece, bytes):
            return re.escape(piece)
        if piece.name in fresh:
            return b"(?P<%s>[0-9]+)" % piece.name.encode()
        return b"%d" % self._number(piece)

    def _take_lines(self, link: Link, count: int) -> bytes | None:
        while link.buffer.count(b"\n") < count:
            if not link.more():
                return None
        end = 0
        for _ in range(count):
            end = link.buffer.index(b"\n", end) + 1
        taken = bytes(link.buffer[:end])
        del link.buffer[:end]
        return taken

    def _skip_to(self, step: SkipTo) -> None:
        link = self.links[step.connection]
        wanted = self._bytes(step.template)
        while (line := self._take_lines(link, 1)) != wanted:
            if line is None:
                self._fail(step.line, wanted, link)

    def _expect_close(self, line: int, link: Link) -> None:
        while not link.closed and link.more():
            pass
        if not link.closed or link.buffer:
            self._fail(line, b"<closed>", link)

    def _finish(self, number: int, link: Link) -> None:
        """Nothing more was answered than the case says, and the connection is in a clean state."""
        if any(isinstance(s, Closed) and s.connection == number for s in self.steps):
            return
        where = f"the end of the case, connection {number}"
        if self.case.sync:
            link.send(b"version\r\n")
            expected = b"VERSION %s\r\n" % self.peer.version.encode()
            while len(link.buffer) < len(expected) and link.more():
                pass
            if link.buffer != expected:
                self._fail(where, expected, link)
        elif link.buffer:
            self._fail(where, b"", link)

    def _check_counters(
        self, step: Counters, before: dict[str, int], after: dict[str, int]
    ) -> None:
        expected = dict(step.deltas)
        moved = {}
        for name in WATCHED_COUNTERS | set(expected):
            if name not in after and name in WATCHED_COUNTERS - set(expected):
                continue
            if name not in after:
                self._fail(step.line, name.encode(), None)
            if delta := after[name] - before[name]:
                moved[name] = delta
        # Gauges and totals are checked where they are named: every case would have to repeat them.
        for name in ("curr_items", "total_items", "cmd_flush"):
            if name not in expected:
                moved.pop(name, None)
        if moved != {name: delta for name, delta in expected.items() if delta}:
            raise AssertionError(
                f"{self._place(step.line)}\nexpected counters {expected}\n   moved counters {moved}"
            )

    def _place(self, line: int | str) -> str:
        return f"{self.case.path}:{line} ({self.fragmentation})\n" f"# {self.case.sentence}"

    def _fail(self, line: int | str, expected: bytes, link: Link | None) -> NoReturn:
        received = "" if link is None else _shorten(bytes(link.buffer))
        state = "" if link is None or not link.closed else " and then a close"
        raise AssertionError(
            f"{self._place(line)}\nexpected {_shorten(expected)}\nreceived {received}{state}"
        )


def _shorten(data: bytes) -> str:
    if len(data) <= 300:
        return repr(data)
    return f"{data[:200]!r}… {len(data)} bytes …{data[-60:]!r}"

"""Every command in every wrong shape: the product of two lists, for the comparison."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

# The data behind a line that may be refused: if it is read as commands, it is one unknown command.
DATA = b"zz\r\n"
LONG_KEY_BYTES = (251, 252, 300, 1000)
# Longer lines end our connection, whatever stands in them.
LINE_BYTES = (1000, 2046, 2047)


@dataclass(frozen=True)
class Command:
    """A line that is right.

    Attributes:
        words: of the line, the command's name first.
        key: the place of the key among them; 0: it has none.
        data: what follows the line.
    """

    words: tuple[bytes, ...]
    key: int = 1
    data: bytes = b""

    @property
    def name(self) -> str:
        return self.words[0].decode()

    def but(self, words: tuple[bytes, ...]) -> bytes:
        """The same with other words."""
        return b" ".join(words) + b"\r\n" + self.data

    def cut(self, words: tuple[bytes, ...]) -> list[bytes]:
        """With too few words: the data is a request of its own, unless a cas swallows it."""
        line = b" ".join(words) + b"\r\n"
        return [line, self.data] if self.data and self.name != "cas" else [line + self.data]

    def with_word(self, place: int, word: bytes, *more: bytes) -> bytes:
        """The same with another word at one place."""
        return self.but((*self.words[:place], word, *self.words[place + 1 :], *more))


def _line(text: str, key: int = 1, data: bytes = b"") -> Command:
    return Command(tuple(text.encode().split(b" ")), key, data)


CLASSIC = (
    _line("get have"),
    _line("gets none"),
    _line("gat 0 have", 2),
    _line("gats 0 none", 2),
    _line("set m 0 0 2", data=DATA),
    _line("add m 0 0 2", data=DATA),
    _line("replace none 0 0 2", data=DATA),
    _line("append none 0 0 2", data=DATA),
    _line("prepend have 0 0 2", data=DATA),
    _line("cas none 0 0 2 1", data=DATA),
    _line("delete none"),
    _line("incr none 1"),
    _line("decr number 1"),
    _line("touch have 0"),
    _line("flush_all 0", 0),
    _line("verbosity 0", 0),
    _line("version", 0),
    _line("cache_memlimit 64", 0),
    _line("shutdown", 0),
    _line("quit", 0),
)
PREPARE = b"set have 1 0 2\r\nhi\r\n" + b"set number 0 0 2\r\n10\r\n"

Shape = Callable[[Command], bytes]


def _between(separator: bytes) -> Shape:
    return lambda command: separator.join(command.words) + b"\r\n" + command.data


def _around(before: bytes, behind: bytes, end: bytes = b"\r\n") -> Shape:
    return lambda command: before + b" ".join(command.words) + behind + end + command.data


def _first(change: Callable[[bytes], bytes]) -> Shape:
    return lambda command: command.but((change(command.words[0]), *command.words[1:]))


SHAPES: dict[str, Shape] = {
    "right": _around(b"", b""),
    "line feed only": _around(b"", b"", b"\n"),
    "two carriage returns": _around(b"", b"\r"),
    "line feed and carriage return": _around(b"", b"", b"\n\r"),
    "a space before": _around(b" ", b""),
    "spaces before": _around(b" " * 101, b""),
    "a tab before": _around(b"\t", b""),
    "a NUL before": _around(b"\0", b""),
    "a space behind": _around(b"", b" "),
    "spaces behind": _around(b"", b" " * 20),
    "a tab behind": _around(b"", b"\t"),
    "a NUL behind": _around(b"", b"\0"),
    "two spaces between": _between(b"  "),
    "tabs between": _between(b"\t"),
    "commas between": _between(b","),
    "a word more": _around(b"", b" more"),
    "two words more": _around(b"", b" more 2"),
    "thirty words more": _around(b"", b" w" * 30),
    "upper case": _first(bytes.upper),
    "a capital": _first(bytes.capitalize),
    "a letter less": _first(lambda name: name[:-1]),
    "a letter more": _first(lambda name: name + b"s"),
    "a control byte in the name": _first(lambda name: name[:2] + b"\x01" + name[2:]),
    "a high byte behind the name": _first(lambda name: name + b"\xff"),
    "noreply behind": _around(b"", b" noreply"),
    "noreply twice": _around(b"", b" noreply noreply"),
    "noreply and a word": _around(b"", b" noreply more"),
    "NOREPLY": _around(b"", b" NOREPLY"),
    "HTTP behind": _around(b"", b" HTTP/1.1"),
    "the name again": lambda command: command.but((command.words[0], *command.words)),
}

# 1.6.18 closes for a wrong quit, and there is nothing to compare behind it. The others become a
# gets and a gats, and cas uniques drift apart where one side stores and the other does not.
NOT_COMPARED = {
    ("quit", "a space before"),
    ("quit", "spaces before"),
    ("quit", "a NUL behind"),
    ("get", "a letter more"),
    ("gat", "a letter more"),
}

KEYS: dict[str, bytes] = {
    **{f"a key of {size} bytes": b"k" * size for size in LONG_KEY_BYTES},
    "the longest key": b"k" * 250,
    "a NUL in the key": b"a\0b",
    "a tab in the key": b"a\tb",
    "a carriage return in the key": b"a\rb",
    "control bytes as key": bytes(range(1, 9)),
    "high bytes as key": b"\x80\xff\xfe",
    "noreply as key": b"noreply",
    "a number as key": b"0",
    "a line end as key": b"\r",
    "quotes as key": b"\"'",
    "a star as key": b"*",
}


def classic() -> Iterator[tuple[str, list[bytes]]]:
    """Names and requests: every classic command in every shape."""
    for command in CLASSIC:
        yield from _in_every_shape(command)


def _in_every_shape(command: Command) -> Iterator[tuple[str, list[bytes]]]:
    name, words, data = command.name, command.words, command.data
    line = b" ".join(words)
    for shape, change in SHAPES.items():
        if (name, shape) in NOT_COMPARED:
            continue
        yield f"{name}, {shape}", [change(command)]
    yield f"{name}, an empty line before", [b"\r\n", command.but(words)]
    yield f"{name}, twice", [command.but(words), command.but(words)]
    for count in range(1, len(words)):
        yield f"{name}, {count} words", command.cut(words[:count])
        yield f"{name}, {count} words and noreply", command.cut((*words[:count], b"noreply"))
        without = (*words[:count], b"", *words[count + 1 :])
        yield f"{name}, word {count} missing between spaces", command.cut(without)
        moved = command.but((*words[:count], b"noreply", *words[count:]))
        yield f"{name}, noreply before word {count}", [moved]
        yield f"{name}, noreply for word {count}", [command.with_word(count, b"noreply")]
    if command.key:
        for kind, key in KEYS.items():
            yield f"{name}, {kind}", [command.with_word(command.key, key)]
            yield f"{name}, {kind}, noreply", [command.with_word(command.key, key, b"noreply")]
    for size in LINE_BYTES:
        yield f"{name}, a line of {size} bytes", [line.ljust(size) + b"\r\n" + data]

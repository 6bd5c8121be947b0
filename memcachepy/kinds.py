"""The kinds of values that settings have: what is right, and how one is read.

A kind reads text, as from a flag or the environment, and the values of a TOML file.
"""

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol


class WrongValue(ValueError):
    """A value that cannot be had, with a sentence of its own that says why."""


@dataclass(frozen=True, slots=True)
class Address:
    """A place to listen on; `port` is None where the node's own port is meant."""

    host: str
    port: int | None = None
    protocol: str = ""
    """What is spoken there; empty for what the node speaks."""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"


class Kind(Protocol):
    """What values a setting can have, and how one is read."""

    @property
    def metavar(self) -> str:
        """The value's name in the help text; empty for a switch."""

    @property
    def range(self) -> str:
        """What is right, as in "a whole number from 1 to 5"."""

    def read(self, raw: object) -> object:
        """From text or a TOML value.

        Raises:
            WrongValue: it cannot be had; says why.
            ValueError: out of range or something else altogether.
        """


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number, in decimal or in octal."""

    least: int
    most: int
    unit: str = ""
    base: int = 10
    metavar: str = "<num>"

    @property
    def range(self) -> str:
        what = "an octal number" if self.base == 8 else f"a whole number{self.unit}"
        if self.least == self.most:
            return f"must be {self.least}{self.unit}"
        return f"must be {what} from {self._text(self.least)} to {self._text(self.most)}"

    def _text(self, value: int) -> str:
        return f"{value:o}" if self.base == 8 else str(value)

    def read(self, raw: object) -> int:
        if isinstance(raw, str):
            if not re.fullmatch(r"[+-]?[0-9]{1,20}", raw.strip()):
                raise ValueError
            value = int(raw, self.base)
        elif type(raw) is int:
            value = raw
        else:
            raise ValueError
        if not self.least <= value <= self.most:
            raise ValueError
        return value


@dataclass(frozen=True, slots=True)
class Decimal:
    """A number with a fraction, above `above`."""

    above: float
    most: float
    metavar: str = "<num>"

    @property
    def range(self) -> str:
        return f"must be a number above {self.above:g} and at most {self.most:g}"

    def read(self, raw: object) -> float:
        if isinstance(raw, bool) or not isinstance(raw, (str, int, float)):
            raise ValueError
        value = float(raw)
        if not self.above < value <= self.most:
            raise ValueError
        return value


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes, with k or m for units of 1,024."""

    least: int
    most: int
    metavar: str = "<size>"

    @property
    def range(self) -> str:
        return f"must be a size from {size_text(self.least)} to {size_text(self.most)}"

    def read(self, raw: object) -> int:
        if type(raw) is int:
            raw = str(raw)
        match = re.fullmatch(r"([0-9]{1,20})([kKmM]?)", raw) if isinstance(raw, str) else None
        if match is None:
            raise ValueError
        value = int(match[1]) * {"": 1, "k": 1 << 10, "m": 1 << 20}[match[2].lower()]
        if not self.least <= value <= self.most:
            raise ValueError
        return value


def size_text(size_bytes: int) -> str:
    """As in "1k" or "64m"; plain bytes if neither is exact."""
    for unit_bytes, letter in ((1 << 20, "m"), (1 << 10, "k")):
        if size_bytes and size_bytes % unit_bytes == 0:
            return f"{size_bytes // unit_bytes}{letter}"
    return str(size_bytes)


@dataclass(frozen=True, slots=True)
class Switch:
    """On or off; its flag takes no value and turns it on."""

    metavar: str = ""
    range: str = "must be true or false"

    def read(self, raw: object) -> bool:
        if isinstance(raw, bool):
            return raw
        words = {"1": True, "true": True, "yes": True, "on": True}
        words |= {"0": False, "false": False, "no": False, "off": False}
        if not isinstance(raw, str) or raw.strip().lower() not in words:
            raise ValueError
        return words[raw.strip().lower()]


@dataclass(frozen=True, slots=True)
class Choice:
    """One word of several."""

    words: tuple[str, ...]
    metavar: str = "<name>"

    @property
    def range(self) -> str:
        return f"must be one of {', '.join(self.words)}"

    def read(self, raw: object) -> str:
        if not isinstance(raw, str) or raw.strip().lower() not in self.words:
            raise ValueError
        return raw.strip().lower()


@dataclass(frozen=True, slots=True)
class Text:
    """Any text but the empty one."""

    metavar: str
    range: str = "must not be empty"

    def read(self, raw: object) -> str:
        if not isinstance(raw, str) or not raw or "\0" in raw:
            raise ValueError
        return raw


@dataclass(frozen=True, slots=True)
class Addresses:
    """Places to listen on: text with commas, or several texts."""

    metavar: str = "<addr>"
    range: str = "must be a list of host, host:port, [v6], [v6]:port or *"

    def read(self, raw: object) -> tuple[Address, ...]:
        texts = [raw] if isinstance(raw, str) else raw
        if not isinstance(texts, (list, tuple)):
            raise ValueError
        found: list[Address] = []
        for text in texts:
            if isinstance(text, Address):
                found.append(text)
            elif isinstance(text, str):
                found += [_read_address(part.strip()) for part in re.split("[,;]", text)]
            else:
                raise ValueError
        if not found:
            raise ValueError
        return tuple(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class NodeId:
    """A node's name in its cluster."""

    metavar: str = "<name>"
    range: str = "must be at most 64 letters, digits, dots, - and _"

    def read(self, raw: object) -> str:
        if not isinstance(raw, str) or not re.fullmatch(r"[0-9A-Za-z_.-]{1,64}", raw):
            raise ValueError
        if raw in (".", ".."):
            raise ValueError  # No name in ZooKeeper.
        return raw


@dataclass(frozen=True, slots=True)
class OneAddress:
    """A place that clients connect to."""

    metavar: str = "<addr>"
    range: str = "must be host, host:port, [v6] or [v6]:port"

    def read(self, raw: object) -> Address:
        if isinstance(raw, Address):
            return raw
        if not isinstance(raw, str) or raw.strip() in ("*", "0.0.0.0", "::", "[::]"):
            raise ValueError
        address = _read_address(raw.strip())
        if address.protocol or _PREFIX.match(raw.strip()) or address.host == "*":
            raise ValueError
        return address


_PREFIX = re.compile(r"(notls|btls|mtls|proto\[\w*\]|tag\[[^]]{1,8}\]|tag_[^_]{1,8}_):")
_LISTENER_PROTOCOLS = {"ascii": "ascii", "binary": "binary", "negotiating": "auto"}


def _read_address(text: str) -> Address:
    """`[prefix:]...host[:port]`; tags mean something to a proxy only."""
    protocol = ""
    while prefix := _PREFIX.match(text):
        text = text[prefix.end() :]
        word, _, argument = prefix[1].partition("[")
        if word in ("btls", "mtls"):
            raise WrongValue(f"{word}: TLS is not offered yet")
        if word == "proto":
            name = argument.rstrip("]")
            if name not in _LISTENER_PROTOCOLS:
                known = ", ".join(_LISTENER_PROTOCOLS)
                raise WrongValue(f"proto[{name}] is not offered: {known} are")
            protocol = _LISTENER_PROTOCOLS[name]
    match = (
        re.fullmatch(r"\[([0-9a-fA-F:.]+(?:%\w+)?)\](?::([0-9]{1,5}))?", text)
        or re.fullmatch(r"([^\s:\[\]]+)(?::([0-9]{1,5}))?", text)
        or re.fullmatch(r"([0-9a-fA-F:.]*:[0-9a-fA-F:.]*:[0-9a-fA-F:.]*)()", text)
    )
    if match is None:
        raise ValueError
    port = Whole(1, 65535).read(match[2]) if match[2] else None
    return Address(match[1], port, protocol)


@dataclass(frozen=True, slots=True)
class ChunkSizes:
    """Bytes that grow, with hyphens between."""

    least: int
    count_max: int
    metavar: str = "<sizes>"

    @property
    def range(self) -> str:
        return (
            f"must be at most {self.count_max} growing sizes of {self.least} bytes or more, "
            "as in 100-200-300"
        )

    def read(self, raw: object) -> str:
        if not isinstance(raw, str) or not re.fullmatch(r"[0-9]{1,9}(-[0-9]{1,9})*", raw):
            raise ValueError
        sizes = [int(size) for size in raw.split("-")]
        if len(sizes) > self.count_max or sizes[0] < self.least or len(raw) > 500:
            raise ValueError
        if any(after <= before for before, after in pairwise(sizes)):
            raise ValueError
        return raw


@dataclass(frozen=True, slots=True)
class Letter:
    """One visible ASCII character."""

    metavar: str = "<char>"
    range: str = "must be one ASCII character that is neither a space nor a control character"

    def read(self, raw: object) -> str:
        if not isinstance(raw, str) or not re.fullmatch("[!-~]", raw):
            raise ValueError
        return raw

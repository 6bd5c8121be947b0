"""A node's settings: one table, from which flags, environment, TOML keys and checks are made.

The fields of `NodeConfig` are the table. A field `memory_limit` with the letter `m` is the flag
`-m` or `--memory-limit`, the environment variable `MEMCACHEPY_MEMORY_LIMIT` and the TOML key
`memory_limit`; a flag beats the environment, which beats the file, which beats the default.
"""

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol, cast

from memcachepy import _core
from memcachepy.errors import ConfigError
from memcachepy.node.cpus import usable_cores

MEGABYTE = 1 << 20
PORT_DEFAULT = 11211
THREADS_DEFAULT_MAX = 4
ENVIRONMENT_PREFIX = "MEMCACHEPY_"
CONFIG_VARIABLE = "MEMCACHEPY_CONFIG"
CONTROL_OFF = "off"
_OTHER_VARIABLES = frozenset({CONFIG_VARIABLE, "MEMCACHEPY_TEST_SEED"})


@dataclass(frozen=True, slots=True)
class Address:
    """A place to listen on; `port` is None where the node's own port is meant."""

    host: str
    port: int | None = None

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
            return f"must be {self.least}"
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


def _read_address(text: str) -> Address:
    match = (
        re.fullmatch(r"\[([0-9a-fA-F:.]+(?:%\w+)?)\](?::([0-9]{1,5}))?", text)
        or re.fullmatch(r"([^\s:\[\]]+)(?::([0-9]{1,5}))?", text)
        or re.fullmatch(r"([0-9a-fA-F:.]*:[0-9a-fA-F:.]*:[0-9a-fA-F:.]*)()", text)
    )
    if match is None:
        raise ValueError
    if not match[2]:
        return Address(match[1])
    return Address(match[1], Whole(1, 65535).read(match[2]))


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table."""

    name: str
    letter: str
    kind: Kind
    help: str
    default_text: str

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def short_flag(self) -> str:
        return f"-{self.letter}" if self.letter else self.flag

    @property
    def variable(self) -> str:
        return ENVIRONMENT_PREFIX + self.name.upper()

    def read(self, raw: object, source: str = "") -> object:
        """Raises ConfigError."""
        try:
            return self.kind.read(raw)
        except (ValueError, OverflowError):
            raise ConfigError(self.name, raw, self.kind.range, source) from None


def _row(letter: str, kind: Kind, default: object, text: str, *, shown: str | None = None) -> Any:
    """A field of `NodeConfig`; `default` may be a function."""
    metadata = {"letter": letter, "kind": kind, "help": text, "shown": shown}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    if shown is None:
        metadata["shown"] = str(default)
    return field(default=default, metadata=metadata)


def _default_threads() -> int:
    return min(usable_cores(), THREADS_DEFAULT_MAX)


_MEMORY_MAX_MB = _core.MEMORY_BYTES_MAX // MEGABYTE


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """What a node needs to know; checked when made.

    Raises:
        ConfigError: a value is out of range or does not fit another one.
    """

    port: int = _row(
        "p", Whole(-1, 65535), PORT_DEFAULT, "TCP port to listen on; 0 is off, -1 any free one"
    )
    udp_port: int = _row("U", Whole(0, 0), 0, "only 0: UDP is not offered")
    unix_socket: str | None = _row(
        "s", Text("<file>"), None, "UNIX socket to listen on; then TCP only with -p or -l", shown=""
    )
    unix_mask: int = _row(
        "a", Whole(0, 0o777, base=8, metavar="<mask>"), 0o700, "its access mask", shown="700"
    )
    listen: tuple[Address, ...] = _row(
        "l",
        Addresses(),
        (Address("127.0.0.1"),),
        "where to listen: host, host:port, [v6]:port, * for everywhere; a comma list, or repeat",
        shown="127.0.0.1",
    )
    memory_limit: int = _row(
        "m", Whole(1, _MEMORY_MAX_MB, " of megabytes"), 64, "memory for items, in megabytes"
    )
    max_item_size: int = _row(
        "I", Size(1 << 10, 1 << 30), 1 << 20, "largest item, at most half of -m", shown="1m"
    )
    slab_growth_factor: float = _row(
        "f", Decimal(1.0, 16.0), 1.1, "chunk size growth factor of the slab classes"
    )
    slab_min_size: int = _row(
        "n",
        Whole(1, 1 << 10, " of bytes"),
        8,
        "key, value and flags that the smallest class has room for (memcached: 48)",
    )
    conn_limit: int = _row("c", Whole(1, 1 << 20), 1024, "most connections at the same time")
    threads: int = _row(
        "t",
        Whole(1, _core.WORKERS_MAX),
        _default_threads,
        "worker processes",
        shown=f"usable cores, at most {THREADS_DEFAULT_MAX}",
    )
    listen_backlog: int = _row("b", Whole(1, 65535), 1024, "connections that wait to be accepted")
    max_reqs_per_event: int = _row(
        "R",
        Whole(1, 1 << 20),
        cast(int, _core.SETTINGS["requests_per_event"]),
        "requests of one connection before another has its turn",
    )
    eviction_policy: str = _row(
        "",
        Choice(_core.EVICTION_POLICIES),
        _core.EVICTION_POLICIES[0],
        "what goes when memory is full",
    )
    disable_evictions: bool = _row("M", Switch(), False, "the same as --eviction-policy noeviction")
    disable_cas: bool = _row("C", Switch(), False, "items carry no cas unique")
    disable_flush_all: bool = _row("F", Switch(), False, "refuse flush_all")
    enable_largepages: bool = _row(
        "L", Switch(), False, "huge pages are a must: no start without them"
    )
    enable_shutdown: bool = _row("A", Switch(), False, "allow the shutdown command")
    user: str | None = _row(
        "u", Text("<user>"), None, "user to become after the ports are open", shown=""
    )
    control_socket: str | None = _row(
        "",
        Text("<file>"),
        None,
        "UNIX socket for processes that attach; off is none",
        shown="by port, in a directory of the user's",
    )
    control_group: str | None = _row(
        "", Text("<group>"), None, "group whose members may attach, too", shown=""
    )
    kill_stuck_attached: bool = _row(
        "", Switch(), False, "kill an attached process that is stopped while it holds a lock"
    )
    verbose: int = _row("v", Whole(0, 3), 0, "log routine events too (-vv: the core's as well)")

    def __post_init__(self) -> None:
        for setting in SETTINGS.values():
            value = getattr(self, setting.name)
            if value is not None:
                setting.read(value)
        if self.max_item_size > self.memory_limit * MEGABYTE // 2:
            raise ConfigError(
                "max_item_size",
                size_text(self.max_item_size),
                f"must be at most half of memory_limit, which is {self.memory_limit} MB",
            )
        if self.disable_evictions and self.eviction_policy not in ("s3fifo", "noeviction"):
            raise ConfigError(
                "eviction_policy", self.eviction_policy, "must be noeviction with disable_evictions"
            )
        has_tcp = self.port != 0 or any(address.port for address in self.listen)
        if not has_tcp and self.unix_socket is None:
            raise ConfigError("port", 0, "must not be 0 without a unix_socket")


def _settings() -> dict[str, Setting]:
    rows = {}
    for row in fields(NodeConfig):
        about = row.metadata
        rows[row.name] = Setting(
            row.name, about["letter"], about["kind"], about["help"], about["shown"]
        )
    return rows


SETTINGS = _settings()


def resolve(
    flags: Mapping[str, object], environ: Mapping[str, str], file: Path | None = None
) -> tuple[NodeConfig, list[str]]:
    """One config from everything that was said.

    Args:
        flags: by setting name, only what was given.
        environ: all of the environment.
        file: a TOML file; else the one that MEMCACHEPY_CONFIG names, if any.

    Returns:
        The config, and sentences about what looks like a mistake.

    Raises:
        ConfigError: with the source of the offending value.
    """
    file_source = "--config"
    if file is None and environ.get(CONFIG_VARIABLE):
        file, file_source = Path(environ[CONFIG_VARIABLE]), CONFIG_VARIABLE
    file_values = _read_file(file, file_source) if file else {}
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for name, setting in SETTINGS.items():
        candidates = (
            (flags.get(name), setting.short_flag),
            (environ.get(setting.variable) or None, setting.variable),
            (file_values.get(name), str(file)),
        )
        for raw, source in candidates:
            if raw is not None:
                values[name] = setting.read(raw, source)
                sources[name] = source
                break
    if "unix_socket" in values and not values.keys() & {"port", "listen"}:
        values["port"] = 0
    if "memory_limit" in values and "max_item_size" not in values:
        values["max_item_size"] = min(1 << 20, values["memory_limit"] * MEGABYTE // 2)
    try:
        return NodeConfig(**values), _warnings(environ)
    except ConfigError as error:
        raise error.given_by(sources.get(error.name, "the default")) from None


def _read_file(path: Path, source: str) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        must = f"cannot be read: {error.strerror}"
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        must = f"is not TOML: {error}"
    else:
        for name in values.keys() - SETTINGS.keys():
            must = "there is no such setting" + _did_you_mean(name, SETTINGS)
            raise ConfigError(name, values[name], must, str(path))
        return values
    raise ConfigError("config", str(path), must, source)


def _warnings(environ: Mapping[str, str]) -> list[str]:
    known = {setting.variable for setting in SETTINGS.values()} | _OTHER_VARIABLES
    return [
        f"{name} is not a setting and has no effect" + _did_you_mean(name, known)
        for name in sorted(environ)
        if name.startswith(ENVIRONMENT_PREFIX) and name not in known
    ]


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {close[0]}?" if close else ""

"""A node's settings: one table, from which flags, environment, TOML keys and checks are made.

The fields of `NodeConfig` are the table. A field `memory_limit` with the letter `m` is the flag
`-m` or `--memory-limit`, the environment variable `MEMCACHEPY_MEMORY_LIMIT` and the TOML key
`memory_limit`; a flag beats the environment, which beats the file, which beats the default.
What memcached says as `-o idle_timeout=60` is a row, too: `idle_timeout` in the file, and
`MEMCACHEPY_IDLE_TIMEOUT`.
"""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

from memcachepy import _core
from memcachepy.errors import ConfigError
from memcachepy.kinds import (
    Address,
    Addresses,
    Choice,
    ChunkSizes,
    Decimal,
    Kind,
    Letter,
    NodeId,
    OneAddress,
    Size,
    Switch,
    Text,
    Whole,
    WrongValue,
    size_text,
)
from memcachepy.membership.url import parse_url
from memcachepy.node.cpus import usable_cores

KILOBYTE = 1 << 10
MEGABYTE = 1 << 20
PORT_DEFAULT = 11211
THREADS_DEFAULT_MAX = 4
ENVIRONMENT_PREFIX = "MEMCACHEPY_"
CONFIG_VARIABLE = "MEMCACHEPY_CONFIG"
CONTROL_OFF = "off"
STATE_OFF = "off"
DEFAULT = "the default"
_OTHER_VARIABLES = frozenset({CONFIG_VARIABLE, "MEMCACHEPY_TEST_SEED"})


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table."""

    name: str
    letter: str
    kind: Kind
    help: str
    default_text: str
    is_extended: bool
    """It is given as `-o name=value`."""
    has_effect: bool
    """Otherwise it is accepted for memcached's sake, and `stats settings` shows it."""

    @property
    def flag(self) -> str:
        return f"-o {self.name}" if self.is_extended else "--" + self.name.replace("_", "-")

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
        except WrongValue as error:
            raise ConfigError(self.name, raw, str(error), source) from None
        except (ValueError, OverflowError):
            raise ConfigError(self.name, raw, self.kind.range, source) from None


def _row(
    letter: str,
    kind: Kind,
    default: object,
    text: str,
    *,
    shown: str | None = None,
    effect: bool = True,
    extended: bool = False,
) -> Any:
    """A field of `NodeConfig`; `default` may be a function."""
    metadata = {"letter": letter, "kind": kind, "help": text, "shown": shown}
    metadata |= {"extended": extended, "effect": effect}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    if shown is None:
        metadata["shown"] = str(default)
    return field(default=default, metadata=metadata)


def _extended(kind: Kind, default: object, text: str, **how: Any) -> Any:
    """A field that is given as `-o name=value`."""
    return _row("", kind, default, text, extended=True, **how)


def _default_threads() -> int:
    return min(usable_cores(), THREADS_DEFAULT_MAX)


_INT_MAX = (1 << 31) - 1
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
    udp_port: int = _row("U", Whole(0, 0, ": UDP is not offered"), 0, "only 0: UDP is not offered")
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
    listen_backlog: int = _row(
        "b", Whole(1, 1_000_000_000), 1024, "connections that wait to be accepted"
    )
    max_reqs_per_event: int = _row(
        "R",
        Whole(1, 1_000_000_000),
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
    advertise: Address | None = _row(
        "",
        OneAddress(),
        None,
        "address of this node in the list that clients ask for",
        shown="what it listens on, else the host's first IPv4",
    )
    join: str | None = _row(
        "",
        Text("<url>"),
        None,
        "the cluster's list: file:PATH, dns+NAME:PORT, dnssrv+NAME, zk://HOST:PORT,.../PATH",
        shown="a list of its own",
    )
    node_id: str | None = _row(
        "", NodeId(), None, "its name in the cluster, kept when it moves", shown="by address"
    )
    discovery_state: str | None = _row(
        "",
        Text("<file>"),
        None,
        "where the last known list is kept over restarts; off is nowhere",
        shown="by port, in a directory of the user's",
    )
    verbose: int = _row("v", Whole(0, 3), 0, "log routine events too (-vv: the core's as well)")
    daemon: bool = _row("d", Switch(), False, "go to the background once the node serves")
    pidfile: str | None = _row(
        "P", Text("<file>"), None, "file that has the process id while the node runs", shown=""
    )
    enable_coredumps: bool = _row("r", Switch(), False, "raise the limit of core files")
    lock_memory: bool = _row("k", Switch(), False, "keep the node's memory from being swapped out")
    protocol: str = _row("B", Choice(("auto", "ascii", "binary")), "auto", "what clients may speak")
    stat_key_prefix: str | None = _row(
        "D",
        Letter(),
        None,
        "what ends the prefix of a key; given, prefixes are counted from the start",
        shown=":",
    )
    disable_dumping: bool = _row(
        "X", Switch(), False, "refuse the commands that list keys, and stats detail"
    )
    disable_watch: bool = _row("W", Switch(), False, "refuse watch")
    napi_ids: int | None = _row(
        "N", Whole(1, _INT_MAX), None, "accepted without effect", shown="", effect=False
    )
    maxconns_fast: bool = _extended(
        Switch(), True, "answer who comes beyond -c; off: let them wait to be accepted"
    )
    idle_timeout: int = _extended(
        Whole(0, _INT_MAX, " of seconds"), 0, "close a connection that says nothing for so long"
    )
    lru_crawler: bool = _extended(Switch(), True, "allow the dumps and crawls of lru_crawler")
    slab_reassign: bool = _extended(Switch(), True, "let pages be moved between sizes of items")
    slab_automove: int = _extended(
        Whole(0, 2), 1, "move pages to the sizes that are asked for: 0 is off"
    )
    track_sizes: bool = _extended(Switch(), False, "make stats sizes count the sizes of items")
    slab_sizes: str | None = _extended(
        ChunkSizes(32, 60), None, "sizes of the slab classes' chunks, as in 100-200-300", shown=""
    )
    watcher_logbuf_size: int = _extended(
        Whole(1, 1 << 20, " of kilobytes"), 256, "kilobytes of log that wait for one watcher"
    )
    worker_logbuf_size: int = _extended(
        Whole(1, 1 << 20, " of kilobytes"), 64, "kilobytes of log that one worker may be ahead"
    )
    slab_automove_ratio: float = _extended(
        Decimal(0.0, 1.0), 0.8, "accepted without effect", effect=False
    )
    slab_automove_window: int = _extended(
        Whole(3, 1800), 10, "accepted without effect", effect=False
    )
    slab_automove_freeratio: float = _extended(
        Decimal(0.0, 1.0), 0.01, "accepted without effect", effect=False
    )
    slab_chunk_max: int = _extended(
        Whole(1, 1 << 20, " of kilobytes"), 512, "accepted without effect", effect=False
    )
    hashpower: int | None = _extended(
        Whole(12, 32), None, "accepted without effect", shown="", effect=False
    )
    hash_algorithm: str = _extended(
        Choice(("siphash13", "jenkins", "murmur3", "xxh3")),
        "siphash13",
        "accepted without effect",
        effect=False,
    )
    tail_repair_time: int | None = _extended(
        Whole(10, _INT_MAX, " of seconds"), None, "accepted without effect", shown="", effect=False
    )
    lru_crawler_sleep: int = _extended(
        Whole(0, 1_000_000, " of microseconds"), 100, "accepted without effect", effect=False
    )
    lru_crawler_tocrawl: int = _extended(
        Whole(0, (1 << 32) - 1), 0, "accepted without effect", effect=False
    )
    lru_maintainer: bool = _extended(Switch(), True, "accepted without effect", effect=False)
    hot_lru_pct: int = _extended(Whole(1, 79), 20, "accepted without effect", effect=False)
    warm_lru_pct: int = _extended(Whole(1, 79), 40, "accepted without effect", effect=False)
    hot_max_factor: float = _extended(
        Decimal(0.0, 1e9), 0.2, "accepted without effect", effect=False
    )
    warm_max_factor: float = _extended(
        Decimal(0.0, 1e9), 2.0, "accepted without effect", effect=False
    )
    temporary_ttl: int | None = _extended(
        Whole(0, _INT_MAX, " of seconds"), None, "accepted without effect", shown="", effect=False
    )
    read_buf_mem_limit: int = _extended(
        Whole(0, 1 << 20, " of megabytes"), 0, "accepted without effect", effect=False
    )
    drop_privileges: bool = _extended(Switch(), False, "accepted without effect", effect=False)

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
        if self.hot_lru_pct + self.warm_lru_pct > 80:
            raise ConfigError(
                "hot_lru_pct", self.hot_lru_pct, "must be at most 80 together with warm_lru_pct"
            )
        if self.temporary_ttl is not None and not self.lru_maintainer:
            raise ConfigError(
                "temporary_ttl", self.temporary_ttl, "must not be given with no_lru_maintainer"
            )
        if self.join is not None:
            parse_url(self.join)
        if len(self._protocols) > 1:
            raise ConfigError(
                "listen",
                ",".join(map(str, self.listen)),
                "must have one protocol for all addresses: use -B",
            )
        has_tcp = self.port != 0 or any(address.port for address in self.listen)
        if not has_tcp and self.unix_socket is None:
            raise ConfigError("port", 0, "must not be 0 without a unix_socket")

    @property
    def _protocols(self) -> set[str]:
        places = [address.protocol or self.protocol for address in self.listen]
        return {*places, *([self.protocol] if self.unix_socket else [])}

    @property
    def binding_protocol(self) -> str:
        """What is spoken at every address, in the core's words."""
        (protocol,) = self._protocols
        return "auto-negotiate" if protocol == "auto" else protocol


def _settings() -> dict[str, Setting]:
    rows = {}
    for row in fields(NodeConfig):
        about = row.metadata
        rows[row.name] = Setting(
            row.name,
            about["letter"],
            about["kind"],
            about["help"],
            about["shown"],
            about["extended"],
            about["effect"],
        )
    return rows


SETTINGS = _settings()


def resolve(
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    file: Path | None = None,
    defaults: Mapping[str, object] | None = None,
) -> tuple[NodeConfig, list[str]]:
    """One config from everything that was said.

    Args:
        flags: by setting name, only what was given.
        environ: all of the environment.
        defaults: by setting name, in the place of the table's.
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
            ((defaults or {}).get(name), DEFAULT),
        )
        for raw, source in candidates:
            if raw is not None:
                values[name] = setting.read(raw, source)
                sources[name] = source
                break
    is_given = {name for name, source in sources.items() if source != DEFAULT}
    if "unix_socket" in values and not is_given & {"port", "listen"}:
        values["port"] = 0
    if "memory_limit" in values and "max_item_size" not in values:
        values["max_item_size"] = min(1 << 20, values["memory_limit"] * MEGABYTE // 2)
    try:
        return NodeConfig(**values), _warnings(environ)
    except ConfigError as error:
        raise error.given_by(sources.get(error.name, DEFAULT)) from None


def _read_file(path: Path, source: str) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        must = f"cannot be read: {error.strerror}"
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        must = f"is not TOML: {error}"
    else:
        for name in values.keys() - SETTINGS.keys():
            must = "there is no such setting" + did_you_mean(name, SETTINGS)
            raise ConfigError(name, values[name], must, str(path))
        return values
    raise ConfigError("config", str(path), must, source)


def _warnings(environ: Mapping[str, str]) -> list[str]:
    known = {setting.variable for setting in SETTINGS.values()} | _OTHER_VARIABLES
    return [
        f"{name} is not a setting and has no effect" + did_you_mean(name, known)
        for name in sorted(environ)
        if name.startswith(ENVIRONMENT_PREFIX) and name not in known
    ]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {close[0]}?" if close else ""

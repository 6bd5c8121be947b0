"""The parameters of a group: ElastiCache's names and our own, and what each means to a node.

ElastiCache's parameters of the families memcached1.4, 1.5 and 1.6 are those of
https://docs.aws.amazon.com/AmazonElastiCache/latest/mem-ug/ParameterGroups.Memcached.html
A group holds only what was said; for the rest a node has its own defaults, which are not always
ElastiCache's. What ElastiCache fixes by the type of a node (`max_cache_memory`, `num_threads`) or
altogether (`max_simultaneous_connections`) can be chosen here.

    name of a parameter ──► kind: what values are right ──► settings of `config.NodeConfig`
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from memcachepy import _core
from memcachepy.config import SETTINGS, NodeConfig, did_you_mean
from memcachepy.errors import ConfigError
from memcachepy.extended import read_extended
from memcachepy.kinds import Choice, Kind, Size, Whole, WrongValue

FAMILIES = ("memcached1.4", "memcached1.5", "memcached1.6")
FAMILY_DEFAULT = FAMILIES[-1]
_OVERHEAD = "memcached_connections_overhead"
_MEMORY = "memory_limit"

_OF_ONE_NODE = frozenset(
    {
        "advertise",
        "control_group",
        "control_socket",
        "daemon",
        "discovery_state",
        "join",
        "listen",
        "napi_ids",
        "node_id",
        "pidfile",
        "port",
        "udp_port",
        "unix_mask",
        "unix_socket",
        "user",
    }
)
"""Settings that say where and as whom a node runs; no group has them."""


@dataclass(frozen=True, slots=True)
class Bit:
    """0 or 1, as ElastiCache has its booleans; true and false are taken, too."""

    metavar: str = "<0|1>"
    range: str = "must be 0 or 1"

    def read(self, raw: object) -> int:
        words = {"0": 0, "1": 1, "false": 0, "true": 1, "no": 0, "yes": 1, "off": 0, "on": 1}
        word = str(raw).strip().lower()
        if not isinstance(raw, bool | int | str) or word not in words:
            raise ValueError
        return words[word]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One row: a name of ElastiCache's, or of a setting of ours."""

    name: str
    kind: Kind
    to_settings: Callable[[Any], Mapping[str, Any]]
    """Settings by name, from a value that `kind` has read."""
    of_config: Callable[[NodeConfig], object]
    """The value in a node's config; None if there is none."""
    setting: str
    """The one that it stands for; empty if it is none, or several."""
    elasticache: str
    """Its default there; empty if there is none."""
    families: tuple[str, ...] = FAMILIES
    note: str = ""
    has_effect: bool = True
    is_modifiable: bool = True

    @property
    def is_elasticache(self) -> bool:
        """Whether it is a name of ElastiCache's, and not only of a setting of ours."""
        return self in _ELASTICACHE

    def read(self, raw: object, source: str = "") -> Any:
        """Raises ConfigError."""
        if not self.is_modifiable:
            raise ConfigError(self.name, raw, f"cannot be changed: {self.note}", source)
        try:
            return self.kind.read(raw)
        except WrongValue as error:
            raise ConfigError(self.name, raw, str(error), source) from None
        except (ValueError, OverflowError):
            raise ConfigError(self.name, raw, self.kind.range, source) from None


def _same(name: str, setting: str, elasticache: str, **how: Any) -> Parameter:
    """Another name of a setting, or the same one; with its values."""
    kind = how.pop("kind", SETTINGS[setting].kind)
    how.setdefault("has_effect", SETTINGS[setting].has_effect)
    return Parameter(
        name,
        kind,
        lambda value: {setting: value},
        lambda config: getattr(config, setting),
        setting,
        elasticache,
        **how,
    )


def _bit(name: str, setting: str, elasticache: str, **how: Any) -> Parameter:
    how.setdefault("has_effect", SETTINGS[setting].has_effect)
    return Parameter(
        name,
        Bit(),
        lambda value: {setting: bool(value)},
        lambda config: int(getattr(config, setting)),
        setting,
        elasticache,
        **how,
    )


def _allowed(name: str, setting: str, elasticache: str) -> Parameter:
    """Something that can be disabled, where the setting says that it is."""
    return Parameter(
        name,
        Choice(("enabled", "disabled")),
        lambda value: {setting: value == "disabled"},
        lambda config: "disabled" if getattr(config, setting) else "enabled",
        setting,
        elasticache,
    )


def _without_effect(name: str, kind: Kind, elasticache: str, note: str, **how: Any) -> Parameter:
    how |= {"note": note, "has_effect": False}
    return Parameter(name, kind, lambda _: {}, lambda _: None, "", elasticache, **how)


def _old_fashioned(name: str, value: int, elasticache: str, families: tuple[str, ...]) -> Parameter:
    """`modern` and `no_modern`: what they stand for, if they are this value."""
    return Parameter(
        name,
        Bit(),
        lambda said: read_extended(["no_modern"]) if said == value else {},
        lambda _: 1 - value,
        "",
        elasticache,
        families,
        note="stands for the defaults of memcached 1.4; a parameter of its own beats it",
    )


_1_4, _FROM_1_5 = FAMILIES[:1], FAMILIES[1:]
_MEGABYTES = " of megabytes"
_BY_NODE_TYPE = "ElastiCache fixes it by the type of the node"

_ELASTICACHE = (
    _same("backlog_queue_limit", "listen_backlog", "1024"),
    _same("binding_protocol", "protocol", "auto"),
    _bit("cas_disabled", "disable_cas", "0"),
    _same("chunk_size", "slab_min_size", "48"),
    _same("chunk_size_growth_factor", "slab_growth_factor", "1.25"),
    _bit("error_on_memory_exhausted", "disable_evictions", "0"),
    _bit("large_memory_pages", "enable_largepages", "0"),
    _bit("lock_down_paged_memory", "lock_memory", "0"),
    _same("max_item_size", "max_item_size", "1048576", kind=Size(1 << 10, 1 << 30)),
    _same("max_simultaneous_connections", "conn_limit", "65000"),
    _bit("maximize_core_file_limit", "enable_coredumps", "0"),
    Parameter(
        _OVERHEAD,
        Whole(0, 1 << 20, _MEGABYTES),
        lambda _: {},
        lambda _: 0,
        _MEMORY,
        "100",
        note="taken off the memory for items; what connections take lies beside it here",
    ),
    _same("requests_per_event", "max_reqs_per_event", "20"),
    _without_effect("config_max", Whole(16, 16), "16", "it is 16", is_modifiable=False),
    _without_effect(
        "config_size_max", Whole(65536, 65536), "65536", "it is 65536 bytes", is_modifiable=False
    ),
    _same("hashpower_init", "hashpower", "16", note="tables grow by themselves"),
    _bit("maxconns_fast", "maxconns_fast", "0"),
    _same("slab_automove", "slab_automove", "0"),
    _bit("slab_reassign", "slab_reassign", "0"),
    _bit("disable_flush_all", "disable_flush_all", "0"),
    _same("hash_algorithm", "hash_algorithm", "jenkins", note="keys are hashed with XXH64"),
    _bit("lru_crawler", "lru_crawler", "0"),
    _bit("lru_maintainer", "lru_maintainer", "0", note="eviction_policy decides here"),
    Parameter(
        "expirezero_does_not_evict",
        Bit(),
        lambda value: {"eviction_policy": "volatile-lru"} if value else {},
        lambda config: int(config.eviction_policy.startswith("volatile-")),
        "eviction_policy",
        "0",
        _1_4,
        note="1 is eviction_policy=volatile-lru",
    ),
    _old_fashioned("modern", 0, "1", _1_4),
    _old_fashioned("no_modern", 1, "1", _FROM_1_5),
    _without_effect("inline_ascii_resp", Bit(), "0", "no such code here", families=_FROM_1_5),
    _allowed("watch", "disable_watch", "enabled"),
    _same("idle_timeout", "idle_timeout", "0"),
    _bit("track_sizes", "track_sizes", "0"),
    _same("watcher_logbuf_size", "watcher_logbuf_size", "256"),
    _same("worker_logbuf_size", "worker_logbuf_size", "64"),
    Parameter(
        "slab_chunk_max",
        Size(1 << 10, 1 << 20),
        lambda value: {"slab_chunk_max": value >> 10},
        lambda config: config.slab_chunk_max << 10,
        "slab_chunk_max",
        "524288",
        note="bytes; half a page is the longest chunk here",
        has_effect=False,
    ),
    _allowed("lru_crawler_metadump", "disable_dumping", "disabled"),
    Parameter(
        "cache_memlimit",
        Whole(8, _core.MEMORY_BYTES_MAX >> 20, _MEGABYTES),
        lambda value: {_MEMORY: value},
        lambda config: config.memory_limit,
        _MEMORY,
        "",
        note="megabytes for items",
    ),
    _same("max_cache_memory", _MEMORY, "", note=_BY_NODE_TYPE),
    _same("num_threads", "threads", "", note=_BY_NODE_TYPE),
)


def _own(name: str) -> Parameter:
    setting = SETTINGS[name]
    return _same(name, name, "", note=setting.help)


PARAMETERS: Mapping[str, Parameter] = {
    **{row.name: row for row in _ELASTICACHE},
    **{
        name: _own(name)
        for name in SETTINGS
        if name not in _OF_ONE_NODE and name not in {row.name for row in _ELASTICACHE}
    },
}
"""All of them by name: first ElastiCache's, then the settings that have no parameter's name."""


def parameter(name: str, family: str = "", source: str = "") -> Parameter:
    """By its name.

    Args:
        name: as in a command or a file.
        family: of the group that it is for; empty for any.
        source: for the error.

    Raises:
        ConfigError: there is no such parameter; perhaps says which was meant.
    """
    found = PARAMETERS.get(name.strip().replace(" ", "_"))
    if found is None:
        if name in _OF_ONE_NODE:
            must = "belongs to one node: a group has only what is the same for all"
            raise ConfigError(name, "", must, source)
        must = "there is no such parameter" + did_you_mean(name, PARAMETERS)
        raise ConfigError(name, "", must, source)
    if family and family not in found.families:
        must = f"is no parameter of {family}, but of {', '.join(found.families)}"
        raise ConfigError(name, "", must, source)
    return found


def read_values(
    raw: Mapping[str, object], family: str = "", source: str = ""
) -> dict[str, int | float | str | bool]:
    """Values as a file holds them, by the right names.

    Raises:
        ConfigError: a name or a value is wrong, or two of them contradict each other.
    """
    values = {}
    for name, value in raw.items():
        row = parameter(name, family, source)
        values[row.name] = row.read(value, source)
    settings_of(values)
    return values


def settings_of(values: Mapping[str, Any], memory_limit_mb: int | None = None) -> dict[str, Any]:
    """What the values mean to a node, as settings by name.

    Args:
        values: as `read_values` returns them.
        memory_limit_mb: what the node has where the values do not say it. Without it an overhead
            has no effect.

    Raises:
        ConfigError: two of them contradict each other, or no memory is left.
    """
    settings: dict[str, Any] = {}
    said_by: dict[str, str] = {}
    aliases: dict[str, Any] = {}
    for name, value in values.items():
        meant = PARAMETERS[name].to_settings(value)
        if name in ("modern", "no_modern"):
            aliases |= meant
            continue
        for setting, setting_value in meant.items():
            if settings.get(setting, setting_value) != setting_value:
                other = said_by[setting]
                said = f"{other}, which is {values[other]!r}"
                must = f"must not contradict {said}: both are {setting}"
                raise ConfigError(name, value, must)
            settings[setting] = setting_value
            said_by[setting] = name
    overhead_mb = values.get(_OVERHEAD, 0)
    memory_mb = settings.get(_MEMORY, memory_limit_mb)
    if overhead_mb and memory_mb is not None:
        if memory_mb <= overhead_mb:
            must = f"must be less than the node's memory, which is {memory_mb} MB"
            raise ConfigError(_OVERHEAD, overhead_mb, must)
        settings[_MEMORY] = memory_mb - overhead_mb
    return aliases | settings

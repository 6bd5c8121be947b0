"""What a parameter group changes on the nodes of a cluster: at once, or with their next start.

What a process runs with stands in its node's settings.toml, which is written when it starts and
when one of its settings was changed while it runs. What it is to run with stands in the spec. The
difference is what there is to do; it is the same for whoever looks, and outlives the supervisor.
"""

import time
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from memcachepy.admin.client import Address, NodeConnection, text_of
from memcachepy.atomic_file import replace_file
from memcachepy.cache.handshake import connect_to_node
from memcachepy.cluster.groups import Group
from memcachepy.cluster.parameters import Parameter, settings_of
from memcachepy.cluster.spec import ClusterSpec, toml_text
from memcachepy.cluster.state import StateFolder
from memcachepy.config import CONTROL_OFF, SETTINGS, NodeConfig, resolve
from memcachepy.errors import AttachError, ClusterError, ConfigError
from memcachepy.node.control_settings import CHANGEABLE
from memcachepy.node.rendezvous import LINE_BYTES_MAX, decode, encode

TIMEOUT_S = 5.0
_LAUNCHERS = frozenset({"join", "node_id", "discovery_state"})
"""What the launcher adds for itself."""
_MEMLIMIT_MIN_MB = 8
"""`cache_memlimit` takes no less."""


class When(StrEnum):
    """What a changed setting waits for."""

    NOW = "now"
    RESTART = "restart"
    NOTHING = "no effect"


@dataclass(frozen=True, slots=True)
class Change:
    """One setting that is to become another value on some nodes."""

    setting: str
    before: object
    after: object
    when: When
    node_ids: tuple[str, ...]

    def as_dict(self) -> dict[str, object]:
        return {
            "setting": self.setting,
            "before": _plain(self.before),
            "after": _plain(self.after),
            "when": str(self.when),
            "node_ids": list(self.node_ids),
        }


def _switch(name: str) -> Callable[[Any], str]:
    return lambda value: f"{name} {'enable' if value else 'disable'}"


ON_RUNNING: Mapping[str, Callable[[Any], str]] = {
    "memory_limit": lambda value: f"cache_memlimit {value}",
    "slab_automove": lambda value: f"slabs automove {value}",
    "lru_crawler": _switch("lru_crawler"),
    "lru_crawler_sleep": lambda value: f"lru_crawler sleep {value}",
    "lru_crawler_tocrawl": lambda value: f"lru_crawler tocrawl {value}",
    "slab_automove_ratio": lambda value: f"slabs automove ratio {value}",
    "slab_automove_freeratio": lambda value: f"slabs automove freeratio {value}",
    "slab_automove_window": lambda value: f"slabs automove window {value}",
}
"""Commands of memcached's with which a running node takes a value; others go over its control
socket."""


def when_of(setting: str, before: NodeConfig, after: NodeConfig) -> When:
    """What a node needs to go from one config to another, as far as this setting is concerned."""
    if setting in CHANGEABLE and before.control_socket != CONTROL_OFF:
        return When.NOW
    if before.protocol != "binary" and setting in ON_RUNNING:
        # A tiny memory limit comes with other limits; a node without reassignment moves no pages.
        is_small = setting == "memory_limit" and after.memory_limit < _MEMLIMIT_MIN_MB
        is_fixed = setting == "slab_automove" and not (before.slab_reassign and after.slab_reassign)
        if not is_small and not is_fixed:
            return When.NOW
    return When.RESTART if SETTINGS[setting].has_effect else When.NOTHING


def applies(row: Parameter) -> str:
    """What a change of a parameter waits for in most cases, for people."""
    if not row.is_modifiable:
        return "fixed"
    if not row.has_effect:
        return str(When.NOTHING)
    is_live = row.setting in ON_RUNNING or row.setting in CHANGEABLE
    return str(When.NOW if is_live else When.RESTART)


def changes_between(pairs: Mapping[str, tuple[NodeConfig, NodeConfig]]) -> list[Change]:
    """By setting.

    Args:
        pairs: by node, what it runs with and what it is to run with.
    """
    found: dict[tuple[str, str, str, When], list[str]] = {}
    values: dict[tuple[str, str, str, When], tuple[object, object]] = {}
    for setting in SETTINGS.keys() - _LAUNCHERS:
        for node_id, (before, after) in sorted(pairs.items()):
            old, new = getattr(before, setting), getattr(after, setting)
            if old != new:
                key = (setting, repr(old), repr(new), when_of(setting, before, after))
                found.setdefault(key, []).append(node_id)
                values[key] = (old, new)
    return [
        Change(setting, *values[setting, old, new, when], when, tuple(node_ids))
        for (setting, old, new, when), node_ids in sorted(found.items())
    ]


def with_group(spec: ClusterSpec, group: Group) -> ClusterSpec:
    """The cluster with the group's values, as they are now.

    Raises:
        ConfigError: they contradict each other, or do not fit a node.
    """
    memory_mb = spec.settings.get("memory_limit", SETTINGS["memory_limit"].default_text)
    parameters = settings_of(group.values, int(memory_mb))
    return replace(spec, parameter_group=group.name, parameters=parameters).checked()


def running_config(folder: StateFolder, node_id: str) -> NodeConfig:
    """What a node's process runs with.

    Raises:
        ClusterError: that is not known.
    """
    try:
        config, _ = resolve(_running_settings(folder, node_id), {})
    except ConfigError as error:
        raise ClusterError(f"{folder.settings_path(node_id)}: {error}") from None
    return config


def waiting_changes(folder: StateFolder, spec: ClusterSpec) -> list[Change]:
    """What the cluster's processes do not have yet of what they are to run with.

    Raises:
        ClusterError: it cannot be found out.
    """
    return changes_between(
        {
            node.node_id: (running_config(folder, node.node_id), spec.config_of(node))
            for node in spec.staying
            if folder.settings_path(node.node_id).exists()
        }
    )


def apply_running(
    folder: StateFolder, node_id: str, place: tuple[str, int], changes: Iterable[Change]
) -> list[str]:
    """Have a running node take what it can take now; blocking, for seconds at most.

    Returns:
        Why it did not take some of it, as sentences.

    Raises:
        MemcachepyError: it does not answer.
    """
    wanted = {change.setting: change.after for change in changes}
    trouble: list[str] = []
    taken: dict[str, object] = {}
    with NodeConnection(Address(*place), TIMEOUT_S) as connection:
        for setting in wanted.keys() & ON_RUNNING.keys():
            answer = text_of(connection.ask(ON_RUNNING[setting](wanted[setting]).encode()))
            if answer == "OK":
                taken[setting] = wanted[setting]
            else:
                trouble.append(f"node {node_id} does not take {setting}: {answer}")
    if asked := {name: wanted[name] for name in wanted.keys() & CHANGEABLE.keys()}:
        try:
            _change_over_control(running_config(folder, node_id), place, asked)
            taken |= asked
        except (AttachError, OSError, ValueError) as error:
            trouble.append(f"node {node_id} does not take {', '.join(sorted(asked))}: {error}")
    if taken:
        settings = _running_settings(folder, node_id) | taken
        replace_file(folder.settings_path(node_id), toml_text(settings).encode(), ClusterError)
    return trouble


def _change_over_control(
    config: NodeConfig, place: tuple[str, int], settings: Mapping[str, object]
) -> None:
    """Raises AttachError, OSError or ValueError: it does not answer, or refuses."""
    deadline_s = time.monotonic() + TIMEOUT_S
    connection, _ = connect_to_node(config.control_socket or place[1], deadline_s)
    with connection, connection.makefile("rb") as file:
        connection.settimeout(TIMEOUT_S)
        connection.sendall(encode({"op": "settings_change", "settings": settings}))
        answer = decode(file.readline(LINE_BYTES_MAX))
        if not answer.get("ok"):
            raise ValueError(str(answer.get("error")))


def _running_settings(folder: StateFolder, node_id: str) -> dict[str, Any]:
    path = folder.settings_path(node_id)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ClusterError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ClusterError(f"{path} is not TOML: {error}") from None


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    return str(value)

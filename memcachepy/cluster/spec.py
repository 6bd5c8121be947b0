"""What a cluster is to be: its nodes, each with its settings. Values, checked when made.

A setting of a node comes from its own table in the file, else from the parameter group, else from
what was said for all nodes: flags, environment, the file, in this order. The rows and their ranges
are those of `config.SETTINGS`.
"""

import json
import os
import pwd
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from memcachepy.client.hashing import HASHINGS
from memcachepy.config import (
    CONFIG_VARIABLE,
    CONTROL_OFF,
    PORT_DEFAULT,
    SETTINGS,
    NodeConfig,
    did_you_mean,
    resolve,
)
from memcachepy.errors import ConfigError, UnknownUser
from memcachepy.kinds import Address, Choice, Kind, Text, Whole

NODES_DEFAULT = 3
NODES_MAX = 300
"""ElastiCache's quota of nodes."""
NAME_DEFAULT = "main"
DRAIN_DEFAULT_S = 5.0
DRAIN_MAX_S = 3600.0
GRACE_DEFAULT_S = 60.0
GRACE_MAX_S = 86_400.0
ANY_PORT = -1
_NAME = re.compile(r"[0-9A-Za-z_-][0-9A-Za-z_.-]{0,63}")

_NOT_HERE = {
    "daemon": "the nodes belong to the cluster's supervisor: --detach sends that to the background",
    "join": "the nodes of a launched cluster get their list from its supervisor",
    "node_id": "write id in the node's table",
    "discovery_state": "it lies in the cluster's state folder",
}
"""Settings that the launcher makes itself."""
_EACH_ITS_OWN = ("unix_socket", "pidfile", "control_socket")


@dataclass(frozen=True, slots=True)
class Seconds:
    """A number of seconds, perhaps with a fraction; 0 is one."""

    most: float
    metavar: str = "<s>"

    @property
    def range(self) -> str:
        return f"must be a number of seconds from 0 to {self.most:g}"

    def read(self, raw: object) -> float:
        if isinstance(raw, bool) or not isinstance(raw, str | int | float):
            raise ValueError
        value = float(raw)
        if not 0 <= value <= self.most:
            raise ValueError
        return value


_CLUSTER_KINDS: Mapping[str, Kind] = {
    "name": Text("<name>"),
    "nodes": Whole(1, NODES_MAX),
    "port": Whole(ANY_PORT, 65535),
    "hashing": Choice(HASHINGS),
    "drain": Seconds(DRAIN_MAX_S),
    "grace": Seconds(GRACE_MAX_S),
    "parameter_group": Text("<group>"),
}
"""The keys of [cluster] in a file."""


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One node."""

    node_id: str
    settings: Mapping[str, Any]
    """Its own, by name, as in a TOML file; `port` is always among them."""
    is_leaving: bool = False
    """It is being removed: it is to leave the list, then to stop."""

    @property
    def port(self) -> int:
        return int(self.settings["port"])

    def as_dict(self) -> dict[str, object]:
        return {
            "node_id": self.node_id,
            "settings": dict(self.settings),
            "is_leaving": self.is_leaving,
        }


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """All of them, with what they have in common.

    Raises:
        ConfigError: a setting is wrong; its source names the node.
    """

    name: str
    nodes: tuple[NodeSpec, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    """For all nodes."""
    port: int = PORT_DEFAULT
    """The first node's; the others are counted from it. `ANY_PORT`: each has a free one."""
    hashing: str = HASHINGS[0]
    """How its clients spread keys: for `where` and for warm changes."""
    drain_s: float = DRAIN_DEFAULT_S
    grace_s: float = GRACE_DEFAULT_S
    parameter_group: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """The group's, by the names of settings, as they were when it was applied."""
    is_told: bool = False
    """Clients have been told its list: what is in the file is its own, no earlier cluster's."""
    declared: str = ""
    """What the command said that made the cluster: the same one again goes on with it."""

    def __post_init__(self) -> None:
        check_name(self.name)
        if not 1 <= len(self.nodes) <= NODES_MAX:
            raise ConfigError("nodes", len(self.nodes), f"must be 1 to {NODES_MAX}")
        ids, ports = set[str](), dict[int, str]()
        for node in self.nodes:
            if node.node_id in ids:
                raise ConfigError("id", node.node_id, "must belong to one node only")
            ids.add(node.node_id)
            if node.port in ports:
                must = f"is the port of node {ports[node.port]} already"
                raise ConfigError("port", node.port, must, f"node {node.node_id}")
            ports[node.port] = node.node_id

    @property
    def staying(self) -> tuple[NodeSpec, ...]:
        return tuple(node for node in self.nodes if not node.is_leaving)

    def node(self, node_id: str) -> NodeSpec | None:
        return next((node for node in self.nodes if node.node_id == node_id), None)

    def settings_of(self, node: NodeSpec) -> dict[str, Any]:
        return {**self.settings, **self.parameters, **node.settings}

    def config_of(self, node: NodeSpec) -> NodeConfig:
        """Raises ConfigError with the node as its source."""
        try:
            config, _ = resolve(self.settings_of(node), {})
        except ConfigError as error:
            raise error.given_by(f"node {node.node_id}") from None
        return config

    def checked(self) -> Self:
        """Itself.

        Raises:
            ConfigError: a node's settings are out of range or do not fit each other or another
                node's.
            UnknownUser: a node's user does not exist.
        """
        taken: dict[tuple[str, int], str] = {}
        for node in self.nodes:
            config = self.config_of(node)
            for address in config.listen:
                place = address.host, address.port or config.port
                if taken.get(place, node.node_id) != node.node_id:
                    must = f"is where node {taken[place]} listens already: give no port here"
                    raise ConfigError("listen", str(address), must, f"node {node.node_id}")
                taken[place] = node.node_id
            _check_user(config.user, node.node_id)
        return self

    def with_nodes(self, nodes: Iterable[NodeSpec]) -> Self:
        return replace(self, nodes=tuple(sorted(nodes, key=lambda node: node.node_id)))

    def without(self, node_ids: Iterable[str]) -> Self:
        gone = set(node_ids)
        return self.with_nodes(node for node in self.nodes if node.node_id not in gone)

    def with_leaving(self, node_ids: Iterable[str]) -> Self:
        leaving = set(node_ids)
        return self.with_nodes(
            replace(node, is_leaving=node.is_leaving or node.node_id in leaving)
            for node in self.nodes
        )

    def free_id(self) -> str:
        """The lowest number that no node has: what grows again gets its old ids and ports."""
        taken = {node.node_id for node in self.nodes}
        return next(text for n in range(1, 10_000) if (text := id_of(n)) not in taken)

    def wanted_port(self, node_id: str) -> int:
        """Where a new node of this id would listen; `ANY_PORT` if anywhere."""
        if self.port == ANY_PORT or not node_id.isdecimal():
            return ANY_PORT
        return self.port + int(node_id) - 1

    def as_dict(self) -> dict[str, object]:
        return {
            "name": self.name,
            "nodes": [node.as_dict() for node in self.nodes],
            "settings": dict(self.settings),
            "port": self.port,
            "hashing": self.hashing,
            "drain_s": self.drain_s,
            "grace_s": self.grace_s,
            "parameter_group": self.parameter_group,
            "parameters": dict(self.parameters),
            "is_told": self.is_told,
            "declared": self.declared,
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """Raises ValueError: it is not one that `as_dict` made."""
        try:
            values = dict(raw)
            values["nodes"] = tuple(NodeSpec(**node) for node in raw["nodes"])
            return cls(**values)
        except (KeyError, TypeError, ConfigError) as error:
            raise ValueError(f"this is no cluster: {error}") from None


def _check_user(user: str | None, node_id: str) -> None:
    """Who is not root starts nodes as itself."""
    if user is not None and os.geteuid() == 0:
        try:
            pwd.getpwnam(user)
        except KeyError:
            raise UnknownUser(f"user is {user!r} (node {node_id}): there is no such user") from None


def id_of(number: int) -> str:
    """As ElastiCache counts nodes."""
    return f"{number:04d}"


def check_name(name: str) -> str:
    """Raises ConfigError."""
    if not _NAME.fullmatch(name):
        must = "must be at most 64 letters, digits, dots, - and _, and begin with no dot"
        raise ConfigError("name", name, must)
    return name


@dataclass(frozen=True, slots=True)
class Declaration:
    """What a command line and its file say, before anything else is known.

    Raises:
        ConfigError: with the source of the offending value.
    """

    nodes: tuple[Mapping[str, Any], ...] = ()
    """Tables of the file: settings, and perhaps `id`."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    cluster: Mapping[str, Any] = field(default_factory=dict)
    """The keys of [cluster]."""
    file: str = ""

    @property
    def says_nothing(self) -> bool:
        return not (self.nodes or self.settings or self.cluster.keys() - {"name"})

    @property
    def declared(self) -> str:
        """Equal for commands that say the same."""
        parts = [list(map(dict, self.nodes)), dict(self.settings), dict(self.cluster)]
        return json.dumps(parts, sort_keys=True)

    def spec(self) -> ClusterSpec:
        """The cluster that it describes; nodes on any port have `ANY_PORT`, less one each.

        Raises:
            ConfigError: of the kind "FILE, node 0002".
        """
        cluster = dict(self.cluster)
        first = self.nodes[0].get("port", PORT_DEFAULT) if self.nodes else PORT_DEFAULT
        port = int(cluster.get("port", first))
        count = int(cluster.get("nodes", len(self.nodes) or NODES_DEFAULT))
        if self.nodes and count != len(self.nodes):
            must = f"must be {len(self.nodes)}: {self.file} has so many tables [[node]]"
            raise ConfigError("nodes", count, must)
        tables = self.nodes or ({},) * count
        nodes = []
        for number, table in enumerate(tables, 1):
            own = dict(table)
            node_id = str(own.pop("id", id_of(number)))
            own.setdefault("port", port + number - 1 if port != ANY_PORT else -number)
            if not own["port"]:
                must = "must not be 0: clients reach the nodes of a cluster over TCP"
                raise ConfigError("port", 0, must, self._source(number, node_id))
            if own["port"] > 65535:
                must = "must be at most 65535 for the last node, too"
                raise ConfigError("port", port, must, self._source(number, node_id))
            nodes.append(NodeSpec(node_id, own))
        spec = ClusterSpec(
            name=str(cluster.get("name", NAME_DEFAULT)),
            nodes=tuple(nodes),
            settings=dict(self.settings),
            port=port,
            hashing=str(cluster.get("hashing", HASHINGS[0])),
            drain_s=float(cluster.get("drain", DRAIN_DEFAULT_S)),
            grace_s=float(cluster.get("grace", GRACE_DEFAULT_S)),
            declared=self.declared,
        )
        for number, node in enumerate(spec.nodes, 1):
            try:
                resolve({**spec.settings_of(node), "port": max(node.port, ANY_PORT)}, {})
            except ConfigError as error:
                raise error.given_by(self._source(number, node.node_id)) from None
        return spec

    def _source(self, number: int, node_id: str) -> str:
        return f"{self.file}, [[node]] {number}" if self.file else f"node {node_id}"


def declare(
    flags: Mapping[str, Any],
    cluster: Mapping[str, Any],
    environ: Mapping[str, str],
    file: Path | None = None,
) -> Declaration:
    """What is said in all places together.

    Args:
        flags: settings for all nodes, by name, only what was given; `port` is the first node's.
        cluster: keys of [cluster] from the command line, only what was given.
        environ: all of the environment; MEMCACHEPY_… are settings for all nodes.
        file: a TOML file with [cluster], [settings] and [[node]].

    Raises:
        ConfigError: with the source of the offending value.
    """
    raw = _read(file) if file else {}
    settings: dict[str, Any] = {}
    for name, setting in SETTINGS.items():
        for value, source in (
            (flags.get(name), setting.short_flag),
            (environ.get(setting.variable) or None, setting.variable),
            (raw.get("settings", {}).get(name), f"{file}, [settings]"),
        ):
            if value is not None:
                _check_common(name, value, source)
                settings[name] = plain(setting.read(value, source), value)
                break
    if environ.get(CONFIG_VARIABLE):
        must = "is for one node: give `cluster up` a file of its own"
        raise ConfigError(CONFIG_VARIABLE, environ[CONFIG_VARIABLE], must)
    keys: dict[str, Any] = {}
    given = {**raw.get("cluster", {}), **cluster}
    if "port" in settings:
        given["port"] = settings.pop("port")
    for name, value in given.items():
        keys[name] = _read_cluster_key(name, value, "" if name in cluster else f"{file}, [cluster]")
    nodes = tuple(_node_table(file, n, table) for n, table in enumerate(raw.get("node", ()), 1))
    return Declaration(nodes, settings, keys, str(file or ""))


def own_settings(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of one node from its flags.

    Raises:
        ConfigError: one of them is the launcher's, or out of range.
    """
    found = {}
    for name, value in flags.items():
        setting = SETTINGS[name]
        _check_ours(name, value, setting.short_flag)
        found[name] = _own(name, setting.read(value, setting.short_flag), value)
    return found


def plain(value: object, raw: object) -> Any:
    """As a TOML file has it: what the table reads as an object of its own stays as it was said."""
    if isinstance(value, bool | int | float | str):
        return value
    return list(raw) if isinstance(raw, tuple | list) else raw


def toml_text(settings: Mapping[str, Any]) -> str:
    """A TOML file that says just this."""
    return "".join(f"{name} = {_toml_value(value)}\n" for name, value in settings.items())


def _toml_value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    # JSON's escapes are TOML's, but TOML also wants DEL escaped.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def _check_ours(name: str, value: object, source: str) -> None:
    if name in _NOT_HERE:
        raise ConfigError(name, value, f"must not be given: {_NOT_HERE[name]}", source)


def _check_common(name: str, value: object, source: str) -> None:
    _check_ours(name, value, source)
    if name in _EACH_ITS_OWN and not (name == "control_socket" and value == CONTROL_OFF):
        must = "must differ from node to node: write it into each [[node]] of a file"
        raise ConfigError(name, value, must, source)
    if name == "advertise":
        address = SETTINGS[name].read(value, source)
        if isinstance(address, Address) and address.port is not None:
            raise ConfigError(name, value, "must have no port here: each node has its own", source)


def _node_table(file: Path | None, number: int, table: Mapping[str, Any]) -> dict[str, Any]:
    source = f"{file}, [[node]] {number}"
    found: dict[str, Any] = {}
    for name, value in table.items():
        if name == "id":
            found["id"] = _read_id(value, source)
            continue
        if name not in SETTINGS:
            must = "there is no such setting" + did_you_mean(name, SETTINGS)
            raise ConfigError(name, value, must, source)
        _check_ours(name, value, source)
        found[name] = _own(name, SETTINGS[name].read(value, source), value)
    return found


def _own(name: str, value: object, raw: object) -> Any:
    """Paths count from here, not from where the node runs."""
    if name in _EACH_ITS_OWN and value != CONTROL_OFF:
        return str(Path(str(value)).absolute())
    return plain(value, raw)


def _read_id(value: object, source: str) -> str:
    kind = SETTINGS["node_id"].kind
    try:
        return str(kind.read(id_of(value) if type(value) is int else value))
    except ValueError:
        raise ConfigError("id", value, kind.range, source) from None


def _read_cluster_key(name: str, value: object, source: str) -> Any:
    kind = _CLUSTER_KINDS.get(name)
    if kind is None:
        must = "there is no such key" + did_you_mean(name, _CLUSTER_KINDS)
        raise ConfigError(name, value, must, source)
    try:
        return kind.read(value)
    except (ValueError, OverflowError):
        raise ConfigError(name, value, kind.range, source) from None


def _read(file: Path) -> dict[str, Any]:
    """The file's tables, each of the right kind."""
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError("FILE", str(file), f"cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("FILE", str(file), f"is not TOML: {error}") from None
    kinds = {"cluster": dict, "settings": dict, "node": list}
    for name, value in raw.items():
        if name not in kinds:
            must = "must be in a table: [cluster], [settings] or [[node]]"
            raise ConfigError(name, value, must, str(file))
        if not isinstance(value, kinds[name]) or (
            name == "node" and not all(isinstance(table, dict) for table in value)
        ):
            raise ConfigError(name, value, "must be a table, or tables [[node]]", str(file))
    for name in raw.get("settings", {}).keys() - SETTINGS.keys():
        must = "there is no such setting" + did_you_mean(name, SETTINGS)
        raise ConfigError(name, raw["settings"][name], must, f"{file}, [settings]")
    return raw

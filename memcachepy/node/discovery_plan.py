"""What a node is in its cluster, settled before it gives up its privileges and forks."""

import importlib.util
import logging
import os
import pwd
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from memcachepy.config import STATE_OFF, NodeConfig
from memcachepy.errors import ConfigError, MembershipError
from memcachepy.log import fact
from memcachepy.membership.last_known import LastKnown, known_of, read_last_known
from memcachepy.membership.url import DnsPlace, ZookeeperPlace, parse_url
from memcachepy.node.advertise import own_member, tcp_places
from memcachepy.node.discovery import Plan, with_node_id
from memcachepy.node.limits import effective_user
from memcachepy.node.listeners import Listener
from memcachepy.topology import Member

log = logging.getLogger("memcachepy.discovery")

_PACKAGES = {DnsPlace: ("dns", "dns"), ZookeeperPlace: ("kazoo", "zookeeper")}
"""What a provider imports, and the extra that installs it."""


def own_list_member(config: NodeConfig, listeners: Sequence[Listener]) -> Member | None:
    """The node as the only one of its list, if it has an address at all.

    Raises:
        ConfigError: the address that was asked for cannot be in a list.
    """
    return own_member(config.advertise, tcp_places(listeners), config.node_id or "")


def make_plan(
    config: NodeConfig, listeners: Sequence[Listener], environ: Mapping[str, str]
) -> Plan | None:
    """None for a node outside any cluster.

    Raises:
        ConfigError: the node has no address, or a package that the provider needs is missing.
    """
    if config.join is None:
        return None
    place = parse_url(config.join)
    package, extra = _PACKAGES.get(type(place), ("", ""))
    if package and importlib.util.find_spec(package) is None:
        must = f"needs a package that is not installed: pip install 'memcachepy[{extra}]'"
        raise ConfigError("join", config.join, must)
    if isinstance(place, ZookeeperPlace) and place.auth_file is not None:
        with effective_user(config.user):
            if not os.access(place.auth_file, os.R_OK, effective_ids=True):
                raise ConfigError("join", config.join, f"names {place.auth_file}: not readable")
    member = own_list_member(config, listeners)
    if member is None:
        raise ConfigError("join", config.join, "needs a TCP port, or advertise")
    state_file = _state_file(config, member.port, environ)
    known = known_of(place, _read(config, state_file))
    return Plan(place, with_node_id(member, config.node_id, known), state_file, known)


def last_version(config: NodeConfig, member: Member, environ: Mapping[str, str]) -> int:
    """Of the list that a node told its clients when it was in a cluster; 0 if it never was."""
    places = [directory / _name(member.port) for directory in _directories(config, environ)]
    if config.discovery_state:
        places = [Path(config.discovery_state)] * (config.discovery_state != STATE_OFF)
    return max((_read(config, path).topology.version for path in places), default=0)


def _read(config: NodeConfig, state_file: Path | None) -> LastKnown:
    try:
        with effective_user(config.user):
            return read_last_known(state_file)
    except MembershipError as error:
        log.warning(fact("the last known list is lost", reason=error))
        return LastKnown()


def _name(port: int) -> str:
    return f"discovery-{port}.json"


def _state_file(config: NodeConfig, port: int, environ: Mapping[str, str]) -> Path | None:
    if config.discovery_state == STATE_OFF:
        return None
    if config.discovery_state:
        return Path(config.discovery_state)
    if config.port == -1:
        return None  # The next start has another port, and would not find it.
    reason = "no directory for it"
    for directory in _directories(config, environ):
        try:
            _make_for(directory, config.user)
        except OSError as error:
            reason = f"{directory}: {error.strerror}"
            continue
        with effective_user(config.user):
            if os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
                return directory / _name(port)
        reason = f"{directory} is not writable"
    remedy = "--discovery-state"
    log.warning(fact("the list will not be known after a restart", reason=reason, remedy=remedy))
    return None


def _directories(config: NodeConfig, environ: Mapping[str, str]) -> list[Path]:
    """The best place first; what the environment names is root's own, if root becomes another."""
    given = environ.get("STATE_DIRECTORY", "").partition(":")[0]  # systemd.exec(5)
    if given.startswith("/"):
        return [Path(given)]
    found = []
    if config.user is None or os.geteuid() != 0:
        home = environ.get("XDG_STATE_HOME", "")
        if home.startswith("/"):
            found.append(Path(home) / "memcachepy")
    if os.geteuid() == 0:
        return [*found, Path("/var/lib/memcachepy")]
    with suppress(RuntimeError):
        found.append(Path("~/.local/state/memcachepy").expanduser())
    return found


def _make_for(directory: Path, user: str | None) -> None:
    """By root, who then gives it away: the user may make nothing in /var/lib."""
    if directory.is_dir():
        return
    directory.mkdir(mode=0o700, parents=True)
    if user is not None and os.geteuid() == 0:
        with suppress(KeyError):  # Refused later.
            os.chown(directory, pwd.getpwnam(user).pw_uid, -1)

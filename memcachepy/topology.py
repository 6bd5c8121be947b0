"""A cluster's list of nodes, with its version, and its form on the wire.

The form is that of Amazon ElastiCache's auto-discovery: a line with the version, a line with
`host|ip|port` of every node, one space between, and a line feed after each:
https://docs.aws.amazon.com/AmazonElastiCache/latest/mem-ug/AutoDiscovery.AddingToYourClientLibrary.html
"""

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from memcachepy.errors import ConfigError

VERSION_MAX = (1 << 31) - 1
"""Clients keep it in 31 bits."""
PAYLOAD_BYTES_ADVISED = 4096
"""Some clients read the list with one recv() of this size and fail beyond it."""
_HOST = re.compile(r"[0-9A-Za-z_.:-]{1,253}")
_NODE_ID = re.compile(r"[0-9A-Za-z_.-]{1,64}")


@dataclass(frozen=True, slots=True, order=True)
class Member:
    """One node as clients see it; ordered as in the list, by host and port.

    Raises:
        ConfigError: a part cannot be in the list.
    """

    host: str
    port: int
    ip: str = ""
    """IPv4 or IPv6; empty when only the name is known. Several clients need an IPv4."""
    node_id: str = ""
    """Stays the same when the node is replaced or moves; not on the wire."""

    def __post_init__(self) -> None:
        if not _HOST.fullmatch(self.host) or "END" in self.host:
            # Clients look for END to find where the answer is over.
            raise ConfigError("host", self.host, "must be a host name without END in capitals")
        if not 1 <= self.port <= 65535:
            raise ConfigError("port", self.port, "must be 1 to 65535")
        if self.ip and not _is_ip(self.ip):
            raise ConfigError("ip", self.ip, "must be an IP address or empty")
        if self.node_id and not _NODE_ID.fullmatch(self.node_id):
            must = "must be at most 64 letters, digits, dots, - and _"
            raise ConfigError("node_id", self.node_id, must)

    @property
    def address(self) -> str:
        """HOST:PORT, with brackets around an IPv6 address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def as_dict(self) -> dict[str, object]:
        return {"node_id": self.node_id, "host": self.host, "ip": self.ip, "port": self.port}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """Raises ValueError: it is not one that `as_dict` made."""
        try:
            return cls(
                host=str(raw["host"]),
                port=int(raw["port"]),
                ip=str(raw.get("ip", "")),
                node_id=str(raw.get("node_id", "")),
            )
        except (KeyError, TypeError, ConfigError) as error:
            raise ValueError(f"this is no node: {raw!r}: {error}") from None


@dataclass(frozen=True, slots=True)
class Topology:
    """The nodes of a cluster, sorted, and the number of this list: a larger one is newer.

    Raises:
        ConfigError: two nodes have one address or one id, or the version is out of range.
    """

    version: int
    members: tuple[Member, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.version <= VERSION_MAX:
            raise ConfigError("version", self.version, f"must be 0 to {VERSION_MAX}")
        object.__setattr__(self, "members", tuple(sorted(self.members)))
        seen: set[object] = set()
        for member in self.members:
            keys: set[object] = {(member.host, member.port)}
            if member.node_id:
                keys.add(member.node_id)
            if seen & keys:
                raise ConfigError("members", member.address, "must be in the list once")
            seen |= keys

    def changed(self, members: Iterable[Member], now_s: float) -> Self:
        """The next list; itself, if these are its members already.

        The version is the Unix second of the change, or one more than the last where that is not
        less: it grows over restarts of everything, and when the list is kept elsewhere from now on.
        """
        following = tuple(sorted(members))
        if following == self.members:
            return self
        return type(self)(max(self.version + 1, int(now_s)), following)

    def member(self, node_id: str) -> Member | None:
        return next((member for member in self.members if member.node_id == node_id), None)

    def payload(self) -> bytes:
        """What stands between the header line and END in the answer to `config get cluster`."""
        nodes = " ".join(f"{member.host}|{member.ip}|{member.port}" for member in self.members)
        return f"{self.version}\n{nodes}\n".encode()

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        """The list that a node, or ElastiCache's, has answered; LF and CRLF both end lines.

        Raises:
            ValueError: it is no such list; says why.
        """
        lines = payload.decode("ascii", errors="replace").split("\n")
        if len(lines) < 2 or not lines[0].strip().isdecimal():
            raise ValueError(f"this is no list of nodes: {payload[:80]!r}")
        try:
            return cls(int(lines[0]), tuple(map(_parse_member, lines[1].split())))
        except ConfigError as error:
            raise ValueError(str(error)) from None

    def as_dict(self) -> dict[str, object]:
        members = [member.as_dict() for member in self.members]
        return {"version": self.version, "members": members}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """Raises ValueError: it is not one that `as_dict` made."""
        try:
            return cls(int(raw["version"]), tuple(map(Member.from_dict, raw["members"])))
        except (KeyError, TypeError, ConfigError) as error:
            raise ValueError(f"this is no list of nodes: {error}") from None


def _parse_member(text: str) -> Member:
    parts = text.split("|")
    if len(parts) != 3 or not parts[2].isdecimal():
        raise ValueError(f"{text!r} is not host|ip|port")
    host, ip, port = parts
    # ElastiCache's clusters with TLS have the name in both places.
    return Member(host or ip, int(port), ip if ip != host or _is_ip(ip) else "")


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True

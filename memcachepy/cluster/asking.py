"""Asking nodes from outside, as any client could: what they answer to `stats`, side by side."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from memcachepy.admin.client import Address, NodeConnection
from memcachepy.errors import MemcachepyError, NodeRefuses
from memcachepy.topology import Member, Topology

TIMEOUT_S = 2.0
_AT_ONCE = 32
_LIST_BYTES_MAX = 1 << 16
"""As much as a node keeps."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What one node has said."""

    member: Member
    stats: dict[str, str] = field(default_factory=dict)
    """Of `stats`; empty if it did not answer."""
    discovery: dict[str, str] = field(default_factory=dict)
    """What a node of memcachepy says of its list and of where it comes from."""
    error: str = ""

    def number(self, name: str) -> int:
        """0 if it was not told."""
        text = self.stats.get(name, "")
        return int(text) if text.isdecimal() else 0

    @property
    def hit_ratio(self) -> float | None:
        """Of its gets; None if there were none."""
        gets = self.number("get_hits") + self.number("get_misses")
        return self.number("get_hits") / gets if gets else None


def ask_members(members: Iterable[Member], timeout_s: float = TIMEOUT_S) -> list[Asked]:
    """One answer for each, in their order; nobody is waited for longer than the timeout."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(lambda member: ask_member(member, timeout_s), members))


def ask_member(member: Member, timeout_s: float = TIMEOUT_S) -> Asked:
    try:
        with NodeConnection(Address(member.host, member.port), timeout_s) as connection:
            stats, more = connection.stats(), {}
            with suppress(NodeRefuses):  # It is another server.
                more = connection.stats("memcachepy")
    except MemcachepyError as error:
        return Asked(member, error=str(error))
    prefix = "discovery:"
    discovery = {
        name.removeprefix(prefix): value for name, value in more.items() if name.startswith(prefix)
    }
    return Asked(member, stats, discovery)


def ask_for_list(address: Address, timeout_s: float = TIMEOUT_S) -> Topology:
    """The list that a node serves, which knows no ids.

    Raises:
        NodeUnreachable: it does not answer.
        NodeRefuses: it has no list.
    """
    with NodeConnection(address, timeout_s) as connection:
        match connection.ask(b"config get cluster").split():
            case [b"CONFIG", _, _, length] if length.isdigit() and int(length) <= _LIST_BYTES_MAX:
                payload = connection.exactly(int(length))
            case _:
                raise NodeRefuses(f"{address} has no list of nodes")
    try:
        return Topology.parse(payload)
    except ValueError as error:
        raise NodeRefuses(f"{address}: {error}") from None

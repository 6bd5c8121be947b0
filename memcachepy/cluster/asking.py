"""Asking nodes from outside, as any client could: what they answer to `stats`, side by side."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from memcachepy.admin.client import Address, NodeConnection
from memcachepy.errors import MemcachepyError
from memcachepy.topology import Member

TIMEOUT_S = 2.0
_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Asked:
    """What one node has said."""

    member: Member
    stats: dict[str, str] = field(default_factory=dict)
    """Of `stats`; empty if it did not answer."""
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
            return Asked(member, connection.stats())
    except MemcachepyError as error:
        return Asked(member, error=str(error))

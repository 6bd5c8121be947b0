"""Real nodes as a cluster that changes."""

from dataclasses import dataclass
from pathlib import Path

from nodes import Node, Start

from memcachepy import Cache
from memcachepy.cluster.warm import WarmChange
from memcachepy.topology import Member, Topology


@dataclass(frozen=True)
class Placed:
    """A node, and where a change finds it."""

    node: Node
    member: Member
    control: Path


class Cluster:
    """Nodes of this test, by number."""

    def __init__(self, start: Start, folder: Path) -> None:
        self._start = start
        self.folder = folder
        self._caches: list[Cache] = []
        self.placed: list[Placed] = []

    def add(self, *flags: str) -> Placed:
        control = self.folder / str(len(self.placed))
        node = self._start("-t", "1", "-m", "16", "--control-socket", str(control), *flags)
        placed = Placed(node, Member("127.0.0.1", int(node.address[1])), control)
        self.placed.append(placed)
        return placed

    def topology(self, *numbers: int) -> Topology:
        return Topology(1, tuple(self.placed[number].member for number in numbers))

    def address(self, member: Member) -> Path:
        return next(placed.control for placed in self.placed if placed.member == member)

    def change(self, old: Topology, new: Topology, **arguments: object) -> WarmChange:
        """Not entered yet; without time to settle."""
        options = {"settle_s": 0.0, "address": self.address, **arguments}
        return WarmChange(old, new, **options)  # type: ignore[arg-type]

    def cache(self, number: int) -> Cache:
        """Attached to a node."""
        cache = Cache.attach(self.placed[number].control)
        self._caches.append(cache)
        return cache

    def close(self) -> None:
        for cache in self._caches:
            cache.close()

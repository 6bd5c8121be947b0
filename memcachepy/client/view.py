"""A list of nodes together with what a client has made of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

from memcachepy.client.breaker import Breaker
from memcachepy.client.hashing import Key, Ring, ring
from memcachepy.client.options import Options
from memcachepy.topology import Member, Topology


class NodeLike(Protocol):
    """A node as a client sees it."""

    breaker: Breaker
    error_count: int
    last_error: str


@dataclass(frozen=True, slots=True)
class NodeState:
    """How a node is, as one client sees it."""

    breaker: str
    """`closed`: all is well; `open`: it is left alone; `half-open`: one request may try it."""
    failures: int
    """In a row, until now."""
    failed_count: int
    """Requests that ended with a failure of the node: a timeout, a connection that broke."""
    refused_count: int
    """Requests that were not tried, because the breaker was open."""
    opened_count: int
    """How often the breaker opened."""
    error_count: int
    """Requests that failed though the node is well: it refused, or a value could not be read."""
    last_error: str


@dataclass(slots=True)
class PollCounters:
    """How the asking for the list went."""

    answered_count: int = 0
    unanswered_count: int = 0
    changed_count: int = 0
    """Lists that were taken."""
    last_error: str = ""


Pool = TypeVar("Pool", bound=NodeLike)


class View(Generic[Pool]):
    """The list, its distribution, and the nodes in the order of the distribution.

    It never changes: a request that has taken one finishes with it.
    """

    __slots__ = ("_options", "_prefix", "_ring", "index_of", "members", "pools", "topology")

    def __init__(
        self,
        topology: Topology | None,
        chosen: Ring | None,
        pools: tuple[Pool, ...],
        options: Options,
    ) -> None:
        self.topology = topology
        self.pools = pools
        self.members = chosen.members if chosen else ()
        self._options = options
        self._ring = chosen
        # The prefix is a part of the key on the node, where it cannot be told from the rest.
        self._prefix = options.key_prefix if options.hashing == "rendezvous" else b""
        self.index_of: Callable[[Key], int]
        if chosen is None:
            self.index_of = _first
        elif self._prefix:
            self.index_of = self._prefixed_index_of
        else:
            self.index_of = chosen.index_of

    @classmethod
    def empty(cls, nobody: Pool, options: Options) -> Self:
        """Every key belongs to `nobody`."""
        return cls(None, None, (nobody,), options)

    def _prefixed_index_of(self, key: Key) -> int:
        assert self._ring is not None
        return self._ring.index_of(self._prefix + (key.encode() if isinstance(key, str) else key))

    def member_of(self, key: Key) -> Member | None:
        return self.members[self.index_of(key)] if self.members else None

    def follow(
        self, topology: Topology, make: Callable[[Member], Pool]
    ) -> tuple["View[Pool]", list[Pool]]:
        """The view of a newer list, in which nodes that stay are kept; and those that have gone."""
        chosen = ring(topology.members, self._options.hashing)
        old = dict(zip(self.members, self.pools, strict=False))
        for pool in old.values():
            pool.breaker.try_now()
        pools = tuple(old.pop(member, None) or make(member) for member in chosen.members)
        return View(topology, chosen, pools, self._options), list(old.values())

    def node_states(self) -> dict[str, NodeState]:
        return {
            member.address: NodeState(
                breaker=pool.breaker.state,
                failures=pool.breaker.failures,
                failed_count=pool.breaker.failed_count,
                refused_count=pool.breaker.refused_count,
                opened_count=pool.breaker.opened_count,
                error_count=pool.error_count,
                last_error=pool.last_error,
            )
            for member, pool in zip(self.members, self.pools, strict=False)
        }


class Follower(Generic[Pool]):
    """What both clients tell of the list that they follow."""

    _known: View[Pool]

    @property
    def topology(self) -> Topology | None:
        """The list as last learned; None: nobody has told one yet."""
        return self._known.topology

    @property
    def nodes(self) -> tuple[Member, ...]:
        return self._known.members

    def node_of(self, key: Key) -> Member | None:
        """The node that has the key; None: no nodes are known."""
        return self._known.member_of(key)

    def node_states(self) -> dict[str, NodeState]:
        """How each node is, as this client sees it, by `host:port`."""
        return self._known.node_states()


def _first(_: Key) -> int:
    return 0

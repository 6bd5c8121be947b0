"""What every provider of a list of nodes can do, whatever keeps the list."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Self

from memcachepy.membership.url import Place
from memcachepy.topology import Member, Topology


class Membership(ABC):
    """One process's view of the place where a list is kept. For one thread.

    Nothing here waits for longer than `WAIT_S`: an engine that does not answer is a
    MembershipError, and the next call tries again.

    Args:
        place: as the URL says.
        now: Unix time in seconds, for versions.
    """

    WAIT_S = 3.0

    def __init__(self, place: Place, now: Callable[[], float] = time.time) -> None:
        self.place = place
        self.now = now
        self.wake: Callable[[], None] = lambda: None
        """Called, from any thread, when `poll` has something new. To be replaced before `poll`."""

    @abstractmethod
    def topology(self) -> Topology | None:
        """The list now, to look at; None if there is none yet. Changes nothing.

        Raises:
            MembershipError: it cannot be had.
        """

    @abstractmethod
    def poll(self, last: Topology) -> Topology:
        """The list now; what this node has to do for it is done meanwhile.

        Args:
            last: the newest list that this node has told its clients. What is returned is that
                list, or has a larger version.

        Raises:
            MembershipError: it cannot be had.
        """

    @property
    @abstractmethod
    def pause_s(self) -> float:
        """After how long `poll` is to be called again, if `wake` is not called before."""

    @property
    @abstractmethod
    def is_read_only(self) -> bool:
        """Others keep the list: to join and to leave it has no effect here."""

    @abstractmethod
    def join(self, member: Member) -> None:
        """From the next `poll` on this node is in the list."""

    @abstractmethod
    def leave(self) -> None:
        """Be taken out of the list, now, and stay out.

        Raises:
            MembershipError: the list could not be changed.
        """

    @property
    @abstractmethod
    def has_joined(self) -> bool:
        """This node is in the list by its own doing."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the engine. A node that has not left stays in the list."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class ReadOnly(Membership):
    """A list that others keep: a node finds itself in it, or not."""

    member: Member | None = None
    """The node itself, once it has joined."""

    @property
    def is_read_only(self) -> bool:
        return True

    def join(self, member: Member) -> None:
        self.member = member

    def leave(self) -> None:
        self.member = None

    @property
    def has_joined(self) -> bool:
        return False

    def close(self) -> None:
        """There is nothing to let go of."""


def is_same_list(one: Topology, other: Topology) -> bool:
    """Clients see the same nodes; versions aside."""
    return _wire(one) == _wire(other)


def _wire(topology: Topology) -> list[tuple[str, str, int]]:
    return [(member.host, member.ip, member.port) for member in topology.members]


def following(found: Topology, last: Topology, now_s: float) -> Topology:
    """A list as it is to be told to clients that know the last one.

    Clients pass over a list whose version does not grow. One that has been kept elsewhere until
    now, or has been lost and made anew, would have such a version: it is raised above the last.
    """
    if found.version > last.version:
        return found
    if found.version == last.version and is_same_list(found, last):
        return found
    return Topology(max(last.version + 1, int(now_s)), found.members)

"""Stub."""

from memcachepy.membership.membership import ReadOnly
from memcachepy.membership.url import ZookeeperPlace
from memcachepy.topology import Topology


class ZookeeperMembership(ReadOnly):
    """Stub."""

    def __init__(self, place: ZookeeperPlace) -> None:
        raise NotImplementedError

    @property
    def pause_s(self) -> float:
        raise NotImplementedError

    def topology(self) -> Topology | None:
        raise NotImplementedError

    def poll(self, last: Topology) -> Topology:
        raise NotImplementedError

"""Stub."""

from memcachepy.membership.membership import ReadOnly
from memcachepy.membership.url import DnsPlace
from memcachepy.topology import Topology


class DnsMembership(ReadOnly):
    """Stub."""

    def __init__(self, place: DnsPlace) -> None:
        raise NotImplementedError

    @property
    def pause_s(self) -> float:
        raise NotImplementedError

    def topology(self) -> Topology | None:
        raise NotImplementedError

    def poll(self, last: Topology) -> Topology:
        raise NotImplementedError

"""The list that clients are told, as the cluster's supervisor changes it: `topology.json`.

Nodes look at the file several times a second and serve what it says.
"""

import asyncio
import logging
import time
from collections.abc import Iterable
from pathlib import Path

from memcachepy.cluster.node import Node
from memcachepy.errors import ClusterError, MembershipError
from memcachepy.log import fact
from memcachepy.membership.file import change_topology, read_topology
from memcachepy.topology import Member, Topology

log = logging.getLogger("memcachepy.cluster")

SPREAD_S = 1.0
"""Within this every node serves a changed list; twice as long is waited for it."""
_LOOK_S = 0.05


class ListFile:
    """The file, in the supervisor's loop.

    Raises:
        ClusterError: in every method, when it cannot be read or written, or is no list.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def topology(self) -> Topology:
        """Version 0 if there is no list yet."""
        try:
            return read_topology(self._path) or Topology(0)
        except MembershipError as error:
            raise ClusterError(str(error)) from None

    def change(
        self, joining: Iterable[Node] = (), leaving: Iterable[str] = (), is_anew: bool = False
    ) -> Topology:
        """Tell clients of nodes and no longer of others, in one write.

        Args:
            joining: nodes that serve.
            leaving: ids.
            is_anew: nobody else stays in the list.

        Raises:
            ClusterError: nobody would be left in it.
        """
        new = {node.node_id: node.member for node in joining}
        places = {(member.host, member.port) for member in new.values()}
        gone = {*leaving, *new}

        def change(old: Topology) -> Topology:
            stay: list[Member] = []
            if not is_anew:
                stay = [
                    member
                    for member in old.members
                    if member.node_id not in gone and (member.host, member.port) not in places
                ]
            members = [*stay, *new.values()]
            if not members and old.members:
                raise ClusterError("the list would have no node left, and clients fail on that")
            return old.changed(members, time.time())

        before = self.topology.version
        try:
            after = change_topology(self._path, change)
        except MembershipError as error:
            raise ClusterError(str(error)) from None
        if after.version != before:
            log.info(fact("list changed", version=after.version, nodes=len(after.members)))
        return after

    async def spread(self, nodes: Iterable[Node]) -> None:
        """Wait until these serve the list, or some cannot be waited for any longer."""
        version = self.topology.version
        waiting = [node for node in nodes if node.is_serving]
        deadline_s = time.monotonic() + 2 * SPREAD_S
        while waiting and time.monotonic() < deadline_s:
            versions = await asyncio.gather(*(node.list_version() for node in waiting))
            pairs = zip(waiting, versions, strict=True)
            waiting = [node for node, seen in pairs if seen < version and node.is_serving]
            if waiting:
                await asyncio.sleep(_LOOK_S)
        for node in waiting:
            log.warning(fact("list is not served yet", node=node.node_id, version=version))

"""The list that clients are told, as the cluster's supervisor changes it: `topology.json`.

Nodes look at the file several times a second and serve what it says. A file that is lost is
written anew: a list made from nothing would have only the nodes that change from then on.
"""

import asyncio
import logging
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from memcachepy.cluster.node import Node
from memcachepy.errors import ClusterError, ConfigError, MembershipError
from memcachepy.log import fact
from memcachepy.membership.file import can_grow, change_topology, read_topology
from memcachepy.membership.last_known import read_last_known
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
        self._last = Topology(0)
        """As it was when it was looked at last, for the case that it is lost."""
        self._seen: tuple[int, int, int] | None = None
        self._look_at_s = 0.0

    @property
    def topology(self) -> Topology:
        """Version 0 if there is no list yet."""
        try:
            found = read_topology(self._path)
            if found is None and self._last.version:
                found = self._restored(self._last)
        except MembershipError as error:
            raise ClusterError(str(error)) from None
        self._last = found or self._last
        return self._last

    @property
    def last(self) -> Topology:
        """The same, or the last that was to be had if it cannot be had now."""
        with suppress(ClusterError):
            return self.topology
        return self._last

    def look(self) -> None:
        """At what others have made of it, to be called now and then; raises nothing."""
        if time.monotonic() < self._look_at_s:
            return
        self._look_at_s = time.monotonic() + SPREAD_S
        try:
            found = self._path.stat()
            seen = found.st_mtime_ns, found.st_ino, found.st_size
        except OSError:
            seen = None
        if seen is None or seen != self._seen:
            self._seen = seen
            _ = self.last

    def recover(self, files: Iterable[Path]) -> None:
        """If there is no list, take the newest that nodes have noted.

        Args:
            files: of nodes, as `last_known.py` has them.
        """
        if self.topology.version:
            return
        url = f"file:{self._path}"
        for path in files:
            with suppress(MembershipError):
                known = read_last_known(path)
                is_newer = known.topology.version > self._last.version
                if known.provider == url and is_newer and can_grow(known.topology):
                    self._last = known.topology
        if self._last.version:
            _ = self.topology

    def _restored(self, lost: Topology) -> Topology:
        found = change_topology(self._path, lambda old: old if old.version else lost)
        facts = {"version": found.version, "nodes": len(found.members)}
        log.warning(fact("list restored", **facts, reason=f"{self._path} was not there"))
        return found

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
        except (MembershipError, ConfigError) as error:
            raise ClusterError(str(error)) from None
        self._last = after
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

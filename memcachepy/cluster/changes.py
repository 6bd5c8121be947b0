"""What can be done to a running cluster: the operations behind `scale`, `add`, `remove` and so on.

Each writes down first what is to be, then does it: a supervisor that is killed in between leaves
a spec that the next one carries out. A node leaves the list before it stops and joins it after it
serves; a list without any node is never told to clients.
"""

import asyncio
import math
import random
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from memcachepy.admin.client import Address
from memcachepy.client.hashing import HASHINGS, Hashing
from memcachepy.cluster import health
from memcachepy.cluster.control import Step, Tell
from memcachepy.cluster.events import EventName
from memcachepy.cluster.group_change import apply_group
from memcachepy.cluster.node import Node
from memcachepy.cluster.spec import ANY_PORT, NODES_MAX, ClusterSpec, NodeSpec, own_settings
from memcachepy.cluster.supervisor import ClusterSupervisor
from memcachepy.cluster.warm import SETTLE_S
from memcachepy.cluster.warm_process import WarmProcess
from memcachepy.config import CONTROL_OFF, SETTINGS, NodeConfig
from memcachepy.errors import ClusterError, MemcachepyError, WarmError
from memcachepy.topology import Topology

PORTS_TRIED = 1000
_LASTING_PORTS = range(20000, 32768)
"""Below those that the system gives to outgoing connections: ours are free also a moment later."""


class Changes:
    """Carries out one change at a time, in the loop of the cluster's supervisor."""

    def __init__(self, supervisor: ClusterSupervisor) -> None:
        self._cluster = supervisor
        self.operations = {
            "scale": self.scale,
            "add": self.add,
            "remove": self.remove,
            "replace": self.replace,
            "restart": self.restart,
            "parameters": self.parameters,
        }

    # ---- operations ----------------------------------------------------------------------------

    async def scale(self, request: Mapping[str, Any], tell: Tell) -> dict[str, object]:
        """As many nodes as asked for: new ones get the lowest free ids, the highest ids go."""
        wanted = _count(request)
        staying = self._cluster.spec.staying
        before = len(staying)
        warmth: dict[str, object] = {}
        try:
            if wanted > before:
                tables: list[dict[str, Any]] = [{} for _ in range(wanted - before)]
                _, warmth = await self._grow(tables, request, tell)
            elif wanted < before:
                leaving = sorted(node.node_id for node in staying)[wanted:]
                warmth = await self._shrink(leaving, request, tell)
        except MemcachepyError as error:
            self._cluster.note(EventName.CLUSTER_NOT_SCALED, message=str(error))
            raise
        if wanted != before:
            self._cluster.note(EventName.CLUSTER_SCALED, message=f"from {before} to {wanted} nodes")
        return {"before": before, **warmth, **self._summary()}

    async def add(self, request: Mapping[str, Any], tell: Tell) -> dict[str, object]:
        """One node, perhaps with settings of its own."""
        table = _settings(request)
        added, warmth = await self._grow([table], request, tell)
        return {"added": added, **warmth, **self._summary()}

    async def remove(self, request: Mapping[str, Any], tell: Tell) -> dict[str, object]:
        nodes = self._named(request)
        staying = {node.node_id for node in self._cluster.spec.staying}
        if not staying - {node.node_id for node in nodes}:
            raise ClusterError(
                f"cluster {self._cluster.spec.name} would have no node left: `memcachepy cluster "
                "down` ends it"
            )
        removed = [node.node_id for node in nodes]
        warmth = await self._shrink(removed, request, tell)
        return {"removed": removed, **warmth, **self._summary()}

    async def replace(self, request: Mapping[str, Any], tell: Tell) -> dict[str, object]:
        """A new, empty process under the same id; its address and settings stay, or are told."""
        nodes = self._named(request)
        settings = _settings(request)
        if settings and len(nodes) > 1:
            raise ClusterError("settings can be given to one node at a time")
        for node in nodes:
            self._cluster.note(EventName.REPLACING_NODE, node)
            if settings:
                self._reconfigure(node, settings)
            await self._cycle(node, request, tell, 0, len(nodes))
            self._cluster.note(EventName.NODE_REPLACED, node)
        return {"replaced": [node.node_id for node in nodes], **self._summary()}

    async def restart(self, request: Mapping[str, Any], tell: Tell) -> dict[str, object]:
        """Some nodes or all: one after the other, or at once."""
        nodes = self._named(request) if request.get("nodes_named") else self._staying()
        if request.get("is_rolling", True):
            for done, node in enumerate(nodes):
                await self._cycle(node, request, tell, done, len(nodes))
        else:
            # All of them cannot leave the list: their keys are misses for this moment.
            for node in nodes:
                self._cluster.leave_alone(node)
            await asyncio.gather(*(node.stop(gently=False) for node in nodes))
            failures = await self._cluster.start_nodes(nodes, tell)
            for node in nodes:
                self._cluster.watch(node)
            for error in failures.values():
                raise ClusterError(f"{error}; it is tried again and again")
        ids = [node.node_id for node in nodes]
        self._cluster.note(EventName.NODES_REBOOTED, message=", ".join(ids))
        return {"restarted": ids, **self._summary()}

    async def parameters(self, request: Mapping[str, Any], tell: Tell) -> dict[str, object]:
        """Give the nodes a group's values, as `group_change.py` has it."""
        return await apply_group(self._cluster, self._staying(), self.restart, request, tell)

    # ---- parts of them -------------------------------------------------------------------------

    async def _grow(
        self, tables: list[dict[str, Any]], request: Mapping[str, Any], tell: Tell
    ) -> tuple[list[str], dict[str, object]]:
        """All of them or none; returns the new ids."""
        cluster = self._cluster
        old = cluster.spec
        if len(old.nodes) + len(tables) > NODES_MAX:
            raise ClusterError(f"a cluster has at most {NODES_MAX} nodes")
        spec = old
        for table in tables:
            node_id = spec.free_id()
            new = NodeSpec(node_id, {**table, "port": -1})
            port = table.get("port") or free_port(spec, new)
            new = replace(new, settings={**table, "port": port})
            spec = spec.with_nodes([*spec.nodes, new])
        spec.checked()
        ids = sorted({node.node_id for node in spec.nodes} - {node.node_id for node in old.nodes})
        cluster.commit(spec)
        nodes = [cluster.add_node(node) for node in spec.nodes if node.node_id in ids]
        tell(Step(f"{len(nodes)} to be started", 0, len(nodes)))
        failures = await cluster.start_nodes(nodes, tell)
        try:
            for error in failures.values():
                raise error
            warmth = await self._change_list(request, tell, joining=nodes)
        except MemcachepyError as error:
            await self._undo_growth(nodes)
            for node in nodes:
                why = failures.get(node.node_id, error)
                cluster.note(EventName.NODE_NOT_ADDED, node, str(why))
            raise
        for node in nodes:
            cluster.note(EventName.NODE_ADDED, node)
        return ids, warmth

    async def _undo_growth(self, nodes: list[Node]) -> None:
        ids = [node.node_id for node in nodes]
        for node in nodes:
            self._cluster.leave_alone(node)
        if any(map(self._cluster.list.last.member, ids)):
            self._cluster.list.change(leaving=ids)
        await asyncio.gather(*(node.stop(gently=False) for node in nodes))
        for node in nodes:
            del self._cluster.nodes[node.node_id]
        self._cluster.commit(self._cluster.spec.without(ids))

    async def _shrink(
        self, node_ids: list[str], request: Mapping[str, Any], tell: Tell
    ) -> dict[str, object]:
        cluster = self._cluster
        nodes = [cluster.nodes[node_id] for node_id in node_ids]
        drain_s = self._drain_s(request)
        warmth = await self._change_list(request, tell, leaving=node_ids)
        # After a warm change clients have had the time of settling already.
        await cluster.dismiss(node_ids, 0.0 if warmth else drain_s, tell)
        for node in nodes:
            cluster.note(EventName.NODE_REMOVED, node)
        return warmth

    async def _change_list(
        self,
        request: Mapping[str, Any],
        tell: Tell,
        joining: Sequence[Node] = (),
        leaving: Sequence[str] = (),
    ) -> dict[str, object]:
        """Tell clients of the new list, after bringing items to their new homes if asked to.

        Who leaves is written down as leaving.

        Raises:
            WarmError: the items could not be brought; clients have been told nothing.
            ClusterError: the list cannot be written.
        """
        cluster = self._cluster

        async def tell_clients() -> None:
            # Not before the copies are there: who is killed until then leaves all as it was.
            old_spec = cluster.spec
            if leaving:
                cluster.commit(old_spec.with_leaving(leaving))
            try:
                cluster.list.change(joining=joining, leaving=leaving)
            except MemcachepyError:
                cluster.spec = old_spec
                with suppress(ClusterError):
                    cluster.commit(old_spec)
                raise
            for node in joining:
                cluster.watch(node)
            await cluster.list_spread()

        if not request.get("warm"):
            await tell_clients()
            return {}
        old = cluster.list.topology
        stay = [member for member in old.members if member.node_id not in leaving]
        new = old.changed([*stay, *(node.member for node in joining)], time.time())
        settle_s = _seconds(request, "settle_s", SETTLE_S) or SETTLE_S
        told_at_s = 0.0

        def show_copy(report: Mapping[str, int]) -> None:
            tell(Step(f"{report['copied']:,} items copied", report["read"], report["total"]))

        def show_settle(report: Mapping[str, int]) -> None:
            left_s = max(0.0, told_at_s + settle_s - time.monotonic())
            text = f"clients learn the list, {left_s:.0f} s to go"
            tell(Step(text, report["read"], report["total"]))

        async with WarmProcess(
            old,
            new,
            hashing=self._hashing(),
            sockets=self._sockets(old, new),
            settle_s=settle_s,
            user=next(iter(cluster.nodes.values())).config.user,
        ) as warm:
            report = await warm.copy(show_copy)
            await tell_clients()
            told_at_s = time.monotonic()
            try:
                report = await warm.settle(show_settle)
            except WarmError as error:
                # The list has changed: what was copied is lost, nothing else.
                return {"warm": {**report, "error": str(error)}}
        return {"warm": report}

    def _hashing(self) -> Hashing:
        return next(way for way in HASHINGS if way == self._cluster.spec.hashing)

    def _sockets(self, *lists: Topology) -> dict[str, str | int]:
        """Control sockets by address.

        Raises:
            ClusterError: a node of a list has none here.
        """
        found: dict[str, str | int] = {}
        for member in (member for topology in lists for member in topology.members):
            node = self._cluster.nodes.get(member.node_id)
            if node is None:
                raise ClusterError(
                    f"{self._stranger_text(member.address)}: copying is not possible"
                )
            if node.config.control_socket == CONTROL_OFF:
                must = "its control socket is off: copying is not possible"
                raise ClusterError(f"node {node.name}: {must}")
            found[member.address] = node.control_socket
        return found

    async def _cycle(
        self, node: Node, request: Mapping[str, Any], tell: Tell, done: int, count: int
    ) -> None:
        """Out of the list, down, up again, and back into the list once it is healthy.

        Raises:
            ClusterError: it does not come back; it is out of the list, and is tried again and
                again.
        """
        cluster = self._cluster
        drain_s = self._drain_s(request)
        others = [m for m in cluster.list.topology.members if m.node_id != node.node_id]
        stays_listed = bool(request.get("keep_listed")) or not others
        is_to_leave = node.is_alive and not stays_listed
        if is_to_leave:
            cluster.list.change(leaving=[node.node_id])
        cluster.leave_alone(node)
        if node.is_alive:
            if is_to_leave:
                await cluster.list_spread()
                tell(Step(f"node {node.name} left the list; waiting {drain_s:g} s", done, count))
                await asyncio.sleep(drain_s)
            await node.stop(gently=drain_s > 0 and not stays_listed)
        failures = await cluster.start_nodes([node], lambda _: None)
        if not failures and (reason := await self._sickness(node)):
            failures[node.node_id] = ClusterError(f"node {node.name} serves, but {reason}")
        if failures:
            cluster.watch(node)
            raise ClusterError(
                f"{failures[node.node_id]}; the other nodes are as they were, this one is tried "
                "again and again"
            )
        try:
            cluster.list.change(joining=[node])
        finally:
            cluster.watch(node)
        await cluster.list_spread()
        tell(Step(f"node {node.name} serves again", done + 1, count))

    async def _sickness(self, node: Node) -> str:
        """Why it is not healthy; empty if it is."""
        found = await asyncio.to_thread(health.check, Address(*node.probe_address))
        return "" if found.is_healthy else found.reason

    def _reconfigure(self, node: Node, settings: Mapping[str, Any]) -> None:
        """From its next start on."""
        cluster = self._cluster
        new = replace(node.spec, settings={**node.spec.settings, **settings})
        others = [other for other in cluster.spec.nodes if other.node_id != node.node_id]
        spec = cluster.spec.with_nodes([*others, new]).checked()
        cluster.commit(spec)
        node.configure(new, spec.settings_of(new), spec.config_of(new))

    def _staying(self) -> list[Node]:
        return [self._cluster.nodes[spec.node_id] for spec in self._cluster.spec.staying]

    def _named(self, request: Mapping[str, Any]) -> list[Node]:
        """Nodes by id, by number, or by address.

        Raises:
            ClusterError: one of them was not started by this cluster.
        """
        found = {}
        named = request.get("nodes_named") or ()
        if not isinstance(named, list | tuple):
            raise ClusterError(f"nodes_named is {named!r}: must be a list of nodes")
        for text in map(str, named):
            node = self._find(text)
            if node is None or node.spec.is_leaving:
                raise ClusterError(self._stranger_text(text))
            found[node.node_id] = node
        if not found:
            raise ClusterError("which node? Give its id or its address")
        return list(found.values())

    def _find(self, text: str) -> Node | None:
        wanted = text.zfill(4) if text.isdecimal() else text
        for node in self._cluster.nodes.values():
            if wanted in (node.node_id, node.member.address) or text == node.node_id:
                return node
        return None

    def _stranger_text(self, text: str) -> str:
        name = self._cluster.spec.name
        members = self._cluster.list.topology.members
        own = ", ".join(node.name for node in self._staying())
        is_listed = any(text in (member.address, member.node_id) for member in members)
        where = "is in the list, but " if is_listed else ""
        return f"node {text} {where}was not started by this cluster: {name} has {own}"

    def _drain_s(self, request: Mapping[str, Any]) -> float:
        return _seconds(request, "drain_s", self._cluster.spec.drain_s)

    def _summary(self) -> dict[str, object]:
        topology = self._cluster.list.topology
        return {
            "nodes": len(self._cluster.spec.staying),
            "version": topology.version,
            "members": [member.as_dict() for member in topology.members],
        }


def with_free_ports(spec: ClusterSpec) -> ClusterSpec:
    """Nodes that may listen on any port have one.

    Raises:
        ClusterError: the system has none.
    """
    for node in spec.nodes:
        if node.port < 0:
            settings = {**node.settings, "port": free_port(spec, node)}
            others = [other for other in spec.nodes if other.node_id != node.node_id]
            spec = spec.with_nodes([*others, replace(node, settings=settings)])
    return spec


def free_port(spec: ClusterSpec, node: NodeSpec) -> int:
    """Where a new node can listen: counted from the cluster's first port, the next that is free.

    Raises:
        ClusterError: there is none.
    """
    taken = {other.port for other in spec.nodes}
    host = _host_of(spec.config_of(replace(node, settings={**node.settings, "port": ANY_PORT})))
    first = spec.wanted_port(node.node_id)
    ports: Iterable[int] = range(first, min(first + PORTS_TRIED, 65536))
    if first == ANY_PORT:
        ports = random.SystemRandom().sample(_LASTING_PORTS, PORTS_TRIED)
    for port in ports:
        if port not in taken and _can_listen(host, port):
            return port
    raise ClusterError(f"no port is free for node {node.node_id}; {PORTS_TRIED} were tried")


def _host_of(config: NodeConfig) -> str:
    host = config.listen[0].host
    return "" if host == "*" else host


def _can_listen(host: str, port: int) -> bool:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError:
        return False
    return True


def _count(request: Mapping[str, Any]) -> int:
    wanted = request.get("nodes")
    if type(wanted) is not int or not 1 <= wanted <= NODES_MAX:
        raise ClusterError(f"nodes is {wanted!r}: must be 1 to {NODES_MAX}")
    return wanted


def _settings(request: Mapping[str, Any]) -> dict[str, Any]:
    """Of one node."""
    given = request.get("settings") or {}
    if not isinstance(given, Mapping):
        raise ClusterError(f"settings is {given!r}: must be a table")
    if unknown := sorted(given.keys() - SETTINGS.keys()):
        raise ClusterError(f"settings has {unknown[0]!r}: there is no such setting")
    return own_settings(given)


def _seconds(request: Mapping[str, Any], name: str, default: float) -> float:
    given = request.get(name)
    if given is None:
        return default
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given < math.inf:
        raise ClusterError(f"{name} is {given!r}: must be a number of seconds")
    return float(given)

"""The parent of a launched cluster: starts its nodes, keeps them running, changes them in order.

    signals, pidfds, control socket ──► one asyncio loop ──► nodes (node.py)
                                                        └──► the list (topology.json)

It is on nobody's way to the data: killed, it leaves nodes that serve and a list that stands, and
the next one takes over what it finds. What there is to be is written down before anything is done
about it, so that it also finishes what the last one was about:

    a node of the spec that does not run      is started, and joins the list when it serves
    one that is leaving                       leaves the list and is stopped
    a member of the list that no spec names   was put there by a person, and stays

A change of the list is one write of the file; the nodes look at it several times a second.
"""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack

from memcachepy.cluster.changes import Changes
from memcachepy.cluster.control import ControlServer, Step, Tell
from memcachepy.cluster.node import Node
from memcachepy.cluster.spec import ClusterSpec, NodeSpec
from memcachepy.cluster.state import StateFolder
from memcachepy.errors import ClusterError, MembershipError
from memcachepy.log import fact
from memcachepy.membership.file import change_topology, read_topology
from memcachepy.topology import Member, Topology

log = logging.getLogger("memcachepy.cluster")

STARTS_AT_ONCE = 8
"""Nodes that are being started; more would only share the cores."""
BACKOFF_FIRST_S = 0.5
BACKOFF_MOST_S = 30.0
DEATHS_FREE = 3
"""So many deaths in a row, each before `SETTLED_S`, are answered at once."""
SETTLED_S = 10.0
"""A node that has served for so long is taken for sound again."""
SPREAD_S = 1.0
"""Within this every node serves a changed list."""
_LOOK_S = 0.05


class ClusterSupervisor:
    """Runs a cluster until it is told to stop. For one thread, which it blocks in `run`.

    Args:
        folder: whose lock the caller holds.
        spec: what the cluster is to be; written down by `run`.
        is_new: there is no cluster to go on with: whatever the list has, it begins anew.
        environ: of the nodes.
        tell: called while the cluster comes up.
        on_ready: called once, when all nodes serve, with the status.
        ends_on_hangup: whether SIGHUP ends the cluster: the terminal it was started at has gone.
    """

    def __init__(
        self,
        folder: StateFolder,
        spec: ClusterSpec,
        is_new: bool,
        environ: Mapping[str, str],
        tell: Tell = lambda _: None,
        on_ready: Callable[[dict[str, object]], None] = lambda _: None,
        ends_on_hangup: bool = False,
    ) -> None:
        self.folder = folder
        self.spec = spec
        self.environ = environ
        self.nodes: dict[str, Node] = {}
        self.started_at_s = time.time()
        self.is_ready = False
        self._is_new = is_new
        self._tell = tell
        self._on_ready = on_ready
        self._ends_on_hangup = ends_on_hangup
        self._tasks: set[asyncio.Task[None]] = set()
        self._revivals: dict[str, asyncio.Task[None]] = {}
        self._deaths: dict[str, int] = {}
        self.is_stopping = False
        self._is_to_be_forgotten = False

    def run(self) -> None:
        """Bring the cluster up and look after it until a signal or `down` ends it.

        Raises:
            ClusterError: a new cluster's node could not start; then none runs.
        """
        asyncio.run(self._run())

    async def _run(self) -> None:
        self._stop_asked = asyncio.Event()
        async with AsyncExitStack() as opening:
            self._listen_to_signals()
            self.folder.note_pid()
            opening.callback(self._let_go)
            self._control = ControlServer(
                self.folder.socket_path, self.status, Changes(self).operations, self._on_down
            )
            await self._control.open()
            opening.push_async_callback(self._control.close)
            self.folder.write_spec(self.spec)
            try:
                coming_up = asyncio.create_task(self._bring_up())
                stop_asked = asyncio.create_task(self._stop_asked.wait())
                await asyncio.wait({coming_up, stop_asked}, return_when=asyncio.FIRST_COMPLETED)
                if not coming_up.done():
                    coming_up.cancel()
                    await asyncio.wait({coming_up})
                else:
                    coming_up.result()
                    self.is_ready = self._control.is_open_for_changes = True
                    log.info(fact("cluster serves", name=self.spec.name, nodes=len(self.nodes)))
                    self._on_ready(self.status())
                    await stop_asked
            except BaseException:
                if not any(node.is_serving for node in self.nodes.values()) or self._is_new:
                    await self._stop_all()
                raise
            finally:
                stop_asked.cancel()
            await self._control.finish_change()
            await self._stop_all()
            if self._is_to_be_forgotten:
                self.folder.forget_spec()
            log.info(fact("cluster stopped", name=self.spec.name))

    def _let_go(self) -> None:
        for node in self.nodes.values():
            node.close()

    # ---- signals -------------------------------------------------------------------------------

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop_signal, number)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            loop.add_signal_handler(signal.SIGHUP, self._on_hangup)

    def _on_stop_signal(self, number: signal.Signals) -> None:
        if self.is_stopping:
            log.warning(fact("nodes killed", reason=f"second {number.name}"))
            for node in self.nodes.values():
                if node.process is not None:
                    node.process.kill()
        else:
            self.ask_to_stop(number.name)

    def _on_hangup(self) -> None:
        if self._ends_on_hangup:
            self.ask_to_stop("SIGHUP")

    def _on_down(self) -> None:
        """For good: the next `up` begins anew."""
        self._is_to_be_forgotten = True
        self.ask_to_stop("down")

    def ask_to_stop(self, why: str) -> None:
        """End the nodes and return from `run`."""
        log.info(fact("cluster stops", name=self.spec.name, reason=why))
        self.is_stopping = True
        self._control.is_open_for_changes = False
        self._stop_asked.set()

    # ---- up and down ---------------------------------------------------------------------------

    async def _bring_up(self) -> None:
        running = self.folder.running_nodes()
        found: set[str] = set()
        for spec in self.spec.nodes:
            node = self.add_node(spec)
            pid = running.pop(spec.node_id, 0)
            if pid and node.adopt(pid):
                found.add(spec.node_id)
                log.info(fact("node found running", node=spec.node_id, pid=pid))
        nodes = [self.nodes[spec.node_id] for spec in self.spec.staying]
        failures = await self.start_nodes(nodes, self._tell)
        if failures and not found:
            raise next(iter(failures.values()))
        for node_id in failures:
            self.revive(self.nodes[node_id])
        self.publish(joining=(node for node in nodes if node.is_serving), is_anew=self._is_new)
        leaving = [spec.node_id for spec in self.spec.nodes if spec.is_leaving]
        if leaving:
            await self.dismiss(leaving, self.spec.drain_s, self._tell)
        await self.list_spread()

    async def start_nodes(self, nodes: Iterable[Node], tell: Tell) -> dict[str, ClusterError]:
        """Start them side by side; returns why some did not."""
        nodes = list(nodes)
        room = asyncio.Semaphore(STARTS_AT_ONCE)
        failures: dict[str, ClusterError] = {}
        done = 0

        async def start(node: Node) -> None:
            nonlocal done
            async with room:
                try:
                    await node.start(self.environ)
                except ClusterError as error:
                    node.trouble = str(error)
                    failures[node.node_id] = error
                    log.error(fact("node did not start", node=node.node_id, reason=error))
                    return
                done += 1
                log.info(fact("node serves", node=node.node_id, at=node.member.address))
                tell(Step(f"node {node.name} serves", done, len(nodes)))

        async with asyncio.TaskGroup() as group:
            for node in nodes:
                group.create_task(start(node))
        return failures

    async def _stop_all(self) -> None:
        """All at once: there is nobody left for whom an order would matter."""
        self.is_stopping = True
        for task in (*self._revivals.values(), *self._tasks):
            task.cancel()
        nodes = [node for node in self.nodes.values() if node.is_alive]
        done = 0

        async def stop(node: Node) -> None:
            nonlocal done
            await node.stop(gently=False)
            done += 1
            self._control.tell_end(Step(f"node {node.name} stopped", done, len(nodes)))

        await asyncio.gather(*map(stop, nodes))

    # ---- nodes ---------------------------------------------------------------------------------

    def add_node(self, spec: NodeSpec) -> Node:
        settings = self.spec.settings_of(spec)
        node = Node(self.folder, spec, settings, self.spec.config_of(spec), self._on_death)
        self.nodes[spec.node_id] = node
        return node

    def _on_death(self, node: Node) -> None:
        """A node that served has ended by itself."""
        process = node.process
        assert process is not None
        if self.is_stopping:
            return
        if process.uptime_s > SETTLED_S:
            self._deaths.pop(node.node_id, None)
        log.warning(
            fact(
                "node died",
                node=node.node_id,
                pid=process.pid,
                status=process.exit_text,
                uptime_s=process.uptime_s,
            )
        )
        self.revive(node)

    def revive(self, node: Node) -> None:
        """Start it again, at once at first, later less and less often."""
        if node.node_id not in self._revivals:
            task = asyncio.create_task(self._keep_trying(node))
            self._revivals[node.node_id] = task
            task.add_done_callback(lambda _: self._revivals.pop(node.node_id, None))

    def note(self, event: str, node: Node | None = None, message: str = "") -> None:
        """Into the cluster's events, under ElastiCache's name."""
        log.info(fact(event, node=node.node_id if node else "", message=message))

    def leave_alone(self, node: Node) -> None:
        """Somebody changes it: it is not to be started again by itself."""
        if task := self._revivals.pop(node.node_id, None):
            task.cancel()

    async def _keep_trying(self, node: Node) -> None:
        while not self.is_stopping:
            deaths = self._deaths[node.node_id] = self._deaths.get(node.node_id, 0) + 1
            if deaths > DEATHS_FREE:
                pause_s = min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2.0 ** (deaths - DEATHS_FREE - 1))
                log.warning(fact("restart waits", node=node.node_id, for_s=pause_s))
                await asyncio.sleep(pause_s)
            node.restarts += 1
            try:
                await node.start(self.environ)
            except ClusterError as error:
                node.trouble = str(error)
                log.error(fact("node did not start", node=node.node_id, reason=error))
                continue
            log.info(fact("node serves again", node=node.node_id, at=node.member.address))
            self.publish(joining=[node])
            return

    # ---- the list ------------------------------------------------------------------------------

    @property
    def topology(self) -> Topology:
        return read_topology(self.folder.topology_path) or Topology(0)

    def publish(
        self, joining: Iterable[Node] = (), leaving: Iterable[str] = (), is_anew: bool = False
    ) -> Topology:
        """Change the list, in one write.

        Args:
            joining: nodes that serve.
            leaving: ids.
            is_anew: nobody else stays in it.

        Raises:
            ClusterError: the file cannot be written, or nobody would be left in the list.
        """
        new = {node.node_id: node.member for node in joining}
        gone = {*leaving, *new}

        def change(old: Topology) -> Topology:
            stay: list[Member] = []
            if not is_anew:
                places = {(member.host, member.port) for member in new.values()}
                stay = [
                    member
                    for member in old.members
                    if member.node_id not in gone and (member.host, member.port) not in places
                ]
            return old.changed([*stay, *new.values()], time.time())

        try:
            before = self.topology.version
            after = change_topology(self.folder.topology_path, change)
        except MembershipError as error:
            raise ClusterError(str(error)) from None
        if after.version != before:
            log.info(fact("list changed", version=after.version, nodes=len(after.members)))
        return after

    async def list_spread(self) -> None:
        """Wait until every node serves the list, or some cannot be waited for any longer."""
        version = self.topology.version
        waiting = [node for node in self.nodes.values() if node.is_serving]
        deadline_s = time.monotonic() + 2 * SPREAD_S
        while waiting and time.monotonic() < deadline_s:
            versions = await asyncio.gather(*(node.list_version() for node in waiting))
            pairs = zip(waiting, versions, strict=True)
            waiting = [node for node, seen in pairs if seen < version and node.is_serving]
            if waiting:
                await asyncio.sleep(_LOOK_S)
        for node in waiting:
            log.warning(fact("list is not served yet", node=node.node_id, version=version))

    async def dismiss(self, node_ids: Iterable[str], drain_s: float, tell: Tell) -> None:
        """Take nodes out of the list, give clients time to learn it, and end them.

        They must be marked as leaving in the spec; they are in none afterwards.
        """
        node_ids = list(node_ids)
        for node_id in node_ids:
            self.leave_alone(self.nodes[node_id])
        self.publish(leaving=node_ids)
        await self.list_spread()
        tell(
            Step(f"{_nodes_text(node_ids)} left the list; waiting {drain_s:g} s", 0, len(node_ids))
        )
        await asyncio.sleep(drain_s)
        done = 0

        async def stop(node: Node) -> None:
            nonlocal done
            await node.stop(gently=drain_s > 0)
            done += 1
            log.info(fact("node removed", node=node.node_id))
            tell(Step(f"node {node.name} stopped", done, len(node_ids)))

        await asyncio.gather(*(stop(self.nodes[node_id]) for node_id in node_ids))
        for node_id in node_ids:
            del self.nodes[node_id]
        self.commit(self.spec.without(node_ids))

    def commit(self, spec: ClusterSpec) -> None:
        """Write down what is to be; a supervisor that comes after this one does it, too."""
        self.folder.write_spec(spec)
        self.spec = spec

    def status(self) -> dict[str, object]:
        """For `cluster status`: what the supervisor knows; nodes are asked by whoever asks."""
        topology = self.topology
        return {
            "name": self.spec.name,
            "pid": os.getpid(),
            "since_s": round(self.started_at_s, 3),
            "is_ready": self.is_ready,
            "state_folder": str(self.folder.path),
            "hashing": self.spec.hashing,
            "parameter_group": self.spec.parameter_group,
            "drain_s": self.spec.drain_s,
            "topology": topology.as_dict(),
            "nodes": [self.nodes[node_id].as_dict() for node_id in sorted(self.nodes)],
        }


def _nodes_text(node_ids: Iterable[str]) -> str:
    ids = list(node_ids)
    return ("node " if len(ids) == 1 else "nodes ") + ", ".join(ids)

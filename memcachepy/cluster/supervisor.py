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
import socket
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import Any

from memcachepy.admin.client import Address
from memcachepy.cluster.control import ControlServer, Operation, Step, Tell
from memcachepy.cluster.events import EventLog, EventName
from memcachepy.cluster.health import Health
from memcachepy.cluster.list_file import ListFile
from memcachepy.cluster.monitor import Action, Kind, Limits
from memcachepy.cluster.node import START_TIMEOUT_S, Node
from memcachepy.cluster.spec import ClusterSpec, NodeSpec
from memcachepy.cluster.state import StateFolder
from memcachepy.cluster.watcher import Watcher
from memcachepy.errors import ClusterError, MemcachepyError
from memcachepy.log import fact

log = logging.getLogger("memcachepy.cluster")

STARTS_AT_ONCE = 8
"""Nodes that are being started; more would only share the cores."""
TAKE_OVER_S = 5.0
"""How long to wait for a node that was found running to answer; then it is only watched."""


class ClusterSupervisor:
    """Runs a cluster until it is told to stop. For one thread, which it blocks in `run`.

    Args:
        folder: whose lock the caller holds.
        spec: what the cluster is to be; written down by `run`.
        environ: of the nodes.
        tell: called while the cluster comes up.
        on_ready: called once, when all nodes serve, with the status.
        ends_on_hangup: whether SIGHUP ends the cluster: the terminal it was started at has gone.
    """

    def __init__(
        self,
        folder: StateFolder,
        spec: ClusterSpec,
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
        self._is_new = not spec.is_told
        self._tell = tell
        self._on_ready = on_ready
        self._ends_on_hangup = ends_on_hangup
        self._waits: dict[str, asyncio.Task[None]] = {}
        """By node: for one that has been started again to serve."""
        self._replacing: set[str] = set()
        """Nodes that died and have not served since, however often they were started."""
        self._events = EventLog(folder.events_path)
        self.list = ListFile(folder.topology_path)
        self.is_stopping = False
        self._is_to_be_forgotten = False
        self._has_found_nodes = False

    def run(self, changes: Mapping[str, Operation]) -> None:
        """Bring the cluster up and look after it until a signal or `down` ends it.

        Args:
            changes: what may be asked for once it serves, by name.

        Raises:
            ClusterError: a new cluster's node could not start; then none runs.
        """
        asyncio.run(self._run(changes))

    async def _run(self, changes: Mapping[str, Operation]) -> None:
        self._stop_asked = asyncio.Event()
        async with AsyncExitStack() as opening:
            self._listen_to_signals()
            self.folder.note_pid()
            self._control = ControlServer(
                self.folder.socket_path, self.status, changes, self._on_down
            )
            await self._control.open()
            opening.push_async_callback(self._control.close)
            self.folder.write_spec(self.spec)
            limits = Limits(grace_s=self.spec.grace_s)
            self._watcher = Watcher(limits, self._is_stopped, self._on_health, self._act)
            self._watching = asyncio.create_task(self._watcher.run())
            opening.callback(self._let_go)
            try:
                await self._until(self._bring_up())
                if not self.is_stopping:
                    self._say_ready()
                    await self._until(asyncio.Event().wait())
            except BaseException:
                # A cluster that never was leaves nothing; one that was goes on to serve.
                if not self.is_ready and (self._is_new or not self._has_found_nodes):
                    await self._stop_all()
                if not self.is_ready and self._is_new:
                    self.folder.forget_spec()
                raise
            await self._control.finish_change()
            await self._stop_all()
            if self._is_to_be_forgotten:
                self.folder.forget_spec()
                self.note(EventName.CLUSTER_DELETED)
            log.info(fact("cluster stopped", name=self.spec.name))

    async def _until(self, doing: Coroutine[Any, Any, object]) -> None:
        """Do it until it is done, or until the cluster is to stop.

        Raises:
            Exception: what it raised, or what the watcher has, which must not end unnoticed.
        """
        task = asyncio.create_task(doing)
        stop_asked = asyncio.create_task(self._stop_asked.wait())
        try:
            done, _ = await asyncio.wait(
                {task, stop_asked, self._watching}, return_when=asyncio.FIRST_COMPLETED
            )
            for ended in done - {stop_asked}:
                ended.result()
        finally:
            for unfinished in (task, stop_asked):
                unfinished.cancel()
            await asyncio.wait({task, stop_asked})

    def _say_ready(self) -> None:
        self.is_ready = self._control.is_open_for_changes = True
        log.info(fact("cluster serves", name=self.spec.name, nodes=len(self.nodes)))
        if self._is_new:
            self.note(EventName.CLUSTER_PROVISIONED, message=f"{len(self.nodes)} nodes")
        self._on_ready(self.status())

    def _let_go(self) -> None:
        self._watching.cancel()
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
        found: list[Node] = []
        for spec in self.spec.nodes:
            node = self.add_node(spec)
            pid = running.get(spec.node_id, 0)
            if pid and node.adopt(pid):
                found.append(node)
                self._has_found_nodes = True
                self._watcher.monitor.follow_another()
                log.info(fact("node found running", node=spec.node_id, pid=pid))
        is_list_lost = not self._is_new and not self.list.topology.version
        if is_list_lost:
            self.list.recover(map(self.folder.last_known_path, self.nodes))
        nodes = [self.nodes[spec.node_id] for spec in self.spec.staying]
        failures = await self.start_nodes([node for node in nodes if node not in found], self._tell)
        if failures and (self._is_new or len(failures) == len(nodes)):
            error = next(iter(failures.values()))
            self.note(EventName.CLUSTER_NOT_PROVISIONED, message=str(error))
            raise error
        await asyncio.gather(*map(self._take_over, found))
        # Who was found and is in no list may have items that were changed elsewhere since: the
        # monitor lets it back with a new process only.
        joining = [node for node in nodes if node.is_serving]
        if not self._is_new and self.list.topology.members:
            joining = [node for node in joining if node not in found]
        self.list.change(joining=joining, is_anew=self._is_new)
        self.commit(replace(self.spec, is_told=True))
        leaving = [spec.node_id for spec in self.spec.nodes if spec.is_leaving]
        if leaving:
            await self.dismiss(leaving, self.spec.drain_s, self._tell)
        await self.list_spread()
        for node in nodes:
            self.watch(node, is_list_doubtful=is_list_lost)

    async def _take_over(self, node: Node) -> None:
        """It may be stopped, or in trouble: then it is not waited for."""
        try:
            await node.served(TAKE_OVER_S)
        except ClusterError as error:
            log.warning(fact("node does not answer", node=node.node_id, reason=error))

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
        self._watching.cancel()
        for task in self._waits.values():
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

    def watch(self, node: Node, is_list_doubtful: bool = False) -> None:
        """From now on it is started when it dies, and so on, as the monitor decides."""
        is_listed = self.list.last.member(node.node_id) is not None
        host, port = node.probe_address
        with suppress(OSError):
            host = str(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0])
        self._watcher.watch(
            node.node_id,
            Address(host, port),
            is_listed=is_listed,
            is_running=node.is_alive,
            is_list_doubtful=is_list_doubtful,
        )

    def leave_alone(self, node: Node) -> None:
        """Somebody changes it: nothing is done about it until it is watched again."""
        self._watcher.forget(node.node_id)
        self._replacing.discard(node.node_id)
        if task := self._waits.pop(node.node_id, None):
            task.cancel()

    def _on_death(self, node: Node) -> None:
        """A node's process has ended by itself."""
        process = node.process
        if process is None or self.is_stopping or not self._watcher.watches(node.node_id):
            return
        facts = {"pid": process.pid, "status": process.exit_text, "uptime_s": process.uptime_s}
        log.warning(fact("node died", node=node.node_id, **facts))
        self._watcher.on_died(node.node_id, node.trouble)

    def _on_health(self, node_id: str, health: Health) -> None:
        self.list.look()
        node = self.nodes[node_id]
        if health.is_healthy:
            node.on_healthy()
            node.trouble = ""
        elif not health.is_own_trouble and node.is_alive:
            node.trouble = health.reason

    def _is_stopped(self, node_id: str) -> bool:
        return self.nodes[node_id].is_stopped

    def _act(self, actions: Sequence[Action]) -> Sequence[Action]:
        """Do what the monitor wants; returns what cannot be done."""
        if self.is_stopping:
            return ()
        for action in actions:
            facts = {"node": action.node_id, "reason": action.reason}
            log.warning(fact(f"monitor: {action.kind.value}", **facts))
        of_list = [action for action in actions if action.kind in (Kind.TAKE_OUT, Kind.PUT_BACK)]
        not_done: list[Action] = []
        if not self._is_done(self._change_list, of_list):
            not_done += of_list
        listed = {action.node_id for action in not_done}
        for action in actions:
            if action in of_list:
                continue
            # Who could not be taken out is not killed either.
            is_held = action.kind is Kind.KILL and action.node_id in listed
            if is_held or not self._is_done(self._start_or_kill, [action]):
                not_done.append(action)
        return not_done

    def _is_done(self, do: Callable[[Sequence[Action]], None], actions: Sequence[Action]) -> bool:
        try:
            do(actions)
        except MemcachepyError as error:
            for action in actions:
                log.error(fact("not done", node=action.node_id, reason=error))
            return False
        return True

    def _start_or_kill(self, actions: Sequence[Action]) -> None:
        for action in actions:
            node = self.nodes[action.node_id]
            if action.kind is Kind.START:
                self._start_again(node, action.reason)
            elif node.process is not None:
                node.process.kill()

    def _change_list(self, actions: Sequence[Action]) -> None:
        """In one write."""
        if not actions:
            return
        by_kind: dict[Kind, list[Node]] = {Kind.TAKE_OUT: [], Kind.PUT_BACK: []}
        for action in actions:
            by_kind[action.kind].append(self.nodes[action.node_id])
        leaving = [node.node_id for node in by_kind[Kind.TAKE_OUT]]
        self.list.change(joining=by_kind[Kind.PUT_BACK], leaving=leaving)
        for action in actions:
            node = self.nodes[action.node_id]
            if action.kind is Kind.TAKE_OUT:
                self.note(EventName.NODE_REMOVED, node, f"from the list: {action.reason}")
            else:
                self.note(EventName.NODE_ADDED, node, f"to the list: {action.reason}")

    def _start_again(self, node: Node, reason: str) -> None:
        node.restarts += 1
        if node.node_id not in self._replacing:
            self._replacing.add(node.node_id)
            self.note(EventName.REPLACING_NODE, node, reason)
        node.launch(self.environ)
        self._watcher.on_started(node.node_id)

        async def wait() -> None:
            with suppress(ClusterError):  # Then the monitor has been told, or will see.
                await node.served(START_TIMEOUT_S)
                log.info(fact("node serves again", node=node.node_id, at=node.member.address))
                self._replacing.discard(node.node_id)
                self.note(EventName.NODE_REPLACED, node)

        self._waits[node.node_id] = asyncio.create_task(wait())

    def note(self, name: EventName, node: Node | None = None, message: str = "") -> None:
        """Into the cluster's events; a full disk does not keep a change from being made."""
        try:
            self._events.add(name, node.node_id if node else "", message)
        except ClusterError as error:
            log.error(fact("event lost", name=name, reason=error))

    # ---- the list ------------------------------------------------------------------------------

    async def list_spread(self) -> None:
        """Wait until every node serves the list, or some cannot be waited for any longer."""
        await self.list.spread(self.nodes.values())

    async def dismiss(self, node_ids: Iterable[str], drain_s: float, tell: Tell) -> None:
        """Take nodes out of the list, give clients time to learn it, and end them.

        They must be marked as leaving in the spec; they are in none afterwards.
        """
        node_ids = list(node_ids)
        self.list.change(leaving=node_ids)
        for node_id in node_ids:
            self.leave_alone(self.nodes[node_id])
        await self.list_spread()
        if any(self.nodes[node_id].is_alive for node_id in node_ids):
            text = f"{_nodes_text(node_ids)} left the list; waiting {drain_s:g} s"
            tell(Step(text, 0, len(node_ids)))
            await asyncio.sleep(drain_s)
        done = 0

        async def stop(node: Node) -> None:
            nonlocal done
            await node.stop(gently=True)
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
        topology = self.list.last
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

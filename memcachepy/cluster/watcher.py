"""Checks a cluster's nodes and has done what the monitor decides, in the supervisor's loop."""

import asyncio
import selectors
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from memcachepy.admin.client import Address
from memcachepy.cluster.health import Checks, Health
from memcachepy.cluster.monitor import Action, Limits, Monitor

_File: TypeAlias = Any
_NAP_S = 60.0


class Watcher:
    """The checks and the monitor, fed with each other and the clock.

    Args:
        limits: of the monitor.
        is_stopped: whether a node's process has been stopped by a signal.
        on_health: called with each result of a check.
        act: does what the monitor wants; returns what could not be done.
    """

    def __init__(
        self,
        limits: Limits,
        is_stopped: Callable[[str], bool],
        on_health: Callable[[str, Health], None],
        act: Callable[[Sequence[Action]], Sequence[Action]],
    ) -> None:
        loop = asyncio.get_running_loop()
        self.monitor = Monitor(limits, loop.time, is_stopped)
        self._checks = Checks(_LoopSelector(loop), self._on_result, clock=loop.time)
        self._on_health = on_health
        self._act = act
        self._news = asyncio.Event()
        self._watched: set[str] = set()

    def watch(
        self,
        node_id: str,
        address: Address,
        *,
        is_listed: bool,
        is_running: bool,
        is_list_doubtful: bool = False,
    ) -> None:
        """Look after a node from now on; also one that is looked after already, as if it was new.

        Args:
            node_id: of the node.
            address: a path or an IP address.
            is_listed: whether clients are told of it.
            is_running: whether it has a process.
            is_list_doubtful: whether clients may still ask it, though it is in no list.
        """
        self._watched.add(node_id)
        self.monitor.watch(
            node_id,
            is_listed=is_listed,
            is_running=is_running,
            is_list_doubtful=is_list_doubtful,
        )
        self._checks.watch(node_id, address)
        self._news.set()

    def forget(self, node_id: str) -> None:
        """Somebody else decides about it now."""
        self._watched.discard(node_id)
        self.monitor.forget(node_id)
        self._checks.forget(node_id)

    def watches(self, node_id: str) -> bool:
        return node_id in self._watched

    def on_started(self, node_id: str) -> None:
        self.monitor.on_started(node_id)
        self._news.set()

    def on_died(self, node_id: str, reason: str) -> None:
        self.monitor.on_died(node_id, reason)
        self._news.set()

    def _on_result(self, node_id: str, health: Health) -> None:
        self.monitor.on_health(node_id, health)
        self._on_health(node_id, health)
        self._news.set()

    async def run(self) -> None:
        """Until it is cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                self._news.clear()
                self._checks.tick()
                if actions := self.monitor.tick():
                    for action in self._act(actions):
                        self.monitor.not_done(action)
                due_at_s = min(self._checks.due_at_s, self.monitor.due_at_s)
                pause_s = min(max(0.0, due_at_s - loop.time()), _NAP_S)
                try:
                    async with asyncio.timeout(pause_s):
                        await self._news.wait()
                except TimeoutError:
                    pass
        finally:
            self._checks.close()


class _LoopSelector(selectors.BaseSelector):
    """What is registered here is waited for by an asyncio loop, which calls its `data`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._keys: dict[int, selectors.SelectorKey] = {}
        self._map = _Map(self._keys)

    def register(self, fileobj: _File, events: int, data: Any = None) -> selectors.SelectorKey:
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        key = self._keys[fd] = selectors.SelectorKey(fileobj, fd, events, data)
        if events & selectors.EVENT_READ:
            self._loop.add_reader(fd, data)
        if events & selectors.EVENT_WRITE:
            self._loop.add_writer(fd, data)
        return key

    def unregister(self, fileobj: _File) -> selectors.SelectorKey:
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        self._loop.remove_reader(fd)
        self._loop.remove_writer(fd)
        return self._keys.pop(fd)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        raise NotImplementedError(f"the loop does it (timeout {timeout})")

    def get_map(self) -> Mapping[_File, selectors.SelectorKey]:
        return self._map


class _Map(Mapping[_File, selectors.SelectorKey]):
    def __init__(self, keys: dict[int, selectors.SelectorKey]) -> None:
        self._keys = keys

    def __getitem__(self, fileobj: _File) -> selectors.SelectorKey:
        return self._keys[fileobj if isinstance(fileobj, int) else fileobj.fileno()]

    def __iter__(self) -> Any:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

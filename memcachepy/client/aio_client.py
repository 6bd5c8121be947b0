"""The asyncio client: the methods of the blocking one as coroutines."""

import asyncio
import logging
import random
import warnings
import weakref
from collections.abc import Coroutine, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from memcachepy.client.aio_node import AioNobody, AioNode, ask
from memcachepy.client.discovery import Endpoint, PollSchedule, is_newer, survey
from memcachepy.client.errors import NoNodes
from memcachepy.client.hashing import Key
from memcachepy.client.options import AioOptions, Options
from memcachepy.client.view import Follower, PollCounters, View
from memcachepy.client.wire import Lines, Request, Wire
from memcachepy.topology import Member, Topology

T = TypeVar("T")
_log = logging.getLogger("memcachepy.client")


class DiscoveryClient(Follower[AioNode]):
    """`memcachepy.client.DiscoveryClient` with coroutines for methods.

    It learns who the nodes are when it is first used, or entered as a context. It belongs to the
    event loop in which that happens and is to be closed there; used in another one it begins anew.
    A request whose task is cancelled is given up, and its connection closed. Calls for many keys
    ask all nodes at once.

    Args:
        servers: the configuration endpoint or several, see the blocking client.
        options: those of the blocking client, but `socket_module`; `timeout` is for the whole of
            an exchange with one node.

    Raises:
        ConfigError: an argument has a value that it cannot have.
    """

    def __init__(
        self,
        servers: str | Endpoint | Iterable[str | Endpoint],
        **options: Unpack[AioOptions],
    ) -> None:
        self._options = Options.of(servers, **options)
        self._wire = Wire(self._options)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._beginning: asyncio.Task[None] | None = None
        self._poller: asyncio.Task[None] | None = None
        self._wakeup: asyncio.Event | None = None
        self._schedule = PollSchedule(self._options.poll_s)
        self._known: View[AioNode] = View.empty(AioNobody(self._options), self._options)
        self.polls = PollCounters()

    # Who the nodes are.

    async def refresh(self) -> Topology | None:
        """Ask for the list now, and return what is known then. Raises nothing."""
        await self._view()
        await self._poll()
        return self.topology

    async def _poll(self) -> tuple[bool, bool]:
        """Ask for the list and follow it: whether anybody answered, whether the list changed."""
        topology = await self._ask_around()
        answered = topology is not None
        changed = topology is not None and self._follow(topology)
        self.polls.answered_count += answered
        self.polls.unanswered_count += not answered
        self.polls.changed_count += changed
        for node in self._known.pools:
            node.trim()
        return answered, changed

    async def _ask_around(self) -> Topology | None:
        known = self._known
        nodes = map(self._options.address_of, known.members)
        asking = survey(self._options.endpoints, nodes, known.topology, random.Random())
        try:
            endpoint = next(asking)
            while True:
                try:
                    endpoint = asking.send(await ask(endpoint, self._options))
                except (OSError, ValueError) as error:
                    said = str(error) or "no answer in time"
                    self.polls.last_error = f"{endpoint[0]}:{endpoint[1]}: {said}"
                    endpoint = asking.send(error)
        except StopIteration as done:
            topology: Topology | None = done.value
            return topology

    def _follow(self, topology: Topology) -> bool:
        if not is_newer(topology, self._known.topology):
            return False
        self._known, gone = self._known.follow(topology, self._node)
        for node in gone:
            node.retire()
        return True

    def _node(self, member: Member) -> AioNode:
        return AioNode(member, self._options, self._node_failed)

    def _node_failed(self) -> None:
        if self._schedule.hasten() and self._wakeup is not None:
            self._wakeup.set()

    async def _view(self) -> View[AioNode]:
        """What is known, after the beginning."""
        if self._loop is not asyncio.get_running_loop():
            self._begin()
        if self._beginning is not None:
            # Whoever waits here may be cancelled; the others are not, nor by aclose().
            await asyncio.wait([self._beginning])
        return self._known

    def _begin(self) -> None:
        for node in self._known.pools:
            node.forget()
        self._loop = asyncio.get_running_loop()
        self._wakeup = asyncio.Event()
        self._beginning = self._loop.create_task(self._first_poll())

    async def _first_poll(self) -> None:
        answered, changed = await _polled(self)
        self._schedule.polled(answered=answered, changed=changed)
        assert self._wakeup is not None
        polling = _poll_on(weakref.ref(self), self._schedule, self._wakeup)
        self._poller = asyncio.get_running_loop().create_task(polling)
        self._beginning = None

    async def __aenter__(self) -> Self:
        await self._view()
        if self.topology is None and not self._options.ignore_exc:
            await self.aclose()
            raise NoNodes(f"nobody tells who the nodes are: {self.polls.last_error}")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close what is idle and stop asking for the list. The next use begins anew.

        Requests that are under way end as they would have; then their connections are closed.
        """
        tasks = [task for task in (self._beginning, self._poller) if task is not None]
        self._beginning = self._poller = self._loop = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for node in self._known.pools:
            node.close()
        # So that the loop has closed the sockets when this returns.
        await asyncio.sleep(0)

    def __del__(self) -> None:
        # Nothing can be closed from here: this may be any thread, and the loop may be gone.
        if getattr(self, "_loop", None) is not None:
            warnings.warn(f"{self!r} was not closed", ResourceWarning, source=self, stacklevel=2)

    close = aclose
    disconnect_all = aclose
    quit = aclose

    # One key.

    async def _fetch_one(self, key: Key, request: Request, miss: Any) -> Any:
        view = await self._view()
        found = await view.pools[view.index_of(key)].run(request, {})
        return found.get(key, miss)

    async def get(self, key: Key, default: Any = None) -> Any:
        """The value, or `default`."""
        return await self._fetch_one(key, self._wire.fetch("get", [key]), default)

    async def gets(self, key: Key, default: Any = None, cas_default: Any = None) -> tuple[Any, Any]:
        """Value and cas, or the defaults."""
        request = self._wire.fetch("gets", [key])
        pair: tuple[Any, Any] = await self._fetch_one(key, request, (default, cas_default))
        return pair

    async def gat(self, key: Key, expire: int = 0, default: Any = None) -> Any:
        """The value, which from now on expires in `expire` seconds; or `default`."""
        return await self._fetch_one(key, self._wire.fetch("gat", [key], expire), default)

    async def gats(
        self, key: Key, expire: int = 0, default: Any = None, cas_default: Any = None
    ) -> tuple[Any, Any]:
        """As `gat`, with the cas."""
        request = self._wire.fetch("gats", [key], expire)
        pair: tuple[Any, Any] = await self._fetch_one(key, request, (default, cas_default))
        return pair

    async def _store_one(self, command: str, key: Key, value: Any, *rest: Any) -> bool | None:
        request = self._wire.store(command, {key: value}, *rest)
        view = await self._view()
        stored = await view.pools[view.index_of(key)].run(request, {})
        result: bool | None = stored.get(key)
        return result

    async def set(
        self,
        key: Key,
        value: Any,
        expire: int = 0,
        noreply: bool | None = None,
        flags: int | None = None,
    ) -> bool:
        """Whether it was stored."""
        return bool(await self._store_one("set", key, value, expire, noreply, flags))

    async def add(
        self,
        key: Key,
        value: Any,
        expire: int = 0,
        noreply: bool | None = None,
        flags: int | None = None,
    ) -> bool:
        """Store it if the key is not there: whether it was."""
        return bool(await self._store_one("add", key, value, expire, noreply, flags))

    async def replace(
        self,
        key: Key,
        value: Any,
        expire: int = 0,
        noreply: bool | None = None,
        flags: int | None = None,
    ) -> bool:
        """Store it if the key is there: whether it was."""
        return bool(await self._store_one("replace", key, value, expire, noreply, flags))

    async def append(
        self,
        key: Key,
        value: Any,
        expire: int = 0,
        noreply: bool | None = None,
        flags: int | None = None,
    ) -> bool:
        """Lengthen the value at its end: whether the key was there."""
        return bool(await self._store_one("append", key, value, expire, noreply, flags))

    async def prepend(
        self,
        key: Key,
        value: Any,
        expire: int = 0,
        noreply: bool | None = None,
        flags: int | None = None,
    ) -> bool:
        """Lengthen the value at its beginning: whether the key was there."""
        return bool(await self._store_one("prepend", key, value, expire, noreply, flags))

    async def cas(
        self,
        key: Key,
        value: Any,
        cas: int | str | bytes,
        expire: int = 0,
        noreply: bool = False,
        flags: int | None = None,
    ) -> bool | None:
        """Store it if nobody has since `gets`: whether it was; None: the key is not there."""
        return await self._store_one("cas", key, value, expire, noreply, flags, cas)

    async def _line(
        self, command: str, key: Key, noreply: bool | None, *numbers: tuple[str, int]
    ) -> bytes:
        """The answer; empty: a miss, or nothing was to be answered."""
        request = self._wire.lines(command, [self._wire.key(key)], noreply, *numbers)
        view = await self._view()
        lines = await view.pools[view.index_of(key)].run(request, [b""])
        return lines[0] if lines else _TOLD

    async def incr(self, key: Key, value: int, noreply: bool = False) -> int | None:
        """The new number; None: the key is not there."""
        return _number(await self._line("incr", key, noreply, ("value", value)))

    async def decr(self, key: Key, value: int, noreply: bool = False) -> int | None:
        """The new number, at least 0; None: the key is not there."""
        return _number(await self._line("decr", key, noreply, ("value", value)))

    async def delete(self, key: Key, noreply: bool | None = None) -> bool:
        """Whether the key was there."""
        return await self._line("delete", key, noreply) in (b"DELETED", _TOLD)

    async def touch(self, key: Key, expire: int = 0, noreply: bool | None = None) -> bool:
        """Whether the key was there; it expires in `expire` seconds from now."""
        line = await self._line("touch", key, noreply, ("expire", expire))
        return line in (b"TOUCHED", _TOLD)

    # Many keys.

    async def get_many(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """The values of the keys that are there."""
        return await self._fetch_many("get", keys)

    async def gets_many(self, keys: Iterable[Key]) -> dict[Key, tuple[Any, Any]]:
        """Value and cas of the keys that are there."""
        return await self._fetch_many("gets", keys)

    async def set_many(
        self,
        values: Mapping[Key, Any],
        expire: int = 0,
        noreply: bool | None = None,
        flags: int | None = None,
    ) -> list[Key]:
        """The keys that were not stored."""
        rest = (expire, noreply, flags)
        requests = [
            (node, self._wire.store("set", {key: values[key] for key in batch}, *rest))
            for node, batch in await self._by_node(values)
        ]
        results = await _all(node.run(request, {}) for node, request in requests)
        stored = {key for result in results for key, done in result.items() if done}
        return [key for key in values if key not in stored]

    async def delete_many(self, keys: Iterable[Key], noreply: bool | None = None) -> bool:
        """Whether every key's node was told."""
        requests = [
            (node, self._wire.lines("delete", list(map(self._wire.key, batch)), noreply))
            for node, batch in await self._by_node(keys)
        ]
        results = await _all(node.run(request, None) for node, request in requests)
        return None not in results

    get_multi = get_many
    gets_multi = gets_many
    set_multi = set_many
    delete_multi = delete_many

    async def _fetch_many(self, command: str, keys: Iterable[Key]) -> dict[Key, Any]:
        requests = [
            (node, self._wire.fetch(command, batch)) for node, batch in await self._by_node(keys)
        ]
        results = await _all(node.run(request, {}) for node, request in requests)
        return {key: value for result in results for key, value in result.items()}

    async def _by_node(self, keys: Iterable[Key]) -> list[tuple[AioNode, list[Key]]]:
        view = await self._view()
        batches: dict[int, list[Key]] = {}
        for key in keys:
            batches.setdefault(view.index_of(key), []).append(key)
        return [(view.pools[index], batch) for index, batch in batches.items()]

    # All nodes.

    async def flush_all(self, delay: int = 0, noreply: bool | None = None) -> bool:
        """Whether every node was told to flush, in `delay` seconds or now."""
        request: Lines = self._wire.lines("flush_all", [b""], noreply, ("delay", delay))
        results = await self._on_all(request, None)
        return bool(results) and None not in results.values()

    async def stats(self, *args: str) -> dict[str, dict[bytes, Any]]:
        """What each node answers to `stats`, by `host:port`; empty for one that does not."""
        return await self._on_all(self._wire.stats(args), {})

    async def _on_all(self, request: Request, miss: Any) -> dict[str, Any]:
        view = await self._view()
        if not view.members:
            await view.pools[0].run(request, miss)
        results = await _all(
            node.run(request, miss) for _, node in zip(view.members, view.pools, strict=False)
        )
        return {
            member.address: result for member, result in zip(view.members, results, strict=True)
        }


_TOLD = b"told"
"""In the place of an answer that was not asked for."""


def _number(line: bytes) -> int | None:
    return int(line) if line.rstrip().isdigit() else None


async def _all(requests: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All at once; the first error only when each has ended, so that none goes on unseen."""
    coroutines = list(requests)
    if len(coroutines) == 1:
        return [await coroutines[0]]
    results = await asyncio.gather(*coroutines, return_exceptions=True)
    done: list[T] = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        done.append(result)
    return done


async def _polled(client: DiscoveryClient) -> tuple[bool, bool]:
    try:
        return await client._poll()
    except Exception:
        # A task's outermost edge: without it the list would be as it is for ever.
        _log.exception("asking for the list of nodes failed")
        return False, False


async def _poll_on(
    client_ref: "weakref.ref[DiscoveryClient]", schedule: PollSchedule, wakeup: asyncio.Event
) -> None:
    """Ask for the list again and again, as long as anybody has the client."""
    while True:
        try:
            async with asyncio.timeout(schedule.due_in_s()):
                await wakeup.wait()
        except TimeoutError:
            pass
        wakeup.clear()
        if schedule.due_in_s() > 0:
            continue
        client = client_ref()
        if client is None:
            return
        answered, changed = await _polled(client)
        del client
        schedule.polled(answered=answered, changed=changed)

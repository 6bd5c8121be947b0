"""The blocking client: HashClient's methods over the nodes that the cluster names."""

import os
import random
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType, TracebackType
from typing import Any, Self

from memcachepy.client.connection import ask
from memcachepy.client.discovery import Endpoint, PollSchedule, is_newer, survey
from memcachepy.client.errors import NoNodes
from memcachepy.client.hashing import Hashing, Key
from memcachepy.client.options import Options
from memcachepy.client.poller import Poller
from memcachepy.client.pool import NodePool, NoPool
from memcachepy.client.view import Follower, PollCounters, View
from memcachepy.topology import Member, Topology

_clients: "weakref.WeakSet[DiscoveryClient]" = weakref.WeakSet()


class DiscoveryClient(Follower[NodePool]):
    """A client of all nodes of a cluster, which follows the cluster as it changes.

    The methods are those of pymemcache's HashClient. Each key belongs to one node; while that node
    is down its keys are misses, they are not moved elsewhere. Any number of threads may share a
    client, and so may processes that were forked: each has connections of its own, and a thread of
    its own, from first use on, that asks for the list of nodes.

    With `ignore_exc`, which is the default, no method raises for anything that a server or the
    network did: reads are misses, writes return False or None. Without it they raise, beside
    pymemcache's errors (MemcacheServerError and so on) and the system's (OSError, TimeoutError):
    `NodeDown` while a node's circuit breaker is open, `NoNodes` while no list is known,
    `PoolExhausted`. All of these are OSError or MemcacheError. What is wrong with the arguments,
    as in a key with a space, is always raised (MemcacheIllegalInputError); and so is what a signal
    handler raises meanwhile, such as a soft time limit, unless it is an OSError, a ValueError or a
    LookupError.

    Args:
        servers: the configuration endpoint, which is any node of the cluster or a name for all of
            them: `"host:port"` or `(host, port)`, or several. Servers that know no cluster, like
            memcached, are a cluster of those that are named.
        hashing: which node a key belongs to: `rendezvous`; `pymemcache`, as HashClient does;
            `ketama`, as libmemcached's weighted ketama does.
        poll_s: seconds between two looks at the list. After errors it is looked at sooner.
        ignore_exc: see above.
        connect_timeout: seconds that connecting may take.
        timeout: seconds that each wait for a node may take. A call for many keys gives up the
            nodes it has not yet asked once it has lost `connect_timeout + timeout` on bad ones.
        retry_attempts: how many failures in a row may follow the first before the node is left
            alone.
        retry_timeout: seconds for which it then is; twice as long each time that it fails again.
        dead_timeout: the longest of these pauses. A change of the list ends them all.
        max_pool_size: connections to each node; who finds none waits for `timeout` seconds. None:
            as many as there are threads.
        serde: turns values into bytes and back; by default str and bytes are taken, and bytes come
            back. `pymemcache.serde.pickle_serde` takes everything.
        key_prefix: of every key; `rendezvous` counts it as a part of the key, the others do not.
        default_noreply: writes do not wait for the answer, and return True, where a call does not
            say otherwise. Then a refusal is not heard of.
        allow_unicode_keys, encoding, no_delay, socket_keepalive, socket_module: as in pymemcache.
        tls_context: of connections to nodes and to the endpoint.
        use_vpc: connect to the address that the list tells, not to the name, which would have to
            be resolved. By default true without TLS, whose certificates want the name.

    Raises:
        ConfigError: an argument has a value that it cannot have.
        NoNodes: nobody tells who the nodes are, and `ignore_exc` is false. With it the client has
            no nodes, everything is a miss, and it keeps on asking.
    """

    def __init__(
        self,
        servers: str | Endpoint | Iterable[str | Endpoint],
        *,
        hashing: Hashing = "rendezvous",
        poll_s: float = 60.0,
        ignore_exc: bool = True,
        connect_timeout: float = 1.0,
        timeout: float = 1.0,
        retry_attempts: int = 2,
        retry_timeout: float = 1.0,
        dead_timeout: float = 15.0,
        max_pool_size: int | None = None,
        serde: Any = None,
        key_prefix: str | bytes = b"",
        default_noreply: bool = True,
        allow_unicode_keys: bool = False,
        encoding: str = "ascii",
        no_delay: bool = True,
        socket_keepalive: Any = None,
        socket_module: ModuleType = socket,
        tls_context: ssl.SSLContext | None = None,
        use_vpc: bool | None = None,
    ) -> None:
        self._options = Options.of(
            servers,
            hashing=hashing,
            poll_s=poll_s,
            ignore_exc=ignore_exc,
            connect_timeout=connect_timeout,
            timeout=timeout,
            retry_attempts=retry_attempts,
            retry_timeout=retry_timeout,
            dead_timeout=dead_timeout,
            max_pool_size=max_pool_size,
            serde=serde,
            key_prefix=key_prefix,
            default_noreply=default_noreply,
            allow_unicode_keys=allow_unicode_keys,
            encoding=encoding,
            no_delay=no_delay,
            socket_keepalive=socket_keepalive,
            socket_module=socket_module,
            tls_context=tls_context,
            use_vpc=use_vpc,
        )
        self._bad_time_s = connect_timeout + timeout
        self._lock = threading.Lock()
        self._poller: Poller | None = None
        self._known: View[NodePool] = View.empty(NoPool(self._options), self._options)
        # None until the first use, after a fork and after close(): then there is no poller.
        self._view: View[NodePool] | None = None
        self.polls = PollCounters()
        self._schedule = PollSchedule(poll_s)
        answered, changed = self.poll()
        self._schedule.polled(answered=answered, changed=changed)
        if not answered and not ignore_exc:
            raise NoNodes(f"nobody tells who the nodes are: {self.polls.last_error}")
        _clients.add(self)

    # Who the nodes are.

    def refresh(self) -> Topology | None:
        """Ask for the list now, and return what is known then. Raises nothing."""
        self.poll()
        return self.topology

    def poll(self) -> tuple[bool, bool]:
        """Ask for the list and follow it: whether anybody answered, whether the list changed."""
        topology = self._ask_around()
        answered = topology is not None
        changed = topology is not None and self._follow(topology)
        self.polls.answered_count += answered
        self.polls.unanswered_count += not answered
        self.polls.changed_count += changed
        for pool in self._known.pools:
            pool.trim()
        return answered, changed

    def _ask_around(self) -> Topology | None:
        known = self._known
        nodes = map(self._options.address_of, known.members)
        asking = survey(self._options.endpoints, nodes, known.topology, random.Random())
        try:
            endpoint = next(asking)
            while True:
                try:
                    endpoint = asking.send(ask(endpoint, self._options))
                except (OSError, ValueError) as error:
                    self.polls.last_error = f"{endpoint[0]}:{endpoint[1]}: {error}"
                    endpoint = asking.send(error)
        except StopIteration as done:
            topology: Topology | None = done.value
            return topology

    def _follow(self, topology: Topology) -> bool:
        with self._lock:
            known = self._known
            if not is_newer(topology, known.topology):
                return False
            view, gone = known.follow(topology, self._pool)
            self._known = view
            if self._view is not None:
                self._view = view
        for pool in gone:
            pool.retire()
        return True

    def _pool(self, member: Member) -> NodePool:
        return NodePool(member, self._options, self._node_failed)

    def _node_failed(self) -> None:
        if (poller := self._poller) is not None:
            poller.hasten()

    def _begin(self) -> View[NodePool]:
        with self._lock:
            if self._poller is None:
                try:
                    self._poller = Poller(self, self._schedule)
                except RuntimeError:
                    # No thread is to be had, as when the interpreter ends: requests go on.
                    return self._known
            self._view = self._known
            return self._view

    def _home(self, key: Key) -> NodePool:
        view = self._view
        if view is None:
            view = self._begin()
        return view.pools[view.index_of(key)]

    # One key.

    def get(self, key: Key, default: Any = None) -> Any:
        """The value, or `default`."""
        return self._home(key).run("get", default, key, default)

    def gets(self, key: Key, default: Any = None, cas_default: Any = None) -> tuple[Any, Any]:
        """Value and cas, or the defaults."""
        miss = (default, cas_default)
        pair: tuple[Any, Any] = self._home(key).run("gets", miss, key, default, cas_default)
        return pair

    def gat(self, key: Key, expire: int = 0, default: Any = None) -> Any:
        """The value, which from now on expires in `expire` seconds; or `default`."""
        return self._home(key).run("gat", default, key, expire, default)

    def gats(
        self, key: Key, expire: int = 0, default: Any = None, cas_default: Any = None
    ) -> tuple[Any, Any]:
        """As `gat`, with the cas."""
        miss = (default, cas_default)
        pair: tuple[Any, Any] = self._home(key).run("gats", miss, key, expire, default, cas_default)
        return pair

    def set(
        self,
        key: Key,
        value: Any,
        expire: int = 0,
        noreply: bool | None = None,
        flags: int | None = None,
    ) -> bool:
        """Whether it was stored."""
        return bool(self._home(key).run("set", False, key, value, expire, noreply, flags))

    def add(
        self,
        key: Key,
        value: Any,
        expire: int = 0,
        noreply: bool | None = None,
        flags: int | None = None,
    ) -> bool:
        """Store it if the key is not there: whether it was."""
        return bool(self._home(key).run("add", False, key, value, expire, noreply, flags))

    def replace(
        self,
        key: Key,
        value: Any,
        expire: int = 0,
        noreply: bool | None = None,
        flags: int | None = None,
    ) -> bool:
        """Store it if the key is there: whether it was."""
        return bool(self._home(key).run("replace", False, key, value, expire, noreply, flags))

    def append(
        self,
        key: Key,
        value: Any,
        expire: int = 0,
        noreply: bool | None = None,
        flags: int | None = None,
    ) -> bool:
        """Lengthen the value at its end: whether the key was there."""
        return bool(self._home(key).run("append", False, key, value, expire, noreply, flags))

    def prepend(
        self,
        key: Key,
        value: Any,
        expire: int = 0,
        noreply: bool | None = None,
        flags: int | None = None,
    ) -> bool:
        """Lengthen the value at its beginning: whether the key was there."""
        return bool(self._home(key).run("prepend", False, key, value, expire, noreply, flags))

    def cas(
        self,
        key: Key,
        value: Any,
        cas: int | str | bytes,
        expire: int = 0,
        noreply: bool = False,
        flags: int | None = None,
    ) -> bool | None:
        """Store it if nobody has since `gets`: whether it was; None: the key is not there."""
        stored: bool | None
        stored = self._home(key).run("cas", None, key, value, cas, expire, noreply, flags)
        return stored

    def incr(self, key: Key, value: int, noreply: bool = False) -> int | None:
        """The new number; None: the key is not there."""
        number: int | None = self._home(key).run("incr", None, key, value, noreply)
        return number

    def decr(self, key: Key, value: int, noreply: bool = False) -> int | None:
        """The new number, at least 0; None: the key is not there."""
        number: int | None = self._home(key).run("decr", None, key, value, noreply)
        return number

    def delete(self, key: Key, noreply: bool | None = None) -> bool:
        """Whether the key was there."""
        return bool(self._home(key).run("delete", False, key, noreply))

    def touch(self, key: Key, expire: int = 0, noreply: bool | None = None) -> bool:
        """Whether the key was there; it expires in `expire` seconds from now."""
        return bool(self._home(key).run("touch", False, key, expire, noreply))

    # Many keys.

    def get_many(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """The values of the keys that are there."""
        return self._fetch_many("get_many", keys)

    def gets_many(self, keys: Iterable[Key]) -> dict[Key, tuple[Any, Any]]:
        """Value and cas of the keys that are there."""
        return self._fetch_many("gets_many", keys)

    def set_many(
        self,
        values: Mapping[Key, Any],
        expire: int = 0,
        noreply: bool | None = None,
        flags: int | None = None,
    ) -> list[Key]:
        """The keys that were not stored."""
        failed: list[Key] = []
        arguments = (expire, noreply, flags)
        for keys, pool in self._by_node(values):
            batch = {key: values[key] for key in keys}
            failed += keys if pool is None else pool.run("set_many", keys, batch, *arguments)
        return failed

    def delete_many(self, keys: Iterable[Key], noreply: bool | None = None) -> bool:
        """Whether every key's node was told."""
        told = True
        for batch, pool in self._by_node(keys):
            told &= pool is not None and pool.run("delete_many", False, batch, noreply)
        return told

    get_multi = get_many
    gets_multi = gets_many
    set_multi = set_many
    delete_multi = delete_many

    def _fetch_many(self, command: str, keys: Iterable[Key]) -> dict[Key, Any]:
        found: dict[Key, Any] = {}
        for batch, pool in self._by_node(keys):
            if pool is not None:
                found.update(pool.run(command, {}, batch))
        return found

    def _by_node(self, keys: Iterable[Key]) -> Iterator[tuple[list[Key], NodePool | None]]:
        """The keys of each node; without the node once too much time was lost on bad ones."""
        view = self._view
        if view is None:
            view = self._begin()
        batches: dict[int, list[Key]] = {}
        for key in keys:
            batches.setdefault(view.index_of(key), []).append(key)
        pools = view.pools
        # The good ones first.
        indexes = sorted(batches, key=lambda index: pools[index].breaker.failures)
        lost_s = 0.0
        for index in indexes:
            pool = pools[index]
            if lost_s >= self._bad_time_s:
                yield batches[index], None
                continue
            started_s = time.monotonic()
            yield batches[index], pool
            if pool.breaker.failures:
                lost_s += time.monotonic() - started_s

    # All nodes.

    def flush_all(self, delay: int = 0, noreply: bool | None = None) -> bool:
        """Whether every node was told to flush, in `delay` seconds or now."""
        done = self._on_all("flush_all", False, delay, noreply)
        return bool(done) and all(told for _, told in done)

    def stats(self, *args: str) -> dict[str, dict[bytes, Any]]:
        """What each node answers to `stats`, by `host:port`; empty for one that does not."""
        return dict(self._on_all("stats", {}, *args))

    def _on_all(self, command: str, miss: Any, *args: Any) -> list[tuple[str, Any]]:
        view = self._view
        if view is None:
            view = self._begin()
        if not view.members:
            view.pools[0].run(command, miss)
        return [
            (member.address, pool.run(command, miss, *args))
            for member, pool in zip(view.members, view.pools, strict=False)
        ]

    def close(self) -> None:
        """Close what is idle and stop asking for the list. The next use begins anew.

        Requests of other threads end as they would have; then their connections are closed.
        """
        with self._lock:
            poller, self._poller = self._poller, None
            self._view = None
            pools = self._known.pools
        if poller is not None:
            poller.stop()
        for pool in pools:
            pool.close()

    disconnect_all = close
    quit = close

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # Not by close(): the lock may be held where the garbage was collected.
        if known := getattr(self, "_known", None):
            for pool in known.pools:
                pool.close()

    def _after_fork(self) -> None:
        # The lock may have been held by another thread, which does not exist here.
        self._lock = threading.Lock()
        self._poller = None
        self._view = None
        for pool in self._known.pools:
            pool.after_fork()


def _after_fork() -> None:
    for client in list(_clients):
        client._after_fork()


os.register_at_fork(after_in_child=_after_fork)

"""A node as the blocking client sees it: its connections, and the breaker that guards them."""

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from pymemcache.exceptions import MemcacheError, MemcacheIllegalInputError

from memcachepy.client.connection import Connection
from memcachepy.client.errors import NODES_ERRORS, NodeDown, NoNodes, PoolExhausted
from memcachepy.client.options import Options
from memcachepy.topology import Member


class NodePool:
    """The connections to one node. Any number of threads may use it.

    A request takes the connection that was used last, or makes one. Nothing is ever sent twice.

    Args:
        member: the node.
        options: of the client.
        on_failure: called after a failure that is the node's.
    """

    def __init__(
        self, member: Member, options: Options, on_failure: Callable[[], None] = lambda: None
    ) -> None:
        self.member = member
        self.breaker = options.breaker()
        self.error_count = 0
        """Requests that failed with an answer, or in the serializer: the node is well."""
        self.last_error = ""
        self._options = options
        self._address = options.address_of(member)
        self._on_failure = on_failure
        # pop and append are atomic: this path takes no lock.
        self._idle: deque[Connection] = deque()
        self._least_idle = 0
        self._retired = False
        self._closed_count = 0
        """A connection that was in use when it grew is not kept."""
        self._make_room()

    def _make_room(self) -> None:
        size = self._options.max_pool_size
        self._room = threading.BoundedSemaphore(size) if size is not None else None

    def run(self, command: str, miss: Any, *args: Any) -> Any:
        """Call a method of a connection.

        Args:
            command: the method's name.
            miss: what is returned instead, with `ignore_exc`.
            args: its arguments.

        Raises:
            MemcacheIllegalInputError: the arguments are wrong; also with `ignore_exc`.
            NodeDown, PoolExhausted, OSError, MemcacheError: see `DiscoveryClient`.
        """
        breaker, room = self.breaker, self._room
        has_room = False
        try:
            if breaker.is_open and not breaker.allows():
                if self._options.ignore_exc:
                    return miss
                reason = f"is not tried for the moment: {self.last_error}"
                raise NodeDown(f"{self.member.address} {reason}")
            if room is not None:
                has_room = room.acquire(timeout=self._options.timeout)
                if not has_room:
                    breaker.abandoned()
                    if self._options.ignore_exc:
                        return miss
                    raise PoolExhausted(f"{self.member.address} has all its connections in use")
            return self._exchange(command, miss, args)
        except (NodeDown, PoolExhausted):
            raise
        except BaseException:
            # A signal handler may raise anywhere; a breaker that knows how it ended knows still.
            breaker.abandoned()
            raise
        finally:
            if room is not None and has_room:
                room.release()

    def _exchange(self, command: str, miss: Any, args: tuple[Any, ...]) -> Any:
        closed_count = self._closed_count
        connection = self._taken()
        try:
            result = getattr(connection, command)(*args)
            if self.breaker.failures:
                self.breaker.succeeded()
        except BaseException as error:
            if not (isinstance(error, Exception) and connection.has_failed_by(error)):
                # Cut off in the middle of an exchange: an answer may still come.
                connection.close()
                raise
            if not self._survives(error):
                raise
            result = miss
        finally:
            self._give_back(connection, closed_count)
        return result

    def _taken(self) -> Connection:
        try:
            connection = self._idle.pop()
        except IndexError:
            return Connection(self._address, self._options)
        if len(self._idle) < self._least_idle:
            self._least_idle = len(self._idle)
        if connection.is_stale():
            connection.close()  # It connects again when it is used.
        return connection

    def _give_back(self, connection: Connection, closed_count: int) -> None:
        if connection.sock is None:
            return  # It has closed itself after an error.
        self._idle.append(connection)
        if self._retired or closed_count != self._closed_count:
            self._close_idle()

    def _survives(self, error: Exception) -> bool:
        """Keep the books of a request that failed; false: the error is the caller's business."""
        if isinstance(error, MemcacheIllegalInputError):
            self.breaker.abandoned()
            return False
        self.last_error = f"{type(error).__name__}: {error}"
        if isinstance(error, NODES_ERRORS):
            self.breaker.failed()
            self._on_failure()
        else:
            self.error_count += 1
            if isinstance(error, MemcacheError):
                self.breaker.succeeded()
            else:
                self.breaker.abandoned()
        return self._options.ignore_exc

    def trim(self) -> None:
        """Close the connections that nobody has needed since the last trim."""
        spare, self._least_idle = self._least_idle, len(self._idle)
        for _ in range(spare):
            try:
                self._idle.popleft().close()
            except IndexError:
                break

    def retire(self) -> None:
        """The node has left: connections in use are closed as they come back."""
        self._retired = True
        self.close()

    def close(self) -> None:
        """Close the idle connections, and those in use as they come back."""
        self._closed_count += 1
        self._close_idle()

    def _close_idle(self) -> None:
        while True:
            try:
                self._idle.pop().close()
            except IndexError:
                return

    def after_fork(self) -> None:
        """In the child: nothing is shared with the parent."""
        self.close()
        self.breaker.after_fork()
        self._make_room()


class NoPool(NodePool):
    """In the place of a node while none are known: everything is a miss."""

    def __init__(self, options: Options) -> None:
        super().__init__(Member("nobody", 1), options)

    def run(self, command: str, miss: Any, *args: Any) -> Any:  # noqa: ARG002
        if self._options.ignore_exc:
            return miss
        names = ", ".join(f"{host}:{port}" for host, port in self._options.endpoints)
        raise NoNodes(f"{names} has not told yet who the nodes are")

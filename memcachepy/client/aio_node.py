"""A node as the asyncio client sees it: its connections, and the breaker that guards them."""

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from pymemcache.exceptions import MemcacheError, MemcacheUnexpectedCloseError

from memcachepy.client.discovery import Endpoint, inquiry
from memcachepy.client.errors import NODES_ERRORS, NodeDown, NoNodes, PoolExhausted
from memcachepy.client.options import Options
from memcachepy.client.wire import Request
from memcachepy.topology import Member, Topology


class AioConnection(asyncio.Protocol):
    """One connection, on which one task at a time sends and reads.

    Raises:
        MemcacheUnexpectedCloseError: in what waits, the server has hung up.
    """

    def __init__(self) -> None:
        self.buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._lost = False
        self._paused = False

    @classmethod
    async def connect(cls, address: Endpoint, options: Options) -> "AioConnection":
        """A new one.

        Raises:
            OSError: it cannot be had; TimeoutError: not within `connect_timeout`.
        """
        loop = asyncio.get_running_loop()
        context = options.tls_context
        async with asyncio.timeout(options.connect_timeout):
            _, connection = await loop.create_connection(
                cls,
                *address,
                ssl=context,
                server_hostname=address[0] if context is not None else None,
            )
        keep = options.socket_keepalive
        if keep is not None:
            sock = connection.info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, keep.idle)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, keep.intvl)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, keep.cnt)
        return connection

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        self._lost = True
        self._wake()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # What the client calls.

    @property
    def is_stale(self) -> bool:
        """Whether the server has hung up, or has said what nobody asked for."""
        return self._lost or bool(self.buffer)

    def info(self, name: str) -> Any:
        assert self._transport is not None
        return self._transport.get_extra_info(name)

    async def send(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)
        while self._paused:
            await self._more()

    async def line(self) -> bytes:
        start = 0
        while (end := self.buffer.find(b"\n", start)) < 0:
            start = len(self.buffer)
            await self._more()
        return bytes(self._taken(end + 1)).rstrip(b"\r\n")

    async def exactly(self, count: int) -> bytes:
        while len(self.buffer) < count:
            await self._more()
        return bytes(self._taken(count))

    async def some(self) -> bytes:
        """What is there, at least a byte; empty: the server has hung up."""
        while not self.buffer and not self._lost:
            await self._wait()
        return bytes(self._taken(len(self.buffer)))

    def close(self) -> None:
        """Without waiting for what was not sent."""
        if self._transport is not None:
            self._transport.abort()

    def _taken(self, count: int) -> bytearray:
        taken = self.buffer[:count]
        del self.buffer[:count]
        return taken

    async def _more(self) -> None:
        if self._lost:
            raise MemcacheUnexpectedCloseError
        await self._wait()

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


async def ask(address: Endpoint, options: Options) -> Topology | None:
    """The list that a server knows; None: it is a plain memcached.

    Raises:
        OSError: it cannot be reached; TimeoutError: it took too long.
        ValueError: its answer is no list.
    """
    connection = await AioConnection.connect(address, options)
    try:
        async with asyncio.timeout(options.timeout):
            exchange = inquiry()
            to_send = next(exchange)
            while True:
                if to_send:
                    await connection.send(to_send)
                received = await connection.some()
                try:
                    to_send = exchange.send(received)
                except StopIteration as done:
                    topology: Topology | None = done.value
                    return topology
    finally:
        connection.close()


class AioNode:
    """The connections to one node, for the tasks of one event loop.

    A request takes the connection that was used last, or makes one. Nothing is ever sent twice,
    and a connection whose exchange was cut off, by a timeout or because its task was cancelled, is
    closed.

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
        self._idle: deque[AioConnection] = deque()
        self._least_idle = 0
        self._retired = False
        self._closed = False
        self._make_room()

    def _make_room(self) -> None:
        size = self._options.max_pool_size
        self._room = asyncio.Semaphore(size) if size is not None else None

    async def run(self, request: Request, miss: Any) -> Any:
        """Send the request and read its answer.

        Args:
            request: what to do.
            miss: what is returned instead, with `ignore_exc`.

        Raises:
            NodeDown, PoolExhausted, OSError, MemcacheError: see `DiscoveryClient`.
        """
        breaker = self.breaker
        if breaker.is_open and not breaker.allows():
            if self._options.ignore_exc:
                return miss
            raise NodeDown(f"{self.member.address} is not tried for the moment: {self.last_error}")
        room = self._room
        try:
            if room is None:
                return await self._exchange(request)
            try:
                async with asyncio.timeout(self._options.timeout):
                    await room.acquire()
            except TimeoutError:
                breaker.abandoned()
                if self._options.ignore_exc:
                    return miss
                message = f"{self.member.address} has all its connections in use"
                raise PoolExhausted(message) from None
            try:
                return await self._exchange(request)
            finally:
                room.release()
        except PoolExhausted:
            raise
        except Exception as error:
            self._note(error)
            if not self._options.ignore_exc:
                raise
            return miss
        except BaseException:
            breaker.abandoned()
            raise

    async def _exchange(self, request: Request) -> Any:
        while self._idle:
            connection = self._idle.pop()
            self._least_idle = min(self._least_idle, len(self._idle))
            if not connection.is_stale:
                break
            connection.close()
        else:
            connection = await AioConnection.connect(self._address, self._options)
        try:
            async with asyncio.timeout(self._options.timeout):
                await connection.send(request.data)
                result = await request.read(connection)
        except BaseException:
            # Also when the task was cancelled: the answer may still come.
            connection.close()
            raise
        if self.breaker.failures:
            self.breaker.succeeded()
        if self._retired or self._closed:
            connection.close()
        else:
            self._idle.append(connection)
        return result

    def _note(self, error: Exception) -> None:
        """Keep the books of a request that failed."""
        # asyncio's timeouts have nothing to say.
        said = str(error) or f"within {self._options.timeout} s"
        self.last_error = f"{type(error).__name__}: {said}"
        if isinstance(error, NODES_ERRORS):
            self.breaker.failed()
            self._on_failure()
            return
        self.error_count += 1
        if isinstance(error, MemcacheError):
            self.breaker.succeeded()
        else:
            self.breaker.abandoned()

    def trim(self) -> None:
        """Close the connections that nobody has needed since the last trim."""
        for _ in range(min(self._least_idle, len(self._idle))):
            self._idle.popleft().close()
        self._least_idle = len(self._idle)

    def retire(self) -> None:
        """The node has left: connections in use are closed as they come back."""
        self._retired = True
        self.close()

    def close(self) -> None:
        """Close the idle connections, and those in use as they come back, until `forget`."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    def forget(self) -> None:
        """Begin anew, maybe in another event loop: that of the connections cannot close them."""
        self._idle.clear()
        self._closed = False
        self._make_room()


class AioNobody(AioNode):
    """In the place of a node while none are known: everything is a miss."""

    def __init__(self, options: Options) -> None:
        super().__init__(Member("nobody", 1), options)

    async def run(self, request: Request, miss: Any) -> Any:  # noqa: ARG002
        if self._options.ignore_exc:
            return miss
        names = ", ".join(f"{host}:{port}" for host, port in self._options.endpoints)
        raise NoNodes(f"{names} has not told yet who the nodes are")

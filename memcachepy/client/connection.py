"""One blocking connection, which is pymemcache's, and the exchange that asks for the list."""

import select
import time
from collections.abc import Callable
from typing import Any

from pymemcache.client.base import Client
from pymemcache.exceptions import MemcacheError

from memcachepy.client.discovery import Endpoint, inquiry
from memcachepy.client.options import Options
from memcachepy.topology import Topology

_RECEIVE_BYTES = 1 << 16
_REQUESTS_ERRORS = (OSError, MemcacheError, ValueError, LookupError)
"""Of the system and pymemcache, whose last two are about answers that it cannot read."""


class _Serializer:
    """The user's, of which anything may come: it is noted, to be told from what comes otherwise."""

    __slots__ = ("_serde", "raised")

    def __init__(self, serde: Any) -> None:
        self._serde = serde
        self.raised: Exception | None = None

    def serialize(self, key: Any, value: Any) -> Any:
        try:
            return self._serde.serialize(key, value)
        except Exception as error:
            self.raised = error
            raise

    def deserialize(self, key: Any, value: bytes, client_flags: int) -> Any:
        try:
            return self._serde.deserialize(key, value, client_flags)
        except Exception as error:
            self.raised = error
            raise


class Connection(Client):  # type: ignore[misc]
    """pymemcache's Client with `gat`, which closes itself after any error and connects when used.

    It is used by one thread at a time.
    """

    def __init__(self, address: Endpoint, options: Options) -> None:
        super().__init__(
            address,
            serde=_Serializer(options.serde),
            connect_timeout=options.connect_timeout,
            timeout=options.timeout,
            no_delay=options.no_delay,
            socket_module=options.socket_module,
            socket_keepalive=options.socket_keepalive,
            key_prefix=options.key_prefix,
            default_noreply=options.default_noreply,
            allow_unicode_keys=options.allow_unicode_keys,
            encoding=options.encoding,
            tls_context=options.tls_context,
        )
        self._poll: Callable[[int], list[tuple[int, int]]] | None = None

    def _connect(self) -> None:
        # Tries every address of a name, where pymemcache's own takes the first.
        self.close()
        module = self.socket_module
        sock = module.create_connection(self.server, self.connect_timeout)
        try:
            if self.no_delay:
                sock.setsockopt(module.IPPROTO_TCP, module.TCP_NODELAY, 1)
            if self.socket_keepalive is not None:
                keep = self.socket_keepalive
                sock.setsockopt(module.SOL_SOCKET, module.SO_KEEPALIVE, 1)
                sock.setsockopt(module.IPPROTO_TCP, module.TCP_KEEPIDLE, keep.idle)
                sock.setsockopt(module.IPPROTO_TCP, module.TCP_KEEPINTVL, keep.intvl)
                sock.setsockopt(module.IPPROTO_TCP, module.TCP_KEEPCNT, keep.cnt)
            if self.tls_context is not None:
                sock = self.tls_context.wrap_socket(sock, server_hostname=self.server[0])
            sock.settimeout(self.timeout)
        except BaseException:
            sock.close()
            raise
        self.sock = sock
        poll = select.poll()
        # TLS says things of its own between the answers: only an end counts there.
        poll.register(sock, select.POLLIN if self.tls_context is None else select.POLLRDHUP)
        self._poll = poll.poll

    def close(self) -> None:
        self._poll = None
        super().close()

    def is_stale(self) -> bool:
        """Whether the server has hung up, or said what nobody asked for, since the last answer.

        Looked at before a request is sent: so a node that was restarted costs no request for each
        connection that it had.
        """
        poll = self._poll
        return poll is not None and bool(poll(0))

    def has_failed_by(self, error: Exception) -> bool:
        """Whether it comes of the last request: of the node, the network or the serializer.

        If not it comes from elsewhere, as from a signal handler, and is no business of ours.
        """
        raised, self.serde.raised = self.serde.raised, None
        return raised is error or isinstance(error, _REQUESTS_ERRORS)

    def gat(self, key: str | bytes, expire: int = 0, default: Any = None) -> Any:
        found = self._fetch_cmd(*self._touching(b"gat", key, expire), False, self.key_prefix)
        return found.get(key, default)

    def gats(
        self, key: str | bytes, expire: int = 0, default: Any = None, cas_default: Any = None
    ) -> tuple[Any, Any]:
        found = self._fetch_cmd(*self._touching(b"gats", key, expire), True, self.key_prefix)
        pair: tuple[Any, Any] = found.get(key, (default, cas_default))
        return pair

    def _touching(
        self, name: bytes, key: str | bytes, expire: int
    ) -> tuple[bytes, list[str | bytes]]:
        return name + b" " + self._check_integer(expire, "expire"), [key]


def ask(address: Endpoint, options: Options) -> Topology | None:
    """The list that a server knows; None: it is a plain memcached.

    Takes at most `connect_timeout` for each address that the name has, and `timeout`; but
    resolving the name takes what the system's resolver takes.

    Raises:
        OSError: it cannot be reached, or took too long.
        ValueError: its answer is no list.
    """
    module = options.socket_module
    sock = module.create_connection(address, options.connect_timeout)
    try:
        deadline_s = time.monotonic() + options.timeout
        sock.settimeout(options.timeout)
        if options.tls_context is not None:
            sock = options.tls_context.wrap_socket(sock, server_hostname=address[0])
        exchange = inquiry()
        to_send = next(exchange)
        while True:
            if to_send:
                sock.sendall(to_send)
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError(f"{address[0]}:{address[1]} took more than {options.timeout} s")
            sock.settimeout(left_s)
            try:
                to_send = exchange.send(sock.recv(_RECEIVE_BYTES))
            except StopIteration as done:
                topology: Topology | None = done.value
                return topology
    finally:
        sock.close()

"""What can be chosen about a client: one checked value for the blocking and the asyncio client."""

import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypedDict

from pymemcache.serde import LegacyWrappingSerde

from memcachepy.client.breaker import Breaker
from memcachepy.client.discovery import Endpoint, endpoints_of
from memcachepy.client.hashing import HASHINGS, Hashing
from memcachepy.errors import ConfigError
from memcachepy.topology import Member


class AioOptions(TypedDict, total=False):
    """The parameters of the asyncio client, which are those of the blocking one."""

    hashing: Hashing
    poll_s: float
    ignore_exc: bool
    connect_timeout: float
    timeout: float
    retry_attempts: int
    retry_timeout: float
    dead_timeout: float
    max_pool_size: int | None
    serde: Any
    key_prefix: str | bytes
    default_noreply: bool
    allow_unicode_keys: bool
    encoding: str
    socket_keepalive: Any
    tls_context: ssl.SSLContext | None
    use_vpc: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The parameters of `DiscoveryClient`, which describes them.

    Raises:
        ConfigError: one has a value that it cannot have.
    """

    endpoints: tuple[Endpoint, ...]
    hashing: Hashing = "rendezvous"
    poll_s: float = 60.0
    ignore_exc: bool = True
    connect_timeout: float = 1.0
    timeout: float = 1.0
    retry_attempts: int = 2
    retry_timeout: float = 1.0
    dead_timeout: float = 15.0
    max_pool_size: int | None = None
    serde: Any = None
    key_prefix: bytes = b""
    default_noreply: bool = True
    allow_unicode_keys: bool = False
    encoding: str = "ascii"
    no_delay: bool = True
    socket_keepalive: Any = None
    socket_module: ModuleType = socket
    tls_context: ssl.SSLContext | None = None
    use_vpc: bool = True

    def __post_init__(self) -> None:
        if self.hashing not in HASHINGS:
            raise ConfigError("hashing", self.hashing, f"must be one of {', '.join(HASHINGS)}")
        for name in ("poll_s", "connect_timeout", "timeout", "retry_timeout", "dead_timeout"):
            # 0 would be "never", or a connection that never waits; and None for ever.
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 < value <= 86_400:
                raise ConfigError(name, value, "must be more than 0 and at most 86400 seconds")
        if self.retry_attempts < 0:
            raise ConfigError("retry_attempts", self.retry_attempts, "must be 0 or more")
        if self.max_pool_size is not None and self.max_pool_size < 1:
            raise ConfigError("max_pool_size", self.max_pool_size, "must be None or 1 or more")
        if not isinstance(self.key_prefix, bytes):
            raise ConfigError("key_prefix", self.key_prefix, "must be bytes")

    @classmethod
    def of(
        cls,
        servers: str | Endpoint | Iterable[str | Endpoint],
        key_prefix: str | bytes = b"",
        serde: Any = None,
        use_vpc: bool | None = None,
        **others: Any,
    ) -> "Options":
        """From what a client was constructed with."""
        return cls(
            endpoints=endpoints_of(servers),
            key_prefix=key_prefix.encode("ascii") if isinstance(key_prefix, str) else key_prefix,
            serde=serde or LegacyWrappingSerde(None, None),
            use_vpc=others.get("tls_context") is None if use_vpc is None else use_vpc,
            **others,
        )

    def breaker(self) -> Breaker:
        """A new one, for one node."""
        return Breaker(self.retry_attempts + 1, self.retry_timeout, self.dead_timeout)

    def address_of(self, member: Member) -> Endpoint:
        """Where to connect to."""
        return (member.ip if self.use_vpc and member.ip else member.host, member.port)

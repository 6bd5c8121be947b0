"""Adapters of clients that speak the binary protocol."""

from collections.abc import Callable, Sequence
from typing import Any

from adapter import TIMEOUT_S, Adapter, Value, needed
from classic_clients import Pylibmc


class PylibmcBinary(Pylibmc):
    # libmemcached waits five seconds for the rest of the answer to a touch that found nothing.
    lacks = frozenset({"touch"})
    binary = True


class Bmemcached(Adapter):
    """python-binary-memcached: the binary protocol, quiet commands for many keys."""

    lacks = frozenset({"set_silently", "append", "prepend", "touch"})

    def __init__(self, address: tuple[str, int]) -> None:
        bmemcached = needed("bmemcached", "python-binary-memcached")
        self._exception = needed("bmemcached.exceptions", "python-binary-memcached")
        self._client = bmemcached.Client(
            [f"{address[0]}:{address[1]}"], socket_timeout=TIMEOUT_S, compression=None
        )

    def close(self) -> None:
        self._client.disconnect_all()

    def set(self, key: str, value: Value, exptime: int = 0) -> bool:
        return bool(self._client.set(key, value, exptime))

    def set_many(self, values: dict[str, Value]) -> bool:
        return self._client.set_multi(values) == []

    def get(self, key: str) -> Value | None:
        return self._client.get(key)

    def get_many(self, keys: Sequence[str]) -> dict[str, Value]:
        return self._client.get_multi(keys)

    def gets(self, key: str) -> tuple[Value, Any]:
        return self._client.gets(key)

    def cas(self, key: str, value: Value, token: Any) -> bool:
        return bool(self._client.cas(key, value, token))

    def add(self, key: str, value: Value) -> bool:
        return bool(self._client.add(key, value))

    def replace(self, key: str, value: Value) -> bool:
        return bool(self._client.replace(key, value))

    def delete(self, key: str) -> bool:
        found = self._client.get(key) is not None  # A miss counts as success here, too.
        return bool(self._client.delete(key)) and found

    def incr(self, key: str, delta: int) -> int | None:
        return self._counted(self._client.incr, key, delta)

    def decr(self, key: str, delta: int) -> int | None:
        return self._counted(self._client.decr, key, delta)

    def _counted(self, change: Callable[..., int], key: str, delta: int) -> int | None:
        never_create = 0xFFFFFFFF
        try:
            return change(key, delta, time=never_create)
        except self._exception.MemcachedException as error:
            if error.code == 1:  # Key not found.
                return None
            raise

"""Adapters of clients that speak the classic protocol and wait for each answer."""

from collections.abc import Sequence
from typing import Any

from adapter import TIMEOUT_S, Adapter, Value, needed


class Pymemcache(Adapter):
    def __init__(self, address: tuple[str, int]) -> None:
        base = needed("pymemcache.client.base", "pymemcache")
        serde = needed("pymemcache.serde", "pymemcache")
        self._client = base.Client(
            address,
            timeout=TIMEOUT_S,
            connect_timeout=TIMEOUT_S,
            serde=serde.pickle_serde,
            allow_unicode_keys=True,
            default_noreply=False,
        )

    def close(self) -> None:
        self._client.close()

    def set(self, key: str, value: Value, exptime: int = 0) -> bool:
        return bool(self._client.set(key, value, exptime))

    def set_silently(self, key: str, value: Value) -> None:
        self._client.set(key, value, noreply=True)

    def set_many(self, values: dict[str, Value]) -> bool:
        return self._client.set_many(values) == []

    def get(self, key: str) -> Value | None:
        return self._client.get(key)

    def get_many(self, keys: Sequence[str]) -> dict[str, Value]:
        return self._client.get_many(keys)

    def gets(self, key: str) -> tuple[Value, Any]:
        return self._client.gets(key)

    def cas(self, key: str, value: Value, token: Any) -> bool:
        return bool(self._client.cas(key, value, token))

    def add(self, key: str, value: Value) -> bool:
        return bool(self._client.add(key, value))

    def replace(self, key: str, value: Value) -> bool:
        return bool(self._client.replace(key, value))

    def append(self, key: str, value: Value) -> bool:
        return bool(self._client.append(key, value))

    def prepend(self, key: str, value: Value) -> bool:
        return bool(self._client.prepend(key, value))

    def delete(self, key: str) -> bool:
        return bool(self._client.delete(key))

    def incr(self, key: str, delta: int) -> int | None:
        return self._client.incr(key, delta)

    def decr(self, key: str, delta: int) -> int | None:
        return self._client.decr(key, delta)

    def touch(self, key: str, exptime: int) -> bool:
        return bool(self._client.touch(key, exptime))


class PythonMemcached(Adapter):
    def __init__(self, address: tuple[str, int]) -> None:
        memcache = needed("memcache", "python-memcached")
        # It remembers the token of the last gets itself.
        self._client = memcache.Client(
            [f"{address[0]}:{address[1]}"], socket_timeout=TIMEOUT_S, cache_cas=True
        )

    def close(self) -> None:
        self._client.disconnect_all()

    def set(self, key: str, value: Value, exptime: int = 0) -> bool:
        return bool(self._client.set(key, value, exptime))

    def set_silently(self, key: str, value: Value) -> None:
        self._client.set(key, value, noreply=True)

    def set_many(self, values: dict[str, Value]) -> bool:
        return self._client.set_multi(values) == []

    def get(self, key: str) -> Value | None:
        return self._client.get(key)

    def get_many(self, keys: Sequence[str]) -> dict[str, Value]:
        return self._client.get_multi(keys)

    def gets(self, key: str) -> tuple[Value, Any]:
        return self._client.gets(key), self._client.cas_ids[key.encode()]

    def cas(self, key: str, value: Value, token: Any) -> bool:
        self._client.cas_ids[key.encode()] = token
        return bool(self._client.cas(key, value))

    def add(self, key: str, value: Value) -> bool:
        return bool(self._client.add(key, value))

    def replace(self, key: str, value: Value) -> bool:
        return bool(self._client.replace(key, value))

    def append(self, key: str, value: Value) -> bool:
        return bool(self._client.append(key, value))

    def prepend(self, key: str, value: Value) -> bool:
        return bool(self._client.prepend(key, value))

    def delete(self, key: str) -> bool:
        # Success to this client is "it is gone"; what was there is asked first.
        found = self._client.get(key) is not None
        return bool(self._client.delete(key)) and found

    def incr(self, key: str, delta: int) -> int | None:
        return self._client.incr(key, delta)

    def decr(self, key: str, delta: int) -> int | None:
        return self._client.decr(key, delta)

    def touch(self, key: str, exptime: int) -> bool:
        return bool(self._client.touch(key, exptime))


class Pylibmc(Adapter):
    binary = False

    def __init__(self, address: tuple[str, int]) -> None:
        self._pylibmc = needed("pylibmc", "pylibmc")
        self._client = self._pylibmc.Client([f"{address[0]}:{address[1]}"], binary=self.binary)
        self._client.behaviors = {
            "cas": True,
            "tcp_nodelay": True,
            "receive_timeout": TIMEOUT_S * 1_000_000,
            "send_timeout": TIMEOUT_S * 1_000_000,
        }

    def close(self) -> None:
        self._client.disconnect_all()

    def set(self, key: str, value: Value, exptime: int = 0) -> bool:
        return bool(self._client.set(key, value, exptime))

    def set_silently(self, key: str, value: Value) -> None:
        self._client.behaviors = {"_noreply": True}
        try:
            self._client.set(key, value)
        finally:
            self._client.behaviors = {"_noreply": False}

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
        try:
            return bool(self._client.replace(key, value))
        except self._pylibmc.NotFound:  # What the binary protocol says.
            return False

    def append(self, key: str, value: Value) -> bool:
        return bool(self._client.append(key, value))

    def prepend(self, key: str, value: Value) -> bool:
        return bool(self._client.prepend(key, value))

    def delete(self, key: str) -> bool:
        return bool(self._client.delete(key))

    def incr(self, key: str, delta: int) -> int | None:
        try:
            return self._client.incr(key, delta)
        except self._pylibmc.NotFound:
            return None

    def decr(self, key: str, delta: int) -> int | None:
        try:
            return self._client.decr(key, delta)
        except self._pylibmc.NotFound:
            return None

    def touch(self, key: str, exptime: int) -> bool:
        return bool(self._client.touch(key, exptime))

"""Adapters of clients that speak meta commands."""

from collections.abc import Sequence
from typing import Any

from adapter import TIMEOUT_S, Adapter, Value, needed

READ_BUFFER_BYTES = 2 << 20


class MetaMemcache(Adapter):
    """meta-memcache: meta commands only, many keys pipelined, keys beyond ASCII as base64."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._meta = meta = needed("meta_memcache", "meta-memcache")
        configuration = needed("meta_memcache.configuration", "meta-memcache")
        self._pools: list[Any] = []
        build = configuration.connection_pool_factory_builder(
            max_pool_size=1,
            connection_timeout=TIMEOUT_S,
            recv_timeout=TIMEOUT_S,
            read_buffer_size=2 << 20,
        )

        def build_and_note(server: Any) -> Any:
            self._pools.append(build(server))
            return self._pools[-1]

        self._client = meta.CacheClient.cache_client_from_servers(
            servers=[configuration.ServerAddress(*address)],
            connection_pool_factory_fn=build_and_note,
        )

    def close(self) -> None:
        for pool in self._pools:
            while pool.get_counters().available:
                pool.pop_connection().close()

    def _set(self, key: str, value: Value, mode: str) -> bool:
        return self._client.set(
            self._meta.Key(key), value, ttl=0, set_mode=self._meta.SetMode[mode]
        )

    def set(self, key: str, value: Value, exptime: int = 0) -> bool:
        return self._client.set(self._meta.Key(key), value, ttl=exptime)

    def set_silently(self, key: str, value: Value) -> None:
        self._client.set(self._meta.Key(key), value, ttl=0, no_reply=True)

    def set_many(self, values: dict[str, Value]) -> bool:
        return all(self.set(key, value) for key, value in values.items())

    def get(self, key: str) -> Value | None:
        return self._client.get(self._meta.Key(key))

    def get_many(self, keys: Sequence[str]) -> dict[str, Value]:
        found = self._client.multi_get([self._meta.Key(key) for key in keys])
        return {key.key: value for key, value in found.items() if value is not None}

    def gets(self, key: str) -> tuple[Value, Any]:
        return self._client.get_cas(self._meta.Key(key))

    def cas(self, key: str, value: Value, token: Any) -> bool:
        return self._client.set(self._meta.Key(key), value, ttl=0, cas_token=token)

    def add(self, key: str, value: Value) -> bool:
        return self._set(key, value, "ADD")

    def replace(self, key: str, value: Value) -> bool:
        return self._set(key, value, "REPLACE")

    def append(self, key: str, value: Value) -> bool:
        return self._set(key, value, "APPEND")

    def prepend(self, key: str, value: Value) -> bool:
        return self._set(key, value, "PREPEND")

    def delete(self, key: str) -> bool:
        return self._client.delete(self._meta.Key(key))

    def incr(self, key: str, delta: int) -> int | None:
        return self._client.delta_and_get(self._meta.Key(key), delta)

    def decr(self, key: str, delta: int) -> int | None:
        return self._client.delta_and_get(self._meta.Key(key), -delta)

    def touch(self, key: str, exptime: int) -> bool:
        return self._client.touch(self._meta.Key(key), exptime)

"""Adapters of clients of asyncio. Both leave the client flags to the application."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from adapter import TIMEOUT_S, Adapter, Value, needed

_TYPES: tuple[type, ...] = (bytes, str, int)


class _Asynchronous(Adapter):
    """A client of asyncio, driven a call at a time by a loop of its own."""

    def _start(self) -> None:
        self._loop = asyncio.new_event_loop()

    def _run(self, awaitable: Awaitable[Any]) -> Any:
        async def limited() -> Any:
            return await asyncio.wait_for(awaitable, TIMEOUT_S)

        return self._loop.run_until_complete(limited())

    def _stop(self) -> None:
        # A transport that was closed ends in a later turn of the loop.
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()


def _encoded(value: Value) -> tuple[bytes, int]:
    data = value if isinstance(value, bytes) else str(value).encode()
    return data, _TYPES.index(type(value))


def _decoded(data: bytes, client_flags: int) -> Value:
    kind = _TYPES[client_flags]
    return data if kind is bytes else kind(data.decode())


class Aiomcache(_Asynchronous):
    lacks = frozenset({"set_silently"})

    def __init__(self, address: tuple[str, int]) -> None:
        self._aiomcache = needed("aiomcache", "aiomcache")

        async def encode(value: Value) -> tuple[bytes, int]:
            return _encoded(value)

        async def decode(data: bytes, client_flags: int) -> Value:
            return _decoded(data, client_flags)

        self._start()
        self._client = self._aiomcache.FlagClient(
            *address, pool_size=1, get_flag_handler=decode, set_flag_handler=encode
        )

    def close(self) -> None:
        self._run(self._client.close())
        self._stop()

    def set(self, key: str, value: Value, exptime: int = 0) -> bool:
        return bool(self._run(self._client.set(key.encode(), value, exptime)))

    def set_many(self, values: dict[str, Value]) -> bool:
        return all(self.set(key, value) for key, value in values.items())

    def get(self, key: str) -> Value | None:
        return self._run(self._client.get(key.encode()))

    def get_many(self, keys: Sequence[str]) -> dict[str, Value]:
        found = self._run(self._client.multi_get(*(key.encode() for key in keys)))
        return {key: value for key, value in zip(keys, found, strict=True) if value is not None}

    def gets(self, key: str) -> tuple[Value, Any]:
        return self._run(self._client.gets(key.encode()))

    def cas(self, key: str, value: Value, token: Any) -> bool:
        return bool(self._run(self._client.cas(key.encode(), value, token)))

    def add(self, key: str, value: Value) -> bool:
        return bool(self._run(self._client.add(key.encode(), value)))

    def replace(self, key: str, value: Value) -> bool:
        return bool(self._run(self._client.replace(key.encode(), value)))

    def append(self, key: str, value: Value) -> bool:
        return bool(self._run(self._client.append(key.encode(), value)))

    def prepend(self, key: str, value: Value) -> bool:
        return bool(self._run(self._client.prepend(key.encode(), value)))

    def delete(self, key: str) -> bool:
        return bool(self._run(self._client.delete(key.encode())))

    def incr(self, key: str, delta: int) -> int | None:
        return self._counted(self._client.incr(key.encode(), delta))

    def decr(self, key: str, delta: int) -> int | None:
        return self._counted(self._client.decr(key.encode(), delta))

    def _counted(self, awaitable: Awaitable[int]) -> int | None:
        try:
            return self._run(awaitable)
        except self._aiomcache.ClientException as error:
            if "NOT_FOUND" in str(error):
                return None
            raise

    def touch(self, key: str, exptime: int) -> bool:
        return bool(self._run(self._client.touch(key.encode(), exptime)))


class Emcache(_Asynchronous):
    def __init__(self, address: tuple[str, int]) -> None:
        self._emcache = needed("emcache", "emcache")
        self._start()
        self._client = self._run(
            self._emcache.create_client(
                [self._emcache.MemcachedHostAddress(*address)],
                timeout=TIMEOUT_S,
                max_connections=1,
                purge_unused_connections_after=None,
            )
        )

    def close(self) -> None:
        self._run(self._client.close())
        self._stop()

    def _stored(self, awaitable: Awaitable[None]) -> bool:
        """Whether a command that answers by an exception did what it should."""
        try:
            self._run(awaitable)
        except (
            self._emcache.NotStoredStorageCommandError,
            self._emcache.NotFoundCommandError,
        ):
            return False
        return True

    def _flagged(
        self, call: Callable[..., Awaitable[None]], key: str, value: Value, *more: int, **also: Any
    ) -> bool:
        data, client_flags = _encoded(value)
        return self._stored(call(key.encode(), data, *more, flags=client_flags, **also))

    def set(self, key: str, value: Value, exptime: int = 0) -> bool:
        return self._flagged(self._client.set, key, value, exptime=exptime)

    def set_silently(self, key: str, value: Value) -> None:
        self._flagged(self._client.set, key, value, noreply=True)

    def set_many(self, values: dict[str, Value]) -> bool:
        return all(self.set(key, value) for key, value in values.items())

    def get(self, key: str) -> Value | None:
        item = self._run(self._client.get(key.encode(), return_flags=True))
        return None if item is None else _decoded(item.value, item.flags)

    def get_many(self, keys: Sequence[str]) -> dict[str, Value]:
        found = self._run(self._client.get_many([key.encode() for key in keys], return_flags=True))
        return {key.decode(): _decoded(item.value, item.flags) for key, item in found.items()}

    def gets(self, key: str) -> tuple[Value, Any]:
        item = self._run(self._client.gets(key.encode(), return_flags=True))
        return _decoded(item.value, item.flags), item.cas

    def cas(self, key: str, value: Value, token: Any) -> bool:
        data, client_flags = _encoded(value)
        try:
            self._run(self._client.cas(key.encode(), data, token, flags=client_flags))
        except self._emcache.NotStoredStorageCommandError:
            return False
        return True

    def add(self, key: str, value: Value) -> bool:
        return self._flagged(self._client.add, key, value)

    def replace(self, key: str, value: Value) -> bool:
        return self._flagged(self._client.replace, key, value)

    def append(self, key: str, value: Value) -> bool:
        return self._stored(self._client.append(key.encode(), _encoded(value)[0]))

    def prepend(self, key: str, value: Value) -> bool:
        return self._stored(self._client.prepend(key.encode(), _encoded(value)[0]))

    def delete(self, key: str) -> bool:
        return self._stored(self._client.delete(key.encode()))

    def incr(self, key: str, delta: int) -> int | None:
        return self._counted(self._client.increment(key.encode(), delta))

    def decr(self, key: str, delta: int) -> int | None:
        return self._counted(self._client.decrement(key.encode(), delta))

    def _counted(self, awaitable: Awaitable[int]) -> int | None:
        try:
            return self._run(awaitable)
        except self._emcache.NotFoundCommandError:
            return None

    def touch(self, key: str, exptime: int) -> bool:
        return self._stored(self._client.touch(key.encode(), exptime))

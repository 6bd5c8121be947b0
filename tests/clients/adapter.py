"""One face for the clients that applications use, so that the same facts are asked of all.

An adapter adds nothing: each method is one call of its client, with the answer in the common form.
Values are bytes, text or integers; the client notes in the client flags what it was.
"""

import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any, ClassVar

import pytest

Value = bytes | str | int
TIMEOUT_S = 10


def needed(module: str, package: str) -> ModuleType:
    """A client's module; skips the test, and says so, where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        pytest.skip(f"NOT ASKED: {package} is not installed (pip install '.[clients]')")


class Adapter:
    """What the facts ask of a client. `lacks` names the methods that the client does not have."""

    lacks: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, address: tuple[str, int]) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def set(self, key: str, value: Value, exptime: int = 0) -> bool:
        raise NotImplementedError

    def set_silently(self, key: str, value: Value) -> None:
        """Set without waiting for an answer."""
        raise NotImplementedError

    def set_many(self, values: dict[str, Value]) -> bool:
        raise NotImplementedError

    def get(self, key: str) -> Value | None:
        raise NotImplementedError

    def get_many(self, keys: Sequence[str]) -> dict[str, Value]:
        raise NotImplementedError

    def gets(self, key: str) -> tuple[Value, Any]:
        """The value, and what `cas` wants to see again."""
        raise NotImplementedError

    def cas(self, key: str, value: Value, token: Any) -> bool:
        raise NotImplementedError

    def add(self, key: str, value: Value) -> bool:
        raise NotImplementedError

    def replace(self, key: str, value: Value) -> bool:
        raise NotImplementedError

    def append(self, key: str, value: Value) -> bool:
        raise NotImplementedError

    def prepend(self, key: str, value: Value) -> bool:
        raise NotImplementedError

    def delete(self, key: str) -> bool:
        raise NotImplementedError

    def incr(self, key: str, delta: int) -> int | None:
        raise NotImplementedError

    def decr(self, key: str, delta: int) -> int | None:
        raise NotImplementedError

    def touch(self, key: str, exptime: int) -> bool:
        raise NotImplementedError

"""Waiting for a condition, with a deadline. Tests never sleep for a fixed time and hope."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_PAUSE_S = 0.002


class Timeout(AssertionError):
    """The condition did not come true before its deadline."""


def wait_until(condition: Callable[[], T], what: str, timeout_s: float = 10.0) -> T:
    """Poll until the condition is true; returns its value.

    Raises:
        Timeout: naming `what` was waited for and the last value seen.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise Timeout(f"waited {timeout_s} s in vain for {what}; last value: {value!r}")
        time.sleep(_PAUSE_S)

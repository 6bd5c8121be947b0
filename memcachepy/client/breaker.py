"""A circuit breaker: a node that fails again and again is left alone for a while."""

import random
import threading
import time
from collections.abc import Callable

Clock = Callable[[], float]


class Breaker:
    """Counts one node's failures in a row; any thread may use it.

    Closed, it lets every request pass. After `failures_max` failures in a row it opens: requests
    fail without being tried. After a pause it lets one through (half-open): if that succeeds it
    closes; if it fails the next pause is twice as long.

    Whoever was let through says how it ended: `succeeded`, `failed`, or `abandoned`. To keep the
    path of a working node short, callers look at `is_open` before `allows()` and at `failures`
    before `succeeded()`; what a race costs there is a request too many, or a failure forgotten.

    Args:
        failures_max: at which it opens.
        pause_s: the first pause; each one is up to a tenth longer at random, so that the clients of
            a cluster do not come back together.
        pause_max_s: the longest.
        clock: monotonic seconds.
    """

    __slots__ = (
        "_clock",
        "_failures_max",
        "_lock",
        "_open_until_s",
        "_pause_first_s",
        "_pause_max_s",
        "_pause_s",
        "_probing",
        "failed_count",
        "failures",
        "is_open",
        "opened_count",
        "refused_count",
    )

    def __init__(
        self,
        failures_max: int = 3,
        pause_s: float = 1.0,
        pause_max_s: float = 15.0,
        clock: Clock = time.monotonic,
    ) -> None:
        self._failures_max = failures_max
        self._pause_first_s = pause_s
        self._pause_max_s = pause_max_s
        self._clock = clock
        self._pause_s = pause_s
        self._open_until_s = 0.0
        self._probing = False
        self._lock = threading.Lock()
        self.is_open = False
        """Open or half-open."""
        self.failures = 0
        """In a row, until now."""
        self.failed_count = 0
        self.opened_count = 0
        """How often it went from closed to open."""
        self.refused_count = 0
        """Requests that were not tried."""

    @property
    def state(self) -> str:
        """`closed`, `open`, or `half-open`: the next request, or one under way, is the probe."""
        if not self.is_open:
            return "closed"
        return "half-open" if self._probing or self._clock() >= self._open_until_s else "open"

    def allows(self) -> bool:
        """Whether a request may be tried now; while half-open, one at a time."""
        with self._lock:
            if not self.is_open:
                return True
            if self._probing or self._clock() < self._open_until_s:
                self.refused_count += 1
                return False
            self._probing = True
            return True

    def succeeded(self) -> None:
        with self._lock:
            self.failures = 0
            self.is_open = False
            self._probing = False
            self._pause_s = self._pause_first_s

    def failed(self) -> None:
        with self._lock:
            self.failures += 1
            self.failed_count += 1
            if self._probing:
                self._probing = False
                self._pause_s = min(2 * self._pause_s, self._pause_max_s)
            elif self.is_open or self.failures < self._failures_max:
                # One that was under way when it opened says nothing new.
                return
            else:
                self.opened_count += 1
            self.is_open = True
            self._open_until_s = self._clock() + self._pause_s * random.uniform(1.0, 1.1)

    def abandoned(self) -> None:
        """The request was given up before it could show anything."""
        with self._lock:
            self._probing = False

    def try_now(self) -> None:
        """The list has changed: the node may be another one, so the pause is over."""
        with self._lock:
            self._open_until_s = 0.0
            self._pause_s = self._pause_first_s
            self._probing = False

    def after_fork(self) -> None:
        """In the child: the thread that held the lock, or was probing, is not here."""
        self._lock = threading.Lock()
        self._probing = False

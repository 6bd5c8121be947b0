"""Who holds a lock and does not run on: stopped by a signal, by a debugger, by a frozen cgroup.

A process slot says which shard's lock its process holds, and counts the locks it takes. The same
pair in several samples is one long hold. Only the watcher's own running time counts: while it was
itself stopped, or the machine paused, it could not see who moved on.
"""

from collections.abc import Iterable
from typing import NamedTuple

TICK_S = 1.0
STUCK_AFTER_S = 3.0
"""A hold takes microseconds; the longest repair, milliseconds."""


class Holder(NamedTuple):
    """A process that holds a lock, as `Segment.lock_holders` tells it."""

    slot: int
    pid: int
    shard: int
    """-1: the page pool; -2: the configurations."""
    lock_count: int

    @property
    def lock(self) -> str:
        if self.shard >= 0:
            return f"shard-{self.shard}"
        return "page-pool" if self.shard == -1 else "configurations"


class Watch:
    """Told once a tick who holds a lock, says whose hold lasts too long.

    Args:
        now_s: when it is made, on the clock of `tick`: monotonic.
    """

    def __init__(self, now_s: float) -> None:
        self.due_at_s = now_s + TICK_S
        """When the next tick should come."""
        self.stuck: frozenset[Holder] = frozenset()
        """As of the last tick."""
        self._ticked_at_s = now_s
        self._held_s: dict[Holder, float] = {}

    def tick(self, now_s: float, holders: Iterable[Holder]) -> tuple[list[Holder], list[Holder]]:
        """Count what has passed since the last tick, at most one period.

        Returns:
            Who is found stuck now, and who was and has moved on or is gone.
        """
        passed_s = min(now_s - self._ticked_at_s, TICK_S)
        self._ticked_at_s = now_s
        self.due_at_s = now_s + TICK_S
        self._held_s = {
            holder: self._held_s[holder] + passed_s if holder in self._held_s else 0.0
            for holder in holders
        }
        before = self.stuck
        # Rounding must not cost a whole tick.
        enough_s = STUCK_AFTER_S - TICK_S / 10
        self.stuck = frozenset(h for h, held_s in self._held_s.items() if held_s >= enough_s)
        return sorted(self.stuck - before), sorted(before - self.stuck)

"""When a node that shows no sign of life is taken out of the list: late, and few at a time.

A session that flaps must not flap the list, for every change moves keys. And who takes nodes out
may be the one who is cut off: what it could not see counts against nobody, and there is a limit on
how much of the list may go, so that a broken engine cannot empty it.
"""

from collections.abc import Collection, Iterable

REMOVALS_WINDOW_S = 60.0
REMOVED_SHARE_MAX = 0.2
"""Of the list, within the window; one node may always go."""
STEP_S_MAX = 2.0
"""So much at most is taken to have passed between two looks: this process may have been stopped."""


class Absences:
    """For how long each node has been away, as this process has seen it.

    Args:
        grace_s: for how long a node may be away.
    """

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._away_s: dict[str, float] = {}
        self._looked_at_s: float | None = None

    def __bool__(self) -> bool:
        return bool(self._away_s)

    def look(self, now_s: float, listed: Iterable[str], present: Collection[str]) -> list[str]:
        """Who has been away for too long, the longest first.

        Args:
            now_s: on a monotonic clock.
            listed: who should be there.
            present: who is.
        """
        passed_s = 0.0
        if self._looked_at_s is not None:
            passed_s = min(now_s - self._looked_at_s, STEP_S_MAX)
        self._looked_at_s = now_s
        self._away_s = {
            name: self._away_s[name] + passed_s if name in self._away_s else 0.0
            for name in listed
            if name not in present
        }
        overdue = [name for name, away_s in self._away_s.items() if away_s >= self._grace_s]
        return sorted(overdue, key=lambda name: -self._away_s[name])

    def lose_sight(self) -> None:
        """Nobody can be seen just now: whoever is away then has the whole grace again."""
        self._away_s = {}
        self._looked_at_s = None


def removals_left(listed_count: int, removed_at_s: Collection[float], now_s: float) -> int:
    """How many nodes may be taken out now.

    Args:
        listed_count: nodes in the list.
        removed_at_s: when nodes were taken out that had not left; `recent_removals`.
        now_s: Unix time, as in `removed_at_s`.
    """
    recent = len(recent_removals(removed_at_s, now_s))
    allowed = max(1, int((listed_count + recent) * REMOVED_SHARE_MAX))
    return max(0, min(allowed - recent, listed_count - 1))


def recent_removals(removed_at_s: Iterable[float], now_s: float) -> list[float]:
    """Those within the window, on either side: another machine's clock may be ahead."""
    return [at_s for at_s in removed_at_s if abs(now_s - at_s) < REMOVALS_WINDOW_S]

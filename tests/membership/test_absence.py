"""Who is taken out of the list when: late, few at a time, and never for what was not seen."""

import random

from memcachepy.membership.absence import (
    REMOVALS_WINDOW_S,
    STEP_S_MAX,
    Absences,
    recent_removals,
    removals_left,
)

ALL = ["a", "b", "c"]


def away(absences: Absences, start_s: int, seconds: int, present: list[str]) -> list[str]:
    """What the last of so many looks, one a second, has found."""
    found: list[str] = []
    for now_s in range(start_s, start_s + seconds):
        found = absences.look(now_s, ALL, present)
    return found


def test_a_node_is_overdue_after_the_grace_and_not_before() -> None:
    absences = Absences(60)
    assert away(absences, 0, 60, ["a", "b"]) == []
    assert absences.look(60, ALL, ["a", "b"]) == ["c"]


def test_who_comes_back_has_the_whole_grace_again() -> None:
    absences = Absences(60)
    away(absences, 0, 59, ["a", "b"])
    assert absences.look(59, ALL, ALL) == []
    assert not absences
    assert away(absences, 60, 60, ["a", "b"]) == []


def test_time_in_which_nothing_could_be_seen_counts_against_nobody() -> None:
    absences = Absences(60)
    away(absences, 0, 59, ["a"])
    absences.lose_sight()
    assert away(absences, 1000, 60, ["a"]) == []
    assert away(absences, 1060, 1, ["a"]) == ["b", "c"]


def test_time_in_which_this_process_did_not_run_counts_little() -> None:
    absences = Absences(60)
    absences.look(0, ALL, ["a", "b"])
    assert absences.look(100_000, ALL, ["a", "b"]) == []
    assert away(absences, 100_001, int(60 - STEP_S_MAX) - 1, ["a", "b"]) == []
    assert absences.look(100_000 + 60, ALL, ["a", "b"]) == ["c"]


def test_the_longest_away_goes_first() -> None:
    absences = Absences(5)
    away(absences, 0, 3, ["a", "b"])
    assert away(absences, 3, 10, ["a"]) == ["c", "b"]


def test_one_may_always_go_but_never_the_last() -> None:
    assert [removals_left(count, [], 0) for count in (1, 2, 4, 9, 10, 60)] == [0, 1, 1, 1, 2, 12]


def test_no_more_than_a_fifth_goes_in_a_minute(rng: random.Random) -> None:
    for _ in range(200):
        listed = size = rng.randrange(1, 100)
        removed: list[float] = []
        now_s = 1_800_000_000.0
        history = []
        while listed > 1 and len(history) < 50:
            now_s += rng.choice([0, 0, 1, 10, 59])
            removed = recent_removals(removed, now_s)
            for _ in range(removals_left(listed, removed, now_s)):
                removed.append(now_s)
                history.append(now_s)
                listed -= 1
        for at_s in history:
            within = [other for other in history if at_s <= other < at_s + REMOVALS_WINDOW_S]
            before = size - sum(other < at_s for other in history)
            assert len(within) <= max(1, before // 5)


def test_a_clock_that_is_ahead_elsewhere_does_not_lift_the_limit() -> None:
    assert removals_left(5, [130.0], 100.0) == 0
    assert removals_left(5, [100.0 + REMOVALS_WINDOW_S], 100.0) == 1

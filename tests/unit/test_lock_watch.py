"""Who holds a lock too long, by the watcher's own running time."""

import random

from memcachepy.node.watch import STUCK_AFTER_S, TICK_S, Holder, Watch

HOLDER = Holder(slot=3, pid=30, shard=5, lock_count=7)
OTHER = Holder(slot=4, pid=40, shard=6, lock_count=9)


def test_one_long_hold_is_found_after_three_seconds() -> None:
    watch = Watch(0.0)
    found = [watch.tick(float(second), [HOLDER])[0] for second in range(1, 7)]
    assert found == [[], [], [], [HOLDER], [], []]
    assert watch.stuck == {HOLDER}


def test_many_short_holds_are_none() -> None:
    watch = Watch(0.0)
    for second in range(1, 100):
        assert watch.tick(float(second), [HOLDER._replace(lock_count=second)]) == ([], [])


def test_hold_that_ends_begins_anew() -> None:
    watch = Watch(0.0)
    for second in range(1, 4):
        assert watch.tick(float(second), [HOLDER])[0] == []
    assert watch.tick(4.0, []) == ([], [])
    for second in range(5, 8):
        assert watch.tick(float(second), [HOLDER])[0] == []
    assert watch.tick(8.0, [HOLDER])[0] == [HOLDER]


def test_who_moves_on_is_told() -> None:
    watch = Watch(0.0)
    for second in range(1, 5):
        watch.tick(float(second), [HOLDER, OTHER])
    assert watch.stuck == {HOLDER, OTHER}
    assert watch.tick(5.0, [OTHER]) == ([], [HOLDER])
    assert watch.tick(6.0, [HOLDER._replace(lock_count=8)]) == ([], [OTHER])
    assert watch.stuck == frozenset()


def test_time_in_which_the_watcher_did_not_run_counts_at_most_one_period() -> None:
    watch = Watch(0.0)
    watch.tick(1.0, [HOLDER])
    for now_s in (1000.0, 2000.0):
        assert watch.tick(now_s, [HOLDER])[0] == []
    assert watch.tick(3000.0, [HOLDER])[0] == [HOLDER]


def test_never_before_its_time_and_never_much_later(rng: random.Random) -> None:
    for _ in range(200):
        now_s = rng.uniform(0, 1e6)
        watch, ran_s = Watch(now_s), 0.0
        watch.tick(now_s, [HOLDER])
        while not watch.stuck:
            period_s = rng.choice([TICK_S, TICK_S * rng.uniform(1, 1.2), TICK_S * 50])
            now_s += period_s
            ran_s += min(period_s, TICK_S)
            watch.tick(now_s, [HOLDER])
        assert STUCK_AFTER_S - 0.11 <= ran_s <= STUCK_AFTER_S + TICK_S

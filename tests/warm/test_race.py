"""A key that is written or deleted in either home while items are copied is never replaced."""

import random
import time

import pytest
from race import FORK, MIXED, NEW, OLD, End, Race
from support.waiting import wait_until
from warm_cluster import Cluster

from memcachepy.client.hashing import ring
from memcachepy.topology import Member

pytestmark = pytest.mark.once

KEYS = [f"key:{number}" for number in range(6000)]

# Of a change: the nodes before, and after.
ADD = ([0], [0, 1])
ADD_TO_TWO = ([0, 1], [0, 1, 2])
REMOVE = ([0, 1, 2], [0, 1])


def race_of(
    cluster: Cluster, before: list[int], after: list[int], seed: int, value_bytes: int
) -> Race:
    """Between the homes of the keys that move. Few of long values, which fill the nodes."""
    for _ in range(3 - len(cluster.placed)):
        cluster.add()
    ends = {placed.member: End(placed.member.port, placed.control) for placed in cluster.placed}
    homes_before = ring(cluster.topology(*before).members)
    homes_after = ring(cluster.topology(*after).members)
    homes: dict[str, tuple[Member, Member]] = {
        key: (homes_before.node_of(key), homes_after.node_of(key))
        for key in (KEYS if value_bytes < 1000 else KEYS[:400])
    }
    moved = {key: (ends[a], ends[b]) for key, (a, b) in homes.items() if a != b}
    return Race(moved, seed, value_bytes)


def run(
    cluster: Cluster,
    change: tuple[list[int], list[int]],
    seed: int,
    value_bytes: int = 10,
    phase: int = OLD,
) -> Race:
    """The change, under load from before to after; `phase`: what clients know while it copies."""
    before, after = change
    race = race_of(cluster, before, after, seed, value_bytes)
    race.fill()
    source = random.Random(seed)
    mixed_s = source.uniform(0.0, 0.3)

    def pause(seconds: float) -> None:
        """So that a change takes long enough to be overtaken."""
        time.sleep(max(seconds, source.uniform(0.0, 0.03)))

    old, new = cluster.topology(*before), cluster.topology(*after)
    try:
        race.start()
        with cluster.change(old, new, pause=pause) as warm:
            race.phase.value = phase
            warm.copy()
            # On a loaded machine, too.
            deadline_s = time.monotonic() + 30
            warm.wait_for(lambda: race.copies_read.value > 0 or time.monotonic() > deadline_s)
            race.phase.value = MIXED
            until_s = time.monotonic() + mixed_s
            warm.wait_for(lambda: time.monotonic() >= until_s)
            race.phase.value = NEW
            warm.wait_for(lambda: race.all_have_seen(NEW))
            warm.finish()
    finally:
        race.stop()
    race.check_ends()
    print(
        f"{sum(race.writes)} writes, {race.reads.value} reads, {race.copies_read.value} of copies; "
        f"{warm.report}"
    )
    return race


def die_halfway(cluster: Cluster, change: tuple[list[int], list[int]], seed: int) -> None:
    """The change's leader is killed at some moment, and the load goes on."""
    before, after = change
    race = race_of(cluster, before, after, seed, 10)
    race.fill()
    source = random.Random(seed)

    def lead() -> None:
        with cluster.change(cluster.topology(*before), cluster.topology(*after)) as warm:
            warm.copy()
            race.phase.value = MIXED
            warm.wait_for(lambda: False)

    leader = FORK.Process(target=lead, daemon=True)
    try:
        race.start()
        leader.start()
        time.sleep(source.uniform(0.0, 0.5))
        leader.kill()
        leader.join()
        race.phase.value = MIXED
        wait_until(lambda: race.all_have_seen(MIXED), "the writers", 60)
        time.sleep(source.uniform(0.0, 0.2))
    finally:
        leader.kill()
        leader.join()
        race.stop()
    race.check_ends()


@pytest.mark.parametrize(
    ("change", "value_bytes"), [(ADD, 10), (ADD, 20_000), (ADD_TO_TWO, 10), (REMOVE, 10)]
)
def test_no_copy_is_shown_for_a_key_that_was_changed(
    cluster: Cluster, change: tuple[list[int], list[int]], value_bytes: int
) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    assert run(cluster, change, seed, value_bytes).copies_read.value > 0


def test_no_copy_is_stored_over_what_clients_store_in_the_new_home_meanwhile(
    cluster: Cluster,
) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    assert run(cluster, ADD_TO_TWO, seed, phase=MIXED).copies_read.value > 0


def test_nor_when_the_leader_is_killed(cluster: Cluster) -> None:
    for _ in range(3):
        seed = random.randrange(2**32)
        print("seed", seed)
        die_halfway(cluster, ADD_TO_TWO, seed)
    # And the next change finds the nodes in order.
    assert run(cluster, REMOVE, seed).copies_read.value > 0


@pytest.mark.slow
def test_many_changes_and_deaths_at_many_seeds(cluster: Cluster) -> None:
    first = random.randrange(2**32)
    print("seeds from", first)
    for seed in range(first, first + 60):
        for change in (ADD, ADD_TO_TWO, REMOVE):
            run(cluster, change, seed, 10 if seed % 4 else 20_000, (OLD, MIXED)[seed // 4 % 2])
        die_halfway(cluster, (ADD, ADD_TO_TWO, REMOVE)[seed % 3], seed)

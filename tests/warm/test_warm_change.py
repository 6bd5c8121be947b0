"""Items whose home changes, between real nodes."""

import pytest
from warm_cluster import Cluster

from memcachepy.client.hashing import ring
from memcachepy.errors import WarmError

KEYS = [f"key:{number}" for number in range(3000)]


def moving(cluster: Cluster, before: list[int], after: list[int]) -> dict[str, tuple[int, int]]:
    """The keys whose home changes: their nodes' numbers."""
    old, new = cluster.topology(*before), cluster.topology(*after)
    number = {placed.member: i for i, placed in enumerate(cluster.placed)}
    old_ring, new_ring = ring(old.members), ring(new.members)
    homes = {key: (number[old_ring.node_of(key)], number[new_ring.node_of(key)]) for key in KEYS}
    return {key: (a, b) for key, (a, b) in homes.items() if a != b}


def fill(cluster: Cluster, numbers: list[int]) -> None:
    """Every key in its home, with its own name as its value."""
    nodes = cluster.topology(*numbers)
    number = {placed.member: i for i, placed in enumerate(cluster.placed)}
    homes = ring(nodes.members)
    caches = {i: cluster.cache(i) for i in numbers}
    for key in KEYS:
        caches[number[homes.node_of(key)]].set(key, key.encode())


def test_a_new_node_gets_what_is_its_own(cluster: Cluster) -> None:
    for _ in range(3):
        cluster.add()
    fill(cluster, [0, 1])
    moved = moving(cluster, [0, 1], [0, 1, 2])
    new = cluster.cache(2)
    with cluster.change(cluster.topology(0, 1), cluster.topology(0, 1, 2)) as change:
        report = change.copy()
        assert report.copied == len(moved) > 0
        assert report.read == len(KEYS)
        assert all(new.get(key) == key.encode() for key in moved)
        change.settle()
    assert report.confirmed == len(moved)
    assert [key for key in KEYS if new.get(key) is not None] == list(moved)


def test_a_change_that_is_left_takes_everything_back(cluster: Cluster) -> None:
    cluster.add()
    cluster.add()
    fill(cluster, [0])
    new = cluster.cache(1)
    with cluster.change(cluster.topology(0), cluster.topology(0, 1)) as change:
        change.copy()
        assert any(new.get(key) for key in KEYS)
    assert not any(new.get(key) for key in KEYS)
    assert cluster.placed[1].node.client().stats()["curr_items"] == "0"


def test_only_one_change_at_a_time(cluster: Cluster) -> None:
    cluster.add()
    cluster.add()
    other = cluster.change(cluster.topology(0), cluster.topology(0, 1))
    with (
        cluster.change(cluster.topology(0), cluster.topology(0, 1)),
        pytest.raises(WarmError, match="another process copies"),
    ):
        other.__enter__()

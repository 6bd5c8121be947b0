"""Items whose home changes, between real nodes."""

import asyncio
import os
import signal

import pytest
from support.waiting import wait_until
from warm_cluster import Cluster

from memcachepy.client.hashing import ring
from memcachepy.cluster.warm_process import WarmProcess
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


def sockets(cluster: Cluster) -> dict[str, str | int]:
    return {placed.member.address: str(placed.control) for placed in cluster.placed}


def test_a_process_of_its_own_does_the_same(cluster: Cluster) -> None:
    cluster.add()
    cluster.add()
    fill(cluster, [0])
    old, new = cluster.topology(0), cluster.topology(0, 1)
    moved = moving(cluster, [0], [0, 1])
    shown: list[dict[str, int]] = []

    async def change() -> dict[str, int]:
        async with WarmProcess(old, new, sockets=sockets(cluster), settle_s=0.0) as warm:
            report = await warm.copy(shown.append)
            assert report["copied"] == len(moved)
            return await warm.settle(shown.append)

    assert asyncio.run(change())["confirmed"] == len(moved)
    assert all(cluster.cache(1).get(key) == key.encode() for key in list(moved)[:100])
    assert shown


def test_a_process_whose_parent_goes_takes_everything_back(cluster: Cluster) -> None:
    cluster.add()
    cluster.add()
    fill(cluster, [0])
    old, new = cluster.topology(0), cluster.topology(0, 1)

    async def change() -> None:
        async with WarmProcess(old, new, sockets=sockets(cluster), settle_s=60.0) as warm:
            await warm.copy()
            assert cluster.placed[1].node.client().stats()["curr_items"] != "0"

    asyncio.run(change())
    assert cluster.placed[1].node.client().stats()["curr_items"] == "0"


def test_copies_of_a_killed_process_are_hidden_and_then_replaced(cluster: Cluster) -> None:
    cluster.add()
    cluster.add()
    fill(cluster, [0])
    old, new = cluster.topology(0), cluster.topology(0, 1)
    moved = moving(cluster, [0], [0, 1])
    cache = cluster.cache(1)

    async def change() -> None:
        async with WarmProcess(old, new, sockets=sockets(cluster)) as warm:
            await warm.copy()
            os.kill(warm.pid, signal.SIGKILL)
            with pytest.raises(WarmError, match="has ended"):
                await warm.settle()

    asyncio.run(change())
    wait_until(lambda: not any(cache.get(key) for key in moved), "the copies to be hidden", 20)
    cluster.cache(0).set(next(iter(moved)), b"newer")
    with cluster.change(old, new) as again:
        again.copy()
        again.finish()
    assert cache.get(next(iter(moved))) == b"newer"
    assert again.report.confirmed == len(moved)

"""Items whose home changes, between real nodes."""

import asyncio
import os
import signal
from pathlib import Path

import pytest
from support.waiting import wait_until
from warm_cluster import Cluster

from memcachepy.client.hashing import HASHINGS, Hashing, ring
from memcachepy.cluster.warm import WarmChange
from memcachepy.cluster.warm_process import WarmProcess
from memcachepy.errors import ConfigError, WarmError
from memcachepy.topology import Member, Topology

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


def test_hidden_copies_go_with_the_next_change_wherever_they_are(cluster: Cluster) -> None:
    for _ in range(3):
        cluster.add()
    fill(cluster, [0])

    async def killed() -> None:
        old, new = cluster.topology(0), cluster.topology(0, 1)
        async with WarmProcess(old, new, sockets=sockets(cluster)) as warm:
            await warm.copy()
            os.kill(warm.pid, signal.SIGKILL)

    asyncio.run(killed())
    client = cluster.placed[1].node.client()
    assert client.stats()["curr_items"] != "0"

    def begun() -> WarmChange | None:
        change = cluster.change(cluster.topology(0, 1), cluster.topology(0, 1, 2))
        try:
            return change.__enter__()
        except WarmError:
            return None  # The node has not yet seen the death.

    change = wait_until(begun, "the change before to be over", 20)
    change.finish()
    change.__exit__(None, None, None)
    assert client.stats()["curr_items"] == "0"
    with cluster.change(cluster.topology(0, 1), cluster.topology(0, 1, 2)) as change:
        assert all(node.core.copies() != "dead" for node in change._nodes)


def test_copies_of_a_stopped_process_are_hidden_until_it_goes_on(cluster: Cluster) -> None:
    cluster.add()
    cluster.add()
    fill(cluster, [0])
    old, new = cluster.topology(0), cluster.topology(0, 1)
    key = next(iter(moving(cluster, [0], [0, 1])))
    cache = cluster.cache(1)

    async def change() -> None:
        async with WarmProcess(old, new, sockets=sockets(cluster)) as warm:
            await warm.copy()
            wait_until(lambda: cache.get(key), "the copy to be shown", 20)
            os.kill(warm.pid, signal.SIGSTOP)
            wait_until(lambda: cache.get(key) is None, "the copy to be hidden", 20)
            os.kill(warm.pid, signal.SIGCONT)
            wait_until(lambda: cache.get(key), "the copy to be shown again", 20)

    asyncio.run(change())


def test_copies_of_a_source_that_ends_are_taken_back(cluster: Cluster) -> None:
    cluster.add()
    cluster.add()
    fill(cluster, [0])
    client = cluster.placed[1].node.client()
    with cluster.change(cluster.topology(0), cluster.topology(0, 1)) as change:
        change.copy()
        assert client.stats()["curr_items"] != "0"
        cluster.placed[0].node.end()
        with pytest.raises(WarmError, match="has ended or was flushed"):
            change.wait_for(lambda: False)
    assert client.stats()["curr_items"] == "0"


def test_an_idle_worker_lets_go_of_the_memory_of_a_source_that_has_ended(cluster: Cluster) -> None:
    for _ in range(2):
        cluster.add()
    fill(cluster, [0])
    node = cluster.placed[1].node
    worker = node.worker()

    def segments() -> set[str]:
        lines = Path(f"/proc/{worker.pid}/maps").read_text().splitlines()
        return {line.split()[4] for line in lines if "memfd:memcachepy-run" in line}

    with cluster.change(cluster.topology(0), cluster.topology(0, 1)) as change:
        change.copy()
        node.client().ask(b"mn\r\n", b"MN\r\n")
        assert len(segments()) == 2
        cluster.placed[0].node.end()
        with pytest.raises(WarmError, match="has ended or was flushed"):
            change.wait_for(lambda: False)
    wait_until(lambda: len(segments()) == 1, "the worker to let go", 20)


def test_a_flush_ends_a_change(cluster: Cluster) -> None:
    cluster.add()
    cluster.add()
    fill(cluster, [0])
    moved = moving(cluster, [0], [0, 1])
    new = cluster.cache(1)
    with cluster.change(cluster.topology(0), cluster.topology(0, 1)) as change:
        change.copy()
        cluster.placed[0].node.client().ask(b"flush_all\r\n", b"OK\r\n")
        assert not any(new.get(key) for key in moved)
        with pytest.raises(WarmError, match="has ended or was flushed"):
            change.wait_for(lambda: False)


@pytest.mark.parametrize("hashing", HASHINGS)
def test_every_hashing_finds_what_its_clients_stored(cluster: Cluster, hashing: Hashing) -> None:
    """Though they put a prefix in front of keys."""
    for _ in range(3):
        cluster.add()
    old, new = cluster.topology(0, 1), cluster.topology(0, 1, 2)
    before, after = ring(old.members, hashing), ring(new.members, hashing)
    caches = {placed.member: cluster.cache(i) for i, placed in enumerate(cluster.placed)}
    for key in KEYS:
        caches[before.node_of(key)].set(f"app:{key}", key.encode())
    with cluster.change(old, new, hashing=hashing, key_prefix=b"app:") as change:
        change.copy()
        change.finish()
    moved = [key for key in KEYS if after.node_of(key) == cluster.placed[2].member]
    assert 500 < len(moved) == change.report.confirmed
    for key in moved:
        assert caches[after.node_of(key)].get(f"app:{key}") == key.encode()


def test_flags_and_expiry_are_kept_and_what_is_too_large_is_left_out(cluster: Cluster) -> None:
    cluster.add("-I", "2m")
    cluster.add("-I", "64k")
    old, new = cluster.topology(0), cluster.topology(1)
    first, second = (placed.node.client() for placed in cluster.placed)
    for key, length in ((b"short", 5), (b"long", 60_000), (b"too_long", 100_000)):
        command = b"set %b 4711 1000 %d\r\n%b\r\n" % (key, length, b"v" * length)
        first.ask(command, b"STORED\r\n")
    with cluster.change(old, new) as change:
        change.copy()
        change.finish()
    assert change.report.left_out == 1
    assert change.report.confirmed == 2
    for key, length in ((b"short", 5), (b"long", 60_000)):
        second.send(b"mg %b f t s\r\n" % key)
        answer = second.line().split()
        assert answer[:2] == [b"HD", b"f4711"]
        assert 900 < int(answer[2][1:]) <= 1000
        assert answer[3] == b"s%d" % length
    second.ask(b"mg too_long s\r\n", b"EN\r\n")
    stats = second.stats()
    assert (stats["cmd_set"], stats["total_items"]) == ("0", "0")
    assert second.stats("memcachepy")["copied_items"] == "2"


@pytest.mark.parametrize("numbers", [(0, 1), (1, 0)])
def test_one_node_s_chunk_is_another_s_chain(cluster: Cluster, numbers: tuple[int, int]) -> None:
    cluster.add("-m", "256")
    cluster.add("-m", "255")
    old, new = numbers
    values = {f"key:{length}": b"v" * length for length in (8_000, 9_000, 20_000, 32_000)}
    for key, value in values.items():
        cluster.cache(old).set(key, value)
    with cluster.change(cluster.topology(old), cluster.topology(new)) as change:
        change.copy()
        change.finish()
    assert change.report.confirmed == len(values)
    client = cluster.placed[new].node.client()
    for key, value in values.items():
        client.ask(f"mg {key} v\r\n".encode(), b"VA %d\r\n%b\r\n" % (len(value), value))


def test_a_change_needs_its_nodes(cluster: Cluster) -> None:
    cluster.add()
    old, new = cluster.topology(0), cluster.topology(0)
    stranger = Topology(2, (*old.members, Member("127.0.0.1", 1)))
    with pytest.raises(WarmError, match="cannot copy from or to 127.0.0.1:1: no node answers"):
        WarmChange(old, stranger, address=lambda _: "/nowhere").__enter__()
    with cluster.change(old, new) as nothing:
        assert nothing.copy().copied == 0
        nothing.finish()
    with pytest.raises(ConfigError, match="must not be empty"):
        WarmChange(old, Topology(1))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start nodes of another user")
def test_a_process_of_root_shows_the_copies_of_nodes_of_another_user(cluster: Cluster) -> None:
    cluster.folder.chmod(0o777)
    for _ in range(2):
        cluster.add("-u", "nobody")
    fill(cluster, [0])
    old, new = cluster.topology(0), cluster.topology(0, 1)
    key = next(iter(moving(cluster, [0], [0, 1])))

    def is_shown() -> bool:
        client.send(f"mg {key} s\r\n".encode())
        return client.line().startswith(b"HD")

    client = cluster.placed[1].node.client()

    def failures() -> int:
        return int(client.stats("memcachepy")["copy_map_failures"])

    async def change(user: str | None) -> None:
        async with WarmProcess(old, new, sockets=sockets(cluster), user=user) as warm:
            await warm.copy()
            wait_until(is_shown if user else failures, "the copy to be shown, or to be a miss", 20)
            assert is_shown() == (user is not None)

    asyncio.run(change("nobody"))
    assert not is_shown()
    assert failures() == 0
    asyncio.run(change(None))


def test_long_values_are_stored_a_few_at_a_time(cluster: Cluster) -> None:
    for _ in range(2):
        cluster.add("-I", "2m")
    value = b"v" * 1_000_000
    cache = cluster.cache(0)
    for number in range(6):
        cache.set(f"key:{number}", value)
    with cluster.change(cluster.topology(0), cluster.topology(1)) as change:
        source, target = (node.core for node in (*change._sources(), *change._targets()))
        while keys := source.read():
            done, copied, *_ = target.take(source, list(range(len(keys))))
            assert 0 < done == copied <= 2


def test_items_that_are_dead_are_passed_by_a_few_at_a_time(cluster: Cluster) -> None:
    cluster.add("-m", "64")
    cluster.add()
    cache = cluster.cache(0)
    for number in range(150_000):
        cache.set(f"key:{number}", b"")
    with cluster.change(cluster.topology(0), cluster.topology(1)) as change:
        (source,) = (node.core for node in change._sources())
        cluster.placed[0].node.client().ask(b"flush_all\r\n", b"OK\r\n")
        assert source.read() == []

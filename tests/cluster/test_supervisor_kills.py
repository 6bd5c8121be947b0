"""SIGKILL of the supervisor at any moment: the next one makes of it what was written down."""

import os
import random
import signal
import time

import pytest
from clusters import PATIENCE_S, SMALL, Cluster, answers, served_list
from support.waiting import wait_until

from memcachepy.membership.file import read_topology


def check(cluster: Cluster) -> None:
    """Spec, list, processes and what nodes tell clients agree, once the monitor is content."""
    spec = cluster.folder.read_spec()
    assert spec is not None
    ids = sorted(node.node_id for node in spec.nodes)
    assert not any(node.is_leaving for node in spec.nodes)
    wait_until(lambda: cluster.ids == ids, f"a list of {ids}", PATIENCE_S)
    wait_until(lambda: all(map(answers, cluster.addresses())), "all to serve", PATIENCE_S)
    assert sorted(cluster.node_pids()) == ids
    topology = cluster.topology
    for place in cluster.addresses():
        wait_until(
            lambda place=place: served_list(place).payload() == topology.payload(),
            "the list",
            PATIENCE_S,
        )


def kill_in(cluster: Cluster, delay_s: float, *words: str) -> None:
    """Begin a change, and kill the supervisor a moment later."""
    with cluster.started(*words) as changing:
        time.sleep(delay_s)  # The moment is what is random.
        cluster.kill_supervisor()
        changing.communicate(timeout=PATIENCE_S)


def kill_while_changing(cluster: Cluster, rng: random.Random, rounds: int) -> None:
    cluster.up(*SMALL, "--nodes", "2", "--drain", "0.1")
    version = cluster.topology.version
    for _ in range(rounds):
        words = rng.choice(
            [
                ("scale", "--nodes", str(rng.randint(1, 4))),
                ("scale", "--nodes", str(rng.randint(1, 4)), "--warm", "--settle", "0.5"),
                ("add",),
                ("replace", "1"),
                ("restart", "--rolling"),
                ("restart", "--at-once"),
            ]
        )
        print(words)
        kill_in(cluster, rng.uniform(0.2, 2.5), *words)
        cluster.up()
        check(cluster)
        assert cluster.topology.version >= version
        version = cluster.topology.version


@pytest.mark.once
def test_killed_while_it_changes_the_cluster(cluster: Cluster, rng: random.Random) -> None:
    kill_while_changing(cluster, rng, 2)


@pytest.mark.slow
def test_killed_while_it_changes_the_cluster_many_times(
    cluster: Cluster, rng: random.Random
) -> None:
    kill_while_changing(cluster, rng, 25)


@pytest.mark.once
def test_killed_while_it_comes_up(cluster: Cluster, rng: random.Random) -> None:
    process = cluster.start(*SMALL, "--nodes", "3")
    wait_until(lambda: cluster.supervisor_pid, "the supervisor", PATIENCE_S)
    time.sleep(rng.uniform(0, 1.0))  # The moment is what is random.
    os.kill(process.pid, signal.SIGKILL)
    process.wait(PATIENCE_S)
    cluster.up(*SMALL, "--nodes", "3")
    check(cluster)
    cluster.kill_supervisor()
    cluster.do("down")
    assert not cluster.node_pids()
    assert read_topology(cluster.folder.topology_path)

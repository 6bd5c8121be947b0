"""A cluster whose processes are killed, stopped and continued at random."""

import random
import time
from contextlib import suppress
from itertools import pairwise

import psutil
import pytest
from clusters import SMALL, Cluster, answers
from support.waiting import wait_until

from memcachepy.cluster.events import Filter, read_events

pytestmark = [pytest.mark.slow, pytest.mark.once]

DURATION_S = 45.0
RETURN_S = 240.0
"""A node may have to wait a minute until it may leave the list, and half a one for its restart."""
WINDOW_S = 60.0


class Chaos:
    """What is done to a cluster; `cluster up` is what a service manager would do."""

    def __init__(self, cluster: Cluster, rng: random.Random) -> None:
        self._cluster = cluster
        self._rng = rng
        self._stopped: list[psutil.Process] = []

    def act(self) -> None:
        with suppress(psutil.NoSuchProcess, IndexError):
            self._rng.choice(
                [self.kill_node, self.kill_node, self.kill_child, self.stop_node, self.end_stops]
                + [self.kill_supervisor] * (self._rng.random() < 0.5)
            )()
        if not self._cluster.supervisor_pid:
            self._cluster.up()

    def _family(self) -> list[psutil.Process]:
        """A node's processes, its supervisor first."""
        pids = self._cluster.node_pids()
        node = psutil.Process(pids[self._rng.choice(sorted(pids))])
        return [node, *node.children(recursive=True)]

    def kill_node(self) -> None:
        self._family()[0].kill()

    def kill_child(self) -> None:
        self._rng.choice(self._family()[1:]).kill()

    def stop_node(self) -> None:
        for process in self._family():
            process.suspend()
            self._stopped.append(process)

    def end_stops(self) -> None:
        while self._stopped:
            with suppress(psutil.NoSuchProcess):
                self._stopped.pop().resume()

    def kill_supervisor(self) -> None:
        if self._cluster.supervisor_pid:
            self._cluster.kill_supervisor()


def test_whatever_dies_the_list_is_never_empty_and_all_nodes_return(
    cluster: Cluster, rng: random.Random
) -> None:
    cluster.up(*SMALL, "--nodes", "5", "--grace", "3")
    everybody = cluster.ids
    chaos = Chaos(cluster, rng)
    end_s = time.monotonic() + DURATION_S
    versions = [cluster.topology.version]
    while time.monotonic() < end_s:
        chaos.act()
        versions.append(cluster.topology.version)
        assert len(cluster.ids) >= 1
        time.sleep(2 * rng.random())
    chaos.end_stops()
    if not cluster.supervisor_pid:
        cluster.up()
    wait_until(lambda: cluster.ids == everybody, "all nodes in the list", RETURN_S)
    wait_until(lambda: all(map(answers, cluster.addresses())), "all nodes", RETURN_S)
    assert versions == sorted(versions)
    # One of five is the most that may go in a minute, supervisors that follow each other included.
    removals = Filter(names={"RemoveCacheNodeComplete"})
    moments_s = [event.at_s for event in read_events(cluster.folder.events_path, removals)]
    assert all(later - earlier > WINDOW_S - 1.0 for earlier, later in pairwise(moments_s))

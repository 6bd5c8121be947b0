"""Nodes of a launched cluster that die, hang and come back, in real processes."""

import os
import signal
import socket

import psutil
import pytest
from clusters import PATIENCE_S, SMALL, Cluster, answers
from support.client import RawClient
from support.waiting import wait_until

from memcachepy.cluster.events import Event, read_events

pytestmark = pytest.mark.once


def events(cluster: Cluster, name: str) -> list[Event]:
    return [event for event in read_events(cluster.folder.events_path) if event.name == name]


def stop_and(cluster: Cluster, node_id: str, number: int) -> list[int]:
    """A signal to every process of a node."""
    node = psutil.Process(cluster.node_pids()[node_id])
    family = [node, *node.children(recursive=True)]
    for process in family:
        process.send_signal(number)
    return [process.pid for process in family]


def test_a_killed_node_is_started_again_at_once_and_stays_in_the_list(cluster: Cluster) -> None:
    cluster.up(*SMALL, "--nodes", "2")
    before = cluster.topology
    pid = cluster.node_pids()["0002"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: events(cluster, "CacheNodeReplaceComplete"), "the node", PATIENCE_S)
    assert answers(cluster.address("0002"))
    assert cluster.node_pids()["0002"] != pid
    assert cluster.topology == before
    (began,) = events(cluster, "CacheNodeReplaceStarted")
    assert began.node_id == "0002"
    assert "SIGKILL" in began.message
    assert [event.message for event in events(cluster, "CacheClusterProvisioningComplete")] == [
        "2 nodes"
    ]


def test_a_lost_list_is_restored_and_taken_over(cluster: Cluster) -> None:
    cluster.up(*SMALL, "--nodes", "2", "--drain", "0.1")
    cluster.folder.topology_path.unlink()
    cluster.do("restart", "1")
    assert cluster.ids == ["0001", "0002"]
    topology, pids = cluster.topology, cluster.node_pids()
    cluster.kill_supervisor()
    cluster.folder.topology_path.unlink()
    found = cluster.up()
    assert cluster.topology == topology
    assert cluster.node_pids() == pids
    assert {node["state"] for node in found["nodes"]} == {"serving"}
    cluster.folder.topology_path.unlink()
    wait_until(cluster.folder.topology_path.exists, "the list", PATIENCE_S)
    assert cluster.topology == topology


def test_a_node_that_hangs_leaves_the_list_and_returns_without_its_items(cluster: Cluster) -> None:
    cluster.up(*SMALL, "--nodes", "3", "--grace", "1")
    with RawClient(cluster.address("0003")) as client:
        client.ask(b"set k 0 0 1\r\nx\r\n", b"STORED\r\n")
    stop_and(cluster, "0003", signal.SIGSTOP)
    wait_until(lambda: cluster.ids == ["0001", "0002"], "the node to leave", PATIENCE_S)
    status = cluster.status()["nodes"][2]
    assert (status["state"], status["listed"]) == ("silent", False)
    stopped = cluster.node_pids()["0003"]  # Whoever stopped it may be looking at it.
    stop_and(cluster, "0003", signal.SIGCONT)
    wait_until(lambda: len(cluster.ids) == 3, "the node to return", PATIENCE_S)
    assert cluster.node_pids()["0003"] != stopped
    with RawClient(cluster.address("0003")) as client:
        client.ask(b"get k\r\n", b"END\r\n")
    (left,) = events(cluster, "RemoveCacheNodeComplete")
    assert "was not there for 1 s: does not answer within 2 s" in left.message
    (back,) = events(cluster, "AddCacheNodeComplete")
    assert "is healthy again" in back.message


@pytest.mark.slow
def test_a_node_that_cannot_start_leaves_the_list_until_it_can(cluster: Cluster) -> None:
    cluster.up(*SMALL, "--nodes", "2", "--grace", "1")
    host, port = cluster.address("0002")
    os.kill(cluster.supervisor_pid, signal.SIGSTOP)  # Or it would be there again at once.
    stop_and(cluster, "0002", signal.SIGKILL)
    wait_until(lambda: not answers((host, port)), "the node's end", PATIENCE_S)
    with socket.create_server((host, port)):
        os.kill(cluster.supervisor_pid, signal.SIGCONT)
        wait_until(lambda: cluster.ids == ["0001"], "the node to leave", PATIENCE_S)
    wait_until(lambda: cluster.ids == ["0001", "0002"], "the node to return", PATIENCE_S)
    assert cluster.address("0002") == (host, port)


def test_a_supervisor_that_comes_after_a_killed_one_goes_on_watching(cluster: Cluster) -> None:
    cluster.up(*SMALL, "--nodes", "2")
    pids = cluster.node_pids()
    cluster.kill_supervisor()
    os.kill(pids["0001"], signal.SIGKILL)
    cluster.up()
    assert cluster.node_pids()["0002"] == pids["0002"]
    os.kill(pids["0002"], signal.SIGKILL)
    wait_until(
        lambda: cluster.node_pids().get("0002", pids["0002"]) != pids["0002"],
        "a new process",
        PATIENCE_S,
    )
    wait_until(lambda: answers(cluster.address("0002")), "the node", PATIENCE_S)

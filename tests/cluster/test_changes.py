"""Changing a cluster while it is used: who is in the list when, and what is lost."""

import asyncio
import fcntl
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from clusters import PATIENCE_S, SMALL, Cluster, answers, served_list
from support.client import RawClient
from support.waiting import wait_until

from memcachepy.cluster import changes
from memcachepy.cluster.events import read_events
from memcachepy.cluster.spec import ClusterSpec, NodeSpec
from memcachepy.errors import ClusterError
from memcachepy.membership.file import change_topology
from memcachepy.topology import Member, Topology

QUICK = (*SMALL, "--drain", "0.2")


def events(cluster: Cluster) -> list[tuple[str, str]]:
    return [(event.name, event.node_id) for event in read_events(cluster.folder.events_path)]


@contextmanager
def hash_client(cluster: Cluster) -> Iterator[Any]:
    """pymemcache's, for the list as it is now."""
    client = pytest.importorskip("pymemcache.client.hash").HashClient(cluster.addresses())
    try:
        yield client
    finally:
        client.close()


def test_scale_out_and_in_again(cluster: Cluster) -> None:
    """Who stays keeps its items; who comes again has its old id and place."""
    cluster.up(*QUICK, "--nodes", "2")
    two = cluster.addresses()
    keys = [f"key{n}" for n in range(200)]
    with hash_client(cluster) as client:
        assert not client.set_many(dict.fromkeys(keys, "old"))
    version = cluster.topology.version

    grown = cluster.do("scale", "--nodes", "4")
    assert (grown["before"], grown["nodes"]) == (2, 4)
    assert cluster.topology.version > version
    four = cluster.addresses()
    with hash_client(cluster) as client:
        kept = client.get_many(keys)
        assert 0 < len(kept) < len(keys), "about half of the keys have moved to new nodes"
        assert not client.set_many(dict.fromkeys(keys, "new"))

    shrunk = cluster.do("scale", "--nodes", "2")
    assert shrunk["version"] > grown["version"]
    assert cluster.ids == ["0001", "0002"]
    assert cluster.addresses() == two
    assert not any(answers(place) for place in four if place not in two)
    with hash_client(cluster) as client:
        assert set(client.get_many(keys).values()) == {b"old", b"new"}
    assert ("CacheClusterScalingComplete", "") in events(cluster)
    assert ("AddCacheNodeComplete", "0004") in events(cluster)
    assert ("RemoveCacheNodeComplete", "0003") in events(cluster)


def test_every_node_serves_a_changed_list_within_a_second(cluster: Cluster) -> None:
    cluster.up(*QUICK, "--nodes", "3")
    before = cluster.topology
    change_topology(
        cluster.folder.topology_path,
        lambda old: old.changed([*old.members, Member("cache.lan", 1)], time.time()),
    )
    changed_at_s = time.monotonic()
    wait_until(
        lambda: all(
            served_list((member.host, member.port)).version == cluster.topology.version
            for member in before.members
        ),
        "the new list on all nodes",
        PATIENCE_S,
    )
    print(f"served by all after {time.monotonic() - changed_at_s:.3f} s")


def test_a_node_leaves_the_list_before_it_stops(cluster: Cluster) -> None:
    cluster.up(*SMALL, "--nodes", "2")
    leaving, staying = cluster.address("0001"), cluster.address("0002")
    with cluster.started("remove", "1", "--drain", "2") as done:
        wait_until(lambda: len(served_list(staying).members) == 1, "the shorter list", PATIENCE_S)
        assert answers(leaving), "it serves who has not heard of it"
        wait_until(
            lambda: served_list(leaving) == served_list(staying), "the same there", PATIENCE_S
        )
        assert done.wait(PATIENCE_S) == 0
    assert not answers(leaving)


@pytest.mark.once
def test_add_takes_settings_of_its_own_and_remove_an_address(cluster: Cluster) -> None:
    cluster.up(*QUICK, "--nodes", "1")
    assert cluster.do("add", "-m", "16")["added"] == ["0002"]
    host, port = cluster.address("0002")
    with RawClient((host, port)) as client:
        assert client.stats()["limit_maxbytes"] == str(16 << 20)
    assert cluster.do("remove", f"{host}:{port}")["removed"] == ["0002"]
    assert cluster.ids == ["0001"]


def test_replaced_node_is_empty_and_keeps_id_and_place(cluster: Cluster) -> None:
    cluster.up(*QUICK, "--nodes", "2")
    member, pid = cluster.topology.member("0002"), cluster.node_pids()["0002"]
    with RawClient(cluster.address("0002")) as client:
        client.ask(b"set k 0 0 1\r\nx\r\n", b"STORED\r\n")
    assert cluster.do("replace", "2", "-m", "16")["replaced"] == ["0002"]
    assert cluster.topology.member("0002") == member
    assert cluster.node_pids()["0002"] != pid
    with RawClient(cluster.address("0002")) as client:
        client.ask(b"get k\r\n", b"END\r\n")
        assert client.stats()["limit_maxbytes"] == str(16 << 20)
    names = [name for name, node_id in events(cluster) if node_id == "0002"]
    assert names[-2:] == ["CacheNodeReplaceStarted", "CacheNodeReplaceComplete"]


@contextmanager
def writing(cluster: Cluster) -> Iterator[dict[tuple[str, int], dict[bytes, int]]]:
    """A writer for each node, which counts what was acknowledged, until the block is left."""
    acknowledged: dict[tuple[str, int], dict[bytes, int]] = {}
    is_over = threading.Event()

    def write(place: tuple[str, int]) -> None:
        number = 0
        while not is_over.is_set():
            try:
                with RawClient(place) as client:
                    while not is_over.is_set():
                        key = b"key%d" % (number % 500)
                        client.ask(b"set %b 0 0 8\r\n%08d\r\n" % (key, number), b"STORED\r\n")
                        acknowledged[place][key] = number
                        number += 1
            except (OSError, AssertionError):
                is_over.wait(0.02)

    threads = []
    for place in cluster.addresses():
        acknowledged[place] = {}
        threads.append(threading.Thread(target=write, args=(place,)))
        threads[-1].start()
    try:
        yield acknowledged
    finally:
        is_over.set()
        for thread in threads:
            thread.join(PATIENCE_S)


def test_rolling_restart_goes_one_by_one_and_loses_nothing_elsewhere(cluster: Cluster) -> None:
    cluster.up(*QUICK, "--nodes", "3")
    ids, places, pids = cluster.ids, cluster.addresses(), cluster.node_pids()
    untouched = cluster.address("0003")
    with writing(cluster) as acknowledged:
        wait_until(lambda: all(map(len, acknowledged.values())), "writes", PATIENCE_S)
        answer = cluster.do("restart", "1", "2", "--rolling")
    assert answer["restarted"] == ["0001", "0002"]
    assert (cluster.ids, cluster.addresses()) == (ids, places)
    now = cluster.node_pids()
    assert {node_id for node_id in ids if now[node_id] != pids[node_id]} == {"0001", "0002"}
    with RawClient(untouched) as client:
        for key, number in acknowledged[untouched].items():
            client.ask(b"get %b\r\n" % key, b"VALUE %b 0 8\r\n%08d\r\nEND\r\n" % (key, number))


@pytest.mark.once
def test_nodes_that_restart_stay_listed_if_asked_to_or_if_alone(cluster: Cluster) -> None:
    cluster.up(*QUICK, "--nodes", "2")
    version = cluster.topology.version
    cluster.do("restart", "--rolling", "--keep-listed")
    cluster.do("restart", "--at-once")
    assert cluster.topology.version == version
    cluster.do("remove", "2")
    version = cluster.topology.version
    cluster.do("restart")
    assert cluster.topology.version == version, "a list is never empty"


@pytest.mark.once
def test_what_cannot_be_is_refused_with_a_reason(cluster: Cluster) -> None:
    cluster.up(*QUICK, "--nodes", "2")
    members = cluster.topology.members
    said = cluster.refused("remove", "10.0.0.9:11211")
    assert said.startswith("node 10.0.0.9:11211 was not started by this cluster: main has 0001 (")
    change_topology(
        cluster.folder.topology_path,
        lambda old: old.changed([*members, Member("10.0.0.9", 11211)], time.time()),
    )
    said = cluster.refused("replace", "10.0.0.9:11211")
    assert said.startswith("node 10.0.0.9:11211 is in the list, but was not started by this")
    rows = {node["address"]: node["state"] for node in cluster.status()["nodes"]}
    assert rows["10.0.0.9:11211"] == "foreign", "a stranger is shown as well"
    cluster.do("add")
    assert "10.0.0.9" in {member.host for member in cluster.topology.members}, "and stays listed"
    assert "would have no node left" in cluster.refused("remove", "1", "2", "3")
    assert "must be a whole number of megabytes" in cluster.refused(
        "add", "-m", "0", status=os.EX_USAGE
    )
    cluster.refused("scale", "--nodes", "0", status=os.EX_USAGE)
    assert len(cluster.node_pids()) == 3


def test_growth_that_fails_changes_nothing(cluster: Cluster) -> None:
    cluster.up(*QUICK, "--nodes", "1")
    topology, spec = cluster.topology, cluster.folder.read_spec()
    taken = cluster.address("0001")[1]
    assert "port is" in cluster.refused("add", "-p", str(taken), status=1)
    with RawClient(cluster.address("0001")):
        said = cluster.refused("add", "-s", "/nowhere/at/all")
    assert "node 0002 (" in said
    assert "could not start" in said
    assert cluster.topology == topology
    assert cluster.folder.read_spec() == spec
    assert list(cluster.node_pids()) == ["0001"]
    assert ("AddCacheNodeFailed", "0002") in events(cluster)


@pytest.mark.once
def test_killed_supervisor_leaves_a_removal_to_the_next(cluster: Cluster) -> None:
    cluster.up(*SMALL, "--nodes", "2")
    with cluster.started("remove", "2", "--drain", "600") as removing:
        assert removing.stderr
        assert "left the list" in removing.stderr.readline()
        assert "being changed" in cluster.run("status").stdout
        assert "the cluster is being changed (remove: " in cluster.refused("add")
        cluster.kill_supervisor()
        assert "its supervisor has ended" in removing.stderr.read()
        assert removing.wait(PATIENCE_S) == os.EX_UNAVAILABLE
    assert len(cluster.node_pids()) == 2
    spec = cluster.folder.read_spec()
    assert spec
    assert [node.is_leaving for node in spec.nodes] == [False, True]
    # The next one finishes it; its own drain is not waited for again, were it shorter.
    cluster.folder.write_spec(type(spec).from_dict({**spec.as_dict(), "drain_s": 0.1}))
    cluster.up()
    assert list(cluster.node_pids()) == ["0001"]
    assert cluster.ids == ["0001"]


@pytest.mark.once
def test_a_change_whose_list_cannot_be_written_is_taken_back(cluster: Cluster) -> None:
    """And not carried out later; its nodes are looked after as before."""
    cluster.up(*QUICK, "--nodes", "2")
    topology, spec, pids = cluster.topology, cluster.folder.read_spec(), cluster.node_pids()
    path = cluster.folder.topology_path
    with path.with_name(f".{path.name}.lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for words in (["remove", "2"], ["restart", "2"]):
            assert "another process keeps its lock" in cluster.refused(*words)
    assert cluster.folder.read_spec() == spec
    assert (cluster.topology, cluster.node_pids()) == (topology, pids)
    os.kill(pids["0002"], signal.SIGKILL)
    wait_until(lambda: cluster.node_pids().get("0002", pids["0002"]) != pids["0002"], "a new one")


def test_nobody_is_leaving_while_items_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a supervisor that is killed meanwhile leaves everything as it was."""
    specs = [NodeSpec("0001", {"port": 1}), NodeSpec("0002", {"port": 2})]
    nodes = {
        spec.node_id: SimpleNamespace(
            node_id=spec.node_id,
            spec=spec,
            config=SimpleNamespace(control_socket=None, user=None),
            control_socket=spec.port,
            member=Member("127.0.0.1", spec.port, node_id=spec.node_id),
        )
        for spec in specs
    }
    happened: list[str] = []
    members = tuple(node.member for node in nodes.values())

    class Warm:
        def __init__(self, *_: object, **__: object) -> None: ...

        async def __aenter__(self) -> "Warm":
            return self

        async def __aexit__(self, *_: object) -> None: ...

        async def copy(self, _: object) -> dict[str, int]:
            happened.append("copied")
            return {"copied": 1}

        settle = copy

    async def nothing(*_: object) -> None: ...

    supervisor: Any = SimpleNamespace(
        spec=ClusterSpec("main", tuple(specs)),
        nodes=nodes,
        commit=lambda _: happened.append("written down"),
        list=SimpleNamespace(
            topology=Topology(5, members), change=lambda **_: happened.append("told")
        ),
        list_spread=nothing,
        dismiss=nothing,
        note=lambda *_: None,
    )
    monkeypatch.setattr(changes, "WarmProcess", Warm)
    request = {"nodes_named": ["0002"], "warm": True}
    asyncio.run(changes.Changes(supervisor).remove(request, lambda _: None))
    assert happened == ["copied", "written down", "told", "copied"]


@pytest.mark.parametrize(
    ("name", "request_"),
    [
        ("scale", {"nodes": True}),
        ("add", {"settings": [1]}),
        ("add", {"settings": {"no_such": 1}}),
        ("remove", {"nodes_named": 5}),
        ("remove", {"nodes_named": ["0001"], "drain_s": []}),
    ],
)
def test_requests_of_the_wrong_form_are_refused(name: str, request_: dict[str, Any]) -> None:
    spec = ClusterSpec("main", (NodeSpec("0001", {"port": 1}), NodeSpec("0002", {"port": 2})))
    node: Any = SimpleNamespace(node_id="0001", spec=spec.nodes[0], member=Member("h", 1))
    told = SimpleNamespace(topology=Topology(5), change=lambda **_: None)

    async def nothing() -> None: ...

    supervisor: Any = SimpleNamespace(
        spec=spec,
        nodes={"0001": node},
        list=told,
        commit=lambda _: None,
        list_spread=nothing,
        note=lambda *_, **__: None,
    )
    operation = changes.Changes(supervisor).operations[name]
    with pytest.raises(ClusterError, match=r"is |has "):
        asyncio.run(operation(request_, lambda _: None))


def test_change_goes_on_without_who_asked_for_it(cluster: Cluster) -> None:
    cluster.up(*SMALL, "--nodes", "2")
    with cluster.started("remove", "2", "--drain", "1") as removing:
        assert removing.stderr
        assert "left the list" in removing.stderr.readline()
        removing.send_signal(signal.SIGINT)
        assert "The cluster goes on with it" in removing.stderr.read()
        assert removing.wait(PATIENCE_S) == 130
    wait_until(lambda: list(cluster.node_pids()) == ["0001"], "the node's end", PATIENCE_S)


def test_scaling_warm_keeps_what_clients_have_stored(cluster: Cluster) -> None:
    cluster.up(*QUICK, "--nodes", "2", "--hashing", "pymemcache")
    keys = [f"key{n}" for n in range(300)]
    with hash_client(cluster) as client:
        assert not client.set_many(dict.fromkeys(keys, "value"), expire=1000)
    for nodes in (3, 1):
        answer = cluster.do("scale", "--nodes", str(nodes), "--warm", "--settle", "0.3")
        assert answer["warm"]["copied"] > 0
        with hash_client(cluster) as client:
            assert set(client.get_many(keys)) == set(keys)


def test_topology_of_a_new_cluster_has_no_strangers(cluster: Cluster) -> None:
    cluster.folder.make()
    stranger = Topology(5, (Member("10.0.0.9", 11211),))
    change_topology(cluster.folder.topology_path, lambda _: stranger)
    cluster.up(*QUICK, "--nodes", "1")
    assert cluster.ids == ["0001"]

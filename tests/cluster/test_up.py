"""Coming up, going down, and what survives the death of whom."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from clusters import PATIENCE_S, SMALL, Cluster, answers
from support.client import RawClient
from support.waiting import wait_until

from memcachepy.cluster.state import StateFolder
from memcachepy.membership.file import change_topology

TOP = Path(__file__).parents[2]
EXIT_NO_CLUSTER = os.EX_UNAVAILABLE


def test_all_nodes_serve_and_are_listed_when_up_returns(cluster: Cluster) -> None:
    found = cluster.up(*SMALL)
    assert [node["node_id"] for node in found["nodes"]] == ["0001", "0002", "0003"]
    assert {node["state"] for node in found["nodes"]} == {"serving"}
    assert all(node["listed"] for node in found["nodes"])
    assert cluster.ids == ["0001", "0002", "0003"]
    assert all(map(answers, cluster.addresses()))
    assert cluster.run("status").returncode == 0
    assert "WARNING discovery" not in cluster.log(), "there was no list to be missed"


def test_down_leaves_nobody(cluster: Cluster) -> None:
    cluster.up(*SMALL, "--nodes", "2")
    places = cluster.addresses()
    done = cluster.run("down")
    assert done.returncode == 0, done.stderr
    assert "2 of 2" in done.stderr
    assert not cluster.node_pids()
    assert not any(map(answers, places))
    assert not cluster.supervisor_pid
    assert "`memcachepy cluster up` starts it" in cluster.refused("status", status=EXIT_NO_CLUSTER)
    assert cluster.run("down").returncode == EXIT_NO_CLUSTER


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_in_the_foreground_ctrl_c_or_the_terminals_end_ends_all(
    cluster: Cluster, number: int
) -> None:
    process = cluster.start(*SMALL, "--nodes", "2")
    assert process.stdout
    lines = iter(process.stdout.readline, "")
    client_line = next(line for line in lines if line.startswith("client = HashClient(["))
    places = [f"{host}:{port}" for host, port in cluster.addresses()]
    assert all(f'"{place}"' in client_line for place in places)
    assert len(cluster.node_pids()) == 2
    process.send_signal(number)
    assert process.wait(PATIENCE_S) == 0
    assert not cluster.node_pids()
    assert cluster.folder.read_spec(), "the same command goes on with it"


def test_ctrl_c_while_it_comes_up_leaves_nobody(cluster: Cluster) -> None:
    process = cluster.start(*SMALL, "--nodes", "4")
    wait_until(cluster.node_pids, "the first process of a node", PATIENCE_S)
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_S) == 1
    assert not cluster.node_pids()
    assert "was ended before it served" in (cluster.root / "main.stderr").read_text()


@pytest.mark.once
def test_down_while_it_comes_up_in_the_background_is_told(cluster: Cluster) -> None:
    with cluster.started("up", "--detach", *SMALL, "--nodes", "8") as coming:
        wait_until(cluster.node_pids, "the first process of a node", PATIENCE_S)
        cluster.do("down")
        _, said = coming.communicate(timeout=PATIENCE_S)
        assert "cluster main was ended before it served" in said
        assert coming.returncode == 1


@pytest.mark.once
def test_a_mistyped_name_leaves_nothing_behind(cluster: Cluster) -> None:
    cluster.refused("down", status=EXIT_NO_CLUSTER)
    assert not cluster.folder.path.exists()


def test_nodes_serve_without_their_supervisor_and_the_next_takes_them_over(
    cluster: Cluster,
) -> None:
    cluster.up(*SMALL, "--nodes", "2")
    pids, topology = cluster.node_pids(), cluster.topology
    with RawClient(cluster.address("0001")) as client:
        client.ask(b"set kept 0 0 1\r\nx\r\n", b"STORED\r\n")
        cluster.kill_supervisor()
        client.ask(b"get kept\r\n", b"VALUE kept 0 1\r\nx\r\nEND\r\n")
        assert "its supervisor does not run" in cluster.run("status").stdout
        os.kill(pids["0002"], signal.SIGKILL)
        wait_until(lambda: len(cluster.node_pids()) == 1, "the node's end", PATIENCE_S)
        assert cluster.run("status").returncode == 1
        cluster.up()
        client.ask(b"get kept\r\n", b"VALUE kept 0 1\r\nx\r\nEND\r\n")
    assert cluster.node_pids()["0001"] == pids["0001"]
    assert cluster.node_pids()["0002"] != pids["0002"]
    assert cluster.topology == topology
    # Who was found is looked after like who was started.
    os.kill(pids["0001"], signal.SIGKILL)
    wait_until(lambda: cluster.node_pids().get("0001", pids["0001"]) != pids["0001"], "a new one")


@pytest.mark.once
def test_down_ends_nodes_that_have_lost_their_supervisor(cluster: Cluster) -> None:
    cluster.up(*SMALL, "--nodes", "2")
    cluster.kill_supervisor()
    assert cluster.do("down") == {"name": "main", "is_down": True}
    assert not cluster.node_pids()
    assert cluster.run("down").returncode == EXIT_NO_CLUSTER


@pytest.mark.once
def test_down_ends_nodes_though_the_clusters_files_are_damaged(cluster: Cluster) -> None:
    cluster.up(*SMALL, "--nodes", "1")
    cluster.kill_supervisor()
    for path in (cluster.folder.spec_path, cluster.folder.topology_path):
        path.write_text("{")
    for command in ("up", "status"):
        said = cluster.refused(command)
        assert said.startswith(f"{cluster.folder.spec_path} is damaged")
        assert "`memcachepy cluster down --name main`" in said
    cluster.do("down")
    assert not cluster.node_pids()
    said = cluster.refused("up", *SMALL, "--nodes", "1")
    assert f"{cluster.folder.topology_path} is no list of nodes" in said
    assert "remove it" in said
    assert not cluster.node_pids()


def test_killed_node_whose_workers_are_stopped_comes_back(cluster: Cluster) -> None:
    """They would keep the port for ever."""
    cluster.up(*SMALL, "--nodes", "1")
    pid = cluster.node_pids()["0001"]
    os.killpg(pid, signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    place = cluster.address("0001")
    wait_until(lambda: cluster.node_pids().get("0001", pid) != pid, "a new one", PATIENCE_S)
    wait_until(lambda: answers(place), "its answer", PATIENCE_S)


@pytest.mark.once
def test_the_same_command_goes_on_and_another_begins_anew(cluster: Cluster) -> None:
    cluster.up(*SMALL, "--nodes", "1")
    cluster.do("scale", "--nodes", "2")
    places, version = cluster.addresses(), cluster.topology.version
    assert "runs already" in cluster.refused("up", *SMALL, "--nodes", "1")
    cluster.kill_supervisor()
    assert "not as asked for: nodes 0001, 0002" in cluster.refused("up", *SMALL, "--nodes", "3")
    cluster.up(*SMALL, "--nodes", "1")
    assert cluster.addresses() == places
    os.kill(cluster.supervisor_pid, signal.SIGTERM)
    wait_until(lambda: not cluster.supervisor_pid, "its end", PATIENCE_S)
    assert not cluster.node_pids()
    cluster.up()
    assert cluster.addresses() == places
    assert cluster.topology.version == version, "the list is the same"
    cluster.do("down")
    cluster.up(*SMALL, "--nodes", "1")
    assert cluster.ids == ["0001"]
    assert cluster.topology.version > version, "versions grow over the end of a cluster"


@pytest.mark.once
def test_two_clusters_know_nothing_of_each_other(make_cluster: Callable[..., Cluster]) -> None:
    one, other = make_cluster("one"), make_cluster("other")
    one.up(*SMALL, "--nodes", "1")
    other.up(*SMALL, "--nodes", "1")
    assert not {*one.addresses()} & {*other.addresses()}
    one.do("down")
    assert answers(other.address("0001"))
    assert "there is also other (--name)" in one.refused("status", status=EXIT_NO_CLUSTER)


@pytest.mark.once
def test_a_port_that_is_taken_is_named_and_nothing_is_left(
    cluster: Cluster, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        file = tmp_path / "nodes.toml"
        file.write_text(f"[cluster]\nport = -1\n[[node]]\n[[node]]\nport = {port}\n")
        said = cluster.refused("up", "-t", "1", "-m", "8", str(file))
    assert f"node 0002 (127.0.0.1:{port}) could not start" in said
    assert f"127.0.0.1:{port} is already in use by another process" in said
    assert not cluster.node_pids()
    assert not cluster.supervisor_pid


def test_nodes_of_a_file_have_settings_of_their_own(cluster: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "nodes.toml"
    file.write_text(
        "[cluster]\nport = -1\n[settings]\nthreads = 1\nmemory_limit = 8\n"
        '[[node]]\n[[node]]\nid = "big"\nmemory_limit = 16\nidle_timeout = 7\n'
    )
    found = cluster.up(str(file), "-F")
    limits = {node["node_id"]: node["stats"]["limit_maxbytes"] for node in found["nodes"]}
    assert limits == {"0001": str(8 << 20), "big": str(16 << 20)}
    with RawClient(cluster.address("big")) as client:
        settings = client.stats("settings")
    assert settings["idle_timeout"] == "7"
    assert settings["flush_enabled"] == "no"
    file.write_text("[[node]]\n[[node]]\nmemory_limit = 0\n")
    said = cluster.refused("up", str(file), status=os.EX_USAGE)
    assert f"memory_limit is 0 ({file}, [[node]] 2): must be a whole number of megabytes" in said


def test_where_names_the_node_that_clients_ask(cluster: Cluster) -> None:
    hash_client = pytest.importorskip("pymemcache.client.hash").HashClient
    cluster.up(*SMALL)
    client = hash_client(cluster.addresses())
    client.set("greeting", "hello")
    client.close()
    found = cluster.do("where", "greeting")["nodes"]["pymemcache"]
    with RawClient((found["host"], found["port"])) as node:
        node.ask(b"get greeting\r\n", b"VALUE greeting 0 5\r\nhello\r\nEND\r\n")


@pytest.mark.once
def test_environment_counts_for_all_nodes(cluster: Cluster) -> None:
    cluster.environ["MEMCACHEPY_CONN_LIMIT"] = "77"
    found = cluster.up(*SMALL, "--nodes", "1")
    assert found["nodes"][0]["stats"]["max_connections"] == "77"
    cluster.environ["MEMCACHEPY_CONN_LIMIT"] = "lots"
    assert "(MEMCACHEPY_CONN_LIMIT)" in cluster.refused("up", status=os.EX_USAGE)


def test_script_is_setup_and_up() -> None:
    text = (TOP / "scripts" / "cluster").read_text()
    assert 'exec "$venv/bin/memcachepy" cluster up "$@"' in text
    subprocess.run(["sh", "-n", str(TOP / "scripts" / "cluster")], check=True)


@pytest.mark.once
def test_who_was_out_of_the_list_is_not_taken_over_with_its_items(cluster: Cluster) -> None:
    """They may have been changed elsewhere meanwhile."""
    cluster.up(*SMALL, "--nodes", "2")
    place, pid = cluster.address("0002"), cluster.node_pids()["0002"]
    with RawClient(place) as client:
        client.ask(b"set old 0 0 1\r\nx\r\n", b"STORED\r\n")
    cluster.kill_supervisor()
    change_topology(
        cluster.folder.topology_path,
        lambda old: old.changed([m for m in old.members if m.node_id != "0002"], time.time()),
    )
    cluster.up()
    wait_until(lambda: cluster.ids == ["0001", "0002"], "its return", PATIENCE_S)
    assert cluster.node_pids()["0002"] != pid
    with RawClient(place) as client:
        client.ask(b"get old\r\n", b"END\r\n")


@pytest.mark.once
def test_nodes_that_speak_only_binary_come_up(cluster: Cluster) -> None:
    cluster.up(*SMALL, "--nodes", "1", "-B", "binary")
    assert cluster.ids == ["0001"]
    done = cluster.run("status")
    assert done.returncode == 0, done.stdout
    assert "1 of 1 nodes serve" in done.stdout


@pytest.mark.once
def test_status_asks_where_nodes_listen_not_where_they_say(cluster: Cluster) -> None:
    found = cluster.up(*SMALL, "--nodes", "1", "--advertise", "cache.invalid")
    (node,) = found["nodes"]
    assert node["address"].startswith("cache.invalid:")
    assert node["state"] == "serving"
    assert node["stats"]["curr_connections"]
    cluster.kill_supervisor()
    assert cluster.run("status").returncode == 0


@pytest.mark.once
def test_stopped_supervisor_is_told_from_a_dead_one(cluster: Cluster) -> None:
    cluster.up(*SMALL, "--nodes", "1")
    pid = cluster.supervisor_pid
    os.kill(pid, signal.SIGSTOP)
    try:
        done = cluster.run("status")
        assert f"its supervisor, process {pid}, does not answer" in done.stdout
        said = cluster.refused("restart", "1", status=EXIT_NO_CLUSTER)
        assert "does not answer: it may be stopped; nothing is changed" in said
        nodes = cluster.node_pids()
    finally:
        os.kill(pid, signal.SIGCONT)
    cluster.do("add")
    assert cluster.node_pids()["0001"] == nodes["0001"], "the restart was never asked for"


@pytest.mark.once
def test_state_folder_with_a_long_name_is_no_matter(
    make_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    """The control socket's address holds no more than 107 bytes."""
    cluster = make_cluster()
    cluster.root = tmp_path / ("x" * 120)
    cluster.folder = StateFolder(cluster.root, cluster.name)
    cluster.up(*SMALL, "--nodes", "1")
    assert cluster.status()["is_ready"]


def test_any_cluster_can_be_looked_at_by_provider_or_node(cluster: Cluster) -> None:
    cluster.up(*SMALL, "--nodes", "2")
    url = f"file:{cluster.folder.topology_path}"
    found = cluster.do("status", "--provider", url)
    assert [node["state"] for node in found["nodes"]] == ["serving", "serving"]
    host, port = cluster.address("0001")
    found = cluster.do("status", "--endpoint", f"{host}:{port}")
    assert sorted(node["node_id"] for node in found["nodes"]) == ["0001", "0002"]
    assert "both say which" in cluster.refused(
        "status", "--provider", url, "--endpoint", "x", status=os.EX_USAGE
    )
    assert cluster.do("where", "k", "--provider", url)["version"] == cluster.topology.version
    assert "provider is 'x:'" in cluster.refused("status", "--provider", "x:", status=os.EX_USAGE)


def test_watching_goes_on_until_ctrl_c(cluster: Cluster) -> None:
    cluster.up(*SMALL, "--nodes", "1")
    with cluster.started("status", "--watch", "--json", "--interval", "0.1") as watching:
        assert watching.stdout
        for _ in range(2):
            assert json.loads(watching.stdout.readline())["nodes"][0]["state"] == "serving"
        cluster.do("down")
        while "does not run" not in json.loads(watching.stdout.readline()).get("error", ""):
            pass
        watching.send_signal(signal.SIGINT)
        assert watching.wait(PATIENCE_S) == 130

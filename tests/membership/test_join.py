"""Nodes in real processes: what list they serve, and when they join and leave."""

import json
import os
import random
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nodes import Node, Start
from support.waiting import wait_until
from zookeeper_server import Wire, ZookeeperServer, free_port

from memcachepy import _core
from memcachepy.membership import open_membership
from memcachepy.membership.file import change_topology, read_topology
from memcachepy.membership.last_known import read_last_known
from memcachepy.topology import Member, Topology

WAIT_S = 60.0
ONE = Member("10.0.0.1", 11211, "10.0.0.1", "0001")
TWO = Member("10.0.0.2", 11211, "10.0.0.2", "0002")


def served(node: Node) -> Topology | None:
    """What `config get cluster` is answered from."""
    segment = node.segment()
    try:
        found = segment.get_config("cluster")
    finally:
        segment.close()
    return Topology.parse(found[1]) if found else None


def wire_form(topology: Topology | None) -> bytes:
    return topology.payload() if topology else b""


def discovery_rows(node: Node) -> dict[str, str]:
    rows = node.client().stats("memcachepy")
    return {name[10:]: value for name, value in rows.items() if name.startswith("discovery:")}


def has_state(node: Node, state: str) -> Callable[[], bool]:
    return lambda: discovery_rows(node)["state"] == state


def serves(node: Node, topology: Topology | None) -> Callable[[], bool]:
    return lambda: wire_form(served(node)) == wire_form(topology)


# ---- alone -----------------------------------------------------------------------------------


def test_a_node_outside_any_cluster_lists_itself(start: Start) -> None:
    node = start()
    port = int(node.address[1])
    found = served(node)
    assert found is not None
    assert found.members == (Member("127.0.0.1", port, "127.0.0.1"),)
    assert found.version > 1_700_000_000
    assert discovery_rows(node) == {}
    assert not node.children("discovery")


def test_what_is_advertised_is_in_the_list(start: Start) -> None:
    node = start("--advertise", "192.0.2.7:999")
    found = served(node)
    assert found is not None
    assert found.members == (Member("192.0.2.7", 999, "192.0.2.7"),)


def test_a_node_that_listens_on_no_port_has_no_list(start: Start, tmp_path: Path) -> None:
    assert served(start("-s", str(tmp_path / "s"))) is None


# ---- a file ----------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "topology.json"
    change_topology(path, lambda old: old.changed([ONE], 1_800_000_000))
    return path


def start_with_file(start: Start, file: Path, *flags: str) -> Node:
    state = file.with_name("state.json")
    return start("-t", "1", "--join", f"file:{file}", "--discovery-state", str(state), *flags)


def test_a_changed_file_is_served(start: Start, file: Path) -> None:
    node = start_with_file(start, file)
    wait_until(serves(node, read_topology(file)), "the first list", WAIT_S)
    new = change_topology(file, lambda old: old.changed([ONE, TWO], 1_800_000_000))
    wait_until(serves(node, new), "the new list", WAIT_S)
    wait_until(lambda: discovery_rows(node)["version"] == "1800000001", "the state", WAIT_S)
    rows = discovery_rows(node)
    assert rows["state"] == "connected"
    assert rows["provider"] == f"file:{file}"
    assert rows["nodes"] == "2"
    assert rows["joined"] == "no"
    assert int(rows["pid"]) == node.child("discovery").pid


@pytest.mark.parametrize("text", [None, "", "{", json.dumps({"version": "x", "members": []})])
def test_a_broken_file_leaves_the_last_list_and_is_said_once(
    start: Start, file: Path, text: str | None
) -> None:
    node = start_with_file(start, file)
    good = read_topology(file)
    wait_until(serves(node, good), "the first list", WAIT_S)
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    wait_until(has_state(node, "last_known"), "the loss to be seen", WAIT_S)
    assert serves(node, good)()
    assert len(node.wait_for_log("no answer about the cluster", timeout_s=WAIT_S)) == 1
    new = Topology(1_900_000_000, (ONE, TWO))
    change = file.with_name("new")
    change.write_text(json.dumps(new.as_dict()))
    change.replace(file)
    wait_until(serves(node, new), "the new list", WAIT_S)
    wait_until(has_state(node, "connected"), "the state", WAIT_S)
    assert len(node.wait_for_log("no answer about the cluster")) == 1


def test_a_node_that_joins_serves_when_no_copies_of_its_predecessor_are_shown(
    launch: Start, file: Path
) -> None:
    port = free_port()
    launch("-m", "16", "-p", str(port), "--join", f"file:{file}")
    client = wait_until(lambda: connected(port), "the port to be open", WAIT_S)
    opened_at_ns = time.monotonic_ns()
    with client:
        client.sendall(b"mn\r\n")
        assert client.recv(4) == b"MN\r\n"
    # Half of it: this process may have been late to see the port.
    assert time.monotonic_ns() - opened_at_ns > _core.COPIES_OUTLIVED_NS / 2


def connected(port: int) -> socket.socket | None:
    try:
        return socket.create_connection(("127.0.0.1", port), WAIT_S)
    except ConnectionRefusedError:
        return None


def test_the_last_known_list_is_served_after_a_restart(start: Start, file: Path) -> None:
    known = read_topology(file)
    node = start_with_file(start, file)
    wait_until(serves(node, known), "the list", WAIT_S)
    wait_until(file.with_name("state.json").exists, "the state file", WAIT_S)
    assert node.stop() == 0
    file.unlink()
    again = start_with_file(start, file)
    assert serves(again, known)()
    wait_until(has_state(again, "last_known"), "the state", WAIT_S)


def test_the_version_does_not_fall_when_the_file_is_made_anew(start: Start, file: Path) -> None:
    known = read_topology(file)
    assert known is not None
    node = start_with_file(start, file)
    wait_until(serves(node, known), "the list", WAIT_S)
    file.unlink()
    change_topology(file, lambda old: old.changed([TWO], 1_600_000_000))
    raised = Topology(known.version + 1, (TWO,))
    wait_until(serves(node, raised), "the list", WAIT_S)
    wait_until(lambda: read_topology(file) == raised, "the file to follow", WAIT_S)


def test_a_killed_discovery_process_is_replaced_and_nothing_is_lost(
    start: Start, file: Path
) -> None:
    node = start_with_file(start, file)
    wait_until(serves(node, read_topology(file)), "the list", WAIT_S)
    first = node.child("discovery")
    for _ in range(3):
        old = node.child("discovery")
        old.kill()
        assert serves(node, read_topology(file))()
        node.wait_for_other("discovery", [old])
    assert node.child("discovery") != first
    new = change_topology(file, lambda old: old.changed([TWO], 0))
    wait_until(serves(node, new), "the new list", WAIT_S)
    assert node.client().stats()


@pytest.mark.once
def test_killed_at_any_moment_it_leaves_whole_lists(
    start: Start, file: Path, rng: random.Random
) -> None:
    node = start_with_file(start, file)
    state = file.with_name("state.json")
    wait_until(serves(node, read_topology(file)), "the list", WAIT_S)
    told = 0
    for number in range(8):
        members = [ONE, TWO] if number % 2 else [ONE]
        change_topology(file, lambda old, m=members: old.changed(m, 0))
        end_s = time.monotonic() + rng.uniform(0, 0.4)
        while time.monotonic() < end_s:
            found = served(node)
            assert found is not None
            assert found.version >= told
            told = found.version
        for process in node.children("discovery"):
            process.kill()
        assert read_last_known(state).topology.version <= told + 1
    new = change_topology(file, lambda old: old.changed([TWO], 0))
    wait_until(serves(node, new), "the last list", WAIT_S)
    wait_until(lambda: read_last_known(state).topology == new, "the state file", WAIT_S)
    segment = node.segment()
    assert segment.check() == []
    segment.close()


def test_a_stopped_discovery_process_does_not_hold_up_the_node(start: Start, file: Path) -> None:
    node = start_with_file(start, file)
    wait_until(serves(node, read_topology(file)), "the list", WAIT_S)
    node.child("discovery").suspend()
    assert node.client().stats()
    assert node.stop() == 0
    assert node.wait_for_log("leave timeout")


def test_control_status_tells_the_same(start: Start, file: Path, tmp_path: Path) -> None:
    control = tmp_path / "control"
    node = start_with_file(start, file, "--control-socket", str(control))
    wait_until(has_state(node, "connected"), "the state", WAIT_S)
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(WAIT_S)
        asking.connect(str(control))
        asking.sendall(b'{"v":1,"op":"status"}\n')
        answer: dict[str, Any] = json.loads(asking.recv(65536))
    rows = discovery_rows(node)
    del rows["pid"]
    assert answer["discovery"] == rows


def test_a_list_too_long_for_some_clients_is_warned_about(start: Start, file: Path) -> None:
    many = [
        Member(f"10.0.{n // 250}.{n % 250}", 11211, f"10.0.{n // 250}.{n % 250}")
        for n in range(200)
    ]
    change_topology(file, lambda old: old.changed(many, 0))
    node = start_with_file(start, file)
    assert node.wait_for_log("the list of nodes is long", timeout_s=WAIT_S)
    found = served(node)
    assert found is not None
    assert len(found.members) == 200


def test_a_daemon_finds_a_file_that_is_named_from_here(
    launch: Start, file: Path, tmp_path: Path
) -> None:
    port = free_port()
    pidfile = tmp_path / "pid"
    flags = ["-p", str(port), "-m", "16", "-t", "1", "-d", "-v", "-P", str(pidfile)]
    node = launch(
        *flags, "--join", f"file:{file.name}", "--discovery-state", "s.json", cwd=file.parent
    )
    assert node.wait() == 0
    pid = int(pidfile.read_text())
    try:
        wait_until((tmp_path / "s.json").exists, "the list to be known", WAIT_S)
    finally:
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not pidfile.exists(), "the daemon to end", WAIT_S)


def test_where_the_list_is_kept_if_nobody_says(start: Start, file: Path, tmp_path: Path) -> None:
    port = str(free_port())
    flags = ["-p", port, "-t", "1", "--join", f"file:{file}"]
    place = tmp_path / "home" / "memcachepy" / f"discovery-{port}.json"
    start(*flags, env={"XDG_STATE_HOME": str(tmp_path / "home")})
    wait_until(place.exists, "the state file", WAIT_S)
    assert place.parent.stat().st_mode & 0o777 == 0o700
    assert read_last_known(place).topology == read_topology(file)


def test_a_node_that_left_its_cluster_does_not_fall_below_its_version(
    start: Start, file: Path
) -> None:
    change_topology(file, lambda old: old.changed([ONE, TWO], 2_000_000_000))
    node = start_with_file(start, file)
    wait_until(file.with_name("state.json").exists, "the state file", WAIT_S)
    assert node.stop() == 0
    alone = served(start("--discovery-state", str(file.with_name("state.json"))))
    assert alone is not None
    assert alone.version == 2_000_000_001
    assert len(alone.members) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_the_list_is_kept_by_the_user_that_root_becomes(launch: Start) -> None:
    with tempfile.TemporaryDirectory(dir="/run") as shared:
        Path(shared).chmod(0o755)
        file = Path(shared) / "topology.json"
        change_topology(file, lambda old: old.changed([ONE], 1_800_000_000))
        file.chmod(0o644)
        port, place = str(free_port()), Path(shared) / "state"
        flags = ["-p", port, "-m", "16", "-t", "1", "-u", "nobody", "--control-socket", "off"]
        node = launch(*flags, "--join", f"file:{file}", env={"STATE_DIRECTORY": str(place)})
        node.wait_until_serving()
        kept = place / f"discovery-{port}.json"
        wait_until(kept.exists, "the state file", WAIT_S)
        assert kept.owner() == "nobody"
        assert node.stop() == 0


def test_a_second_signal_does_not_wait_for_the_provider(start: Start, file: Path) -> None:
    node = start_with_file(start, file)
    wait_until(serves(node, read_topology(file)), "the list", WAIT_S)
    node.child("discovery").suspend()
    node.process.send_signal(signal.SIGTERM)
    node.wait_for_log("leaving the cluster", timeout_s=WAIT_S)
    node.process.send_signal(signal.SIGTERM)
    node.wait_for_log("stopping", timeout_s=WAIT_S)
    assert "leave timeout" not in node.log()
    node.process.send_signal(signal.SIGTERM)
    assert node.wait() == 0


@pytest.mark.parametrize(
    ("join", "says"),
    [
        ("zk://127.0.0.1/c?auth=/no/such/file", "/no/such/file: not readable"),
        ("etcd://127.0.0.1/c", "must be file:PATH"),
    ],
)
def test_what_cannot_be_joined_is_refused_at_start(launch: Start, join: str, says: str) -> None:
    pytest.importorskip("kazoo")
    node = launch("-p", "-1", "-m", "16", "--join", join)
    assert node.wait(WAIT_S) == os.EX_USAGE
    assert says in node.log()


def test_a_provider_whose_package_is_missing_names_the_extra(launch: Start, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['kazoo'] = None")
    node = launch("-p", "-1", "--join", "zk://a/c", env={"PYTHONPATH": str(tmp_path)})
    assert node.wait(WAIT_S) == os.EX_USAGE
    assert "pip install 'memcachepy[zookeeper]'" in node.log()


# ---- ZooKeeper -------------------------------------------------------------------------------


@pytest.fixture
def url(zookeeper: ZookeeperServer, request: pytest.FixtureRequest) -> str:
    return f"zk://{zookeeper.address}/join/{request.node.name}?session=1&grace=2"


def start_with(start: Start, url: str, tmp_path: Path, name: str, *flags: str) -> Node:
    state = str(tmp_path / f"{name}.json")
    own = ["-t", "1", "--join", url, "--node-id", name, "--discovery-state", state]
    return start(*own, *flags)


def ids_in(url: str) -> list[str]:
    with open_membership(url) as membership:
        found = membership.topology()
    return sorted(member.node_id for member in found.members) if found else []


def serves_nodes(node: Node, *others: Node) -> Callable[[], bool]:
    ports = sorted(int(other.address[1]) for other in (node, *others))

    def serves_them() -> bool:
        found = served(node)
        return bool(found) and sorted(member.port for member in found.members) == ports

    return serves_them


def test_nodes_join_and_leave(start: Start, url: str, tmp_path: Path) -> None:
    one = start_with(start, url, tmp_path, "one")
    two = start_with(start, url, tmp_path, "two", "--advertise", "127.0.0.2")
    wait_until(serves_nodes(one, two), "both in one's list", WAIT_S)
    wait_until(serves_nodes(two, one), "both in two's list", WAIT_S)
    assert served(one) == served(two)
    assert ids_in(url) == ["one", "two"]
    wait_until(lambda: discovery_rows(one)["joined"] == "yes", "membership", WAIT_S)
    two.process.send_signal(signal.SIGTERM)
    assert two.wait() == 0
    assert ids_in(url) == ["one"]
    log = two.log()
    assert log.index("left the cluster") < log.index("stopping")
    wait_until(serves_nodes(one), "one alone", WAIT_S)


@pytest.mark.once
def test_a_draining_node_leaves_first_and_tells_the_new_list(
    start: Start, url: str, tmp_path: Path
) -> None:
    one = start_with(start, url, tmp_path, "one")
    two = start_with(start, url, tmp_path, "two")
    wait_until(serves_nodes(two, one), "both", WAIT_S)
    client = two.client()
    assert client.stats()
    two.process.send_signal(signal.SIGUSR1)
    two.wait_for_log("draining", timeout_s=WAIT_S)
    assert ids_in(url) == ["one"]
    found = served(two)
    assert found is not None
    assert [member.port for member in found.members] == [int(one.address[1])]
    assert client.stats()
    client.close()
    assert two.wait() == 0


@pytest.mark.once
def test_a_killed_node_is_out_after_the_grace_and_back_with_its_id(
    start: Start, url: str, tmp_path: Path
) -> None:
    one = start_with(start, url, tmp_path, "one")
    two = start_with(start, url, tmp_path, "two")
    wait_until(serves_nodes(one, two), "both", WAIT_S)
    two.process.kill()
    wait_until(serves_nodes(one), "one alone", WAIT_S)
    assert "node removed" in one.log()
    again = start_with(start, url, tmp_path, "two")
    wait_until(serves_nodes(one, again), "both", WAIT_S)
    assert ids_in(url) == ["one", "two"]


@pytest.mark.once
def test_a_node_starts_though_its_provider_is_away(
    start: Start, zookeeper: ZookeeperServer, tmp_path: Path
) -> None:
    url = f"zk://127.0.0.1:{free_port()}/cache?session=1"
    node = start_with(start, url, tmp_path, "one")
    assert served(node) is None  # Itself alone would hide the right list.
    node.wait_for_log("no answer about the cluster", timeout_s=WAIT_S)
    assert discovery_rows(node)["state"] == "last_known"
    assert node.stop() == 0
    assert zookeeper.pid


@pytest.mark.once
def test_who_started_the_node_is_told_when_it_knows_its_cluster(
    start: Start, url: str, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.settimeout(WAIT_S)
        told.bind(str(tmp_path / "notify"))
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        node = start("-t", "1", "--join", url, "--discovery-state", "off", env=env)
        assert told.recv(4096).startswith(b"READY=1")
        assert discovery_rows(node)["state"] == "connected"
        assert serves_nodes(node)()
        away = start("-t", "1", "--join", "zk://127.0.0.1:1/cache", env=env)
        assert told.recv(4096).startswith(b"READY=1")
        assert "no answer about the cluster" in away.log()


@pytest.mark.once
def test_all_goes_on_while_the_provider_is_dead(
    start: Start, zookeeper: ZookeeperServer, url: str, tmp_path: Path
) -> None:
    one = start_with(start, url, tmp_path, "one")
    two = start_with(start, url, tmp_path, "two")
    wait_until(serves_nodes(one, two), "both", WAIT_S)
    before = served(one)
    zookeeper.kill()
    wait_until(has_state(one, "last_known"), "the loss", WAIT_S)
    assert served(one) == before
    assert two.stop() == 0
    again = start_with(start, url, tmp_path, "two", "-p", str(two.address[1]))
    assert wire_form(served(again)) == wire_form(before)
    zookeeper.start()
    for node in (one, again):
        wait_until(has_state(node, "connected"), "the way back", WAIT_S)
        wait_until(lambda n=node: discovery_rows(n)["joined"] == "yes", "membership", WAIT_S)
        assert served(node) == before


@pytest.mark.once
def test_a_node_stops_though_its_provider_hangs(
    start: Start, zookeeper: ZookeeperServer, url: str, tmp_path: Path
) -> None:
    node = start_with(start, url.replace("session=1", "session=60"), tmp_path, "one")
    wait_until(serves_nodes(node), "the list", WAIT_S)
    zookeeper.pause()
    assert node.stop() == 0
    assert node.wait_for_log("cannot leave the cluster|leave timeout")


@pytest.mark.once
def test_a_node_that_is_cut_off_keeps_serving_the_list(
    start: Start, url: str, wire: Wire, zookeeper: ZookeeperServer, tmp_path: Path
) -> None:
    one = start_with(start, url.replace("grace=2", "grace=3600"), tmp_path, "one")
    cut = url.replace(zookeeper.address, wire.address)
    two = start_with(start, cut, tmp_path, "two")
    wait_until(serves_nodes(two, one), "both", WAIT_S)
    before = served(two)
    wire.cut()
    wait_until(has_state(two, "last_known"), "the cut", WAIT_S)
    assert served(two) == served(one) == before
    wire.join()
    wait_until(has_state(two, "connected"), "the way back", WAIT_S)
    assert served(two) == served(one) == before


@pytest.mark.once
def test_the_version_does_not_fall_from_a_file_to_zookeeper(
    start: Start, url: str, file: Path, tmp_path: Path
) -> None:
    port = str(free_port())
    own = Member("127.0.0.1", int(port), "127.0.0.1", "one")
    change_topology(file, lambda old: old.changed([own, TWO], 2_000_000_000))
    with_file = start_with(start, f"file:{file}", tmp_path, "one", "-p", port)
    wait_until(serves(with_file, read_topology(file)), "the file's list", WAIT_S)
    wait_until((tmp_path / "one.json").exists, "the state file", WAIT_S)
    assert with_file.stop() == 0
    node = start_with(start, url, tmp_path, "one", "-p", port)
    wait_until(has_state(node, "connected"), "ZooKeeper", WAIT_S)
    found = served(node)
    assert found is not None
    assert found.version >= 2_000_000_000
    wait_until(serves_nodes(node), "the other, which is not there, to be removed", WAIT_S)
    last = served(node)
    assert last is not None
    assert last.version > 2_000_000_000


@pytest.mark.once
def test_versions_do_not_fall_when_everything_is_restarted(
    start: Start, zookeeper: ZookeeperServer, url: str, tmp_path: Path
) -> None:
    nodes = [start_with(start, url, tmp_path, name) for name in ("one", "two")]
    ports = [str(node.address[1]) for node in nodes]
    wait_until(serves_nodes(nodes[0], nodes[1]), "both", WAIT_S)
    for node in nodes:
        assert node.stop() == 0
    with open_membership(url) as membership:
        last = membership.topology()
    assert last is not None
    zookeeper.kill()
    zookeeper.lose_everything()
    zookeeper.start()
    again = [
        start_with(start, url, tmp_path, name, "-p", port)
        for name, port in zip(("one", "two"), ports, strict=True)
    ]
    for node in again:
        wait_until(serves_nodes(*again), "both", WAIT_S)
        wait_until(lambda: served(again[0]) == served(again[1]), "one list", WAIT_S)
        found = served(node)
        assert found is not None
        assert found.version > last.version

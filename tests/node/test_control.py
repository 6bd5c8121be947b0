"""The control socket: who may speak, what is answered, and that nobody holds the supervisor up."""

import grp
import json
import os
import platform
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from control import ControlClient, as_user
from nodes import SERVE, Node, Start
from support.waiting import wait_until

from memcachepy import _core

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
NOBODY = 65534


@pytest.fixture
def folder() -> Iterator[Path]:
    """Everybody may pass through it, and its name is short."""
    with tempfile.TemporaryDirectory(prefix="memcachepy-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "control"


@pytest.fixture
def node(start: Start, path: Path) -> Node:
    return start("-t", "1", "--control-socket", str(path))


def attached(node: Node) -> int:
    return int(node.client().stats("memcachepy")["attached_processes"])


def test_attach_brings_the_segment_and_a_slot(node: Node, path: Path) -> None:
    node.client().ask(b"set k 0 0 1\r\nv\r\n", b"STORED\r\n")
    with ControlClient(path) as client:
        answer = client.attach()
        assert answer["ok"] is True
        assert answer["layout_version"] == _core.LAYOUT_VERSION
        assert answer["slot"] == _core.SLOT_WORKER_FIRST + 1
        assert attached(node) == 1
        fd, run_fd = client.fds
        segment = _core.Segment.attach(fd, run_fd)
        assert segment.counters()["curr_items"] == 1
        segment.close()
    node.wait_for_log(f"detached pid={os.getpid()} slot={answer['slot']}")
    assert attached(node) == 0


@pytest.mark.usefixtures("node")
def test_detach_frees_the_slot_at_once_for_the_next(path: Path) -> None:
    slots = set()
    for _ in range(3):
        with ControlClient(path) as client:
            slots.add(client.attach()["slot"])
            client.socket.sendall(b'{"v":1,"op":"detach"}\n')
            assert client.socket.recv(1) == b""
    assert len(slots) == 1


def test_closed_connection_of_a_process_that_still_maps_keeps_its_slot(
    node: Node, path: Path
) -> None:
    """It may be in the middle of a change."""
    client = ControlClient(path)
    client.attach()
    segment = _core.Segment.attach(*client.fds)
    client.close()
    node.wait_for_log("attached process has closed its connection")
    assert attached(node) == 1
    with ControlClient(path) as other:
        assert other.attach()["slot"] == _core.SLOT_WORKER_FIRST + 2
    segment.close()


@needs_root
@pytest.mark.skipif(
    tuple(map(int, platform.release().split(".")[:2])) < (5, 8),
    reason="a /proc of one's own needs Linux 5.8",
)
def test_a_process_that_is_hidden_from_the_node_keeps_its_slot_as_long_as_it_lives(
    start: Start, path: Path
) -> None:
    if not shutil.which("unshare"):
        pytest.skip("no unshare (Debian: apt-get install util-linux)")
    hiding = 'mount -t proc -o hidepid=invisible proc /proc && exec "$@"'
    inside = ["unshare", "--mount", "--propagation", "private", "sh", "-c"]
    if subprocess.run([*inside, hiding, "sh", "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    flags = ("-t", "1", "-u", "nobody", "--control-socket", str(path))
    node = start(*flags, command=[*inside, hiding, "sh", *SERVE])
    client = ControlClient(path)
    client.attach()
    segment = _core.Segment.attach(*client.fds)
    client.close()
    node.wait_for_log("attached process has closed its connection")
    assert attached(node) == 1
    segment.close()


DIES_ATTACHED = """
import sys, time
sys.path.insert(0, sys.argv[1])
from control import ControlClient
client = ControlClient(sys.argv[2])
print(client.attach()["slot"], flush=True)
time.sleep(60)
"""


def test_slot_of_a_killed_process_is_freed_whoever_holds_its_connection(
    node: Node, path: Path
) -> None:
    command = [sys.executable, "-c", DIES_ATTACHED, str(Path(__file__).parent), str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout
    assert int(process.stdout.readline()) == _core.SLOT_WORKER_FIRST + 1
    assert attached(node) == 1
    process.kill()
    process.wait()
    process.stdout.close()
    wait_until(lambda: attached(node) == 0, "the slot to be free")
    node.wait_for_log(f"detached pid={process.pid}")


def test_one_more_than_fits_is_told_so(node: Node, path: Path) -> None:
    clients = [ControlClient(path) for _ in range(8)]
    for _ in range(_core.ATTACHED_MAX - len(clients)):
        clients.append(ControlClient(path))
        assert clients[-1].attach()["ok"]
    for client in clients[:8]:
        assert client.attach()["ok"]
    with ControlClient(path) as late:
        assert f"{_core.ATTACHED_MAX} processes are attached" in late.attach()["error"]
        clients.pop().close()
        wait_until(lambda: late.attach()["ok"], "a free slot")
    for client in clients:
        client.close()
    wait_until(lambda: attached(node) == 0, "all slots to be free")
    assert node.stop() == 0


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"hello", "a line of JSON"),
        (b"[" * 4000, "a line of JSON"),
        (b"[1]", "JSON object"),
        (b'{"op":"attach"}', "version None"),
        (b'{"v":2,"op":"attach"}', "version 2"),
        (b'{"v":1}', "no operation None"),
        (b'{"v":1,"op":"reboot"}', "no operation 'reboot'"),
        (b'{"v":1,"op":"detach"}', "has not attached"),
        (b'{"v":1,"op":"attach"}', "PID namespace"),
        (b'{"v":1,"op":"attach","pid":1}', "PID namespace"),
    ],
)
def test_nonsense_is_answered_and_the_connection_goes_on(path: Path, line: bytes, why: str) -> None:
    with ControlClient(path) as client:
        client.socket.sendall(line + b"\n")
        answer = client.answer()
        assert answer["ok"] is False
        assert why in answer["error"]
        assert client.attach()["ok"]
        assert "attaches once" in client.attach()["error"]


def test_status_says_who_it_is(node: Node, path: Path) -> None:
    with ControlClient(path) as client, ControlClient(path) as other:
        other.attach()
        answer = client.ask(op="status")
        assert answer["pid"] == node.pid
        assert answer["attached"] == 1


def test_a_line_in_pieces_is_a_line(node: Node, path: Path) -> None:
    with ControlClient(path) as client:
        for byte in b'{"v":1,"op":"status"}\n':
            client.socket.sendall(bytes([byte]))
        assert client.answer()["pid"] == node.pid


@pytest.mark.usefixtures("node")
def test_a_line_without_an_end_is_dropped(path: Path) -> None:
    with ControlClient(path) as client:
        client.socket.sendall(b"x" * 100_000)
        with suppress(ConnectionResetError):
            assert client.socket.recv(1) == b""
    with ControlClient(path) as client:
        assert client.ask(op="status")["ok"]


def test_peer_that_does_not_read_its_answers_is_dropped(node: Node, path: Path) -> None:
    def ask_for_ever(deaf: ControlClient) -> None:
        while True:
            deaf.socket.sendall(b'{"v":1,"op":"status"}\n' * 100)

    with ControlClient(path) as deaf, ControlClient(path) as other:
        with pytest.raises(OSError, match=r"[Bb]roken pipe|reset"):
            ask_for_ever(deaf)
        assert other.ask(op="status")["ok"]
        node.client().ask(b"version\r\n", b"VERSION")


@pytest.mark.usefixtures("node")
def test_connections_that_say_nothing_are_bounded(path: Path) -> None:
    silent = [ControlClient(path) for _ in range(64)]
    with ControlClient(path) as late:
        assert "wait already" in late.answer()["error"]
    silent.pop().close()

    def is_answered() -> bool:
        with ControlClient(path) as client:
            return bool(client.ask(op="status")["ok"])

    wait_until(is_answered, "room for one")
    for client in silent:
        client.close()


def test_default_place_is_private_and_named_by_the_port(start: Start, folder: Path) -> None:
    node = start("-t", "1", env={"XDG_RUNTIME_DIR": str(folder)})
    path = folder / "memcachepy" / f"{node.addresses[0].rpartition(':')[2]}.sock"
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with ControlClient(path) as client:
        assert client.ask(op="status")["pid"] == node.pid
    assert node.stop() == 0
    assert not path.exists()


def test_node_on_a_unix_socket_alone_has_it_beside(start: Start, folder: Path) -> None:
    node = start("-t", "1", "-s", str(folder / "cache"))
    with ControlClient(folder / "cache.control") as client:
        assert client.ask(op="status")["pid"] == node.pid
    assert node.stop() == 0
    assert list(folder.iterdir()) == []


def test_dead_nodes_socket_is_replaced_and_a_live_ones_is_not(
    start: Start, launch: Start, path: Path
) -> None:
    first = start("--control-socket", str(path))
    second = launch("-p", "-1", "--control-socket", str(path))
    assert second.wait() == 71
    assert f"--control-socket {path}: is already in use" in second.log()
    first.process.kill()
    first.wait()
    start("--control-socket", str(path))


@needs_root
def test_directory_that_others_may_write_to_is_not_used(start: Start, folder: Path) -> None:
    (folder / "memcachepy").mkdir()
    (folder / "memcachepy").chmod(0o777)
    node = start("-t", "1", env={"XDG_RUNTIME_DIR": str(folder)})
    assert list((folder / "memcachepy").iterdir()) == []
    assert node.stop() == 0


def test_off_is_none(start: Start, folder: Path) -> None:
    start("--control-socket", "off", env={"XDG_RUNTIME_DIR": str(folder)})
    assert list(folder.iterdir()) == []


def test_unknown_group(launch: Start) -> None:
    node = launch("-p", "-1", "--control-group", "no-such-group")
    assert node.wait() == 64
    assert "there is no such group" in node.log()


def ask_as(uid: int, groups: list[int], path: Path) -> str:
    def ask() -> object:
        with ControlClient(path) as client:
            try:
                return client.attach().get("error", "attached")
            except ConnectionError:
                return client.answer().get("error")

    return as_user(uid, groups, ask)


@needs_root
def test_other_users_are_refused_by_the_files_mode(node: Node, path: Path) -> None:
    assert "PermissionError" in ask_as(NOBODY, [], path)
    assert attached(node) == 0


@needs_root
def test_other_users_are_refused_by_who_they_are(node: Node, path: Path) -> None:
    path.chmod(0o666)
    assert "user 65534 is neither" in ask_as(NOBODY, [], path)
    node.wait_for_log("control peer refused pid=[0-9]+ uid=65534")
    assert attached(node) == 0


@needs_root
def test_members_of_the_control_group_may_attach(start: Start, path: Path) -> None:
    gid = grp.getgrnam("games").gr_gid
    start("-t", "1", "--control-socket", str(path), "--control-group", "games")
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert path.stat().st_gid == gid
    assert ask_as(NOBODY, [gid], path) == "'attached'"
    assert ask_as(NOBODY, [gid + 1, gid], path) == "'attached'"
    many = list(range(100_000, 100_400))
    assert ask_as(NOBODY, [*many, gid], path).endswith('control group"')
    assert "PermissionError" in ask_as(NOBODY, [gid + 1], path)
    path.chmod(0o666)
    assert "neither" in ask_as(NOBODY, [gid + 1], path)


@needs_root
def test_node_that_became_somebody_lets_that_user_and_root_attach(start: Start, path: Path) -> None:
    start("-t", "1", "-u", "nobody", "--control-socket", str(path))
    assert path.stat().st_uid == NOBODY
    assert ask_as(NOBODY, [], path) == "'attached'"
    with ControlClient(path) as client:
        assert client.attach()["ok"]
    assert "PermissionError" in ask_as(1, [], path)


def test_attached_process_is_not_asked_to_end_with_the_node(node: Node, path: Path) -> None:
    with ControlClient(path) as client:
        assert client.attach()["ok"]
        assert node.stop(signal.SIGTERM) == 0
        assert client.socket.recv(1) == b""
    assert "Traceback" not in node.log()


def test_children_hold_no_control_connection(node: Node, path: Path) -> None:
    with ControlClient(path) as client:
        assert client.attach()["ok"]
        (victim,) = node.workers()
        victim.kill()
        (worker,) = node.wait_for_other("worker", [victim])
        held = [c.laddr for c in worker.net_connections("unix")]
        assert str(path) not in held


@pytest.mark.usefixtures("node")
def test_answers_are_one_line_of_json(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        sock.sendall(b'{"v":1,"op":"status"}\n{"v":1,"op":"status"}\n')
        lines = b""
        while lines.count(b"\n") < 2:
            lines += sock.recv(65536)
    assert [json.loads(line)["v"] for line in lines.splitlines()] == [1, 1]

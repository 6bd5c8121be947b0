"""Options that change what a node does: in the background, with limits, as another program."""

import os
import pwd
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from nodes import SERVE, Node, Start, is_alive, name_of
from support.client import RawClient
from support.waiting import wait_until

IS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not IS_ROOT, reason="needs root")
PROGRAM = Path(sys.executable).with_name("memcachepy")


def quiet_environment(**more: str) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MEMCACHEPY_")}
    return {**clean, "MEMCACHEPY_CONTROL_SOCKET": "off", **more}


@pytest.fixture
def link(tmp_path: Path) -> Path:
    """A link named memcached, made by the command that makes it."""
    folder = tmp_path / "bin"
    folder.mkdir(mode=0o755)
    subprocess.run([PROGRAM, "install-link", folder], check=True, stdout=subprocess.DEVNULL)
    return folder / "memcached"


Daemon = Callable[..., psutil.Process]


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """Run a command that leaves a node in the background; it is ended with the test."""
    found: list[psutil.Process] = []

    def daemon(*command: object, pidfile: Path, **environ: str) -> psutil.Process:
        done = subprocess.run(
            [*map(str, command), "-d", "-P", str(pidfile)],
            env=quiet_environment(**environ),
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        found.append(psutil.Process(int(pidfile.read_text())))
        return found[-1]

    yield daemon
    for process in found:
        with suppress(psutil.NoSuchProcess):
            children = process.children()
            process.kill()
            psutil.wait_procs([process, *children], timeout=10)


def ports_in(file: Path) -> dict[str, int]:
    lines = [line.split(": ") for line in file.read_text().splitlines()]
    return {family: int(port) for family, port in lines}


# ---- in the background ---------------------------------------------------------------------------


def test_daemon_serves_when_its_parent_returns(daemon: Daemon, tmp_path: Path) -> None:
    ports = tmp_path / "ports"
    process = daemon(
        *(*SERVE, "-p", "-1", "-m", "16", "-t", "1"),
        pidfile=tmp_path / "pid",
        MEMCACHED_PORT_FILENAME=str(ports),
    )
    with RawClient(("127.0.0.1", ports_in(ports)["TCP INET"])) as client:
        assert client.stats()["pid"] == str(process.pid)
        assert os.getsid(process.pid) != os.getsid(0)
        assert process.cwd() == "/"
        assert {str(Path(f"/proc/{process.pid}/fd/{fd}").readlink()) for fd in (0, 1, 2)} == {
            "/dev/null"
        }
    process.terminate()
    wait_until(lambda: not is_alive(process), "the daemon to end")
    assert not (tmp_path / "pid").exists()


def test_daemon_that_cannot_start_says_why_and_fails(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [*SERVE, "-p", str(port), "-d", "-P", tmp_path / "pid"],
            env=quiet_environment(),
            capture_output=True,
            text=True,
            timeout=20,
        )
    assert done.returncode == 71
    assert f"127.0.0.1:{port} is already in use" in done.stderr
    assert not (tmp_path / "pid").exists()


def test_daemon_with_relative_paths(daemon: Daemon, tmp_path: Path) -> None:
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        daemon(*SERVE, "-s", "socket", "-t", "1", "-m", "16", pidfile=Path("pid"))
    finally:
        os.chdir(before)
    with RawClient(str(tmp_path / "socket")) as client:
        client.ask(b"version\r\n", b"VERSION")


# ---- files ---------------------------------------------------------------------------------------


def test_pid_file_is_there_while_the_node_runs(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    node = start("-P", str(file), "-t", "1")
    assert file.read_text() == f"{node.pid}\n"
    assert node.stop() == 0
    assert not file.exists()


def test_pid_file_of_a_running_process_is_a_warning(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    file.write_text(f"{os.getpid()}\n")
    node = start("-P", str(file), "-t", "1")
    assert f"pid={os.getpid()}" in node.wait_for_log("pid file names a process that runs")[0]
    assert file.read_text() == f"{node.pid}\n"
    file.write_text("1\n")
    assert node.stop() == 0
    assert file.read_text() == "1\n"


def test_pid_file_that_cannot_be_written_is_a_warning(start: Start, tmp_path: Path) -> None:
    node = start("-P", str(tmp_path / "nosuch" / "pid"), "-t", "1")
    node.wait_for_log("file cannot be written")
    node.client().ask(b"version\r\n", b"VERSION")


def test_port_file_has_a_line_for_each_address(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "ports"
    if not socket.has_ipv6:
        pytest.skip("there is no IPv6 here")
    node = start("-l", "127.0.0.1,::1", "-t", "1", env={"MEMCACHED_PORT_FILENAME": str(file)})
    four, six = (address.rpartition(":")[2] for address in node.addresses)
    assert file.read_text() == f"TCP INET: {four}\nTCP INET6: {six}\n"


# ---- connections ---------------------------------------------------------------------------------


def test_silent_connections_are_closed_and_counted(start: Start) -> None:
    node = start("-o", "idle_timeout=2", "-t", "1")
    silent, half, busy, watcher = (node.client() for _ in range(4))
    watcher.ask(b"watch connevents\r\n", b"OK\r\n")
    silent.ask(b"version\r\n", b"VERSION")
    half.send(b"set k 0 0 5\r\nab")
    ended: list[RawClient] = []

    def both_closed() -> bool:
        busy.stats()
        for client in {silent, half} - {*ended}:
            if is_closed(client):
                ended.append(client)
        return len(ended) == 2

    wait_until(both_closed, "the silent connections to be closed", 10.0)
    assert busy.stats()["idle_kicks"] == "2"
    assert busy.stats("settings")["idle_timeout"] == "2"
    for _ in range(2):
        assert b" reason=idle_timeout " in watcher.line()


def is_closed(client: RawClient) -> bool:
    """Whether its end has come, after what may still be unread."""
    while client.more(0.0):
        pass
    return client.closed


def test_unix_connections_may_be_silent(start: Start, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    node = start("-s", path, "-p", "-1", "-o", "idle_timeout=1", "-t", "1")
    _, port = node.addresses[0].rsplit(":", 1)
    with RawClient(path) as local, RawClient(("127.0.0.1", int(port))) as remote:
        local.ask(b"version\r\n", b"VERSION")
        local.line()
        wait_until(lambda: is_closed(remote), "the TCP connection to be closed", 10.0)
        local.ask(b"version\r\n", b"VERSION")


def test_without_maxconns_fast_a_connection_waits_for_another_to_end(start: Start) -> None:
    node = start("-c", "2", "-o", "no_maxconns_fast", "-t", "1")
    first, second = node.client(), node.client()
    first.ask(b"version\r\n", b"VERSION")
    second.ask(b"version\r\n", b"VERSION")
    first.line()
    assert first.stats()["accepting_conns"] == "1"
    third = node.client()
    third.send(b"version\r\n")
    wait_until(lambda: first.stats()["accepting_conns"] == "0", "the acceptor to wait")
    assert first.stats()["listen_disabled_num"] == "1"
    second.close()
    third.expect(b"VERSION")
    third.line()
    after = third.stats()
    assert after["accepting_conns"] == "1"
    assert "rejected_connections" not in after
    assert int(after["time_in_listen_disabled_us"]) > 0


def test_acceptor_that_is_killed_while_it_waits_is_replaced_by_one_that_waits(
    start: Start,
) -> None:
    node = start("-c", "2", "-o", "no_maxconns_fast", "-t", "1")
    first, second = node.client(), node.client()
    for client in (first, second):
        client.ask(b"version\r\n", b"VERSION")
        client.line()
    third = node.client()
    third.send(b"version\r\n")
    wait_until(lambda: first.stats()["accepting_conns"] == "0", "the acceptor to wait")
    old = node.acceptor()
    old.kill()
    node.wait_for_other("acceptor", [old])
    wait_until(lambda: first.stats()["listen_disabled_num"] == "2", "the new one to wait")
    assert first.stats()["accepting_conns"] == "0"
    second.close()
    third.expect(b"VERSION")


# ---- limits and rights ---------------------------------------------------------------------------


def test_core_files_are_allowed(start: Start) -> None:
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    if hard == 0:
        pytest.skip("core files are forbidden here")
    node = start(
        *("-r", "-t", "1"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, hard)),
    )
    for process in (psutil.Process(node.pid), *node.children()):
        assert process.rlimit(psutil.RLIMIT_CORE)[0] == hard


def locked_kb(process: psutil.Process) -> int:
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmLck:"):
            return int(line.split()[1])
    return 0


@needs_root
def test_memory_is_locked_in_every_process(start: Start) -> None:
    node = start("-k", "-t", "2")
    if "memory cannot be locked" in node.log():
        pytest.skip("locked memory is limited here")
    for process in (psutil.Process(node.pid), *node.children()):
        assert locked_kb(process) > 1024, name_of(process)
    node.client().ask(b"set k 0 0 1\r\na\r\n", b"STORED")


def test_memory_that_cannot_be_locked_is_a_warning(start: Start) -> None:
    how: dict[str, object] = {}
    if IS_ROOT:
        how["command"] = ["setpriv", "--bounding-set=-ipc_lock,-sys_resource", *SERVE]
    node = start(
        *("-k", "-t", "1"),
        **how,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_MEMLOCK, (4096, 4096)),
    )
    node.wait_for_log("memory cannot be locked")
    node.client().ask(b"version\r\n", b"VERSION")


@needs_root
def test_unix_socket_is_made_without_the_right_to_give_files_away(
    launch: Start, tmp_path: Path
) -> None:
    nobody = pwd.getpwnam("nobody")
    folder = tmp_path / "of-nobody"
    folder.mkdir()
    for place in (*list(tmp_path.parents)[:2], tmp_path):
        place.chmod(0o755)
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    path = folder / "socket"
    command = ["setpriv", "--bounding-set=-chown,-dac_override,-fowner", *SERVE]
    node = launch("-s", str(path), "-u", "nobody", "-t", "1", "-m", "16", command=command)
    node.wait_until_serving()
    assert path.stat().st_uid == nobody.pw_uid
    assert node.stop() == 0
    assert not path.exists()


# ---- as memcached --------------------------------------------------------------------------------


def started_as_memcached(link: Path, launch: Start, tmp_path: Path, *words: str) -> Node:
    """A node started by the link, and its port where it says it."""
    ports = tmp_path / "ports"
    environ = {"MEMCACHED_PORT_FILENAME": str(ports), "MEMCACHEPY_CONTROL_SOCKET": "off"}
    user = ["-u", "root"] if IS_ROOT else []
    node = launch(*words, *user, command=[str(link)], env=environ)
    wait_until(lambda: ports.exists() or node.process.poll() is not None, "the port file", 20.0)
    assert node.process.poll() is None, node.log()
    return node


def test_link_serves_quietly_as_memcached(link: Path, launch: Start, tmp_path: Path) -> None:
    node = started_as_memcached(link, launch, tmp_path, "-p", "-1", "-l", "127.0.0.1", "-m", "32")
    port = ports_in(tmp_path / "ports")["TCP INET"]
    with RawClient(("127.0.0.1", port)) as client:
        stats = client.stats()
        assert (stats["pid"], stats["threads"]) == (str(node.pid), "4")
    assert name_of(psutil.Process(node.pid)) == "memcached"
    assert node.stop(signal.SIGINT) == 0
    assert node.log() == ""


def test_link_stops_gracefully_in_memcacheds_words(
    link: Path, launch: Start, tmp_path: Path
) -> None:
    node = started_as_memcached(link, launch, tmp_path, "-p", "-1", "-l", "127.0.0.1", "-A")
    with RawClient(("127.0.0.1", ports_in(tmp_path / "ports")["TCP INET"])) as client:
        client.send(b"shutdown graceful\r\n")
        client.expect_close()
    assert node.wait() == 0
    assert node.log() == "Gracefully stopping\n"


def test_link_names_a_taken_port_as_memcached_does(
    link: Path, launch: Start, tmp_path: Path
) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        node = launch("-p", str(port), *(["-u", "root"] if IS_ROOT else []), command=[str(link)])
        assert node.wait() == 71
    first = node.log().splitlines()[0]
    assert first == f"failed to listen on TCP port {port}: Address already in use"
    assert not (tmp_path / "ports").exists()


@needs_root
def test_a_line_of_debians_unit_runs_unmodified(link: Path, daemon: Daemon, tmp_path: Path) -> None:
    """With the rights that Debian's unit leaves, and its pid file in a directory of the user's."""
    nobody = pwd.getpwnam("nobody")
    for place in (*list(tmp_path.parents)[:2], tmp_path):
        place.chmod(0o755)
    run = tmp_path / "run"
    ports = run / "ports"
    run.mkdir()
    os.chown(run, nobody.pw_uid, nobody.pw_gid)
    rights = ["setpriv", "--bounding-set=-all,+setgid,+setuid,+sys_resource", "--no-new-privs"]
    process = daemon(
        *(*rights, link, "-m", "64", "-p", "-1", "-u", "nobody", "-l", "127.0.0.1"),
        pidfile=run / "memcached.pid",
        MEMCACHED_PORT_FILENAME=str(ports),
        MEMCACHEPY_CONTROL_SOCKET="",
    )
    port = ports_in(ports)["TCP INET"]
    directory = Path(f"/tmp/memcachepy-{nobody.pw_uid}")
    if not Path(f"/run/memcachepy-{nobody.pw_uid}").exists():
        assert (directory / f"{port}.sock").stat().st_uid == nobody.pw_uid
    assert process.uids().real == nobody.pw_uid
    with RawClient(("127.0.0.1", port)) as client:
        client.ask(b"set k 0 0 1\r\na\r\n", b"STORED")


def test_link_does_not_replace_what_is_not_ours(tmp_path: Path) -> None:
    other = tmp_path / "memcached"
    other.write_text("somebody else's\n")
    done = subprocess.run([PROGRAM, "install-link", tmp_path], capture_output=True, text=True)
    assert done.returncode == 1
    assert "is not a link of ours" in done.stderr
    assert other.read_text() == "somebody else's\n"


def test_link_can_be_made_again_and_replaces_a_dead_one(link: Path) -> None:
    subprocess.run([PROGRAM, "install-link", link.parent], check=True, stdout=subprocess.DEVNULL)
    link.unlink()
    link.symlink_to("/nowhere/memcachepy")
    subprocess.run([PROGRAM, "install-link", link.parent], check=True, stdout=subprocess.DEVNULL)
    assert link.resolve() == PROGRAM.resolve()

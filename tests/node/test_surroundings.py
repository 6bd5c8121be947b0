"""Odd surroundings: stderr closed or full, no terminal, PID 1, other users, tight limits."""

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
from nodes import SERVE, Node, Start
from support.client import RawClient
from support.waiting import wait_until

IS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not IS_ROOT, reason="needs root")


def without(capability: str) -> list[str]:
    """Words before a command that take a capability away, where the tests run as root."""
    if not IS_ROOT:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv")
    return ["setpriv", f"--bounding-set=-{capability}", "--inh-caps=-all"]


def refusal(node: Node, status: int) -> str:
    """What a node that must not start says last."""
    assert node.wait() == status, node.log()
    assert "Traceback" not in node.log()
    return node.log().splitlines()[-1]


def test_start_line_says_where_how_much_and_how_many(start: Start) -> None:
    node = start("-m", "32", "-t", "2")
    (line,) = node.wait_for_log(" serving ")
    assert line.endswith(
        f"serving listen={node.addresses[0]} memory_mb=32 workers=2 pid={node.pid}"
    )


def test_environment_and_file_reach_the_node(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text("memory_limit = 20\nconn_limit = 77\n")
    node = start("--config", str(file), env={"MEMCACHEPY_DISABLE_CAS": "1", "MEMCACHEPY_PROT": "1"})
    settings = node.client().stats("settings")
    assert settings["maxconns"] == "77"
    assert settings["cas_enabled"] == "no"
    assert settings["maxbytes"] == str(16 << 20)
    assert "MEMCACHEPY_PROT is not a setting" in node.log()
    assert "did you mean MEMCACHEPY_PORT?" in node.log()


def test_taken_port(start: Start, launch: Start) -> None:
    node = start()
    port = node.addresses[0].rpartition(":")[2]
    assert "is already in use by another process" in refusal(launch("-p", port), 71)
    node.client().ask(b"version\r\n", b"VERSION")


def test_live_unix_socket(start: Start, launch: Start, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    node = start("-s", path)
    assert node.addresses == [path]
    assert "already in use" in refusal(launch("-s", path), 71)
    node.client().ask(b"version\r\n", b"VERSION")


def test_privileged_port(launch: Start) -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if first <= 81:
        pytest.skip("every port is free to all here")
    node = launch("-p", "81", command=[*without("net_bind_service"), *SERVE])
    assert "port 81 is privileged" in refusal(node, 71)


def test_memory_that_the_host_does_not_have(launch: Start) -> None:
    host_mb = psutil.virtual_memory().total >> 20
    asked_mb = min(2 * host_mb, 900_000)
    if asked_mb <= host_mb:
        pytest.skip("this host has all the memory there is")
    text = refusal(launch("-p", "-1", "-m", str(asked_mb)), 71)
    assert f"memory_limit: {asked_mb} MB are asked for" in text
    assert "use -m" in text


def test_descriptor_limit_is_named(launch: Start) -> None:
    node = launch(
        *("-p", "-1", "-c", "1000", "-t", "2"),
        command=[*without("sys_resource"), *SERVE],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (200, 300)),
    )
    text = refusal(node, 71)
    assert "conn_limit is 1000 (-c)" in text
    assert "300 are allowed" in text
    assert "LimitNOFILE" in text


def test_descriptor_limit_is_raised(start: Start) -> None:
    node = start(
        *("-c", "500", "-t", "2"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (100, 2000)),
    )
    for worker in node.workers():
        assert worker.rlimit(psutil.RLIMIT_NOFILE)[0] >= 500


def test_exactly_the_limit_of_connections_over_all_workers(start: Start) -> None:
    node = start("-c", "10", "-t", "2")
    clients = [node.client() for _ in range(10)]
    for client in clients:
        client.ask(b"version\r\n", b"VERSION")
        client.line()
    for _ in range(3):
        one_too_many = node.client()
        one_too_many.expect(b"ERROR Too many open connections\r\n")
        one_too_many.expect_close()
    clients.pop().close()

    def has_room() -> bool:
        with RawClient(node.address) as client:
            client.send(b"version\r\n")
            return client.line().startswith(b"VERSION")

    wait_until(has_room, "room for one again")
    assert all(len(worker.net_connections()) <= 10 for worker in node.workers())


def test_workers_hold_no_listening_socket(start: Start) -> None:
    node = start("-t", "2")

    def listens(process: psutil.Process) -> bool:
        return any(c.status == psutil.CONN_LISTEN for c in process.net_connections())

    assert not any(listens(worker) for worker in node.workers())
    assert listens(node.acceptor())


def test_unknown_user(launch: Start) -> None:
    assert "there is no such user" in refusal(launch("-p", "-1", "-u", "no-such-user"), 67)


@needs_root
def test_user_is_given_up_for_every_process(start: Start) -> None:
    node = start("-u", "nobody")
    for process in (psutil.Process(node.pid), *node.children()):
        assert set(process.uids()) == {65534}
        assert set(process.gids()) == {65534}
    assert "running as root" not in node.log()
    node.children()[-1].kill()
    node.wait_for_log("child exited name=worker")
    node.client().ask(b"version\r\n", b"VERSION")
    assert node.stop() == 0


@needs_root
def test_socket_file_belongs_to_the_user_and_is_removed(start: Start) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "socket"
        Path(folder).chmod(0o1777)
        node = start("-u", "nobody", "-s", str(path))
        assert path.stat().st_uid == 65534
        assert node.stop() == 0
        assert not path.exists()
        node = start("-u", "nobody", "-s", str(path))
        Path(folder).chmod(0o755)
        assert node.stop() == 0
        assert "socket file stays" in node.log()


@needs_root
def test_root_without_a_user_is_a_warning(start: Start) -> None:
    (line,) = start().wait_for_log("running as root")
    assert "-u" in line
    assert "running as root" not in start("-u", "root").log()


def read_nothing_start(launch: Start, port: int, **how: object) -> Node:
    """Start a node whose log cannot be read; returns when it answers."""
    node = launch("-p", str(port), "-t", "1", **how)

    def answers() -> bool:
        try:
            with RawClient(("127.0.0.1", port)) as client:
                client.send(b"version\r\n")
                return client.line().startswith(b"VERSION")
        except (OSError, AssertionError):
            return False

    wait_until(answers, "an answer", 20.0)
    return node


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def survives_a_kill(node: Node, port: int) -> None:
    old = node.workers()
    old[0].kill()
    node.wait_for_other("worker", old)
    with RawClient(("127.0.0.1", port)) as client:
        client.ask(b"version\r\n", b"VERSION")
    for _ in range(100):
        node.process.send_signal(signal.SIGHUP)
    assert node.stop() == 0


def test_full_stderr_does_not_stop_the_node(launch: Start, port: int) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(writing, True)
    try:
        survives_a_kill(read_nothing_start(launch, port, stdout=writing, stderr=writing), port)
    finally:
        os.close(reading)
        os.close(writing)


def test_stderr_whose_reader_is_gone_does_not_stop_the_node(launch: Start, port: int) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        survives_a_kill(read_nothing_start(launch, port, stdout=writing, stderr=writing), port)
    finally:
        os.close(writing)


def test_closed_standard_files_do_not_stop_the_node(launch: Start, port: int) -> None:
    command = ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *SERVE]
    survives_a_kill(read_nothing_start(launch, port, command=command), port)


def test_plain_locale_and_no_terminal(start: Start) -> None:
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TERM": ""}
    node = start(env=env, start_new_session=True)
    node.client().ask(b"version\r\n", b"VERSION")
    assert node.stop() == 0


def test_signals_that_were_blocked_or_ignored_by_the_starter_work(start: Start) -> None:
    def surroundings() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGCHLD])
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    node = start(preexec_fn=surroundings)
    old = node.workers()
    old[0].kill()
    node.wait_for_other(old[0].name(), old[:1])
    assert node.stop(signal.SIGINT) == 0


def can_unshare() -> bool:
    if shutil.which("unshare") is None:
        return False
    words = ["unshare", "--pid", "--fork", "--mount-proc", "true"]
    return subprocess.run(words, capture_output=True).returncode == 0


@pytest.mark.skipif(not can_unshare(), reason="needs a pid namespace")
def test_process_one_reaps_strangers_and_stops(launch: Start) -> None:
    inside = 'sleep 1 & sleep 0 & exec "$@"'  # The shell looks at neither again.
    unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    node = launch("-p", "-1", "-v", command=[*unshare, "sh", "-c", inside, "sh", *SERVE])
    node.wait_until_serving()
    node.wait_for_log("stranger reaped", 2)
    (supervisor,) = psutil.Process(node.pid).children()
    assert "pid=1" in node.wait_for_log(" serving ")[0]
    node.client().ask(b"version\r\n", b"VERSION")
    supervisor.send_signal(signal.SIGTERM)
    assert node.wait() == 0
    assert "child killed" not in node.log()


def test_module_and_command_are_the_same() -> None:
    command = Path(sys.executable).with_name("memcachepy")
    texts = {
        subprocess.run([*words, "serve", "-h"], capture_output=True, text=True, check=True).stdout
        for words in ([str(command)], [sys.executable, "-m", "memcachepy"])
    }
    assert len(texts) == 1

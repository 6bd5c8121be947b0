"""The cluster's folder: its lock, its processes, and what is whole after a kill."""

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest
from clusters import PATIENCE_S
from support.waiting import wait_until

from memcachepy.atomic_file import replace_file
from memcachepy.cluster.spec import ClusterSpec, NodeSpec
from memcachepy.cluster.state import (
    LOG_BYTES_MAX,
    StateFolder,
    cluster_names,
    default_root,
    log_end,
    open_log,
    send_to_node,
)
from memcachepy.errors import ClusterError, ConfigError

SPEC = ClusterSpec("main", (NodeSpec("0001", {"port": 11211}),))


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    return StateFolder(tmp_path, "main")


def test_default_place_is_the_users() -> None:
    assert default_root({"XDG_STATE_HOME": "/s"}, 0) == Path("/s/memcachepy")
    assert default_root({"HOME": "/h"}, 0) == Path("/var/lib/memcachepy")
    assert default_root({"HOME": "/h"}, 7) == Path("/h/.local/state/memcachepy")
    assert default_root({"HOME": "/h", "XDG_STATE_HOME": "x"}, 7).is_relative_to("/h")


def test_one_at_a_time_looks_after_a_cluster(folder: StateFolder) -> None:
    assert folder.supervisor_pid() == 0
    with folder.held():
        folder.note_pid()
        assert folder.supervisor_pid() == os.getpid()
        with (
            pytest.raises(ClusterError, match=f"runs already, under process {os.getpid()}"),
            folder.held(),
        ):
            pass
        assert folder.supervisor_pid() == os.getpid(), "who was refused has taken nothing away"
    assert folder.supervisor_pid() == 0, "a number in the file alone says nothing"
    with folder.held():
        pass


def test_a_spec_is_kept_and_forgotten(folder: StateFolder) -> None:
    assert folder.read_spec() is None
    assert cluster_names(folder.path.parent) == []
    folder.make()
    folder.write_spec(SPEC)
    assert folder.read_spec() == SPEC
    assert cluster_names(folder.path.parent) == ["main"]
    folder.forget_spec()
    folder.forget_spec()
    assert folder.read_spec() is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"nodes": 1}'])
def test_a_spec_that_is_none_is_named(folder: StateFolder, text: str) -> None:
    folder.make()
    folder.spec_path.write_text(text)
    with pytest.raises(ClusterError, match=str(folder.spec_path)):
        folder.read_spec()


def test_names_cannot_leave_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name is"):
        StateFolder(tmp_path, "../other")


def test_a_file_is_whole_or_as_before(tmp_path: Path) -> None:
    path = tmp_path / "f"
    replace_file(path, b"one", ClusterError)
    replace_file(path, b"two", ClusterError)
    assert path.read_bytes() == b"two"
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]
    with pytest.raises(ClusterError, match="cannot be written"):
        replace_file(tmp_path / "none" / "f", b"", ClusterError)


def test_a_long_log_makes_room(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        file.truncate(LOG_BYTES_MAX + 1)
    os.close(open_log(path))
    assert path.stat().st_size == 0
    assert (tmp_path / "log.1").stat().st_size == LOG_BYTES_MAX + 1
    path.write_bytes(b"x" * 100 + b"\nend\n")
    assert log_end(path, 5) == "\nend\n"
    assert log_end(tmp_path / "none") == ""


def test_nodes_are_found_by_their_command_line(folder: StateFolder) -> None:
    """Their children, who have the same, are not nodes; nor is who only has such a file open."""
    settings = str(folder.settings_path("0001"))
    code = "import os, time; os.fork(); time.sleep(600)"
    words = [sys.executable, "-c", code, "serve", "--config", settings]
    other = [sys.executable, "-c", code, "edit", settings]
    with (
        subprocess.Popen(words, start_new_session=True) as node,
        subprocess.Popen(other, start_new_session=True) as editor,
    ):
        try:
            wait_until(lambda: children(node.pid) and children(editor.pid), "both", PATIENCE_S)
            assert folder.running_nodes() == {"0001": node.pid}
            assert StateFolder(folder.path.parent, "other").running_nodes() == {}
            send_to_node(folder, "0002", node.pid, 9)
            assert folder.running_nodes() == {"0001": node.pid}, "it is another node's number"
            send_to_node(folder, "0001", node.pid, 9)
            assert node.wait(PATIENCE_S) == -9
            assert folder.running_nodes() == {}
        finally:
            for process in (node, editor):
                if process.poll() is None:
                    os.killpg(process.pid, 9)


def test_a_node_leads_a_session(folder: StateFolder) -> None:
    words = sleeping_node(folder)
    with subprocess.Popen(words, stdin=subprocess.PIPE) as process:
        try:
            wait_until(lambda: command_line_of(process.pid) == words, "it to run", PATIENCE_S)
            assert folder.running_nodes() == {}
        finally:
            process.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_another_users_process_is_a_node_only_if_the_nodes_settings_say_so(
    folder: StateFolder,
) -> None:
    words = sleeping_node(folder)
    nobody = pwd.getpwnam("nobody")
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, start_new_session=True, user=nobody.pw_uid
    ) as process:
        try:
            wait_until(lambda: command_line_of(process.pid) == words, "it to run", PATIENCE_S)
            assert folder.running_nodes() == {}
            settings = folder.settings_path("0001")
            settings.parent.mkdir(parents=True)
            settings.write_text("port = 11211\n")
            assert folder.running_nodes() == {}
            settings.write_text('user = "nobody"\n')
            assert folder.running_nodes() == {"0001": process.pid}
        finally:
            process.kill()


def sleeping_node(folder: StateFolder) -> list[str]:
    return ["/bin/sh", "-c", "read line", "serve", str(folder.settings_path("0001"))]


def command_line_of(pid: int) -> list[str]:
    return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).split("\0")[:-1]


def children(pid: int) -> bool:
    return bool(Path(f"/proc/{pid}/task/{pid}/children").read_text())

"""Attaching: to what, by whom, across forks and across restarts of the node."""

import fcntl
import grp
import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from control import as_user
from nodes import Node, Start
from support.waiting import wait_until

from memcachepy import Cache, _core, errors
from memcachepy.node.rendezvous import LINE_BYTES_MAX

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
NOBODY = 65534


def attached_pids(node: Node) -> list[int]:
    """As soon as `stats` has the same number of them, which it counts a moment before it lists."""

    def look() -> tuple[list[int]] | None:
        stats = node.client().stats("memcachepy")
        found = [int(pid) for name, pid in stats.items() if name.startswith("attached:")]
        return (found,) if int(stats["attached_processes"]) == len(found) else None

    return wait_until(look, "as many attached processes as are counted")[0]


def in_child(act: Callable[[], object]) -> str:
    """What it returns in a forked child, or the error that it raises."""
    return as_user(os.getuid(), os.getgroups(), act)


# ---- addresses ------------------------------------------------------------------------------


def test_path_of_any_kind(node: Node, path: Path) -> None:
    for address in (path, str(path)):
        with Cache.attach(address) as cache:
            cache.set("k", b"v")
            assert attached_pids(node) == [os.getpid()]
        wait_until(lambda: attached_pids(node) == [], "the slot to be free")


def test_port_and_environment(start: Start, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = start(env={"XDG_RUNTIME_DIR": str(path.parent)})
    port = int(node.addresses[0].rpartition(":")[2])
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path.parent))
    monkeypatch.delenv("MEMCACHEPY_CONTROL_SOCKET", raising=False)
    with Cache.attach(port) as cache:
        cache.set("k", b"v")
    monkeypatch.setenv("MEMCACHEPY_PORT", str(port))
    with Cache.attach() as cache:
        assert cache.get("k") == b"v"
    monkeypatch.delenv("MEMCACHEPY_PORT")
    found = path.parent / "memcachepy" / f"{port}.sock"
    monkeypatch.setenv("MEMCACHEPY_CONTROL_SOCKET", str(found))
    with Cache.attach(None) as cache:
        assert cache.get("k") == b"v"


def test_no_node(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.AttachError, match=f"no node answers at {path}: is it running"):
        Cache.attach(path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path.parent))
    with pytest.raises(errors.AttachError, match=r"memcachepy/1\.sock or "):
        Cache.attach(1)
    with pytest.raises(errors.AttachError, match="is longer than the 107 bytes"):
        Cache.attach("x" * 200)


def test_directory_that_others_may_write_to_is_not_believed(
    start: Start, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = start(env={"XDG_RUNTIME_DIR": str(path.parent)})
    port = int(node.addresses[0].rpartition(":")[2])
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path.parent))
    (path.parent / "memcachepy").chmod(0o777)
    with pytest.raises(errors.AttachError, match="no node answers"):
        Cache.attach(port)
    (path.parent / "memcachepy").chmod(0o700)
    Cache.attach(port).close()


@needs_root
def test_other_users_are_refused(node: Node, path: Path) -> None:
    text = as_user(NOBODY, [], lambda: Cache.attach(path))
    assert f"AttachError: {path} is not for this user" in text
    path.chmod(0o666)
    text = as_user(NOBODY, [], lambda: Cache.attach(path))
    assert "refuses: user 65534 is neither the node's user nor in its control group" in text
    assert attached_pids(node) == []


@needs_root
def test_members_of_the_group_are_not(start: Start, path: Path) -> None:
    start("--control-socket", str(path), "--control-group", "games")

    def use() -> object:
        with Cache.attach(path) as cache:
            cache.set("k", b"v")
            return cache.get("k")

    assert as_user(NOBODY, [grp.getgrnam("games").gr_gid], use) == "b'v'"


def test_each_cache_has_a_slot_of_its_own(node: Node, path: Path) -> None:
    first, second = Cache.attach(path), Cache.attach(path)
    assert attached_pids(node) == [os.getpid()] * 2
    first.set("k", b"v")
    first.close()
    wait_until(lambda: len(attached_pids(node)) == 1, "the slot to be free")
    assert second.get("k") == b"v"
    del second
    wait_until(lambda: attached_pids(node) == [], "the other one, too")


# ---- what answers ---------------------------------------------------------------------------


@contextmanager
def answering(path: Path, answer: bytes, *fds: int) -> Iterator[None]:
    """Something that is no node answers at the path, and keeps the connections open."""
    over = threading.Event()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                if fds:
                    socket.send_fds(connection, [answer], fds)
                elif answer:
                    connection.sendall(answer)
                over.wait(10)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"hello\n", "a line of JSON"),
        (b'{"v":2,"ok":true}\n', "version 2"),
        (b'{"v":1,"ok":false,"error":"not today"}\n', "refuses: not today"),
        (b'{"v":1,"ok":true,"slot":5}\n', "is no node"),
        (b"x" * 2 * LINE_BYTES_MAX, "a line of JSON"),
    ],
)
def test_strange_answers_are_attach_errors(path: Path, answer: bytes, why: str) -> None:
    with answering(path, answer), pytest.raises(errors.AttachError, match=why):
        Cache.attach(path)


def test_node_that_does_not_answer_in_time(path: Path) -> None:
    message = "does not answer in time"
    with answering(path, b""), pytest.raises(errors.AttachError, match=message):
        Cache.attach(path, timeout_s=0.1)


LAYOUT_VERSION_AT, FINGERPRINT_AT, DATA_BYTES_AT, RUN_BYTES_AT = 8, 12, 32, 16


def forged(part: int, changes: dict[int, bytes], size: int | None = None) -> int:
    """A sealed copy of the head of a part of a segment with other bytes at some places."""
    fd = os.memfd_create("forged", os.MFD_ALLOW_SEALING)
    os.pwrite(fd, os.pread(part, 65536, 0), 0)
    for offset, data in changes.items():
        os.pwrite(fd, data, offset)
    os.ftruncate(fd, os.fstat(part).st_size if size is None else size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return fd


def test_what_is_not_this_builds_segment_is_refused_before_use(path: Path) -> None:
    segment = _core.Segment({"memory_limit_bytes": 2 << 20, "worker_count": 1})
    answer = json.dumps({"v": 1, "ok": True, "slot": 4}).encode() + b"\n"
    newer = (_core.LAYOUT_VERSION + 1).to_bytes(4, "little")
    wrong = [
        ({0: b"SOMETHING"}, None, "no segment of a node"),
        ({}, 100, "no segment of a node"),
        ({LAYOUT_VERSION_AT: newer}, None, "use the same release as the node"),
        ({FINGERPRINT_AT: b"\0\0\0\0"}, None, "another build .00000000."),
    ]
    data, run = segment.fd, segment.run_fd
    other = _core.Segment({"memory_limit_bytes": 2 << 20, "worker_count": 1})
    cases = [
        *((forged(data, changes, size), os.dup(run), why) for changes, size, why in wrong),
        *((os.dup(data), forged(run, changes, size), why) for changes, size, why in wrong),
        (forged(data, {DATA_BYTES_AT: bytes(8)}), os.dup(run), "says it has 0 bytes"),
        (os.dup(data), forged(run, {RUN_BYTES_AT: bytes(8)}), "says it has 0 bytes"),
        (forged(data, {200: b"\xff"}), os.dup(run), "is damaged"),
        (os.dup(data), forged(run, {200: b"\xff"}), "is damaged"),
        (os.memfd_create("unsealed"), os.dup(run), "no segment of a node"),
        (os.dup(data), os.memfd_create("unsealed"), "no segment of a node"),
        (os.open("/dev/null", os.O_RDWR), os.dup(run), "no segment of a node"),
        (os.dup(run), os.dup(data), "no segment of a node"),
        (os.dup(data), os.dup(other.run_fd), "not of one node"),
    ]
    for data_fd, run_fd, why in cases:
        with (
            answering(path, answer, data_fd, run_fd),
            pytest.raises(errors.AttachError, match=why),
        ):
            Cache.attach(path)
        os.close(data_fd)
        os.close(run_fd)
        path.unlink()
    other.close()
    good = forged(data, {}), forged(run, {})
    with (
        answering(path, answer, *good),
        pytest.raises(errors.AttachError, match="slot 4 is not one of an attached process"),
    ):
        Cache.attach(path)
    for fd in good:
        os.close(fd)
    segment.close()


# ---- forks ----------------------------------------------------------------------------------


def test_forked_child_has_a_slot_of_its_own(cache: Cache, node: Node) -> None:
    cache.set("k", b"parent")

    def use() -> object:
        assert cache.get("k") == b"parent"
        cache.set("k", b"child")
        pids = attached_pids(node)
        return sorted(pids) == sorted([os.getppid(), os.getpid()])

    assert in_child(use) == "True"
    assert cache.get("k") == b"child"
    wait_until(lambda: attached_pids(node) == [os.getpid()], "the child's slot to be free")


def test_child_that_leaves_takes_nothing_from_its_parent(cache: Cache, node: Node) -> None:
    cache.set("k", b"v")

    def close_and_use() -> object:
        cache.close()
        return cache.get("k")

    assert "the cache is closed" in in_child(close_and_use)
    in_child(lambda: None)
    for _ in range(3):
        assert cache.get("k") == b"v"
    assert attached_pids(node) == [os.getpid()]


def test_grandchildren_and_siblings(cache: Cache, node: Node) -> None:
    cache.set("n", b"0")

    def count(depth: int) -> object:
        for _ in range(100):
            cache.incr("n")
        return [in_child(lambda: count(depth - 1)) for _ in range(2)] if depth else None

    count(2)
    assert cache.get("n") == b"700"
    wait_until(lambda: attached_pids(node) == [os.getpid()], "the children's slots to be free")


def test_closed_descriptors_do_no_harm(cache: Cache, node: Node) -> None:
    """As a program does that becomes a daemon, and then opens others."""

    def go() -> object:
        with Cache.attach(cache._address) as own:
            own.set("k", b"v")
            for name in os.listdir("/proc/self/fd"):
                if "socket:" in _link(name) or "memfd:" in _link(name):
                    os.close(int(name))
            others = [os.open("/dev/null", os.O_RDWR) for _ in range(50)]
            found = own.get("k")
            own.close()
            for fd in others:
                os.fstat(fd)
            return found

    assert in_child(go) == "b'v'"
    assert cache.get("k") == b"v"
    wait_until(lambda: attached_pids(node) == [os.getpid()], "the child's slots to be free")


def _link(name: str) -> str:
    try:
        return str(Path(f"/proc/self/fd/{name}").readlink())
    except OSError:
        return ""


# ---- the node's end -------------------------------------------------------------------------


def test_node_that_ends_is_gone_and_one_that_comes_back_is_used(
    start: Start, cache: Cache, node: Node, path: Path
) -> None:
    cache.set("k", b"v")
    assert node.stop() == 0
    with pytest.raises(errors.NodeGone, match="the node is gone: no node answers"):
        _use_until_noticed(cache)
    with pytest.raises(errors.NodeGone):
        cache.get("k")
    second = start("-t", "1", "--control-socket", str(path))
    assert cache.get("k") is None
    cache.set("k", b"again")
    second.client().ask(b"get k\r\n", b"VALUE k 0 5\r\nagain\r\nEND\r\n")
    assert attached_pids(second) == [os.getpid()]


def _use_until_noticed(cache: Cache) -> None:
    """A look at the node is taken every few milliseconds of use."""
    wait_until(lambda: cache.get("k") is errors, "the node's end to be noticed")


def test_restart_that_was_not_noticed_is_no_error(
    start: Start, cache: Cache, node: Node, path: Path
) -> None:
    cache.set("k", b"v")
    assert node.stop() == 0
    second = start("-t", "1", "--control-socket", str(path))
    wait_until(lambda: cache.get("k") is None, "the new node")
    assert attached_pids(second) == [os.getpid()]


def test_threads_survive_a_restart(start: Start, cache: Cache, node: Node, path: Path) -> None:
    over = threading.Event()
    strange: list[str] = []

    def use() -> None:
        while not over.is_set():
            try:
                cache.set("k", b"v")
                assert cache.get("k") in (b"v", None)
            except errors.NodeGone:
                continue
            except BaseException as error:
                strange.append(repr(error))

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        assert node.stop() == 0
        second = start("-t", "1", "--control-socket", str(path))
        wait_until(lambda: second.client().stats()["curr_items"] == "1", "its first item")
        wait_until(lambda: attached_pids(second) == [os.getpid()], "one slot for all of them")
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not strange
    assert second.segment().check() == []


class _LeftOnce(Cache):
    """As if another thread had left the attachment right after the first renewal."""

    __slots__ = ("renewals",)
    renewals: int

    def _renew(self) -> None:
        self.renewals += 1
        if self.renewals > 1:
            super()._renew()


def test_attachment_that_another_thread_has_left_is_made_again(
    start: Start, node: Node, path: Path
) -> None:
    with _LeftOnce.attach(path) as cache:
        cache.renewals = 0
        assert node.stop() == 0
        start("-t", "1", "--control-socket", str(path))
        wait_until(lambda: cache.get("k") is None and cache.renewals == 2, "the second renewal")


def test_killed_supervisor_is_a_node_that_is_gone(cache: Cache, node: Node) -> None:
    cache.set("k", b"v")
    children = node.children()
    node.process.kill()
    node.wait()
    with pytest.raises(errors.NodeGone):
        _use_until_noticed(cache)
    psutil.wait_procs(children, timeout=5)


def test_draining_node_is_still_there(cache: Cache, node: Node) -> None:
    client = node.client()
    client.ask(b"get k\r\n", b"END\r\n")
    cache.set("k", b"v")
    node.process.send_signal(signal.SIGUSR1)
    node.wait_for_log("draining")
    assert cache.get("k") == b"v"
    client.close()
    assert node.wait() == 0


# ---- memory ---------------------------------------------------------------------------------


@contextmanager
def small_cgroup(limit_bytes: int) -> Iterator[Path]:
    """Its file for processes to join."""
    name = f"memcachepy-test-{os.getpid()}"
    v1, v2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    folder = (v1 if (v1 / "memory.limit_in_bytes").exists() else v2) / name
    limit = folder / ("memory.limit_in_bytes" if folder.parent == v1 else "memory.max")
    try:
        folder.mkdir()
        limit.write_text(str(limit_bytes))
    except OSError:
        if folder.exists():
            folder.rmdir()
        pytest.skip("no memory cgroup can be made here")
    try:
        yield folder / "cgroup.procs"
    finally:
        wait_until(lambda: (folder / "cgroup.procs").read_text() == "", "the cgroup to be empty")
        folder.rmdir()


@needs_root
def test_small_cgroup_of_an_attached_process_is_none_of_the_nodes(start: Start, path: Path) -> None:
    node = start("-t", "1", "-m", "200", "--control-socket", str(path))
    before = node.client().stats("memcachepy")["pages_limit"]

    with small_cgroup(64 << 20) as procs:

        def fill() -> object:
            procs.write_text(str(os.getpid()))
            with Cache.attach(path) as cache:
                for number in range(1500):
                    cache.set(f"k{number}", bytes(100_000))
                return cache.get("k1499") == bytes(100_000)

        assert in_child(fill) == "True"
    assert node.client().stats("memcachepy")["pages_limit"] == before
    assert "memory is short" not in node.log()
    with Cache.attach(path) as cache:
        for number in range(1500):
            cache.set(f"k{number}", bytes(100_000))
    assert int(node.client().stats()["bytes"]) > 100 << 20

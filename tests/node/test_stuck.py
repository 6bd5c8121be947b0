"""Processes that are stopped, not dead, with a shard's lock in their hands."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psutil
import pytest
from nodes import Node, Start
from support.waiting import wait_until

from memcachepy import _core

TRIES_MAX = 2000
FOUND_S = 15.0
"""It takes at most 5 s; a busy machine takes longer."""


@contextmanager
def writing(node: Node, connections: int) -> Iterator[None]:
    """Keeps the workers busy with sets whose replies nobody waits for."""
    burst = b"".join(b"set k%d 0 0 1 noreply\r\nv\r\n" % key for key in range(500))
    over = threading.Event()

    def write() -> None:
        while not over.is_set():
            with suppress(OSError), socket.create_connection(node.address, timeout=0.5) as sock:
                while not over.is_set():
                    sock.sendall(burst)

    threads = [threading.Thread(target=write) for _ in range(connections)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def is_stopped(process: psutil.Process) -> bool:
    return bool(process.status() == psutil.STATUS_STOPPED)


def stop_with_lock(segment: _core.Segment, pid: int, pool: bool = False) -> int:
    """Stop a busy process until it happens to hold a shard's lock, or the pool's; the shard."""
    process = psutil.Process(pid)
    for _ in range(TRIES_MAX):
        process.suspend()
        wait_until(lambda: is_stopped(process), "the process to stop")
        for _, holder, shard, _ in segment.lock_holders():
            if holder == pid and (shard < 0) == pool:
                return shard
        process.resume()
    raise AssertionError(f"in {TRIES_MAX} tries it never held a lock")


def test_stuck_worker_is_replaced_and_nobody_else(start: Start) -> None:
    node = start("-t", "2", "-m", "8")
    segment = node.segment()
    victim, other = node.workers()
    with writing(node, 4):
        stop_with_lock(segment, victim.pid)
        (line,) = node.wait_for_log("child killed", timeout_s=FOUND_S)
        node.wait_for_other("worker", [victim])
    assert f"name=worker-0 pid={victim.pid} lock=shard-" in line
    assert "it holds a lock and does not run" in line
    (line,) = node.wait_for_log("child exited")
    assert f"pid={victim.pid} status=SIGKILL" in line
    assert other in node.workers()
    for key in range(100):
        node.client().ask(b"set k%d 0 0 1\r\nw\r\n" % key, b"STORED\r\n")
    assert segment.check() == []
    assert node.stop() == 0


def test_time_in_which_the_node_was_stopped_counts_against_nobody(start: Start) -> None:
    node = start("-t", "2", "-m", "8")
    segment = node.segment()
    victim = node.workers()[0]
    family = [psutil.Process(node.pid), *node.children()]
    with writing(node, 4):
        stop_with_lock(segment, victim.pid)
        for process in family:
            process.suspend()
        time.sleep(6)  # What is tested is that time passes.
        for process in family:
            process.resume()
        taken = dict(segment_locks(segment, node))
        wait_until(lambda: segment_locks(segment, node) != taken, "the holder to go on")
    assert [psutil.Process(node.pid), *node.children()] == family
    node.client().ask(b"set k0 0 0 1\r\nw\r\n", b"STORED\r\n")
    assert "killed" not in node.log()
    assert node.stop() == 0


def segment_locks(segment: _core.Segment, node: Node) -> dict[int, int]:
    pids = {worker.pid for worker in node.workers()}
    return {pid: count for _, pid, _, count in segment.lock_holders() if pid in pids}


def test_stopped_worker_without_a_lock_is_left_alone(start: Start) -> None:
    node = start("-t", "2")
    victim = node.workers()[0]
    victim.suspend()
    wait_until(lambda: is_stopped(victim), "the worker to stop")
    time.sleep(5)  # What is tested is that time passes.
    assert is_stopped(victim)
    victim.resume()
    assert victim in node.workers()
    assert node.stop() == 0


def test_who_waits_behind_a_stopped_holder_is_not_one(segment: _core.Segment) -> None:
    """Not even when it is stopped, too; and nothing of it needs repair."""
    slots = [_core.SLOT_WORKER_FIRST, _core.SLOT_WORKER_FIRST + 1]

    def write(slot: int) -> Callable[[], None]:
        def run() -> None:
            segment.claim_slot(slot)
            conn = _core.Connection(segment, slot)
            while True:
                feed(conn, 1)

        return run

    def sleeps(pid: int) -> bool:
        return psutil.Process(pid).status() == psutil.STATUS_SLEEPING

    with forked(write(slots[0])) as holder:
        wait_until(lambda: segment.counters()["cmd_set"] > 0, "writes")
        stop_with_lock(segment, holder)
        with forked(write(slots[1])) as waiter:
            wait_until(lambda: segment.counters()["lock_waits"] > 0 and sleeps(waiter), "a wait")
            os.kill(waiter, signal.SIGSTOP)
            wait_until(lambda: is_stopped(psutil.Process(waiter)), "the waiter to stop")
            assert [found[1] for found in segment.lock_holders()] == [holder]
        assert segment.recover(slots[1]) is not None
    assert segment.recover(slots[0]) is not None
    assert segment.check() == []


@contextmanager
def forked(run: Callable[[], None]) -> Iterator[int]:
    """The pid of a child that runs this until it is killed."""
    pid = os.fork()
    if pid == 0:
        try:
            run()
        finally:
            os._exit(1)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.fixture
def segment() -> Iterator[_core.Segment]:
    with_two = {"memory_limit_bytes": 64 << 20, "worker_count": 2}
    segment = _core.Segment(with_two)
    yield segment
    segment.close()


def feed(conn: _core.Connection, key: int) -> bytes:
    return conn.feed(b"set k%d 0 0 1\r\nw\r\n" % key)


def test_only_the_first_write_waits_for_a_stopped_holder(segment: _core.Segment) -> None:
    """And all of them go through again as soon as it runs on."""
    ours, theirs = _core.SLOT_WORKER_FIRST, _core.SLOT_WORKER_FIRST + 1
    keys = range(100)

    def write() -> None:
        segment.claim_slot(theirs)
        conn = _core.Connection(segment, theirs)
        while True:
            for key in keys:
                feed(conn, key)

    segment.claim_slot(ours)
    conn = _core.Connection(segment, ours)
    with forked(write) as pid:
        wait_until(lambda: segment.counters()["curr_items"] == len(keys), "all keys to be there")
        shard = stop_with_lock(segment, pid)
        waits = segment.counters()["lock_waits"]
        answers = [feed(conn, key) for key in keys]
        refused = [key for key in keys if answers[key].startswith(b"SERVER_ERROR")]
        assert refused, f"no key is in shard {shard}"
        assert len(refused) < len(keys), "other shards are open"
        first_waits = segment.counters()["lock_waits"] - waits
        assert 0 < first_waits <= 10
        again = [feed(conn, key) for key in refused]
        assert all(answer.startswith(b"SERVER_ERROR") for answer in again)
        assert segment.counters()["lock_waits"] - waits == first_waits
        unread = [key for key in keys if not conn.feed(b"get k%d\r\n" % key).startswith(b"VALUE ")]
        assert len(unread) <= 12, "more than the one bucket that it may be changing"
        os.kill(pid, signal.SIGCONT)
        wait_until(lambda: feed(conn, refused[0]) == b"STORED\r\n", "the holder to run on")
        assert all(feed(conn, key) == b"STORED\r\n" for key in keys)
    segment.recover(theirs)
    assert all(feed(conn, key) == b"STORED\r\n" for key in keys)
    assert segment.check() == []


def test_recovery_waits_for_who_has_taken_over_the_lock_and_is_stopped() -> None:
    """The slot's words may still be restored by the repair that the stopped process is in.

    Who was stopped just before it noted the lock, or after, had nothing to be restored: then there
    is nothing to wait for, and another one is stopped.
    """
    assert any(_recovery_waits() for _ in range(10))


def _recovery_waits() -> bool:
    """Of one who was stopped with the lock at some moment, and killed."""
    dead, heir = _core.SLOT_WORKER_FIRST, _core.SLOT_WORKER_FIRST + 1
    segment = _core.Segment({"memory_limit_bytes": 8 << 20, "worker_count": 2})  # One shard.

    def write(slot: int) -> Callable[[], None]:
        def run() -> None:
            segment.claim_slot(slot)
            conn = _core.Connection(segment, slot)
            while True:
                feed(conn, 1)

        return run

    with forked(write(heir)) as heir_pid:
        with forked(write(dead)) as dead_pid:
            wait_until(lambda: segment.counters()["cmd_set"] > 0, "writes")
            stop_with_lock(segment, dead_pid)
        wait_until(lambda: segment.counters()["repairs"] == 1, "the heir to repair")
        stop_with_lock(segment, heir_pid)
        has_waited = segment.recover(dead) is None
        os.kill(heir_pid, signal.SIGCONT)
        if has_waited:
            wait_until(lambda: segment.recover(dead) is not None, "the recovery")
    assert segment.recover(heir) is not None
    assert segment.check() == []
    segment.close()
    return has_waited


def test_pool_that_a_stopped_process_grows_does_not_hold_others_up() -> None:
    """They make do with the memory that there is."""
    ours, theirs = _core.SLOT_WORKER_FIRST, _core.SLOT_WORKER_FIRST + 1
    segment = _core.Segment({"memory_limit_bytes": 512 << 20, "worker_count": 2})
    value = bytes(4000)

    def store(conn: _core.Connection, key: str) -> bytes:
        return conn.feed(b"set %s 0 0 4000\r\n%s\r\n" % (key.encode(), value))

    def grow() -> None:
        segment.claim_slot(theirs)
        conn = _core.Connection(segment, theirs)
        number = 0
        while True:
            number += 1
            store(conn, f"theirs{number}")

    segment.claim_slot(ours)
    conn = _core.Connection(segment, ours)
    with forked(grow) as pid:
        wait_until(lambda: segment.counters()["cmd_set"] > 100, "writes")
        stop_with_lock(segment, pid, pool=True)
        begin_s = time.monotonic()
        for number in range(2000):
            assert store(conn, f"ours{number}") == b"STORED\r\n"
        assert time.monotonic() - begin_s < 30, "each of them would have waited for a second"
        os.kill(pid, signal.SIGCONT)
        pages = segment.counters()["pages"]
        wait_until(lambda: segment.counters()["pages"] > pages, "the pool to grow again")
    assert segment.recover(theirs) is not None
    assert segment.check() == []
    segment.close()

"""Attached processes that are killed or stopped at any moment."""

import mmap
import os
import random
import signal
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from nodes import Node, Start
from support.waiting import wait_until

from memcachepy import Cache, _core, errors

KILLS = 100
CHILDREN = 3
KEYS = 20
TRIES_MAX = 3000


@contextmanager
def forked(run: Callable[[], None]) -> Iterator[int]:
    """The pid of a child that runs this until it is killed."""
    pid = os.fork()
    if pid == 0:
        try:
            run()
        except BaseException as error:
            os.write(2, f"child: {type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(1)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


class Ledger:
    """What a child was told is done, in memory that outlives it.

    Before an operation its number is `begun`, after it `done`: one of them may be under way.
    """

    FORM = struct.Struct("QQ")

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 4096)

    def begin(self, number: int) -> None:
        self._memory[:8] = number.to_bytes(8, "little")

    def end(self, number: int) -> None:
        self._memory[8:16] = number.to_bytes(8, "little")

    def read(self) -> tuple[int, int]:
        begun, done = self.FORM.unpack_from(self._memory)
        return begun, done


def value_of(name: str, number: int) -> bytes:
    """Short, or long enough for a chain, and no two alike."""
    length = 200_000 if number % 50 == 0 else number % 3000
    return f"{name}:{number}:".encode() + bytes([number % 256]) * length


def work(path: Path, name: str, ledger: Ledger) -> None:
    """Operation n stores key n mod KEYS, adds one to a counter, and sometimes deletes."""
    number = ledger.read()[1]
    with Cache.attach(path) as cache:
        while True:
            number += 1
            ledger.begin(number)
            cache.set(f"{name}.{number % KEYS}", value_of(name, number))
            cache.incr(f"{name}.n")
            ledger.end(number)
            cache.get(f"{name}.{(number + 7) % KEYS}")


def check(cache: Cache, name: str, ledger: Ledger) -> None:
    begun, done = ledger.read()
    counted = int(cache.get(f"{name}.n"))
    assert counted >= done, f"{name}: counted {counted} of {done}"
    for key in range(KEYS):
        last = done - (done - key) % KEYS
        if last <= 0:
            continue
        allowed = {value_of(name, last)}
        if begun % KEYS == key:
            allowed.add(value_of(name, begun))
        found = cache.get(f"{name}.{key}")
        assert found in allowed, f"{name}.{key} is {(found or b'nothing')[:40]!r}, not {last}"


def attached_count(node: Node) -> int:
    return int(node.client().stats("memcachepy")["attached_processes"])


def test_killed_at_random_they_lose_nothing_that_was_acknowledged(
    start: Start, path: Path, rng: random.Random
) -> None:
    node = start("-t", "1", "-m", "64", "--control-socket", str(path))
    names = [f"child{index}" for index in range(CHILDREN)]
    ledgers = [Ledger() for _ in names]

    def worker(index: int) -> Callable[[], None]:
        return lambda: work(path, names[index], ledgers[index])

    def wait_for_work(index: int) -> None:
        before = ledgers[index].read()[1]
        wait_until(lambda: ledgers[index].read()[1] > before, "work to be done")

    with Cache.attach(path) as cache:
        for name in names:
            cache.set(f"{name}.n", b"0")
        kills = [0] * CHILDREN
        while sum(kills) < KILLS:
            index = rng.randrange(CHILDREN)
            other = (index + 1) % CHILDREN
            with forked(worker(index)), forked(worker(other)):
                wait_for_work(index)
                time.sleep(rng.uniform(0, 0.01))
            for killed in (index, other):
                kills[killed] += 1
                check(cache, names[killed], ledgers[killed])
        wait_until(lambda: attached_count(node) == 1, "the slots to be free")
        for name, ledger, count in zip(names, ledgers, kills, strict=True):
            done = ledger.read()[1]
            assert done <= int(cache.get(f"{name}.n")) <= done + count
    assert node.segment().check() == []
    stats = node.client().stats("memcachepy")
    assert stats["held_bytes"] == "0"
    assert stats["rebuilds"] == "0"
    assert "child exited" not in node.log()
    assert node.stop() == 0


# ---- stopped with a lock --------------------------------------------------------------------


def write_for_ever(path: Path) -> None:
    with Cache.attach(path) as cache:
        while True:
            for key in range(100):
                cache.set(f"k{key}", b"theirs")


def stop_with_lock(segment: _core.Segment, pid: int) -> int:
    """Stop a busy process until it happens to hold a lock; returns the shard."""
    process = psutil.Process(pid)
    for _ in range(TRIES_MAX):
        process.suspend()
        wait_until(lambda: process.status() == psutil.STATUS_STOPPED, "the process to stop")
        for _, holder, shard, _ in segment.lock_holders():
            if holder == pid and shard >= 0:
                return shard
        process.resume()
        time.sleep(0.0005)
    raise AssertionError(f"in {TRIES_MAX} tries it never held a lock")


def test_stopped_holder_is_named_and_left_alone(node: Node, path: Path, cache: Cache) -> None:
    segment = node.segment()
    client = node.client()
    with forked(lambda: write_for_ever(path)) as pid:
        wait_until(lambda: cache.get("k99") is not None, "all keys to be there")
        shard = stop_with_lock(segment, pid)
        (line,) = node.wait_for_log("attached process stuck", timeout_s=15)
        assert f"pid={pid} lock=shard-{shard} " in line
        stats = client.stats("memcachepy")
        assert stats["stuck_processes"] == "1"
        stuck = [name for name, value in stats.items() if value == str(pid)]
        (name,) = stuck
        assert stats[name.replace(":pid", ":stuck_in_shard")] == str(shard)

        refused = []
        for key in range(100):
            client.send(b"set k%d 0 0 4\r\nours\r\n" % key)
            answer = client.line()
            assert answer in (b"STORED", b"SERVER_ERROR shard is locked by a stopped process")
            if answer != b"STORED":
                refused.append(key)
        assert refused
        with pytest.raises(errors.Busy, match="stopped holds the lock"):
            cache.set(f"k{refused[0]}", b"ours")
        unread = 0
        for key in range(100):
            client.send(b"get k%d\r\n" % key)
            if client.line().startswith(b"VALUE "):
                assert client.line() in (b"ours", b"theirs")
                assert client.line() == b"END"
            else:
                unread += 1
        assert unread <= 12, "more than the one bucket that it may be changing"
        assert psutil.Process(pid).status() == psutil.STATUS_STOPPED

        os.kill(pid, signal.SIGCONT)
        node.wait_for_log("attached process no longer stuck")
        assert client.stats("memcachepy")["stuck_processes"] == "0"
        for key in refused:
            client.ask(b"set k%d 0 0 4\r\nours\r\n" % key, b"STORED\r\n")
            cache.set(f"k{key}", b"ours")
    wait_until(lambda: attached_count(node) == 1, "the slot to be free")
    assert segment.check() == []


def test_stopped_holder_is_killed_where_that_is_wanted(start: Start, path: Path) -> None:
    node = start("-t", "1", "--control-socket", str(path), "--kill-stuck-attached")
    segment = node.segment()
    with Cache.attach(path) as cache, forked(lambda: write_for_ever(path)) as pid:
        wait_until(lambda: cache.get("k99") is not None, "all keys to be there")
        stop_with_lock(segment, pid)
        node.wait_for_log(f"attached process killed pid={pid}", timeout_s=15)
        wait_until(lambda: attached_count(node) == 1, "the slot to be free")
        for key in range(100):
            cache.set(f"k{key}", b"ours")
    assert segment.check() == []


def test_worker_that_dies_while_another_is_stopped_comes_back(
    node: Node, path: Path, cache: Cache
) -> None:
    """The supervisor goes on whatever a stopped process holds."""
    segment = node.segment()
    with forked(lambda: write_for_ever(path)) as pid:
        wait_until(lambda: cache.get("k99") is not None, "all keys to be there")
        stop_with_lock(segment, pid)
        (victim,) = node.workers()
        victim.kill()
        node.wait_for_other("worker", [victim])
        node.client().ask(b"version\r\n", b"VERSION")
        with Cache.attach(path) as late:
            assert late.get("missing") is None
    wait_until(lambda: attached_count(node) == 1, "the slots to be free")
    assert node.stop() == 0

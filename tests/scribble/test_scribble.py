"""Random words anywhere in the segment of a node that serves."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from nodes import Node, Start
from scribble_client import (
    ANSWER_S,
    AskingClient,
    BinaryClient,
    BroadClient,
    Client,
    WatchingClient,
    keys_that_fail,
)
from scribbler import Scribbler
from support.waiting import wait_until

KEYS = 400
CLIENTS: tuple[Callable[[int, int, int, int], Client], ...] = (
    Client,
    BroadClient,
    BroadClient,
    BinaryClient,
    AskingClient,
    WatchingClient,
)
RECOVERY_S = 60.0
ATTACHED = Path(__file__).with_name("attached_worker.py")

AREAS = [
    "slots",
    "slot heads",
    "held",
    "shard heads",
    "locks",
    "superblock",
    "run head",
    "settings",
    "free map",
    "pages",
    "log rings",
    "log ring heads",
    "prefixes",
    "connections",
    "configurations",
    "tracks",
    "all",
]


class AttachedWorkers:
    """One process at a time that is attached to the node; one that dies is followed by another."""

    def __init__(self, path: Path, seed: int) -> None:
        self._path = path
        self._seed = seed
        self._over = False
        self._process = self._start()
        self._thread = threading.Thread(target=self._follow)
        self.failures: list[str] = []
        self.deaths: list[int] = []
        self.operations = 0
        self.hits = 0
        self.told_at_s = time.monotonic()
        self._thread.start()

    def _start(self) -> "subprocess.Popen[str]":
        first = len(CLIENTS) * KEYS
        arguments = [str(self._path), str(self._seed), str(first), str(KEYS)]
        return subprocess.Popen(
            [sys.executable, str(ATTACHED), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _follow(self) -> None:
        while self._read() and not self._over:
            self.deaths.append(self._process.returncode)
            self._seed += 1
            self._process = self._start()

    def _read(self) -> bool:
        """Until the process ends. False: it had a wrong answer."""
        operations, hits = self.operations, self.hits
        with self._process as process:
            assert process.stdout
            for line in process.stdout:
                self.told_at_s = time.monotonic()
                if line.startswith("wrong"):
                    self.failures.append(line)
                    return False
                if line.endswith("\n"):  # A killed process leaves half of one.
                    done, _, hit = line.split()
                    self.operations, self.hits = operations + int(done), hits + int(hit)
        return True

    def check(self) -> None:
        assert not self.failures, self.failures[0]
        silent_s = time.monotonic() - self.told_at_s
        assert silent_s < ANSWER_S, f"an attached process has been silent for {silent_s:.0f} s"

    def close(self) -> None:
        self._over = True
        assert self._process.stdin
        self._process.stdin.close()
        self._thread.join(ANSWER_S)
        if self._thread.is_alive():
            self.failures.append("the attached process does not end")
            self._process.kill()
            self._thread.join()


@contextmanager
def attached(path: Path, seed: int) -> Iterator[AttachedWorkers]:
    workers = AttachedWorkers(path, seed)
    try:
        yield workers
        workers.check()
    finally:
        workers.close()
        print(
            f"attached: {workers.operations} operations, {workers.hits} hits, "
            f"deaths {workers.deaths}"
        )
    workers.check()


def run(node: Node, scribbler: Scribbler, writes: int, seed: int, names: list[str] | None) -> int:
    """Scribble while clients work; returns how many answers they got."""
    is_over = threading.Event()
    failures: list[BaseException] = []

    def work(client: Client) -> None:
        try:
            client.run(is_over)
        except BaseException as error:
            failures.append(error)
            is_over.set()

    port = int(node.address[1])
    clients = [make(port, seed + i, i * KEYS, KEYS) for i, make in enumerate(CLIENTS)]
    threads = [threading.Thread(target=work, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    while scribbler.written < writes and not is_over.is_set():
        assert node.process.poll() is None, f"the supervisor died\n{node.log()[-3000:]}"
        scribbler.scribble(50, names)
        time.sleep(0.005)
    is_over.set()
    for thread in threads:
        thread.join(2 * ANSWER_S)
    assert not failures, failures[0]
    return sum(client.answers for client in clients)


def assert_sound_after_flush(node: Node, scribbler: Scribbler) -> None:
    client = Client(int(node.address[1]), 0, 0, KEYS)

    answers = set()

    def flushed() -> bool:
        try:
            answer = client.ask(b"flush_all\r\n")
            answers.add(answer)
            return answer == b"OK"
        except (ConnectionError, EOFError):
            client.hang_up()
            return False

    failing: list[tuple[int, bytes]] = []

    def all_work() -> bool:
        failing[:] = keys_that_fail(client, range(KEYS))
        return not failing

    try:
        wait_until(flushed, "flush_all", RECOVERY_S)
        wait_until(all_work, "all keys to be set and read", RECOVERY_S)
    finally:
        print(f"keys that fail: {len(failing)}, as {failing[:5]}; flush_all: {answers}")
        if failing:
            print(scribbler.locks())
        client.hang_up()


def assert_nothing_damaged(node: Node) -> None:
    """Some time after a flush every page, list and sum is as it should be."""
    segment = node.segment()
    problems: list[str] = []

    def sound() -> bool:
        problems[:] = segment.check()
        return not problems

    try:
        wait_until(sound, "the whole segment to be sound", RECOVERY_S)
    finally:
        print(f"problems: {len(problems)}, as {problems[:5]}")
        segment.close()


@pytest.fixture
def node(start: Start, path: Path) -> Iterator[Node]:
    node = start("-m", "32", "-t", "2", "--control-socket", str(path))
    yield node
    assert node.process.poll() is None, node.log()[-3000:]


@pytest.mark.parametrize("area", AREAS)
def test_scribbled_words_end_no_node_and_show_no_stranger(
    node: Node, path: Path, seed: int, area: str
) -> None:
    scribbler = Scribbler(node.pid, seed, 2)
    with attached(path, seed) as workers:
        answers = run(node, scribbler, 3000, seed, None if area == "all" else [area])
        workers.check()
        assert_sound_after_flush(node, scribbler)
    assert_nothing_damaged(node)
    assert answers > 0


@pytest.mark.slow
def test_a_million_scribbled_words(node: Node, path: Path, seed: int) -> None:
    scribbler = Scribbler(node.pid, seed, 2)
    with attached(path, seed) as workers:
        for turn in range(1, 101):
            run(node, scribbler, turn * 10_000, seed + turn, None)
            workers.check()
            assert_sound_after_flush(node, scribbler)
    assert_nothing_damaged(node)

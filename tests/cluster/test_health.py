"""Health checks, of fake servers that do one thing wrong each and of real nodes."""

import os
import selectors
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from support.server import node
from support.waiting import wait_until

from memcachepy.admin.client import Address
from memcachepy.cluster.health import Checks, Health, check

LONG_S = 30.0
"""For checks that are to succeed, on whatever machine."""
Answer = Callable[[bytes], bytes]
"""What a fake server says when so much has come; empty: it hangs up."""


class Fake:
    """A server that takes one read of each connection and answers it."""

    def __init__(self, answer: Answer) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = Address(*self._listener.getsockname())
        self.asked: list[bytes] = []
        self._answer = answer
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer, suppress(OSError):  # The check hangs up as soon as it knows enough.
                asked = peer.recv(4096)
                if not asked:
                    continue  # It was given up before it said anything.
                self.asked.append(asked)
                for byte in self._answer(asked):  # In the smallest fragments.
                    peer.send(bytes([byte]))

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@contextmanager
def fake(answer: Answer) -> Iterator[Fake]:
    server = Fake(answer)
    try:
        yield server
    finally:
        server.close()


def answered(answer: Answer, timeout_s: float = LONG_S) -> Health:
    with fake(answer) as server:
        return check(server.address, timeout_s)


def value_of(asked: bytes) -> bytes:
    return asked.split(b"\r\n")[1]


def right(asked: bytes) -> bytes:
    value = value_of(asked)
    found = b"VALUE memcachepy:health 0 %d\r\n%b\r\nEND\r\n" % (len(value), value)
    return b"STORED\r\n" + found


def test_it_is_a_set_that_expires_and_a_get_in_one_write() -> None:
    with fake(right) as server:
        assert check(server.address, LONG_S).is_healthy
        assert check(server.address, LONG_S).is_healthy
    values = [value_of(asked) for asked in server.asked]
    assert values[0] != values[1]
    for asked, value in zip(server.asked, values, strict=True):
        key = b"memcachepy:health"
        expected = b"set %b 0 10 %d\r\n%b\r\nget %b\r\n" % (key, len(value), value, key)
        assert asked == expected


def test_out_of_memory_is_healthy() -> None:
    health = answered(lambda _: b"SERVER_ERROR out of memory storing object\r\nEND\r\n")
    assert health.is_healthy
    assert "no room" in health.reason


def test_having_no_connection_to_spare_is_healthy() -> None:
    health = answered(lambda _: b"ERROR Too many open connections\r\n")
    assert health.is_healthy
    assert "no connection" in health.reason


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"SERVER_ERROR shard is locked by a stopped process\r\n", "locked"),
        (b"STORED\r\nSERVER_ERROR shard is locked by a stopped process\r\n", "locked"),
        (b"ERROR\r\nEND\r\n", "answers set: ERROR"),
        (b"STORED\r\n", "hung up"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "answers set: HTTP/1.1"),
        (b"x" * 5000, "does not speak"),
    ],
)
def test_another_answer_is_not_healthy(answer: bytes, reason: str) -> None:
    health = answered(lambda _: answer)
    assert not health.is_healthy
    assert reason in health.reason


def test_a_get_that_never_returns_what_was_set_is_not_healthy() -> None:
    with fake(lambda _: b"STORED\r\nEND\r\n") as server:
        health = check(server.address, LONG_S)
    assert not health.is_healthy
    assert "does not return" in health.reason
    assert len(server.asked) == 3


def test_a_set_of_another_check_between_set_and_get_is_asked_again() -> None:
    asked_before: list[bytes] = []

    def answer(asked: bytes) -> bytes:
        asked_before.append(asked)
        return right(asked if len(asked_before) > 1 else asked.replace(value_of(asked), b"0" * 32))

    assert answered(answer).is_healthy
    assert len(asked_before) == 2


def test_a_server_that_says_nothing_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        health = check(Address(*silent.getsockname()), 0.05)
    assert not health.is_healthy
    assert health.reason == "does not answer within 0.05 s"


def test_nobody_there_is_not_healthy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = Address(*gone.getsockname())
    assert check(address, LONG_S).reason == "connection refused"
    assert check(Address("", 0, "/nowhere/cache.sock"), LONG_S).reason == (
        "no such file or directory"
    )
    assert not check(Address("nowhere.invalid", 1), LONG_S).is_healthy


@pytest.mark.parametrize("flags", [(), ("-B", "binary"), ("-B", "ascii")])
def test_a_node_is_healthy_until_it_is_stopped(flags: tuple[str, ...]) -> None:
    with node("-m", "8", *flags) as server:
        address = Address(*server.address)
        assert check(address, LONG_S).reason == "stores and returns"
        workers = server.worker_pids()
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        try:
            health = check(address, 0.1)
        finally:
            for pid in workers:
                os.kill(pid, signal.SIGCONT)
        assert health.reason == "does not answer within 0.1 s"
        assert check(address, LONG_S).is_healthy


def test_a_node_that_may_not_evict_is_healthy_when_it_is_full() -> None:
    with node("-m", "8", "-M", "-n", "48") as server:
        address = Address(*server.address)
        with server.client() as client:
            full = b"SERVER_ERROR out of memory storing object"
            answers: list[bytes] = []
            while full not in answers:
                # Of the same size as the check's own item, so that this has no room.
                numbers = range(1000 * len(answers), 1000 * len(answers) + 1000)
                sets = [b"set %017d 0 0 32\r\n%032d\r\n" % (n, n) for n in numbers]
                client.send(b"".join(sets))
                answers.append([client.line() for _ in sets][-1])
        health = check(address, LONG_S)
        assert health.is_healthy
        assert "no room" in health.reason


def test_a_unix_socket_is_checked_too(tmp_path: Path) -> None:
    path = str(tmp_path / "cache.sock")
    with node("-s", path):
        assert check(Address("", 0, path), LONG_S).is_healthy


class Clock:
    """Moved by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Loop:
    """A loop with checks in it, on a clock that the test moves."""

    def __init__(self, opening: ExitStack) -> None:
        self.clock = Clock()
        self.results: list[tuple[str, Health]] = []
        self.selector = opening.enter_context(selectors.DefaultSelector())
        self.checks = Checks(self.selector, self.on_result, 2.0, 1.0, self.clock)
        opening.callback(self.checks.close)

    def on_result(self, name: str, health: Health) -> None:
        self.results.append((name, health))

    def turn(self, timeout_s: float = 0.0) -> None:
        for key, _ in self.selector.select(timeout_s):
            key.data()
        self.checks.tick()

    def run_until(self, condition: Callable[[], bool]) -> None:
        """Turns in which no time passes."""

        def turned() -> bool:
            self.turn(0.01)
            return condition()

        wait_until(turned, "the checks", LONG_S)

    def pass_s(self, seconds: float) -> None:
        """In turns of the length that the checks ask for."""
        end_s = self.clock.now_s + seconds
        while self.clock.now_s < end_s:
            self.clock.now_s = min(end_s, max(self.clock.now_s, self.checks.due_at_s))
            self.turn()


@pytest.fixture
def loop() -> Iterator[Loop]:
    with ExitStack() as opening:
        yield Loop(opening)


@pytest.fixture
def silent() -> Iterator[Address]:
    """A server whose kernel accepts, and which says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Address(*listener.getsockname())


def test_many_nodes_are_checked_at_a_time(loop: Loop) -> None:
    with fake(right) as server:
        names = {str(number) for number in range(60)}
        for name in names:
            loop.checks.watch(name, server.address)
        loop.run_until(lambda: len(loop.results) >= 60)
    assert {name for name, _ in loop.results} == names
    assert all(health.is_healthy for _, health in loop.results)
    assert loop.checks.due_at_s == loop.clock() + 2.0


def test_a_node_is_checked_again_after_the_interval(loop: Loop) -> None:
    with fake(right) as server:
        loop.checks.watch("a", server.address)
        loop.run_until(lambda: len(loop.results) == 1)
        loop.clock.now_s += 1.9
        loop.turn()
        assert not loop.selector.get_map()
        loop.clock.now_s += 0.1
        loop.run_until(lambda: len(loop.results) == 2)


def test_a_silent_node_holds_up_no_other(loop: Loop, silent: Address) -> None:
    with fake(right) as server:
        loop.checks.watch("silent", silent)
        loop.checks.watch("other", server.address)
        loop.run_until(lambda: len(loop.results) == 1)
        loop.pass_s(1.1)
    assert [(name, health.is_healthy) for name, health in loop.results] == [
        ("other", True),
        ("silent", False),
    ]


def test_a_node_that_takes_no_new_connections_but_answers_on_the_old_ones_is_healthy(
    loop: Loop,
) -> None:
    with node("-m", "8", "-c", "2", "-o", "no_maxconns_fast") as server:
        loop.checks.watch("a", Address(*server.address))
        loop.run_until(lambda: len(loop.results) == 1)
        with server.client() as client:  # The second connection: the next one waits.
            client.ask(b"mn\r\n", b"MN\r\n")
            loop.clock.now_s += 2.0
            loop.turn(0.01)
            loop.clock.now_s += 0.5
            loop.run_until(lambda: len(loop.results) == 2)
        pids = server.worker_pids()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            loop.pass_s(3.5)
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
    assert [health.reason for _, health in loop.results] == [
        "stores and returns",
        "answers; it takes no new connections",
        "does not answer within 1 s",
    ]


def test_an_old_connection_that_was_closed_is_no_reason_to_give_up_a_slow_one(loop: Loop) -> None:
    may_answer = threading.Event()

    def slowly(asked: bytes) -> bytes:
        if len(server.asked) > 1:
            may_answer.wait(LONG_S)
        return right(asked)

    with fake(slowly) as server:  # It closes each connection behind its answer.
        loop.checks.watch("a", server.address)
        loop.run_until(lambda: len(loop.results) == 1)
        loop.clock.now_s += 2.0
        loop.run_until(lambda: len(server.asked) == 2)
        loop.pass_s(0.9)
        may_answer.set()
        loop.run_until(lambda: len(loop.results) == 2)
    assert [health.reason for _, health in loop.results] == ["stores and returns"] * 2


def test_time_in_which_the_checker_did_not_run_counts_against_nobody(
    loop: Loop, silent: Address
) -> None:
    loop.checks.watch("a", silent)
    loop.turn()
    loop.clock.now_s += 3600.0
    loop.turn()
    assert not loop.results
    loop.pass_s(1.0)
    assert [health.is_healthy for _, health in loop.results] == [False]


def test_what_is_forgotten_has_no_result(loop: Loop, silent: Address) -> None:
    with fake(right) as server:
        loop.checks.watch("a", server.address)
        loop.checks.watch("b", silent)
        loop.turn()
        loop.checks.forget("a")
        loop.checks.forget("b")
        loop.checks.forget("never watched")
        loop.pass_s(10.0)
    assert not loop.results
    assert not loop.selector.get_map()
    assert loop.checks.due_at_s == float("inf")


def test_results_may_forget_others_that_are_ready_too(loop: Loop, silent: Address) -> None:
    def forget_all(name: str, health: Health) -> None:
        loop.results.append((name, health))
        for other in list(loop.checks.watched):
            loop.checks.forget(other)

    loop.checks = Checks(loop.selector, forget_all, 2.0, 1.0, loop.clock)
    loop.checks.watch("a", silent)
    loop.checks.watch("b", silent)
    loop.pass_s(5.0)
    assert len(loop.results) == 1

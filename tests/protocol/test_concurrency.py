"""Several clients on several workers, and workers that are killed under them."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
from support.client import RawClient
from support.server import Server, node
from support.waiting import wait_until

pytestmark = pytest.mark.once

CLIENTS = 4
KILLS = 4
KILLS_SLOW = 40
LENGTHS = (10, 100, 1000, 5000, 60_000)
LENGTHS_LARGE = (10, 1000, 20_000, 60_000, 500_000)


@pytest.fixture(scope="module")
def several() -> Iterator[Server]:
    with node("-m", "256", workers=3) as server:
        yield server


def _together(jobs: Sequence[Callable[[], None]], timeout_s: float = 60.0) -> None:
    """Run all jobs at the same time; fails with the first failure."""
    failures: list[BaseException] = []

    def run(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:  # To be raised in the test's own thread.
            failures.append(error)

    threads = [threading.Thread(target=run, args=(job,), daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + timeout_s
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    if failures:
        raise failures[0]
    assert not any(thread.is_alive() for thread in threads), f"not done after {timeout_s} s"


def test_connections_are_spread_over_all_workers(several: Server) -> None:
    assert len(several.worker_pids()) == 3
    with several.client() as one:
        assert one.stats()["threads"] == "3"


def test_no_increment_is_lost(several: Server) -> None:
    each = 3000
    with several.client() as client:
        client.ask(b"set n 0 0 1\r\n0\r\n", b"STORED\r\n")

    def job() -> None:
        with RawClient(several.address) as client:
            for _ in range(each // 100):
                client.send(b"incr n 1\r\n" * 100)
                for _ in range(100):
                    assert client.line().isdigit()

    _together([job] * CLIENTS)
    with several.client() as client:
        expected = b"%d" % (CLIENTS * each)
        client.ask(b"get n\r\n", b"VALUE n 0 %d\r\n%s\r\nEND\r\n" % (len(expected), expected))


def test_cas_lets_one_of_several_through(several: Server) -> None:
    each = 300
    with several.client() as client:
        client.ask(b"set c 0 0 1\r\n0\r\n", b"STORED\r\n")

    def job() -> None:
        with RawClient(several.address) as client:
            done = 0
            while done < each:
                client.send(b"gets c\r\n")
                token = client.line().split()[-1]
                value = b"%d" % (int(client.line()) + 1)
                assert client.line() == b"END"
                client.send(b"cas c 0 0 %d %s\r\n%s\r\n" % (len(value), token, value))
                reply = client.line()
                assert reply in (b"STORED", b"EXISTS")
                done += reply == b"STORED"

    _together([job] * CLIENTS)
    with several.client() as client:
        client.send(b"get c\r\n")
        client.line()
        assert int(client.line()) == CLIENTS * each


def test_cas_tokens_are_never_given_twice(several: Server) -> None:
    each = 500
    tokens: list[list[int]] = [[] for _ in range(CLIENTS)]

    def job(number: int) -> Callable[[], None]:
        def run() -> None:
            with RawClient(several.address) as client:
                for i in range(each):
                    key = b"t%d-%d" % (number, i)
                    client.send(b"set %s 0 0 1\r\nx\r\ngets %s\r\n" % (key, key))
                    assert client.line() == b"STORED"
                    tokens[number].append(int(client.line().split()[-1]))
                    client.expect(b"x\r\nEND\r\n")

        return run

    _together([job(number) for number in range(CLIENTS)])
    for own in tokens:
        assert own == sorted(own)
    everything = [token for own in tokens for token in own]
    assert len(set(everything)) == CLIENTS * each


def test_appends_of_several_clients_are_all_there_and_whole(several: Server) -> None:
    each = 500
    with several.client() as client:
        client.ask(b"set log 0 0 0\r\n\r\n", b"STORED\r\n")

    def job(number: int) -> Callable[[], None]:
        def run() -> None:
            with RawClient(several.address) as client:
                for i in range(each):
                    client.ask(b"append log 0 0 8\r\n[%d-%04d]\r\n" % (number, i), b"STORED\r\n")

        return run

    _together([job(number) for number in range(CLIENTS)])
    with several.client() as client:
        client.send(b"get log\r\n")
        assert client.line() == b"VALUE log 0 %d" % (8 * CLIENTS * each)
        pieces = client.line().strip(b"[]").split(b"][")
    wanted = {b"%d-%04d" % (number, i) for number in range(CLIENTS) for i in range(each)}
    assert set(pieces) == wanted
    assert len(pieces) == len(wanted)


@pytest.mark.parametrize("length", [100, 5000, 60_000, 400_000])
def test_readers_never_see_half_a_write(several: Server, length: int) -> None:
    """Each value is one byte repeated; a mixture would be two writes at once."""
    rounds = max(20, 2_000_000 // length // 8)
    done = threading.Event()
    key = b"torn%d" % length

    def write(letter: bytes) -> Callable[[], None]:
        def run() -> None:
            with RawClient(several.address) as client:
                for _ in range(rounds):
                    request = b"set %s 0 0 %d\r\n%s\r\n" % (key, length, letter * length)
                    client.ask(request, b"STORED\r\n")
            done.set()

        return run

    def read() -> None:
        with RawClient(several.address) as client:
            while not done.is_set():
                client.send(b"get %s\r\n" % key)
                if client.line() == b"END":
                    continue
                value = client.take(length)
                assert value == value[:1] * length, "two values in one"
                client.expect(b"\r\nEND\r\n")

    _together([write(b"a"), write(b"b"), read, read])


class Recorder:
    """A client that stores, remembers what was acknowledged, and survives its connection's end."""

    def __init__(self, server: Server, number: int, seed: int, *, evicts: bool) -> None:
        self._server = server
        self._lengths = LENGTHS_LARGE if evicts else LENGTHS
        self._evicts = evicts
        self._number = number
        self._rng = random.Random(seed)
        self.acknowledged: dict[bytes, tuple[int, int]] = {}
        """Version and length by key."""
        self.unknown: dict[bytes, tuple[int, int]] = {}
        """What was sent last and never answered: it may be there or not."""
        self.breaks = 0
        self._version = 0

    def run(self, done: threading.Event) -> None:
        """Store until told to stop; a broken connection is replaced, anything else is raised."""
        while not done.is_set():
            with RawClient(self._server.address, timeout_s=15) as client:
                try:
                    while not done.is_set():
                        self._store(client)
                except AssertionError:
                    if not client.closed:
                        raise
                    self.breaks += 1

    def _store(self, client: RawClient) -> None:
        key = b"r%d-%d" % (self._number, self._rng.randrange(300))
        length = self._rng.choice(self._lengths)
        self._version += 1
        if key in self.unknown:
            self.acknowledged.pop(key, None)
        self.unknown[key] = (self._version, length)
        client.send(b"set %s 0 0 %d\r\n%s\r\n" % (key, length, _value(self._version, length)))
        client.expect(b"STORED\r\n")
        self.acknowledged[key] = self.unknown.pop(key)

    def verify(self) -> None:
        with RawClient(self._server.address) as client:
            for key, (version, length) in self.acknowledged.items():
                client.send(b"get %s\r\n" % key)
                head = client.line()
                if head == b"END" and self._evicts:
                    continue
                allowed = [_value(version, length)]
                if key in self.unknown:
                    allowed.append(_value(*self.unknown[key]))
                assert head != b"END", f"{key!r} was acknowledged and is gone"
                value = client.take(int(head.split()[-1]))
                client.expect(b"\r\nEND\r\n")
                assert value in allowed, f"{key!r} is not what was acknowledged: {value[:40]!r}"


def _value(version: int, length: int) -> bytes:
    unit = b"%09d." % version
    return (unit * (length // 10 + 1))[:length]


def _kill_workers_under_load(
    server: Server, seed: int, kills: int, pause_s: float, *, evicts: bool = False
) -> None:
    rng = random.Random(seed)
    done = threading.Event()
    recorders = [
        Recorder(server, number, seed + number, evicts=evicts) for number in range(CLIENTS)
    ]

    def kill() -> None:
        try:
            for _ in range(kills):
                done.wait(pause_s * (0.5 + rng.random()))
                victims = wait_until(lambda: _full_set(server), "three workers", 10)
                os.kill(rng.choice(victims), signal.SIGKILL)
            wait_until(lambda: _full_set(server), "three workers", 10)
        finally:
            done.set()

    jobs: list[Callable[[], None]] = [kill]
    jobs += [lambda recorder=recorder: recorder.run(done) for recorder in recorders]  # type: ignore[misc]
    _together(jobs, timeout_s=30 + kills * (pause_s * 2 + 2))
    for recorder in recorders:
        recorder.verify()
    assert sum(len(recorder.acknowledged) for recorder in recorders) > 0
    assert sum(recorder.breaks for recorder in recorders) > 0, "no kill hit a connection"


def _full_set(server: Server) -> list[int]:
    pids = server.worker_pids()
    return pids if len(pids) == 3 else []


def test_workers_killed_under_load_lose_nothing_that_was_acknowledged(seed: int) -> None:
    with node("-m", "256", workers=3) as server:
        _kill_workers_under_load(server, seed, KILLS, 0.3)


def test_workers_killed_in_a_full_cache_leave_no_wrong_value(seed: int) -> None:
    """Large values in a small cache: uploads, evictions and chains are under way at any moment."""
    with node("-m", "16", workers=3) as server:
        _kill_workers_under_load(server, seed, KILLS, 0.3, evicts=True)
        value = b"w" * 900_000
        with server.client() as client:
            for i in range(30):
                client.ask(b"set w%d 0 0 %d\r\n%s\r\n" % (i, len(value), value), b"STORED\r\n")
                client.send(b"get w%d\r\n" % i)
                client.expect(b"VALUE w%d 0 %d\r\n%s\r\nEND\r\n" % (i, len(value), value))


@pytest.mark.slow
def test_many_workers_killed_under_load_lose_nothing_that_was_acknowledged(seed: int) -> None:
    with node("-m", "256", workers=3) as server:
        _kill_workers_under_load(server, seed, KILLS_SLOW, 1.5)

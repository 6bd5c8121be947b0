"""Clients that mean harm or are merely broken cost bounded memory, no time, and nobody else."""

import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from support.client import RawClient
from support.server import Server, cpu_s, node, private_dirty_kb
from support.waiting import wait_until

pytestmark = pytest.mark.once

IDLE_WATCH_S = 0.5
IDLE_CPU_S_MAX = 0.1


@pytest.fixture(scope="module", params=[1, 2], ids=["one worker", "two workers"])
def own(request: pytest.FixtureRequest) -> Iterator[Server]:
    with node("-m", "64", "-c", "2048", workers=request.param) as server:
        yield server


def _push(client: RawClient, data: bytes, patience_s: float = 0.05) -> int:
    """Send as much as the other side takes; returns how much."""
    sent = 0
    deadline = time.monotonic() + patience_s
    while sent < len(data) and time.monotonic() < deadline:
        try:
            sent += client.socket.send(data[sent:])
            deadline = time.monotonic() + patience_s
        except BlockingIOError:
            time.sleep(0.002)
        except (ConnectionResetError, BrokenPipeError):
            break
    return sent


def _private_kb(server: Server) -> int:
    return sum(private_dirty_kb(pid) for pid in server.worker_pids())


def _assert_idle(server: Server) -> None:
    """The workers do nothing while nothing comes."""
    pids = server.worker_pids()
    assert pids, "the node has no process that calls itself a worker"
    before = sum(map(cpu_s, pids))
    time.sleep(IDLE_WATCH_S)  # The one thing to watch is that time passes and nothing is done.
    used_s = sum(map(cpu_s, pids)) - before
    assert used_s <= IDLE_CPU_S_MAX, f"{used_s} s of processor time in {IDLE_WATCH_S} s"


def _assert_serves(server: Server) -> None:
    with server.client() as client:
        client.ask(b"set fine 0 0 2\r\nok\r\n", b"STORED\r\n")
        client.ask(b"get fine\r\n", b"VALUE fine 0 2\r\nok\r\nEND\r\n")


def test_half_commands_for_ever_cost_no_time_and_little_memory(own: Server) -> None:
    _assert_serves(own)
    before_kb = _private_kb(own)
    with ExitStack() as stack:
        for part in (b"g", b"get ", b"set k 0 0", b"set k 0 0 10\r\n0123", b"get a " * 300) * 40:
            client = stack.enter_context(RawClient(own.address))
            client.send(part)
        _assert_serves(own)
        _assert_idle(own)
        grown_kb = _private_kb(own) - before_kb
        assert grown_kb < 200 * 16, f"200 half commands cost {grown_kb} kB"


def test_long_get_lines_without_an_end_are_bounded(own: Server) -> None:
    _assert_serves(own)
    before_kb = _private_kb(own)
    with ExitStack() as stack:
        for _ in range(10):
            client = stack.enter_context(RawClient(own.address))
            client.send(b"get " + b"miss " * 400_000)
        _assert_serves(own)
        _assert_idle(own)
        grown_kb = _private_kb(own) - before_kb
        assert grown_kb < 10 * 256, f"ten endless get lines cost {grown_kb} kB"


@pytest.mark.parametrize("value_bytes", [10, 10_000, 900_000])
def test_a_reader_that_never_reads_costs_bounded_memory(own: Server, value_bytes: int) -> None:
    with own.client() as other:
        other.ask(b"set v 0 0 %d\r\n%s\r\n" % (value_bytes, b"v" * value_bytes), b"STORED\r\n")
    before_kb = _private_kb(own)
    with ExitStack() as stack:
        for _ in range(5):
            client = stack.enter_context(RawClient(own.address))
            _push(client, b"get v\r\n" * 200_000)
        _assert_serves(own)
        _assert_idle(own)
        grown_kb = _private_kb(own) - before_kb
        assert grown_kb < 5 * 1024, f"five readers that never read cost {grown_kb} kB"
    _assert_serves(own)


def test_a_thousand_half_sent_megabytes_make_nobody_elses_set_fail(own: Server) -> None:
    before_kb = _private_kb(own)
    with ExitStack() as stack:
        clients = [stack.enter_context(RawClient(own.address)) for _ in range(1000)]
        for i, client in enumerate(clients):
            client.send(b"set half%d 0 0 1000000\r\n" % i)
            _push(client, b"h" * 65_536, patience_s=0)
        with own.client(timeout_s=30) as other:
            for length in (10, 1000, 30_000, 200_000, 900_000):
                value = b"w" * length
                for i in range(3):
                    other.ask(b"set w%d 0 0 %d\r\n%s\r\n" % (i, length, value), b"STORED\r\n")
                    other.send(b"get w%d\r\n" % i)
                    other.expect(b"VALUE w%d 0 %d\r\n%s\r\nEND\r\n" % (i, length, value))
        grown_kb = _private_kb(own) - before_kb
        # Half an eighth of the memory would be the limit if they were held in private memory.
        assert grown_kb < 16 * 1024, f"a thousand half-sent values cost {grown_kb} kB"
        _assert_idle(own)
    _all_gone(own)


def test_uploads_that_were_broken_off_give_their_memory_back(own: Server) -> None:
    for _ in range(30):
        with ExitStack() as stack:
            for i in range(5):
                client = stack.enter_context(RawClient(own.address))
                client.send(b"set half%d 0 0 1000000\r\n" % i)
                _push(client, b"h" * 900_000)
    _all_gone(own)
    with own.client(timeout_s=30) as other:
        for i in range(30):
            value = b"w" * 900_000
            other.ask(b"set w%d 0 0 %d\r\n%s\r\n" % (i, len(value), value), b"STORED\r\n")
            other.send(b"get w%d\r\n" % i)
            other.expect(b"VALUE w%d 0 %d\r\n%s\r\nEND\r\n" % (i, len(value), value))


def _all_gone(server: Server) -> None:
    """The node has noticed that everybody left; the asking connection itself counts."""
    wait_until(lambda: server.stats()["curr_connections"] == "1", "all connections to be gone")


def test_a_thousand_connections_that_say_nothing_cost_nothing(own: Server) -> None:
    _assert_serves(own)
    before_kb = _private_kb(own)
    with ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(RawClient(own.address))
        wait_until(lambda: int(own.stats()["curr_connections"]) == 1001, "a thousand connections")
        _assert_idle(own)
        grown_kb = _private_kb(own) - before_kb
        assert grown_kb < 1000, f"a thousand idle connections cost {grown_kb} kB"
    _all_gone(own)


def test_idle_connections_own_no_buffers_after_work(own: Server) -> None:
    _assert_serves(own)
    before_kb = _private_kb(own)
    with ExitStack() as stack:
        clients = [stack.enter_context(RawClient(own.address)) for _ in range(500)]
        for client in clients:
            client.ask(
                b"set i 0 0 20000\r\n" + b"i" * 20_000 + b"\r\nget i\r\n",
                b"STORED\r\nVALUE i 0 20000\r\n" + b"i" * 20_000 + b"\r\nEND\r\n",
            )
        grown_kb = _private_kb(own) - before_kb
        assert grown_kb < 2000, f"500 connections kept {grown_kb} kB"
    _all_gone(own)


def test_a_flood_of_noreply_starves_nobody(own: Server) -> None:
    with ExitStack() as stack:
        flooders = [stack.enter_context(RawClient(own.address)) for _ in range(3)]
        other = stack.enter_context(own.client(timeout_s=30))
        flood = b"set f 0 0 10 noreply\r\n0123456789\r\n" * 2000
        for i in range(100):
            for flooder in flooders:
                _push(flooder, flood, patience_s=0)
            other.ask(
                b"set o 0 0 3\r\n%03d\r\nget o\r\n" % i,
                b"STORED\r\nVALUE o 0 3\r\n%03d\r\nEND\r\n" % i,
            )


def test_random_bytes_never_end_a_node(own: Server, rng) -> None:  # type: ignore[no-untyped-def]
    for _ in range(200):
        with RawClient(own.address) as client:
            _push(client, rng.randbytes(rng.randrange(1, 5000)), patience_s=0)
    _assert_serves(own)
    _all_gone(own)
    assert own.process.poll() is None


def test_readers_that_never_read_do_not_keep_large_values_from_others(own: Server) -> None:
    """Together they ask for far more than the share of memory that waiting values may hold."""
    value = b"v" * 900_000
    with own.client(timeout_s=30) as other:
        for i in range(20):
            other.ask(b"set v%d 0 0 %d\r\n%s\r\n" % (i, len(value), value), b"STORED\r\n")
    everything = b"get " + b" ".join(b"v%d" % i for i in range(20)) + b"\r\n"
    with ExitStack() as stack:
        for _ in range(30):
            client = stack.enter_context(RawClient(own.address))
            _push(client, everything * 5)
        with own.client(timeout_s=30) as other:
            for i in range(20):
                other.send(b"get v%d\r\n" % i)
                other.expect(b"VALUE v%d 0 %d\r\n%s\r\nEND\r\n" % (i, len(value), value))
                other.ask(b"set w%d 0 0 %d\r\n%s\r\n" % (i, len(value), value), b"STORED\r\n")
        _assert_serves(own)
    _all_gone(own)


def test_half_sent_values_and_idle_readers_together_stop_nobody(own: Server) -> None:
    value = b"v" * 900_000
    with ExitStack() as stack:
        for i in range(40):
            client = stack.enter_context(RawClient(own.address))
            client.send(b"set half%d 0 0 900000\r\n" % i)
            _push(client, b"h" * 800_000, patience_s=0.01)
        with own.client(timeout_s=30) as other:
            for i in range(10):
                other.ask(b"set v%d 0 0 %d\r\n%s\r\n" % (i, len(value), value), b"STORED\r\n")
                other.send(b"get v%d\r\n" % i)
                other.expect(b"VALUE v%d 0 %d\r\n%s\r\nEND\r\n" % (i, len(value), value))
    _all_gone(own)

"""`stats detail`: commands counted by the prefix of their keys, over all workers."""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from support.client import RawClient
from support.server import Server, node
from support.waiting import wait_until

pytestmark = pytest.mark.once

LINE = re.compile(r"PREFIX (\S+) get (\d+) hit (\d+) set (\d+) del (\d+)")


@pytest.fixture(scope="module")
def three_workers() -> Iterator[Server]:
    with node("-m", "32", "-D", "/", workers=3) as server:
        yield server


def dump(client: RawClient) -> dict[str, tuple[int, ...]]:
    client.send(b"stats detail dump\r\n")
    prefixes = {}
    while (line := client.line()) != b"END":
        found = LINE.fullmatch(line.decode())
        assert found, line
        assert found[1] not in prefixes
        prefixes[found[1]] = tuple(int(number) for number in found.groups()[1:])
    return prefixes


def begin(client: RawClient) -> None:
    client.ask(b"stats reset\r\n", b"RESET\r\n")
    client.ask(b"stats detail on\r\n", b"OK\r\n")


def test_prefixes_are_counted_over_all_workers_up_to_the_delimiter(three_workers: Server) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(three_workers.client()) for _ in range(6)]
        begin(clients[0])
        for i, client in enumerate(clients):
            client.ask(b"set a/%d 0 0 1\r\n1\r\n" % i, b"STORED\r\n")
            client.ask(b"get a/%d a/none b:c\r\n" % i, b"VALUE a/%d 0 1\r\n1\r\nEND\r\n" % i)
            client.ask(b"mg a/%d\r\n" % i, b"HD\r\n")
            client.ask(b"gat 0 b/c/d\r\n", b"END\r\n")
            client.ask(b"delete a/%d\r\n" % i, b"DELETED\r\n")
        assert dump(clients[3]) == {"a": (18, 12, 6, 6), "b": (6, 0, 0, 0)}
        assert clients[0].stats("settings")["detail_enabled"] == "yes"
        clients[0].ask(b"stats detail off\r\n", b"OK\r\n")
        clients[5].ask(b"get a/0\r\n", b"END\r\n")
        assert dump(clients[4])["a"] == (18, 12, 6, 6)


def test_what_a_killed_worker_has_counted_stays(three_workers: Server) -> None:
    with three_workers.client() as client:
        begin(client)
        with ExitStack() as stack:
            others = [stack.enter_context(three_workers.client()) for _ in range(6)]
            for other in others:
                other.ask(b"get k/1\r\n", b"END\r\n")
        before = three_workers.worker_pids()
        for pid in before:
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(set(three_workers.worker_pids()) - set(before)) == 3, "new workers")
    with three_workers.client() as client:
        assert dump(client) == {"k": (6, 0, 0, 0)}
        client.ask(b"get k/1\r\n", b"END\r\n")
        assert dump(client) == {"k": (7, 0, 0, 0)}


def test_no_more_than_65536_prefixes_are_counted_until_the_next_reset(
    three_workers: Server,
) -> None:
    with three_workers.client() as client:
        for generation in range(3):
            begin(client)
            for first in range(0, 70_000, 1000):
                client.send(
                    b"".join(
                        b"get %d-%d/k\r\n" % (generation, i) for i in range(first, first + 1000)
                    )
                )
                client.take(1000 * len(b"END\r\n"))
            prefixes = dump(client)
            assert len(prefixes) == 65_536
            assert set(prefixes.values()) == {(1, 0, 0, 0)}
            assert all(prefix.startswith(f"{generation}-") for prefix in prefixes)
        client.ask(b"stats reset\r\n", b"RESET\r\n")
        assert dump(client) == {}
        client.ask(b"stats detail off\r\n", b"OK\r\n")


def test_a_prefix_that_would_break_its_line_is_not_counted(three_workers: Server) -> None:
    with three_workers.client() as client:
        begin(client)
        client.ask(b"ms YQpFTkQKL2I= 1 b\r\n5\r\n", b"HD\r\n")  # a, END and /b in three lines
        client.ask(b"get \x7f/a a/\x7f\r\n", b"END\r\n")
        assert dump(client) == {"a": (1, 0, 0, 0)}
        client.ask(b"stats detail off\r\n", b"OK\r\n")

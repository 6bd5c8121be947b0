"""`stats conns`: every socket of the node, whoever serves it."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.client import RawClient
from support.server import Server, node
from support.waiting import wait_until

pytestmark = pytest.mark.once

Conns = dict[int, dict[str, str]]


@pytest.fixture(scope="module")
def three_workers() -> Iterator[Server]:
    with node("-m", "32", "-c", "200", workers=3) as server:
        yield server


def conns(client: RawClient) -> Conns:
    """The reply to `stats conns`, by number."""
    found: Conns = {}
    for name, value in client.stats("conns").items():
        number, key = name.split(":", 1)
        found.setdefault(int(number), {})[key] = value
    return found


def of_client(found: Conns, client: socket.socket) -> dict[str, str]:
    """What is said of a client's own connection."""
    host, port = client.getsockname()
    (told,) = [conn for conn in found.values() if conn["addr"] == f"tcp:{host}:{port}"]
    return told


def is_closed(client: socket.socket) -> bool:
    try:
        return client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def test_every_connection_of_every_worker_is_told_once(three_workers: Server) -> None:
    address = f"tcp:127.0.0.1:{three_workers.port}"
    with ExitStack() as stack:
        clients = [stack.enter_context(three_workers.client()) for _ in range(100)]
        for client in clients:
            client.ask(b"get none\r\n", b"END\r\n")
        found = conns(clients[7])
        mine = [of_client(found, client.socket) for client in clients]
    assert all(conn["listen_addr"] == address for conn in mine)
    assert [conn["state"] for conn in mine].count("conn_parse_cmd") == 1
    assert mine[7]["state"] == "conn_parse_cmd"
    assert {conn["state"] for conn in mine} == {"conn_parse_cmd", "conn_read"}
    assert all(int(conn["secs_since_last_cmd"]) < 10 for conn in mine)
    listening = [conn for conn in found.values() if conn["state"] == "conn_listening"]
    assert [conn["addr"] for conn in listening] == [address]


def test_the_keys_of_a_connection_stand_in_memcacheds_order(three_workers: Server) -> None:
    with three_workers.client() as client:
        found = conns(client)
        assert list(of_client(found, client.socket)) == [
            "addr",
            "listen_addr",
            "state",
            "resps_waiting",
            "secs_since_last_cmd",
        ]


def test_a_connection_says_what_it_waits_for(three_workers: Server) -> None:
    with ExitStack() as stack:
        asking, fresh, sending, refused, slow = (
            stack.enter_context(three_workers.client()) for _ in range(5)
        )
        asking.ask(b"set large 0 0 900000\r\n" + b"l" * 900_000 + b"\r\n", b"STORED\r\n")
        sending.send(b"set k 0 0 10\r\nabc")
        refused.send(b"set k 0 0 3000000\r\nabc")
        refused.expect(b"SERVER_ERROR object too large for cache\r\n")
        slow.send(b"get large\r\n" * 30)
        expected = {
            "conn_new_cmd": fresh,
            "conn_nread": sending,
            "conn_swallow": refused,
            "conn_mwrite": slow,
        }

        def states() -> bool:
            found = conns(asking)
            return all(
                of_client(found, client.socket)["state"] == state
                for state, client in expected.items()
            )

        wait_until(states, "each state")
        assert of_client(conns(asking), slow.socket)["resps_waiting"] == "1"


def test_closed_connections_and_those_of_killed_workers_are_gone(three_workers: Server) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(three_workers.client()) for _ in range(30)]
        for client in clients:
            client.ask(b"get none\r\n", b"END\r\n")
        before = three_workers.worker_pids()
        os.kill(before[0], signal.SIGKILL)
        wait_until(
            lambda: len(set(three_workers.worker_pids()) - set(before)) == 1, "the new worker"
        )

        left = sum(not is_closed(client.socket) for client in clients)
        assert 0 < left < 30

        def alive() -> int:
            with three_workers.client() as asking:
                found = conns(asking)
            return len(found) - 2  # The listening one, and the one that asks.

        wait_until(lambda: alive() == left, "the connections of two workers")
    wait_until(lambda: three_workers.stats()["curr_connections"] == "1", "no connection")
    with three_workers.client() as asking:
        assert len(conns(asking)) == 2


def test_connections_of_a_unix_socket_name_its_path(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with node("-s", str(path), workers=2), socket.socket(socket.AF_UNIX) as plain:
        plain.connect(str(path))
        plain.sendall(b"stats conns\r\n")
        text = b""
        while not text.endswith(b"END\r\n"):
            text += plain.recv(65536)
    lines = text.decode().splitlines()
    (number,) = [line.split(":")[0] for line in lines if line.endswith("state conn_parse_cmd")]
    assert f"{number}:addr unix:{path}" in lines
    assert f"{number}:listen_addr unix:{path}" in lines

"""Signals to the supervisor, and what is left afterwards: nothing."""

import os
import signal
import socket
import time
from pathlib import Path

import pytest
from nodes import Node, Start, is_alive
from support.client import RawClient
from support.waiting import wait_until


def refuses(node: Node) -> bool:
    try:
        RawClient(node.address).close()
    except OSError:
        return True
    return False


def is_open_here(address: object) -> bool:
    assert isinstance(address, tuple)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_leaves_nothing(number: int, start: Start, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    node = start("-p", "-1", "-s", str(path), "-t", "2")
    client = node.client()
    client.ask(b"set k 0 0 1\r\nv\r\n", b"STORED\r\n")
    address, family = node.address, node.children()
    assert len(family) == 4
    assert node.stop(number) == 0
    client.expect_close()
    assert not any(map(is_alive, family))
    assert not path.exists()
    assert is_open_here(address)
    assert "child killed" not in node.log()


def test_interrupt_from_the_terminal_stops_once(start: Start) -> None:
    node = start("-t", "2", start_new_session=True)
    os.killpg(node.pid, signal.SIGINT)
    assert node.wait() == 0
    assert "second" not in node.log()
    assert "child killed" not in node.log()


def test_children_ignore_the_signals_of_terminals(start: Start) -> None:
    node = start("-t", "2")
    family = node.children()
    for process in family:
        for number in ("INT", "TERM", "HUP", "QUIT", "USR1", "USR2"):
            process.send_signal(getattr(signal, f"SIG{number}"))
    for _ in range(4):
        node.client().ask(b"version\r\n", b"VERSION")
    assert node.children() == family


def test_stop_answers_what_was_fully_received(start: Start) -> None:
    node = start("-t", "1")
    client = node.client()
    client.send(b"set k 0 0 5\r\nvalue\r\n" + b"get k\r\n" * 1000)
    client.expect(b"STORED\r\n")
    node.process.send_signal(signal.SIGTERM)
    client.expect(b"VALUE k 0 5\r\nvalue\r\nEND\r\n" * 1000)
    client.expect_close()
    assert node.wait() == 0


def test_stop_does_not_wait_for_idle_and_half_commands(start: Start) -> None:
    node = start()
    node.client().ask(b"version\r\n", b"VERSION")
    node.client().send(b"set half 0 0 100\r\nabc")
    node.client().send(b"get ")
    began_s = time.monotonic()
    assert node.stop() == 0
    assert time.monotonic() - began_s < 4
    assert "child killed" not in node.log()


def test_second_signal_cuts_a_stop_short(start: Start) -> None:
    node = start("-t", "2")
    node.workers()[0].suspend()
    began_s = time.monotonic()
    node.process.send_signal(signal.SIGTERM)
    node.wait_for_log("stopping")
    assert node.stop(signal.SIGINT) == 0
    assert time.monotonic() - began_s < 4
    assert "second SIGINT" in node.log()


def test_child_that_does_not_end_is_killed_after_five_seconds(start: Start) -> None:
    node = start("-t", "2")
    stuck = node.workers()[0]
    stuck.suspend()
    began_s = time.monotonic()
    assert node.stop() == 0
    assert 4.5 < time.monotonic() - began_s < 8
    assert not is_alive(stuck)


def test_drain_serves_open_connections_until_they_close(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    node = start("-t", "2", "-p", "-1", "-s", str(path))
    clients = [node.client() for _ in range(4)]
    for client in clients:
        client.ask(b"version\r\n", b"VERSION")
        client.line()
    node.process.send_signal(signal.SIGUSR1)
    node.wait_for_log("draining")
    wait_until(lambda: refuses(node), "new connections to be refused")
    assert not path.exists()
    for client in clients:
        client.ask(b"set k 0 0 1\r\nv\r\n", b"STORED\r\n")
        client.send(b"quit\r\n")
        client.expect_close()
    assert node.wait() == 0
    assert "reason=drained" in node.log()


def test_drain_without_connections_ends_at_once(start: Start) -> None:
    node = start()
    began_s = time.monotonic()
    assert node.stop(signal.SIGUSR1) == 0
    assert time.monotonic() - began_s < 5


def test_stop_during_a_drain(start: Start) -> None:
    node = start()
    client = node.client()
    client.ask(b"version\r\n", b"VERSION")
    client.line()
    node.process.send_signal(signal.SIGUSR1)
    node.wait_for_log("draining")
    client.ask(b"get k\r\n", b"END\r\n")
    assert node.stop() == 0
    client.expect_close()


@pytest.mark.slow
def test_drain_ends_after_thirty_seconds(start: Start) -> None:
    node = start()
    node.client().ask(b"version\r\n", b"VERSION")
    began_s = time.monotonic()
    node.process.send_signal(signal.SIGUSR1)
    assert node.wait(45) == 0
    assert 29 < time.monotonic() - began_s < 36


def test_hangup_is_logged_and_changes_nothing(start: Start) -> None:
    node = start("-t", "2")
    family = node.children()
    node.process.send_signal(signal.SIGHUP)
    node.wait_for_log("signal ignored signal=SIGHUP")
    assert node.children() == family
    assert node.stop() == 0


def test_shutdown_command_ends_the_node(start: Start) -> None:
    node = start("-A", "-t", "2")
    client = node.client()
    client.send(b"shutdown\r\n")
    client.expect_close()
    assert node.wait() == 0


def test_shutdown_command_is_off_by_default(start: Start) -> None:
    node = start()
    node.client().ask(b"shutdown\r\n", b"SERVER_ERROR: shutdown not enabled\r\n")
    assert node.stop() == 0


def test_children_of_a_killed_supervisor_end_within_a_tenth_of_a_second(start: Start) -> None:
    def seconds_to_end() -> float:
        node = start("-t", "2")
        family = node.children()
        node.process.kill()
        began_s = time.monotonic()
        wait_until(lambda: not any(map(is_alive, family)), "orphans to end")
        return time.monotonic() - began_s

    assert min(seconds_to_end() for _ in range(3)) < 0.1


def test_next_start_after_a_killed_supervisor_works(start: Start, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    node = start("-p", "-1", "-s", path, "-t", "2")
    node.client().ask(b"version\r\n", b"VERSION")
    family = node.children()
    node.process.kill()
    node.wait()
    wait_until(lambda: not any(map(is_alive, family)), "orphans to end")
    address = node.address
    assert isinstance(address, tuple)
    again = start("-p", str(address[1]), "-s", path)
    again.client().ask(b"version\r\n", b"VERSION")
    assert again.stop() == 0

"""Words that were damaged once, and what must not stay of it."""

from collections.abc import Iterator

import pytest
from nodes import Node, Start
from scribble_client import Client
from scribbler import SLOT_BYTES, Area, Scribbler
from support.waiting import wait_until

WORKER_SLOT = 4
SERVING_AT = 4
CLOSED_AT = 72
WATCHERS_AT = 84
CONSTANT = ("tcpport", "inter", "domain_socket", "umask", "binding_protocol", "hash_algorithm")
"""Settings that nothing changes while a node runs."""


@pytest.fixture
def node(start: Start) -> Node:
    return start("-m", "32", "-t", "1")


@pytest.fixture
def scribbler(node: Node) -> Iterator[Scribbler]:
    scribbler = Scribbler(node.pid, 1, 1)
    yield scribbler
    scribbler.close()


def slot_word(scribbler: Scribbler, offset: int) -> Area:
    slots = scribbler.areas["slots"]
    return Area(slots.memory, slots.begin + WORKER_SLOT * SLOT_BYTES + offset, 4)


def test_stats_settings_shows_no_damaged_word(node: Node, scribbler: Scribbler) -> None:
    before = node.client().stats("settings")
    worker = node.worker().pid
    scribbler.fill(scribbler.areas["settings"], b"\xff")
    after = node.client().stats("settings")
    assert {name: after[name] for name in CONSTANT} == {name: before[name] for name in CONSTANT}
    assert node.client().stats("")["pid"] == str(node.pid)
    assert node.worker().pid == worker


def test_watchers_that_are_none_keep_no_other_away(node: Node, scribbler: Scribbler) -> None:
    client = Client(int(node.address[1]), 1, 0, 1)
    area = slot_word(scribbler, WATCHERS_AT)
    assert client.ask(b"watch\r\n") == b"OK"
    assert scribbler.read(area) == (1).to_bytes(4, "little"), "the layout has changed"
    scribbler.fill(area, b"\x40")

    def may_watch() -> bool:
        client.hang_up()
        return client.ask(b"watch\r\n") == b"OK"

    assert not may_watch()
    wait_until(may_watch, "watch to be let in")
    client.hang_up()


def test_a_serving_worker_says_so_again(node: Node, scribbler: Scribbler) -> None:
    area = slot_word(scribbler, SERVING_AT)
    assert scribbler.read(area) == (1).to_bytes(4, "little"), "the layout has changed"
    scribbler.fill(area, b"\0")

    def says_so() -> bool:
        node.client().stats("")
        return scribbler.read(area) == (1).to_bytes(4, "little")

    wait_until(says_so, "the worker to say that it serves")


def test_connections_that_are_none_keep_no_other_away(node: Node, scribbler: Scribbler) -> None:
    """Of 1,024, so few that the count is possible."""
    client = Client(int(node.address[1]), 1, 0, 1)
    area = slot_word(scribbler, CLOSED_AT)
    for _ in range(3):
        client.ask(b"version\r\n")
        client.hang_up()
    wait_until(lambda: scribbler.read(area)[0] == 3, "the layout to be as it is here")
    scribbler.write(area, (3 - 1100) & 0xFFFFFFFF)
    scribbler.write(slot_word(scribbler, CLOSED_AT + 4), 0xFFFFFFFF)

    def may_connect() -> bool:
        client.hang_up()
        return client.ask(b"version\r\n").startswith(b"VERSION")

    wait_until(may_connect, "a connection to be accepted", 20)
    client.hang_up()

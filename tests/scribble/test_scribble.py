"""Random words anywhere in the segment of a node that serves."""

import threading
import time
from collections.abc import Iterator

import pytest
from nodes import Node, Start
from scribbler import Client, Scribbler, keys_that_fail
from support.waiting import wait_until

KEYS = 400
CLIENTS = 3
RECOVERY_S = 60.0


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

    clients = [Client(node.address[1], seed + i, i * KEYS, KEYS) for i in range(CLIENTS)]
    threads = [threading.Thread(target=work, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    while scribbler.written < writes and not is_over.is_set():
        assert node.process.poll() is None, f"the supervisor died\n{node.log()[-3000:]}"
        scribbler.scribble(50, names)
        time.sleep(0.005)
    is_over.set()
    for thread in threads:
        thread.join(60)
    assert not failures, failures[0]
    return sum(client.answers for client in clients)


def assert_sound_after_flush(node: Node) -> None:
    client = Client(node.address[1], 0, 0, KEYS)

    def flushed() -> bool:
        try:
            return client.ask(b"flush_all\r\n") == b"OK"
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
        print(f"keys that fail: {len(failing)}, as {failing[:5]}")
        client.hang_up()


@pytest.fixture
def node(start: Start) -> Iterator[Node]:
    node = start("-m", "32", "-t", "2")
    yield node
    assert node.process.poll() is None, node.log()[-3000:]


@pytest.mark.parametrize(
    "area", ["slots", "held", "shard heads", "superblock", "run head", "free map", "pages", "all"]
)
def test_scribbled_words_end_no_node_and_show_no_stranger(node: Node, seed: int, area: str) -> None:
    scribbler = Scribbler(node.pid, seed, 2)
    answers = run(node, scribbler, 3000, seed, None if area == "all" else [area])
    assert answers > 0
    assert_sound_after_flush(node)


@pytest.mark.slow
def test_a_million_scribbled_words(node: Node, seed: int) -> None:
    scribbler = Scribbler(node.pid, seed, 2)
    for turn in range(1, 101):
        run(node, scribbler, turn * 10_000, seed + turn, None)
        assert_sound_after_flush(node)

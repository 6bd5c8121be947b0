"""The process that works beside the requests: alone in its slot, replaced, and never waited for."""

import signal

import psutil
from nodes import Start
from support.waiting import wait_until


def test_killed_maintainer_comes_back_and_nobody_else_notices(start: Start) -> None:
    node = start("-t", "2")
    clients = [node.client() for _ in range(4)]
    for index, client in enumerate(clients):
        client.ask(b"set k%d 0 0 1\r\nv\r\n" % index, b"STORED\r\n")
    others = [child for child in node.children() if child != node.maintainer()]
    victim = node.maintainer()
    victim.kill()
    node.wait_for_other("maintainer", [victim])
    (line,) = node.wait_for_log("child exited name=maintainer")
    assert f"pid={victim.pid} status=SIGKILL" in line
    for index, client in enumerate(clients):
        client.ask(b"get k%d\r\n" % index, b"VALUE k%d 0 1\r\nv\r\nEND\r\n" % index)
    assert set(others) < set(node.children())
    assert node.stop() == 0


def test_node_serves_drains_and_ends_while_the_maintainer_is_stopped(start: Start) -> None:
    node = start("-t", "1")
    node.maintainer().suspend()
    client = node.client()
    client.ask(b"set k 0 0 1\r\nv\r\n", b"STORED\r\n")
    client.ask(b"get k\r\n", b"VALUE k 0 1\r\nv\r\nEND\r\n")
    node.process.send_signal(signal.SIGUSR1)
    node.wait_for_log("draining")
    client.ask(b"get k\r\n", b"VALUE k 0 1\r\nv\r\nEND\r\n")
    client.send(b"quit\r\n")
    assert node.wait() == 0
    assert "drained" in node.log()
    assert "child killed name=maintainer" in node.log()


def test_drain_goes_on_without_a_maintainer(start: Start) -> None:
    node = start("-t", "1")
    client = node.client()
    client.ask(b"get k\r\n", b"END\r\n")
    node.process.send_signal(signal.SIGUSR1)
    wait_until(lambda: not node.children("maintainer"), "the maintainer to end")
    client.ask(b"get k\r\n", b"END\r\n")
    client.send(b"quit\r\n")
    assert node.wait() == 0
    assert "child exited" not in node.log()


def test_maintainer_ends_with_its_supervisor(start: Start) -> None:
    node = start()
    maintainer = node.maintainer()
    node.process.kill()
    node.wait()

    def is_gone() -> bool:
        try:
            return maintainer.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    wait_until(is_gone, "the maintainer to end")

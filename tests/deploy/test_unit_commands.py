"""What the systemd units start, as systemd starts it, but for the sandbox and the user."""

import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from nodes import ROOM_FOR_STOP_S, is_alive
from receiver import Receiver
from support.waiting import wait_until
from unit_files import CLUSTER, NODE, PROGRAM, values

from memcachepy.admin.client import Address
from memcachepy.cluster.health import check

pytestmark = pytest.mark.once


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with closing(Receiver(str(tmp_path / "notify"))) as receiver:
        yield receiver


def free_ports(count: int) -> int:
    """The first of so many ports in a row that nobody has."""
    for first in range(30_000, 60_000, 16):
        try:
            for port in range(first, first + count):
                with socket.create_server(("127.0.0.1", port)):
                    pass
        except OSError:
            continue
        return first
    raise AssertionError("no free ports")


class Service:
    """A unit's process: its command and its environment, with other places for its folders."""

    def __init__(self, unit: Path, instance: str, folder: Path, receiver: Receiver) -> None:
        self.folder = folder
        places = {
            "/run": folder / "run",
            "/var/lib": folder / "lib",
            "/etc": folder / "etc",
        }
        for place in places.values():
            (place / "memcachepy").mkdir(parents=True, exist_ok=True)

        def settled(text: str) -> str:
            text = text.replace("%i", instance)
            for place, other in places.items():
                text = text.replace(f"{place}/memcachepy", f"{other}/memcachepy")
            return text.replace("=/run ", f"={places['/run']} ")

        own = dict(
            word.split("=", 1)
            for line in values(unit, "Environment")
            for word in shlex.split(settled(line))
        )
        del own["MEMCACHEPY_CONTROL_GROUP"]  # There is no such group here.
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MEMCACHEPY_")}
        (command,) = values(unit, "ExecStart")
        program, *words = shlex.split(settled(command))
        assert program == PROGRAM
        self.process = subprocess.Popen(
            [sys.executable, "-m", "memcachepy", *words],
            env={**clean, **own, "NOTIFY_SOCKET": receiver.name},
            stdin=subprocess.DEVNULL,
        )

    def end(self, timeout_s: float = ROOM_FOR_STOP_S) -> int:
        """As `systemctl stop`: a signal to the main process alone."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)


def test_the_unit_of_a_node_runs_one(tmp_path: Path, receiver: Receiver) -> None:
    port = free_ports(1)
    service = Service(NODE, str(port), tmp_path, receiver)
    try:
        told = receiver.message()
        assert (told["READY"], told["MAINPID"]) == ("1", str(service.process.pid))
        assert check(Address("127.0.0.1", port), 20.0).is_healthy
        assert (tmp_path / "run" / "memcachepy" / f"{port}.sock").is_socket()
        assert service.end() == 0
        assert receiver.message()["STOPPING"] == "1"
    finally:
        service.process.kill()
        service.process.wait()


def test_the_unit_of_a_cluster_runs_one_and_goes_on_with_its_nodes(
    tmp_path: Path, receiver: Receiver
) -> None:
    port = free_ports(2)
    (tmp_path / "etc" / "memcachepy").mkdir(parents=True)
    (tmp_path / "etc" / "memcachepy" / "shop.toml").write_text(
        f"[cluster]\nnodes = 2\n[settings]\nport = {port}\nmemory_limit = 8\nthreads = 1\n"
    )
    addresses = [Address("127.0.0.1", port), Address("127.0.0.1", port + 1)]
    services = [Service(CLUSTER, "shop", tmp_path, receiver)]
    nodes: list[psutil.Process] = []
    try:
        assert receiver.message()["READY"] == "1"
        nodes = psutil.Process(services[0].process.pid).children()
        assert len(nodes) == 2
        assert all(check(address, 20.0).is_healthy for address in addresses)
        for each in (port, port + 1):
            assert (tmp_path / "run" / "memcachepy" / f"{each}.sock").is_socket()

        # KillMode=process leaves them alone when the supervisor is killed, and Restart= comes.
        services[0].process.kill()
        services[0].process.wait()
        assert all(check(address, 20.0).is_healthy for address in addresses)
        services.append(Service(CLUSTER, "shop", tmp_path, receiver))
        assert receiver.message()["READY"] == "1"
        assert all(map(is_alive, nodes))
        assert services[1].end(60.0) == 0
        wait_until(lambda: not any(map(is_alive, nodes)), "the nodes to end", 20.0)
    finally:
        for service in services:
            service.process.kill()
            service.process.wait()
        for process in nodes:
            if is_alive(process):
                process.kill()

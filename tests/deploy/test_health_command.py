"""`memcachepy health` as a probe calls it."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from nodes import Node, Start

from memcachepy.admin.client import Address
from memcachepy.cli.health import address_here

HEALTH = [sys.executable, "-m", "memcachepy", "health"]


def ask(*words: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Exit status, and everything that was said."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MEMCACHEPY_")}
    result = subprocess.run(
        [*HEALTH, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        env={**clean, **(env or {})},
        check=False,
    )
    return result.returncode, result.stdout


def address_of(node: Node) -> str:
    host, port = node.address
    return f"{host}:{port}"


def test_a_node_that_serves_is_healthy_and_one_that_is_stopped_is_not(start: Start) -> None:
    node = start("-t", "1")
    address = address_of(node)
    assert ask(address) == (0, f"{address} is healthy: stores and returns\n")
    worker = node.worker()
    worker.suspend()
    status, said = ask(address, "--timeout", "0.5", "--json")
    worker.resume()
    found = json.loads(said)
    assert status == 1
    assert found["healthy"] is False
    assert found["reason"] == "does not answer within 0.5 s"
    assert found["took_s"] >= 0.5
    node.process.send_signal(signal.SIGTERM)
    assert node.wait() == 0
    assert ask(address) == (1, f"{address} is not healthy: connection refused\n")


def test_a_node_without_room_is_healthy(start: Start) -> None:
    node = start("-t", "1", "-M")
    client, value = node.client(), b"v" * 2000
    for number in range(16_000):
        client.send(b"set %d 0 0 2000\r\n%b\r\n" % (number, value))
        if client.line() != b"STORED":
            break
    else:
        pytest.fail("the node never became full")
    status, said = ask(address_of(node))
    assert (status, "it has no room" in said) == (0, True), said


def test_a_unix_socket_is_asked_by_its_path(start: Start, tmp_path: Path) -> None:
    path = str(tmp_path / "cache.sock")
    start("-t", "1", "-s", path)
    assert ask(path)[0] == 0
    assert ask(env={"MEMCACHEPY_UNIX_SOCKET": path})[0] == 0


def test_what_is_no_address_is_refused() -> None:
    status, said = ask("host:port:more")
    assert status != 0
    assert "host:port:more" in said
    assert ask("--timeout", "0")[0] == os.EX_USAGE


@pytest.mark.parametrize(
    ("environ", "address"),
    [
        ({}, "127.0.0.1:11211"),
        ({"MEMCACHEPY_PORT": "11300"}, "127.0.0.1:11300"),
        ({"MEMCACHEPY_PORT": "-1"}, "127.0.0.1:11211"),
        ({"MEMCACHEPY_LISTEN": "*", "MEMCACHEPY_PORT": "1"}, "127.0.0.1:1"),
        ({"MEMCACHEPY_LISTEN": "[::]:2"}, "[::1]:2"),
        ({"MEMCACHEPY_LISTEN": "10.0.0.7:3,10.0.0.8"}, "10.0.0.7:3"),
        ({"MEMCACHEPY_UNIX_SOCKET": "cache.sock"}, "cache.sock"),
        ({"MEMCACHEPY_UNIX_SOCKET": "cache.sock", "MEMCACHEPY_PORT": "4"}, "127.0.0.1:4"),
    ],
)
def test_the_environment_says_where_the_node_is(environ: dict[str, str], address: str) -> None:
    assert str(address_here(environ)) == address


def test_the_configuration_file_says_where_the_node_is(tmp_path: Path) -> None:
    file = tmp_path / "memcachepy.toml"
    file.write_text('listen = "*"\nport = 11400\n')
    assert address_here({"MEMCACHEPY_CONFIG": str(file)}) == Address("127.0.0.1", 11400)


def test_a_probe_imports_little() -> None:
    code = (
        "import sys, memcachepy.cli, memcachepy.cli.health\n"
        "print(*sorted(name for name in sys.modules if name.startswith('memcachepy')))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(result.stdout.split())
    assert "memcachepy.cluster.health" in loaded
    assert not loaded & {"memcachepy.config", "memcachepy.node.boot", "memcachepy._core"}, loaded


def test_another_server_is_found_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        status, said = ask(f"127.0.0.1:{port}", "--timeout", "0.3")
    assert status == 1
    assert "does not answer within 0.3 s" in said

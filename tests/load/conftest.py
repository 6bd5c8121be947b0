"""Servers to load."""

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from load_server import TinyServer


@pytest.fixture
def server() -> Iterator[TinyServer]:
    """On a loopback port."""
    tiny = TinyServer(socket.create_server(("127.0.0.1", 0), backlog=128))
    yield tiny
    tiny.close()


@pytest.fixture
def unix_server(tmp_path: Path) -> Iterator[TinyServer]:
    """On a UNIX socket."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(tmp_path / "tiny.sock"))
    listener.listen(128)
    tiny = TinyServer(listener)
    yield tiny
    tiny.close()


@pytest.fixture
def ipv6_server() -> Iterator[TinyServer]:
    """On a port of ::1."""
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6, backlog=128)
    except OSError:
        pytest.skip("no IPv6 here")
    tiny = TinyServer(listener)
    yield tiny
    tiny.close()

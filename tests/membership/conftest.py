"""One ZooKeeper for all tests, and nodes as real processes."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from zookeeper_server import Wire, ZookeeperServer, require_zookeeper

sys.path.append(str(Path(__file__).parents[1] / "node"))

from node_fixtures import launch, start

__all__ = ["launch", "start"]


@pytest.fixture(scope="session")
def _zookeeper() -> Iterator[ZookeeperServer]:
    require_zookeeper()
    server = ZookeeperServer()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def zookeeper(_zookeeper: ZookeeperServer) -> ZookeeperServer:
    """A server that runs, whatever the test before has done to it."""
    _zookeeper.revive()
    return _zookeeper


@pytest.fixture
def wire(zookeeper: ZookeeperServer) -> Iterator[Wire]:
    """A connection to it that can be cut."""
    wire = Wire(zookeeper.port)
    try:
        yield wire
    finally:
        wire.close()

"""Clients and nodes that are closed at the end of the test, whatever happened in it."""

import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from scripted import Connect, ScriptedNode, tell

from memcachepy.client import DiscoveryClient

sys.path.insert(0, str(Path(__file__).parent.parent / "node"))

from node_fixtures import launch, start

__all__ = ["launch", "start"]


@pytest.fixture
def resources() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def start_node(resources: ExitStack) -> Callable[..., ScriptedNode]:
    """Starts scripted nodes."""

    def start(port: int = 0, tls: ssl.SSLContext | None = None) -> ScriptedNode:
        return resources.enter_context(ScriptedNode(port, tls))

    return start


@pytest.fixture
def start_cluster(
    start_node: Callable[..., ScriptedNode],
) -> Callable[..., list[ScriptedNode]]:
    """Starts nodes of which each tells the list of all."""

    def start(count: int, version: int = 1) -> list[ScriptedNode]:
        nodes = [start_node() for _ in range(count)]
        tell(version, nodes)
        return nodes

    return start


@pytest.fixture
def connect(resources: ExitStack) -> Connect:
    """Makes clients, which wait for every answer and are patient, where the test says nothing."""

    def make(servers: Any, **options: Any) -> DiscoveryClient:
        chosen = {"default_noreply": False, "timeout": 20.0, "connect_timeout": 20.0, **options}
        return resources.enter_context(DiscoveryClient(servers, **chosen))

    return make

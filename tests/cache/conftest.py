"""Nodes as in tests/node, and a cache attached to one."""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from memcachepy import Cache

sys.path.insert(0, str(Path(__file__).parents[1] / "node"))

from node_fixtures import launch, start
from nodes import Node, Start

__all__ = ["launch", "start"]


@pytest.fixture
def path() -> Iterator[Path]:
    """Of a control socket; short, and in a folder that everybody may pass through."""
    with tempfile.TemporaryDirectory(prefix="memcachepy-") as name:
        Path(name).chmod(0o755)
        yield Path(name) / "control"


@pytest.fixture
def node(start: Start, path: Path) -> Node:
    return start("-t", "1", "--control-socket", str(path))


@pytest.fixture
def cache(node: Node, path: Path) -> Iterator[Cache]:
    """Attached to the node."""
    assert node.pid
    with Cache.attach(path) as cache:
        yield cache

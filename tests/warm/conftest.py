"""Nodes as in tests/node, and a cluster of them."""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "node"))

from node_fixtures import launch, start
from nodes import Start
from warm_cluster import Cluster

__all__ = ["launch", "start"]


@pytest.fixture
def cluster(start: Start) -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="memcachepy-") as name:
        Path(name).chmod(0o755)
        made = Cluster(start, Path(name))
        try:
            yield made
        finally:
            made.close()

"""Nodes as in tests/node."""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "node"))

from node_fixtures import launch, start

__all__ = ["launch", "start"]


@pytest.fixture
def path() -> Iterator[Path]:
    """Of a control socket; short."""
    with tempfile.TemporaryDirectory(prefix="memcachepy-") as name:
        yield Path(name) / "control"

"""Real nodes in real processes, as in tests/node, and a segment without a node."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from memcachepy import _core

sys.path.insert(0, str(Path(__file__).parent.parent / "node"))

from node_fixtures import launch, start

__all__ = ["launch", "start"]


@pytest.fixture
def segment() -> Iterator[_core.Segment]:
    segment = _core.Segment({"memory_limit_bytes": 8 << 20})
    yield segment
    segment.close()

"""Nodes as in tests/node."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "node"))

from node_fixtures import launch, start

__all__ = ["launch", "start"]

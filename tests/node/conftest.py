"""Real nodes in real processes."""

from node_fixtures import launch, start

__all__ = ["launch", "start"]

"""What the clients raise beside pymemcache's errors and the system's."""

from pymemcache.exceptions import (
    MemcacheError,
    MemcacheUnexpectedCloseError,
    MemcacheUnknownError,
)

from memcachepy.errors import NodeUnreachable

NODES_ERRORS = (OSError, MemcacheUnexpectedCloseError, MemcacheUnknownError)
"""These say that a node is not well. A refusal is an answer; other errors are the serializer's."""


class NodeDown(NodeUnreachable, MemcacheError):  # type: ignore[misc]
    """The key's node has failed several times in a row and is not tried for the moment."""


class NoNodes(NodeUnreachable, MemcacheError):  # type: ignore[misc]
    """Nobody has answered yet who the cluster's nodes are."""


class PoolExhausted(NodeUnreachable, MemcacheError):  # type: ignore[misc]
    """All connections that one node may have are in use, and none came free in time."""

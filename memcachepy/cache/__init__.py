"""A node's store in this very process: no socket, no server, some hundred nanoseconds a call."""

from memcachepy.cache.attached import Cache

__all__ = ["Cache"]

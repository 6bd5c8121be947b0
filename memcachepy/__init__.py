"""A memcached server of several processes over one shared-memory store."""

__version__ = "0.1.0"

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memcachepy.cache import Cache

__all__ = ["Cache"]


def __getattr__(name: str) -> object:
    """`memcachepy.Cache` is loaded when first asked for: the command line does without it."""
    if name == "Cache":
        from memcachepy.cache import Cache

        return Cache
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

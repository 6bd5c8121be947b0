"""Clients that ask a cluster for its nodes and follow it as it changes.

`DiscoveryClient` and `memcachepy.client.aio` need the extra `memcachepy[client]`, which is
pymemcache; `memcachepy.client.hashing` needs nothing.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memcachepy.client.blocking import DiscoveryClient as DiscoveryClient

__all__ = ["DiscoveryClient"]


def __getattr__(name: str) -> object:
    if name != "DiscoveryClient":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from memcachepy.client.blocking import DiscoveryClient
    except ModuleNotFoundError as error:
        raise missing(error) from None
    return DiscoveryClient


def missing(error: ModuleNotFoundError) -> ModuleNotFoundError:
    """The same error, with what to install if that is known."""
    if (error.name or "").partition(".")[0] != "pymemcache":
        return error
    message = "DiscoveryClient needs pymemcache: pip install 'memcachepy[client]'"
    return ModuleNotFoundError(message, name=error.name)

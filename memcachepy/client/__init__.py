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
        if error.name != "pymemcache":
            raise
        message = "DiscoveryClient needs pymemcache: pip install 'memcachepy[client]'"
        raise ModuleNotFoundError(message, name="pymemcache") from None
    return DiscoveryClient

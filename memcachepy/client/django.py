"""Django's cache on a cluster: Django's own backend for pymemcache with a `DiscoveryClient` in it.

    CACHES = {
        "default": {
            "BACKEND": "memcachepy.client.django.DiscoveryCache",
            "LOCATION": "cache-a.cfg.lan:11211",
            "OPTIONS": {"timeout": 0.5},
        }
    }

`OPTIONS` are those of `DiscoveryClient`; as in Django's backend values are pickled and writes wait
for their answer.
"""

from functools import cached_property
from typing import Any

from django.core.cache.backends.memcached import PyMemcacheCache

from memcachepy.client.blocking import DiscoveryClient

_shared: dict[tuple[str, ...], DiscoveryClient] = {}


class DiscoveryCache(PyMemcacheCache):  # type: ignore[misc]
    """Django makes one of these for each thread: those of one configuration share a client."""

    @cached_property
    def _cache(self) -> DiscoveryClient:
        options: dict[str, Any] = self._options
        known_as = (*self.client_servers, repr(sorted(options.items())))
        client = _shared.get(known_as)
        if client is None:
            # Another thread may be as far; the client that comes too late was never used.
            client = _shared.setdefault(known_as, DiscoveryClient(self.client_servers, **options))
        return client

    def close(self, **_: Any) -> None:
        """Django says this after every request; the connections are for the next one, too."""

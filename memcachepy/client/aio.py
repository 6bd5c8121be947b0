"""The same client for asyncio: no method blocks the event loop, and any number of tasks may use it.

async with DiscoveryClient("10.0.0.7:11211") as client:
    await client.set("greeting", "hello", expire=60)
    await client.get("greeting")                        # b"hello"
"""

from memcachepy.client import missing

try:
    from memcachepy.client.aio_client import DiscoveryClient
except ModuleNotFoundError as error:
    raise missing(error) from None

__all__ = ["DiscoveryClient"]

"""Servers to look into, ours and memcached, and the command as a person calls it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack

import pytest
from admin_support import ServerMaker
from support.server import Server, memcached, node


def _open(kind: str, *flags: str) -> AbstractContextManager[Server]:
    if kind == "memcached":
        return memcached(*flags, "-o", "lru_crawler")
    return node(*flags, workers=2)


@pytest.fixture
def serve() -> Iterator[ServerMaker]:
    """Start a server of a kind ("ours" or "memcached"); all are stopped after the test."""
    with ExitStack() as stack:
        yield lambda kind, *flags: stack.enter_context(_open(kind, *flags))


@pytest.fixture(params=["ours", "memcached"])
def server(request: pytest.FixtureRequest, serve: Callable[..., Server]) -> Server:
    return serve(request.param)

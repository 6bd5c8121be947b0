"""A node of several workers, and memcached to see that the facts hold there, too."""

from collections.abc import Iterator

import pytest
from support.server import Server, memcached, node


@pytest.fixture(scope="session", params=["node", "memcached"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Every connection of a test comes to another worker than the one before."""
    with (
        memcached("-m", "64")
        if request.param == "memcached"
        else node("-m", "64", workers=3) as server
    ):
        yield server


@pytest.fixture
def empty_server(server: Server) -> Server:
    with server.client() as client:
        client.ask(b"flush_all\r\n", b"OK\r\n")
    return server

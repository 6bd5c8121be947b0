"""Running servers that several tests share."""

import resource
from collections.abc import Iterator

import pytest
from support.server import Server, memcached, node


@pytest.fixture(scope="session", autouse=True)
def _many_descriptors() -> None:
    """A thousand connections are a thousand descriptors on this side, too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 8192 if hard == resource.RLIM_INFINITY else min(8192, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@pytest.fixture(scope="module", params=["one worker", "three workers", "memcached"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Ours, and memcached to see that the test asks for nothing new."""
    flags = ("-m", "256", "-I", "32m")
    if request.param == "memcached":
        with memcached(*flags) as server:
            yield server
    else:
        with node(*flags, workers=1 if request.param == "one worker" else 3) as server:
            yield server


@pytest.fixture
def empty_server(server: Server) -> Server:
    with server.client() as client:
        client.ask(b"flush_all\r\n", b"OK\r\n")
    return server

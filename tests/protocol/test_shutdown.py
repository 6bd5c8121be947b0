"""`shutdown`, where it is allowed: the node ends as by a signal."""

import pytest
from support.server import node


@pytest.mark.parametrize("request_line", [b"shutdown\r\n", b"shutdown graceful\r\n"])
@pytest.mark.parametrize("workers", [1, 3])
def test_shutdown_ends_the_node_with_status_0(request_line: bytes, workers: int) -> None:
    with node("-A", "-m", "16", workers=workers) as server:
        client = server.client()
        client.ask(b"set k 0 0 1\r\n1\r\n", b"STORED\r\n")
        client.send(request_line)
        client.expect_close()
        assert server.process.wait(15) == 0


def test_what_was_asked_before_shutdown_is_answered() -> None:
    with node("-A", "-m", "16") as server:
        client = server.client()
        client.send(b"set k 0 0 1\r\n1\r\nget k\r\nshutdown\r\n")
        client.expect(b"STORED\r\nVALUE k 0 1\r\n1\r\nEND\r\n")
        client.expect_close()
        assert server.process.wait(15) == 0


def test_shutdown_that_is_not_allowed_ends_nothing() -> None:
    with node("-m", "16") as server:
        client = server.client()
        client.ask(b"shutdown\r\n", b"SERVER_ERROR: shutdown not enabled\r\n")
        client.ask(b"get k\r\n", b"END\r\n")
        assert server.process.poll() is None

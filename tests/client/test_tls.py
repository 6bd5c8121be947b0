"""Clients of nodes that speak TLS, as ElastiCache's with encryption in transit do."""

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from scripted import Connect, ScriptedNode
from support.waiting import wait_until

from memcachepy.client.aio import DiscoveryClient as AioClient

StartNode = Callable[..., ScriptedNode]
KEYS = [f"key:{number}" for number in range(20)]
WAIT_S = 20.0


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of localhost, with its key in one file."""
    if shutil.which("openssl") is None:
        pytest.skip("NOT RUN: openssl is not installed")
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command += ["-keyout", str(path), "-out", str(path) + ".crt"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    path.write_bytes(path.read_bytes() + Path(str(path) + ".crt").read_bytes())
    return path


@pytest.fixture
def nodes(certificate: Path, start_node: StartNode) -> list[ScriptedNode]:
    """Two whose list has names where addresses would be."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate)
    nodes = [start_node(tls=server) for _ in range(2)]
    listed = " ".join(f"localhost|localhost|{node.port}" for node in nodes).encode()
    for node in nodes:
        payload = b"7\n%s\n" % listed
        node.answer = b"CONFIG cluster 0 %d\r\n%s\r\nEND\r\n" % (len(payload), payload)
    return nodes


@pytest.fixture
def trusting(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificate)


def test_names_are_verified_and_connections_kept(
    nodes: list[ScriptedNode], trusting: ssl.SSLContext, connect: Connect
) -> None:
    client = connect(f"localhost:{nodes[0].port}", tls_context=trusting)
    assert len(client.nodes) == 2
    for _ in range(3):
        assert client.set_many(dict.fromkeys(KEYS, "x"), noreply=True) == []
        assert client.get_many(KEYS) == dict.fromkeys(KEYS, b"x")
    assert [node.accepted - node.asked for node in nodes] == [1, 1]
    # A restarted node is noticed before a request is sent.
    for node in nodes:
        node.drop_connections()
    wait_until(lambda: nodes[0].connections + nodes[1].connections == 0, "the end", WAIT_S)
    assert client.get_many(KEYS) == dict.fromkeys(KEYS, b"x")


def test_whom_nobody_vouches_for_is_not_talked_to(
    nodes: list[ScriptedNode], connect: Connect
) -> None:
    client = connect(f"localhost:{nodes[0].port}", tls_context=ssl.create_default_context())
    assert client.nodes == ()
    assert "CERTIFICATE_VERIFY_FAILED" in client.polls.last_error
    assert client.get("key") is None


def test_asyncio_speaks_tls(nodes: list[ScriptedNode], trusting: ssl.SSLContext) -> None:
    async def test() -> None:
        endpoint = f"localhost:{nodes[0].port}"
        async with AioClient(
            endpoint, tls_context=trusting, timeout=20.0, connect_timeout=20.0
        ) as client:
            assert await client.set_many(dict.fromkeys(KEYS, "x"), noreply=False) == []
            assert await client.get_many(KEYS) == dict.fromkeys(KEYS, b"x")
            assert [node.accepted - node.asked for node in nodes] == [1, 1]

    asyncio.run(test())

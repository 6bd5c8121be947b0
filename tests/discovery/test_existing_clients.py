"""The clients that ask for a list of nodes, as they are, of a cluster of three nodes.

The bytes of those that the package index does not have are in transcripts/config.txt.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from nodes import Start
from pymemcache.client.base import Client
from pymemcache.client.hash import HashClient
from support.client import RawClient

from memcachepy.topology import Member, Topology

HERE = Path(__file__).parent
TIMEOUT_S = 20.0
KEYS = [f"key{number}" for number in range(60)]

pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning")


class Cluster:
    """Nodes that all tell the same list, without anybody who keeps it."""

    def __init__(self, addresses: Sequence[tuple[str, int]]) -> None:
        self.addresses = sorted(addresses)
        self.listed: list[tuple[str, int]] = []
        self.topology = Topology(1, ())
        self.tell(self.addresses)

    @property
    def endpoint(self) -> str:
        host, port = self.addresses[0]
        return f"{host}:{port}"

    def tell(self, addresses: Sequence[tuple[str, int]]) -> None:
        """Every node tells this list from now on."""
        self.listed = sorted(addresses)
        members = tuple(Member(host, port, host) for host, port in self.listed)
        self.topology = Topology(self.topology.version + 1, members)
        payload = self.topology.payload()
        for address in self.addresses:
            with RawClient(address, timeout_s=TIMEOUT_S) as client:
                line = b"config set cluster 0 %d\r\n" % len(payload)
                client.ask(line + payload + b"\r\n", b"STORED\r\n")

    def item_counts(self) -> list[int]:
        counts = []
        for address in self.addresses:
            with RawClient(address, timeout_s=TIMEOUT_S) as client:
                counts.append(int(client.stats()["curr_items"]))
        return counts


@pytest.fixture
def cluster(start: Start) -> Cluster:
    nodes = [start("-t", "2", "-m", "8") for _ in range(3)]
    return Cluster([(str(node.address[0]), int(node.address[1])) for node in nodes])


def strings(addresses: Sequence[tuple[str, int]]) -> list[str]:
    return sorted(f"{host}:{port}" for host, port in addresses)


# ---- pymemcache --------------------------------------------------------------------------------


def test_pymemcaches_hash_client_spreads_keys_over_the_list(cluster: Cluster) -> None:
    client = HashClient(cluster.listed, timeout=TIMEOUT_S, connect_timeout=TIMEOUT_S)
    try:
        client.set_many({key: key[::-1] for key in KEYS}, noreply=False)
        assert client.get_many(KEYS) == {key: key[::-1].encode() for key in KEYS}
    finally:
        client.close()
    assert sum(cluster.item_counts()) == len(KEYS)
    assert min(cluster.item_counts()) > 0


def test_pymemcaches_question_for_the_list(cluster: Cluster) -> None:
    """What its ElastiCache client does (pymemcache/client/ext/aws_ec_client.py on its main branch),
    with the client that it does it with.
    """
    host, port = cluster.addresses[1]
    client = Client((host, port), timeout=TIMEOUT_S, connect_timeout=TIMEOUT_S)
    try:
        raw = client.raw_command(b"config get cluster", end_tokens=b"\n\r\nEND\r\n")
    finally:
        client.close()
    *_, line = raw.splitlines()
    servers = [tuple(node.split("|")) for node in line.decode().split(" ")]
    assert [(ip, int(port)) for _, ip, port in servers] == cluster.listed
    assert [(host, int(port)) for host, _, port in servers] == cluster.listed


def test_pymemcaches_elasticache_client(cluster: Cluster) -> None:
    client_module = pytest.importorskip(
        "pymemcache.client.ext.aws_ec_client",
        reason="NOT TESTED: this release of pymemcache has no ElastiCache client",
    )
    client = client_module.AWSElastiCacheHashClient(
        f"[{cluster.addresses[0][0]}]:{cluster.addresses[0][1]}", timeout=TIMEOUT_S
    )
    try:
        assert sorted(client.clients) == strings(cluster.listed)
        client.set("k", "v", noreply=False)
        assert client.get("k") == b"v"
    finally:
        client.close()


# ---- emcache -----------------------------------------------------------------------------------


def test_emcache_finds_the_nodes_and_follows_the_list(cluster: Cluster) -> None:
    emcache = pytest.importorskip("emcache", reason="NOT TESTED: emcache is not installed")

    async def session() -> None:
        client = await emcache.create_client(
            [emcache.MemcachedHostAddress(*cluster.addresses[0])],
            timeout=TIMEOUT_S,
            autodiscovery=True,
            autodiscovery_poll_interval=0.1,
            autodiscovery_timeout=TIMEOUT_S,
        )
        try:
            await until_listed(client, cluster.listed)
            for key in KEYS:
                await client.set(key.encode(), key.encode())
            assert min(cluster.item_counts()) > 0
            cluster.tell(cluster.addresses[:2])
            await until_listed(client, cluster.listed)
            await client.set(b"after", b"scaling")
            assert (await client.get(b"after")).value == b"scaling"
            cluster.tell(cluster.addresses)
            await until_listed(client, cluster.listed)
            found = [await client.get(key.encode()) for key in KEYS]
            assert [item.value for item in found] == [key.encode() for key in KEYS]
        finally:
            await client.close()

    async def until_listed(client: Any, addresses: Sequence[tuple[str, int]]) -> None:
        async with asyncio.timeout(30):
            while sorted(
                (node.address, node.port) for node in client.cluster_managment().nodes()
            ) != sorted(addresses):
                await asyncio.sleep(0.01)

    asyncio.run(session())


# ---- in processes of their own -----------------------------------------------------------------


def play(
    script: str, cluster: Cluster, meanwhile: Callable[[], None] = lambda: None
) -> list[dict[str, Any]]:
    """What a session said, a line each; what happens meanwhile is told it by a line, too."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(HERE / script), cluster.endpoint],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        first = process.stdout.readline()
        if first.startswith("{"):
            meanwhile()
        try:
            rest, errors = process.communicate("\n", timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    if process.returncode == 77:
        pytest.skip(f"NOT TESTED: {first.strip()}")
    assert process.returncode == 0, errors
    return [json.loads(line) for line in (first, *rest.splitlines())]


def test_elasticache_pyclient_finds_the_nodes_and_follows_the_list(cluster: Cluster) -> None:
    before, after = play(
        "pyclient_session.py", cluster, lambda: cluster.tell(cluster.addresses[:2])
    )
    assert before["servers"] == strings(cluster.addresses)
    assert before["values"] == [f"value {number}" for number in range(40)]
    assert before["version"] == 2
    assert after == {
        "servers": strings(cluster.addresses[:2]),
        "version": 3,
        "values": ["scaling"],
    }


def test_django_elasticache_finds_the_nodes(cluster: Cluster) -> None:
    (found,) = play("django_session.py", cluster)
    assert found["version"] == cluster.topology.version
    assert sorted(found["nodes"]) == found["servers"] == strings(cluster.addresses)
    assert found["values"] == [f"value {number}" for number in range(40)]
    assert found["many"] == 40
    assert min(cluster.item_counts()) > 0

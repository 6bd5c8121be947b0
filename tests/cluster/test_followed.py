"""A client of a launched cluster goes on while the cluster is changed."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from clusters import PATIENCE_S, SMALL, Cluster
from support.waiting import wait_until

from memcachepy.client import DiscoveryClient

# It waits for most of its ten seconds, and is about how client and cluster fit together.
pytestmark = pytest.mark.once
USERS = 3


class Use:
    """Threads that store and read keys of their own, and what they saw."""

    def __init__(self, client: DiscoveryClient) -> None:
        self._client = client
        self._stop = threading.Event()
        self.wrong: list[object] = []
        self.rounds = [0] * USERS

    def _go_on(self, number: int) -> None:
        keys = [f"{number}:{i}" for i in range(20)]
        try:
            while not self._stop.is_set():
                for key in keys:
                    self._client.set(key, key)
                for key, value in self._client.get_many(keys).items():
                    if value != str(key).encode():
                        self.wrong.append((key, value))
                self.rounds[number] += 1
        except Exception as error:
            self.wrong.append(error)

    @contextmanager
    def threads(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._go_on, args=(i,)) for i in range(USERS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(PATIENCE_S)

    def wait_for_more(self) -> None:
        goal = [count + 2 for count in self.rounds]
        wait_until(
            lambda: all(a >= b for a, b in zip(self.rounds, goal, strict=True)),
            "everybody to be served",
            PATIENCE_S,
        )


def test_a_client_follows_every_change_without_an_error(cluster: Cluster) -> None:
    cluster.up("--nodes", "2", *SMALL, "--drain", "5")
    host, port = cluster.addresses()[0]
    with DiscoveryClient(
        f"{host}:{port}",
        poll_s=0.2,
        timeout=20.0,
        connect_timeout=20.0,
        retry_timeout=0.05,
        default_noreply=False,
    ) as client:

        def has_followed() -> bool:
            listed = [(member.host, member.port) for member in client.nodes]
            return listed == cluster.addresses()

        use = Use(client)
        with use.threads():
            for command in (("scale", "--nodes", "3"), ("remove", "0002")):
                cluster.do(*command)
                wait_until(has_followed, f"the client to follow {command}", PATIENCE_S)
                use.wait_for_more()
            # The node left the list, and clients had time to see that, before it stopped.
            states = client.node_states()
            assert [state.failed_count for state in states.values()] == [0] * len(states)
            assert client.polls.unanswered_count == 0
        assert use.wrong == []
        assert client.set_many({str(i): "x" for i in range(50)}) == []

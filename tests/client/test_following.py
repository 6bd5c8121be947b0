"""The blocking client asks for the list, and follows it as it changes."""

import gc
import threading
import weakref
from typing import Any

import pytest
from scripted import KEYS, Connect, StartCluster, StartNode, keys_of, tell
from support.waiting import wait_until

from memcachepy.client import DiscoveryClient, blocking
from memcachepy.client.errors import NoNodes
from memcachepy.topology import Topology

WAIT_S = 20.0


def test_a_list_in_pieces_is_understood(start_cluster: StartCluster, connect: Connect) -> None:
    nodes = start_cluster(3, version=17)
    nodes[0].fragment_bytes = 7
    client = connect(nodes[0].endpoint)
    assert client.topology is not None
    assert client.topology.version == 17
    assert set(client.nodes) == {node.member for node in nodes}


def test_the_older_question_is_asked_where_the_newer_is_refused(
    start_node: StartNode, connect: Connect
) -> None:
    node = start_node()
    payload = Topology(5, (node.member,)).payload()
    node.legacy = b"VALUE AmazonElastiCache:cluster 0 %d\r\n%s\r\nEND\r\n" % (len(payload), payload)
    assert connect(node.endpoint).topology == Topology(5, (node.member,))


def test_plain_servers_are_a_cluster_of_those_that_are_named(
    start_node: StartNode, connect: Connect
) -> None:
    first, second = start_node(), start_node()
    alone = connect(first.endpoint)
    assert [member.address for member in alone.nodes] == [first.endpoint]
    both = connect([first.endpoint, second.endpoint])
    assert {member.address for member in both.nodes} == {first.endpoint, second.endpoint}
    assert both.set_many({key: "x" for key in KEYS}) == []
    assert both.refresh() == Topology(0, both.nodes)
    # A cluster that they are made into later is followed.
    tell(1_700_000_000, [first, second])
    refreshed = both.refresh()
    assert refreshed is not None
    assert refreshed.version == 1_700_000_000


def test_a_node_that_forgot_its_cluster_changes_nothing(
    start_cluster: StartCluster, connect: Connect
) -> None:
    nodes = start_cluster(3, version=9)
    client = connect(nodes[0].endpoint)
    nodes[0].answer = None
    nodes[1].tells(10, nodes[1], nodes[2])
    nodes[2].tells(10, nodes[1], nodes[2])
    client.refresh()
    assert set(client.nodes) == {nodes[1].member, nodes[2].member}


@pytest.mark.parametrize(
    "nonsense",
    [
        b"CONFIG cluster 0 3\r\n99\n\n\r\nEND\r\n",
        b"CONFIG cluster 0 3\r\n99\nnonsense\n\r\nEND\r\n",
        b"HTTP/1.1 400 Bad Request\r\nERROR\r\n\r\nEND\r\n",
        b"SERVER_ERROR out of order\r\n",
    ],
)
def test_nonsense_is_ignored_and_the_next_node_is_asked(
    start_cluster: StartCluster, connect: Connect, nonsense: bytes
) -> None:
    nodes = start_cluster(3, version=9)
    client = connect(nodes[0].endpoint)
    nodes[0].answer = nonsense
    assert client.refresh() == Topology(9, tuple(node.member for node in nodes))
    tell(10, nodes[1:])
    client.refresh()
    assert set(client.nodes) == {node.member for node in nodes[1:]}


def test_an_older_list_is_not_taken(start_cluster: StartCluster, connect: Connect) -> None:
    nodes = start_cluster(3, version=9)
    client = connect([nodes[0].endpoint, nodes[1].endpoint])
    nodes[0].tells(8, nodes[0])
    nodes[1].tells(10, nodes[1])
    assert client.refresh() == Topology(10, (nodes[1].member,))
    nodes[1].tells(9, *nodes)
    assert client.refresh() == Topology(10, (nodes[1].member,))


def test_the_poll_finds_a_change_and_keeps_connections_to_nodes_that_stay(
    start_cluster: StartCluster, start_node: StartNode, connect: Connect
) -> None:
    nodes = start_cluster(2)
    client = connect(nodes[0].endpoint, poll_s=0.05)
    client.set_many({key: "x" for key in KEYS})
    new = start_node()
    data_connections = [node.accepted - node.asked for node in nodes]
    tell(2, [*nodes, new])
    wait_until(lambda: len(client.nodes) == 3, "the new node to be in the client's list", WAIT_S)
    found = client.get_many(KEYS)
    assert [key for key in KEYS if key not in found] == keys_of(client, new)
    # Polls connect anew each time; nothing else did.
    wait_until(
        lambda: [node.accepted - node.asked for node in nodes] == data_connections,
        "connections that were kept",
        WAIT_S,
    )
    assert new.accepted == 1


def test_connections_to_a_node_that_leaves_are_closed(
    start_cluster: StartCluster, connect: Connect
) -> None:
    nodes = start_cluster(3)
    client = connect(nodes[0].endpoint)
    client.set_many({key: "x" for key in KEYS})
    assert nodes[2].connections == 1
    tell(2, nodes[:2], nodes[2])
    client.refresh()
    wait_until(lambda: nodes[2].connections == 0, "the connection to be closed", WAIT_S)
    assert client.set_many({key: "y" for key in KEYS}) == []
    assert len(client.get_many(KEYS)) == len(KEYS)
    assert nodes[2].connections == 0


def test_a_request_in_flight_outlives_its_nodes_leaving(
    start_cluster: StartCluster, connect: Connect
) -> None:
    nodes = start_cluster(2)
    client = connect(nodes[0].endpoint)
    (key, *_) = keys_of(client, nodes[1])
    client.set(key, "value")
    arrived, go_on = threading.Event(), threading.Event()

    def hold(data: bytes) -> None:
        if data.startswith(b"get "):
            arrived.set()
            assert go_on.wait(WAIT_S)

    nodes[1].inject = hold
    results: list[object] = []
    request = threading.Thread(target=lambda: results.append(client.get(key)))
    request.start()
    assert arrived.wait(WAIT_S)
    tell(2, nodes[:1], nodes[1])
    client.refresh()
    assert client.nodes == (nodes[0].member,)
    go_on.set()
    request.join(WAIT_S)
    assert results == [b"value"]
    wait_until(lambda: nodes[1].connections == 0, "its connection to be closed", WAIT_S)


def test_an_unreachable_endpoint_is_asked_again_until_it_answers(
    start_node: StartNode, connect: Connect
) -> None:
    node = start_node()
    port = node.port
    node.close()
    client = connect(f"127.0.0.1:{port}", poll_s=0.05)
    assert client.topology is None
    assert client.nodes == ()
    assert client.node_of("key") is None
    assert client.get("key", "default") == "default"
    assert client.set("key", "x") is False
    assert client.get_many(KEYS) == {}
    assert client.set_many({"a": 1}) == ["a"]
    assert client.delete_many(["a"]) is False
    assert client.flush_all() is False
    assert client.stats() == {}
    assert client.node_states() == {}
    assert client.polls.unanswered_count >= 1
    assert "refused" in client.polls.last_error
    node = start_node(port)
    node.tells(3, node)
    wait_until(lambda: client.set("key", "x"), "the client to find the node", WAIT_S)
    assert client.get("key") == b"x"


def test_an_unreachable_endpoint_is_raised_without_ignore_exc(
    start_node: StartNode, connect: Connect
) -> None:
    node = start_node()
    node.close()
    with pytest.raises(NoNodes, match="refused"):
        connect(node.endpoint, ignore_exc=False)


def test_any_of_the_endpoints_suffices(
    start_node: StartNode, start_cluster: StartCluster, connect: Connect
) -> None:
    gone = start_node()
    gone.close()
    nodes = start_cluster(2)
    client = connect([gone.endpoint, nodes[1].endpoint])
    assert len(client.nodes) == 2


def test_nodes_are_asked_when_the_endpoint_is_gone(
    start_cluster: StartCluster, connect: Connect
) -> None:
    nodes = start_cluster(3)
    client = connect(nodes[0].endpoint)
    nodes[0].close()
    tell(2, nodes[1:])
    client.refresh()
    assert set(client.nodes) == {node.member for node in nodes[1:]}


def test_an_error_makes_it_ask_for_the_list(start_cluster: StartCluster, connect: Connect) -> None:
    nodes = start_cluster(3)
    client = connect(nodes[0].endpoint, poll_s=3600)
    (key, *_) = keys_of(client, nodes[2])
    nodes[2].close()
    tell(2, nodes[:2])
    client.get(key)
    wait_until(lambda: len(client.nodes) == 2, "the new list", WAIT_S)
    assert client.set(key, "x")


def pollers() -> int:
    return sum(thread.name == "memcachepy-poll" for thread in threading.enumerate())


def test_the_thread_begins_with_the_first_use_and_ends_with_the_client(
    start_cluster: StartCluster,
) -> None:
    nodes = start_cluster(1)
    client = DiscoveryClient(nodes[0].endpoint)
    assert pollers() == 0
    client.get("key")
    assert pollers() == 1
    client.close()
    wait_until(lambda: pollers() == 0, "the thread to end", WAIT_S)
    client.get("key")
    assert pollers() == 1
    reference = weakref.ref(client)
    del client
    gc.collect()
    assert reference() is None
    wait_until(lambda: pollers() == 0, "the thread to end", WAIT_S)
    wait_until(lambda: nodes[0].connections == 0, "its connections to be closed", WAIT_S)


def test_what_goes_wrong_in_a_poll_does_not_end_the_polling(
    start_cluster: StartCluster,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    nodes = start_cluster(1)
    client = connect(nodes[0].endpoint, poll_s=0.02)
    failures = iter(range(2))
    survey = blocking.survey

    def failing(*args: Any) -> Any:
        if next(failures, None) is not None:
            raise LookupError("nobody thought of this")
        return survey(*args)

    monkeypatch.setattr(blocking, "survey", failing)
    client.get("key")
    wait_until(lambda: client.polls.answered_count > 2, "polls that go on", WAIT_S)
    assert "nobody thought of this" in caplog.text

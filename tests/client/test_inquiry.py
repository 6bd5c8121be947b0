"""What is said to learn the list, what is understood, and when it is asked for: without sockets."""

import contextlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memcachepy.client.discovery import (
    ANSWER_BYTES_MAX,
    Endpoint,
    PollSchedule,
    endpoints_of,
    inquiry,
    is_newer,
    plain_list,
    whom_to_ask,
)
from memcachepy.errors import ConfigError
from memcachepy.topology import Member, Topology

TWO_NODES = Topology(
    1, (Member("n1.mc.cfg.test", 11211, "10.0.0.1"), Member("n2.mc.cfg.test", 11211, "10.0.0.2"))
)
ELASTICACHES = (
    b"CONFIG cluster 0 62\r\n1\nn1.mc.cfg.test|10.0.0.1|11211 n2.mc.cfg.test|10.0.0.2|11211\n"
    b"\r\nEND\r\n"
)
CONFIG_GET = b"config get cluster\r\n"
LEGACY_GET = b"get AmazonElastiCache:cluster\r\n"


def converse(answers: dict[bytes, bytes], cuts: list[int] | None = None) -> Topology | None:
    """Answer the questions, in pieces that end at `cuts`; afterwards the server hangs up."""
    exchange = inquiry()
    question = next(exchange)
    try:
        while True:
            answer = answers[question]
            question = b""
            ends = sorted({min(cut, len(answer)) for cut in cuts or []} | {len(answer)})
            start = 0
            for end in ends:
                if end > start:
                    question = exchange.send(answer[start:end])
                    start = end
            if not question:
                exchange.send(b"")
    except StopIteration as done:
        result: Topology | None = done.value
        return result


def test_elasticaches_answer_is_understood() -> None:
    assert converse({CONFIG_GET: ELASTICACHES}) == TWO_NODES


@pytest.mark.parametrize("cut", range(1, len(ELASTICACHES)))
def test_an_answer_may_be_cut_anywhere(cut: int) -> None:
    assert converse({CONFIG_GET: ELASTICACHES}, [cut]) == TWO_NODES


def test_an_answer_may_come_byte_by_byte() -> None:
    assert converse({CONFIG_GET: ELASTICACHES}, list(range(len(ELASTICACHES)))) == TWO_NODES


hosts = st.from_regex(r"[a-z][a-z0-9-]{0,20}(\.[a-z0-9]{1,10}){0,3}", fullmatch=True)
ips = st.one_of(st.just(""), st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str))
members = st.builds(Member, hosts, st.integers(1, 65535), ips)
topologies = st.builds(
    Topology,
    st.integers(0, 2**31 - 1),
    st.lists(members, min_size=1, max_size=100, unique_by=lambda m: (m.host, m.port)).map(tuple),
)


@settings(max_examples=60, deadline=None)
@given(topology=topologies, cuts=st.lists(st.integers(0, 6000)), legacy=st.booleans())
def test_any_list_in_any_fragmentation_is_understood(
    topology: Topology, cuts: list[int], legacy: bool
) -> None:
    body = b"%d\r\n%s\r\nEND\r\n" % (len(topology.payload()), topology.payload())
    answers = {CONFIG_GET: b"CONFIG cluster 0 " + body}
    if legacy:
        answers = {
            CONFIG_GET: b"ERROR\r\n",
            LEGACY_GET: b"VALUE AmazonElastiCache:cluster 0 " + body,
        }
    assert converse(answers, cuts) == topology


@settings(deadline=None)
@given(answer=st.binary(min_size=1, max_size=200))
def test_any_other_bytes_are_nonsense_or_a_plain_server(answer: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert converse({CONFIG_GET: answer, LEGACY_GET: b"END\r\n"}) is None


def test_a_list_of_more_than_4096_bytes_is_understood() -> None:
    many = tuple(Member(f"node-{i:04}.cache-a.cfg.test", 11211, f"10.0.1.{i}") for i in range(200))
    topology = Topology(7, many)
    answer = b"CONFIG cluster 0 1\r\n%s\r\nEND\r\n" % topology.payload()
    assert len(answer) > 8192
    assert converse({CONFIG_GET: answer}, list(range(0, len(answer), 1448))) == topology


def test_names_in_the_place_of_addresses_are_understood() -> None:
    answer = b"CONFIG cluster 0 1\r\n3\nn1.cfg.test|n1.cfg.test|11211\n\r\nEND\r\n"
    assert converse({CONFIG_GET: answer}) == Topology(3, (Member("n1.cfg.test", 11211),))


def test_lf_alone_ends_lines_too() -> None:
    assert converse({CONFIG_GET: ELASTICACHES.replace(b"\r\n", b"\n")}) == TWO_NODES


@pytest.mark.parametrize(
    "refusal", [b"ERROR\r\n", b"CLIENT_ERROR bad command line format\r\n", b"END\r\n"]
)
def test_a_server_without_lists_is_plain(refusal: bytes) -> None:
    assert converse({CONFIG_GET: refusal, LEGACY_GET: b"END\r\n"}) is None
    assert converse({CONFIG_GET: refusal, LEGACY_GET: b"ERROR\r\n"}, [3]) is None


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "hung up"),
        (ELASTICACHES[:-2], "hung up"),
        (b"SERVER_ERROR busy\r\n", "no list"),
        (b"STAT pid 1\r\nEND\r\n", "no list"),
        (b"CONFIG cluster 0 3\r\n1\n\n\r\nEND\r\n", "no nodes"),
        (b"CONFIG cluster 0 3\r\nx\na||1\n\r\nEND\r\n", "no list"),
        (b"CONFIG cluster 0 3\r\n1\na|1\n\r\nEND\r\n", r"host\|ip\|port"),
        (b"CONFIG cluster 0 3\r\n1\na||1 a||1\n\r\nEND\r\n", "once"),
        (b"CONFIG cluster 0 3\r\n9999999999\na||1\n\r\nEND\r\n", "version"),
        (b"x" * (ANSWER_BYTES_MAX + 1), "no list"),
    ],
)
def test_nonsense_is_told_from_a_list(answer: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        converse({CONFIG_GET: answer})


def test_only_larger_versions_are_newer() -> None:
    assert is_newer(Topology(1), None)
    assert is_newer(Topology(0), None)
    assert not is_newer(Topology(4), Topology(5))
    assert not is_newer(Topology(5, TWO_NODES.members), Topology(5))
    assert is_newer(Topology(1_800_000_000), Topology(1_700_000_123))


@pytest.mark.parametrize(
    ("servers", "endpoints"),
    [
        ("cache.cfg.test", [("cache.cfg.test", 11211)]),
        ("10.0.0.1:11300", [("10.0.0.1", 11300)]),
        ("[::1]:1", [("::1", 1)]),
        (("a", 1), [("a", 1)]),
        (["a:1", ("b", 2), "a:1"], [("a", 1), ("b", 2)]),
    ],
)
def test_endpoints_have_many_forms(servers: "str | Endpoint", endpoints: list[Endpoint]) -> None:
    assert list(endpoints_of(servers)) == endpoints


@pytest.mark.parametrize(
    "servers", ["/run/cache.sock", [], "a:99999", [("a",)], ["a:1", ("b", "2")]]
)
def test_what_is_no_endpoint_is_refused(servers: "str | Endpoint") -> None:
    with pytest.raises(ConfigError):
        endpoints_of(servers)


def test_endpoints_are_asked_before_nodes() -> None:
    nodes = [("a", 1), ("b", 2), ("c", 3), ("e", 1)]
    asked = whom_to_ask([("e", 1), ("f", 1)], nodes, random.Random(1))
    assert asked[:2] == [("e", 1), ("f", 1)]
    assert sorted(asked[2:]) == nodes[:3]


def test_plain_servers_are_those_that_were_named() -> None:
    assert plain_list([("b", 2), ("a", 1)]) == Topology(0, (Member("a", 1), Member("b", 2)))


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def schedule(clock: Clock) -> PollSchedule:
    return PollSchedule(60.0, clock, jitter=lambda: 1.0)


def test_the_list_is_asked_for_every_interval(clock: Clock, schedule: PollSchedule) -> None:
    for _ in range(5):
        assert schedule.due_in_s() == 60
        clock.now_s += 61
        assert schedule.due_in_s() == 0
        schedule.polled(answered=True)


def test_intervals_differ_by_a_tenth() -> None:
    due = [PollSchedule(60.0).due_in_s() for _ in range(200)]
    assert 53.9 <= min(due) < 57
    assert 63 < max(due) <= 66


def test_an_error_brings_the_next_poll_forward(clock: Clock, schedule: PollSchedule) -> None:
    clock.now_s += 30
    assert schedule.hasten()
    assert schedule.due_in_s() == 0
    assert not schedule.hasten()


def test_errors_without_end_ask_less_and_less_often(clock: Clock, schedule: PollSchedule) -> None:
    pauses = []
    for _ in range(9):
        schedule.hasten()
        pauses.append(schedule.due_in_s())
        clock.now_s += schedule.due_in_s()
        schedule.polled(answered=True)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]


@pytest.mark.parametrize("changed", [True, False])
def test_a_change_or_a_quiet_interval_makes_it_quick_again(
    clock: Clock, schedule: PollSchedule, changed: bool
) -> None:
    for _ in range(4):
        schedule.hasten()
        clock.now_s += schedule.due_in_s()
        schedule.polled(answered=True)
    if changed:
        schedule.hasten()
    clock.now_s += schedule.due_in_s()
    schedule.polled(answered=True, changed=changed)
    schedule.hasten()
    assert schedule.due_in_s() <= 2


def test_while_nobody_answers_it_is_tried_again_soon(clock: Clock, schedule: PollSchedule) -> None:
    pauses = []
    for _ in range(8):
        schedule.polled(answered=False)
        pauses.append(schedule.due_in_s())
        clock.now_s += schedule.due_in_s()
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    schedule.polled(answered=True)
    assert schedule.due_in_s() == 60

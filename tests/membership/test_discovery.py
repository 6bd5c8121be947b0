"""The discovery process's decisions, with a fake segment, a fake provider and a fake clock."""

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from memcachepy import _core
from memcachepy.errors import MembershipError
from memcachepy.membership.file import FileMembership, change_topology, read_topology
from memcachepy.membership.last_known import (
    LastKnown,
    known_of,
    read_last_known,
    write_last_known,
)
from memcachepy.membership.membership import ReadOnly
from memcachepy.membership.url import FilePlace, parse_url
from memcachepy.node.discovery import (
    VERSION_FOLLOWED_MAX,
    Discovery,
    Plan,
    read_state,
    tell_start,
    with_node_id,
)
from memcachepy.topology import VERSION_MAX, Member, Topology

OWN = Member("10.0.0.1", 11211, "10.0.0.1", "0001")
TWO = Member("10.0.0.2", 11211, "10.0.0.2", "0002")
PLACE = FilePlace(Path("/run/cluster.json"))
NONE = Topology(0)


class FakeSegment:
    """Configurations, and how often each was written."""

    def __init__(self) -> None:
        self.configs: dict[str, bytes] = {}
        self.writes: list[str] = []
        self.refuses: Exception | None = None

    def set_config(self, key: str | bytes, client_flags: int, data: bytes, /) -> None:
        assert client_flags == 0
        if self.refuses:
            raise self.refuses
        self.configs[str(key)] = data
        self.writes.append(str(key))

    def get_config(self, key: str | bytes, /) -> tuple[int, bytes] | None:
        return (0, self.configs[str(key)]) if str(key) in self.configs else None


class FakeProvider(ReadOnly):
    """Answers with what the test puts there."""

    answer: Topology | MembershipError = NONE
    meanwhile: Callable[[], None] = staticmethod(lambda: None)
    left = 0
    closed = 0

    @property
    def is_read_only(self) -> bool:
        return False

    @property
    def pause_s(self) -> float:
        return 3600.0

    def topology(self) -> Topology | None:
        return self.poll(NONE)

    def poll(self, last: Topology) -> Topology:
        self.last = last
        self.meanwhile()
        if isinstance(self.answer, MembershipError):
            raise self.answer
        return self.answer

    def leave(self) -> None:
        super().leave()
        self.left += 1
        self.answer = Topology(9, (TWO,))

    def close(self) -> None:
        self.closed += 1


class World:
    """A discovery and what is around it."""

    def __init__(self, state_file: Path | None = None, known: LastKnown | None = None) -> None:
        self.segment = FakeSegment()
        self.provider = FakeProvider(PLACE)
        self.now_s = 1_800_000_000.0
        self.plan = Plan(PLACE, OWN, state_file, known or LastKnown())
        tell_start(self.plan, self.segment, self.now_s)
        self.discovery = self.made_again()

    def made_again(self) -> Discovery:
        return Discovery(self.plan, self.segment, self.provider, lambda: self.now_s)

    def step(self, answer: Topology | None = None, failure: str = "") -> None:
        self.provider.answer = answer or MembershipError(failure)
        self.discovery.step()

    @property
    def served(self) -> bytes | None:
        return self.segment.configs.get("cluster")

    @property
    def state(self) -> dict[str, str]:
        return read_state(self.segment)


def test_nothing_is_served_until_something_is_known() -> None:
    world = World()
    assert world.served is None
    assert world.state["state"] == "starting"
    world.step(failure="no answer")
    assert world.served is None
    assert world.state["state"] == "last_known"
    assert world.state["version"] == "0"


def test_the_last_known_list_is_served_until_another_is_known(tmp_path: Path) -> None:
    known = Topology(5, (OWN, TWO))
    world = World(tmp_path / "state", LastKnown(str(PLACE), "0001", known))
    assert world.served == known.payload()
    world.step(failure="no answer")
    assert world.served == known.payload()
    assert world.state["state"] == "last_known"
    new = Topology(6, (OWN,))
    world.step(new)
    assert world.provider.last == known
    assert world.served == new.payload()
    assert world.state["state"] == "connected"
    assert read_last_known(tmp_path / "state") == LastKnown(str(PLACE), "0001", new)


def test_state_tells_since_when(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "memcachepy")
    world = World()
    world.step(Topology(5, (OWN,)))
    world.now_s += 100
    world.step(failure="gone")
    since = world.state["since"]
    assert since == "1800000100"
    world.now_s += 50
    world.step(failure="gone")
    assert world.state["since"] == since
    world.step(Topology(5, (OWN,)))
    assert world.state["since"] == "1800000150"
    assert [r.message for r in caplog.records if "no answer" in r.message] == [
        "no answer about the cluster reason=gone last_known_version=5"
    ]
    assert any("answers again after_s=50" in record.message for record in caplog.records)


def test_state_tells_whether_the_node_is_in_the_list() -> None:
    world = World()
    assert world.state["listed"] == "no"
    world.step(Topology(5, (Member("n1.test", OWN.port, OWN.ip),)))
    assert world.state["listed"] == "yes"
    world.step(Topology(6, (TWO, Member(OWN.host, 5), Member("n3.test", OWN.port))))
    assert world.state["listed"] == "no"


def test_only_changes_are_written(tmp_path: Path) -> None:
    world = World(tmp_path / "state")
    for _ in range(5):
        world.step(Topology(5, (OWN,)))
    assert world.segment.writes.count("cluster") == 1
    assert world.segment.writes.count("memcachepy:discovery") == 2


def test_what_cannot_be_served_is_tried_again() -> None:
    world = World()
    world.segment.refuses = _core.CoreError("a stopped process holds the lock")
    world.step(Topology(5, (OWN,)))
    assert world.served is None
    world.segment.refuses = None
    world.step(Topology(5, (OWN,)))
    assert world.served == Topology(5, (OWN,)).payload()
    assert world.state["state"] == "connected"


@pytest.mark.parametrize("other", [b"rubbish", Topology(4, ()).payload(), None])
def test_what_else_was_put_in_the_lists_place_is_repaired(other: bytes | None) -> None:
    world = World()
    world.step(Topology(5, (OWN,)))
    if other is None:
        del world.segment.configs["cluster"]
    else:
        world.segment.configs["cluster"] = other
    world.step(Topology(5, (OWN,)))
    assert world.served == Topology(5, (OWN,)).payload()


@pytest.mark.parametrize("version", [1999999999, 1_795_000_000, VERSION_FOLLOWED_MAX])
def test_the_clusters_list_gets_a_version_above_one_set_by_hand(
    tmp_path: Path, version: int
) -> None:
    """Clients that were told the larger one pass over anything below it."""
    path, segment = tmp_path / "cluster.json", FakeSegment()

    def change(*members: Member) -> None:
        change_topology(path, lambda old: old.changed(members, 1_795_000_000))

    change(OWN)
    plan = Plan(FilePlace(path), OWN, None, LastKnown())
    discovery = Discovery(plan, segment, FileMembership(plan.place))
    discovery.step()
    assert discovery.last == Topology(1_795_000_000, (OWN,))
    segment.configs["cluster"] = Topology(version, (OWN, TWO)).payload()
    discovery.step()
    raised = discovery.last
    assert raised.version > version
    assert raised.members == (OWN,)
    assert segment.configs["cluster"] == raised.payload()
    assert read_topology(path) == raised
    change(OWN, TWO)
    discovery.step()
    assert discovery.last == Topology(raised.version + 1, (OWN, TWO))


def test_a_version_that_leaves_none_for_the_cluster_is_not_followed() -> None:
    world = World()
    world.step(Topology(5, (OWN,)))
    for version in (VERSION_FOLLOWED_MAX + 1, VERSION_MAX):
        world.segment.configs["cluster"] = Topology(version, (OWN, TWO)).payload()
        assert world.made_again().last.version == 0
        world.step(Topology(5, (OWN,)))
        assert world.provider.last.version == 5
        assert world.served == Topology(5, (OWN,)).payload()


def test_what_is_set_while_the_provider_is_asked_is_not_followed_by_a_smaller_version() -> None:
    world = World()
    world.step(Topology(5, (OWN,)))
    by_hand = Topology(9, (TWO,))
    world.provider.meanwhile = lambda: world.segment.set_config("cluster", 0, by_hand.payload())
    world.step(Topology(6, (OWN, TWO)))
    assert world.served == by_hand.payload()
    world.provider.meanwhile = lambda: None
    world.step(Topology(10, (OWN, TWO)))
    assert world.provider.last.version == 9
    assert world.served == Topology(10, (OWN, TWO)).payload()


def test_a_state_file_that_cannot_be_written_costs_only_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(tmp_path / "not there" / "state")
    world.step(Topology(5, (OWN,)))
    assert world.served == Topology(5, (OWN,)).payload()
    assert "will not be known after a restart" in caplog.text


def test_a_replaced_process_goes_on_with_what_is_served(tmp_path: Path) -> None:
    world = World(tmp_path / "state")
    world.step(Topology(5, (OWN, TWO)))
    assert world.made_again().last == Topology(5, (OWN, TWO))
    (tmp_path / "state").unlink()
    again = world.made_again().last
    assert again.payload() == Topology(5, (OWN, TWO)).payload()


def test_when_woken_it_leaves_and_tells_the_new_list() -> None:
    world = World()
    world.provider.answer = Topology(8, (OWN, TWO))
    wake_fd = os.eventfd(0)
    reading, writing = os.pipe()
    settled: list[bytes | None] = []
    status: list[int] = []

    def run() -> None:
        def on_settled() -> None:
            settled.append(world.served)
            os.eventfd_write(wake_fd, 1)

        status.append(world.discovery.run(wake_fd, reading, on_settled))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    for fd in (wake_fd, reading, writing):
        os.close(fd)
    assert status == [_core.EXIT_STOPPED]
    assert settled == [Topology(8, (OWN, TWO)).payload()]
    assert world.served == Topology(9, (TWO,)).payload()
    assert (world.provider.left, world.provider.closed) == (1, 1)


def test_it_ends_with_its_supervisor_and_does_not_leave() -> None:
    world = World()
    wake_fd = os.eventfd(0)
    reading, writing = os.pipe()
    os.close(writing)
    assert world.discovery.run(wake_fd, reading, lambda: None) == _core.EXIT_ORPHANED
    os.close(wake_fd)
    os.close(reading)
    assert (world.provider.left, world.provider.closed) == (0, 1)


@pytest.mark.parametrize(
    ("before", "now", "is_told"),
    [
        ("zk://a/cache-a", "zk://b,c/cache-a?grace=5", True),
        ("zk://a/cache-a", "zk://a/cache-b", False),
        ("file:/run/a.json", "zk://a/cache-a", True),
        ("file:/run/a.json", "file:/run/b.json", False),
        ("dns+a:1", "dns+a:2", False),
        ("dns+a:1", "dns+a:1?nameserver=127.0.0.1", True),
    ],
)
def test_another_clusters_list_is_not_told_but_its_version_counts(
    before: str, now: str, is_told: bool
) -> None:
    list_before = Topology(5, (OWN, TWO))
    known = known_of(parse_url(now), LastKnown(before, "0001", list_before))
    assert known.node_id == "0001"
    assert known.topology == (list_before if is_told else Topology(5))


@pytest.mark.parametrize("text", ["", "[]", '{"version": 1}', '{"version": 1, "members": 5}'])
def test_a_damaged_state_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "state"
    path.write_text(text)
    with pytest.raises(MembershipError, match="state is no list of nodes"):
        read_last_known(path)


def test_without_a_state_file_nothing_is_known_or_written(tmp_path: Path) -> None:
    assert read_last_known(None) == read_last_known(tmp_path / "none") == LastKnown()
    write_last_known(None, LastKnown())


def test_the_id_is_chosen_else_remembered_else_made() -> None:
    member = Member("2001:db8::1", 11211)
    assert with_node_id(member, "a", LastKnown("", "b")).node_id == "a"
    assert with_node_id(member, None, LastKnown("", "b")).node_id == "b"
    assert with_node_id(member, None, LastKnown()).node_id == "2001-db8--1-11211"


def test_stats_show_the_state_and_nothing_that_would_break_the_answer() -> None:
    """Whoever may `config set` may put anything there."""
    segment = _core.Segment({"memory_limit_bytes": 8 << 20})
    connection = _core.Connection(segment, _core.SLOT_WORKER_FIRST)

    def rows(text: bytes) -> list[bytes]:
        segment.set_config("memcachepy:discovery", 0, text)
        answer = connection.feed(b"stats memcachepy\r\n")
        assert answer.endswith(b"END\r\n")
        lines = answer.split(b"\r\n")[:-2]
        assert all(line.startswith(b"STAT ") for line in lines)
        return [line[5:] for line in lines if line.startswith(b"STAT discovery:")]

    try:
        assert rows(b"state connected\nprovider zk://a/c d\n") == [
            b"discovery:state connected",
            b"discovery:provider zk://a/c d",
        ]
        assert rows(b"") == rows(b"\n\n") == rows(b"word\n") == rows(b" x\n") == []
        assert rows(b"a b\r\nc \0\nd \xff\ne f") == []
        assert rows(b"END x\nno end") == [b"discovery:END x"]
        assert len(rows(b"a b\n" * 16384)) == 16384
        for text in (b"n" * 65000 + b" v\n", b"n " + b"v" * 65000 + b"\n"):
            assert len(rows(text)) == 1
    finally:
        connection.close()
        segment.close()

"""The list of nodes as a value: its order, its versions, its bytes."""

import json
from pathlib import Path

import pytest

from memcachepy.errors import ConfigError, MembershipError
from memcachepy.membership.file import change_topology, read_topology
from memcachepy.topology import VERSION_MAX, Member, Topology

ONE = Member("n1.mc.cfg.test", 11211, "10.0.0.1", "0001")
TWO = Member("n2.mc.cfg.test", 11211, "10.0.0.2", "0002")


def test_payload_is_elasticaches_to_the_byte() -> None:
    payload = Topology(1, (TWO, ONE)).payload()
    assert payload == b"1\nn1.mc.cfg.test|10.0.0.1|11211 n2.mc.cfg.test|10.0.0.2|11211\n"
    assert len(payload) == 62


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\n\r\n"])
def test_payload_is_parsed_with_any_line_end(end: bytes) -> None:
    parsed = Topology.parse(b"12\nhost||1 [x|::1|2".replace(b"[x", b"x") + end)
    assert parsed == Topology(12, (Member("host", 1), Member("x", 2, "::1")))


@pytest.mark.parametrize("payload", [b"", b"END", b"x\na|1.2.3.4|5\n", b"1\na|1\n", b"1\na||x\n"])
def test_what_is_no_list_is_refused(payload: bytes) -> None:
    with pytest.raises(ValueError, match="list|host"):
        Topology.parse(payload)


def test_empty_list_is_one() -> None:
    assert Topology.parse(Topology(3).payload()) == Topology(3)


def test_version_is_the_second_of_the_change() -> None:
    assert Topology(1).changed([ONE], 1_800_000_000.9).version == 1_800_000_000


def test_version_grows_though_the_clock_does_not() -> None:
    first = Topology(0).changed([ONE], 1_800_000_000)
    second = first.changed([ONE, TWO], 1_800_000_000)
    third = second.changed([TWO], 1_700_000_000)
    assert [second.version, third.version] == [1_800_000_001, 1_800_000_002]


def test_same_members_are_no_change() -> None:
    topology = Topology(7, (ONE, TWO))
    assert topology.changed([TWO, ONE], 1_800_000_000) is topology


@pytest.mark.parametrize(
    "make",
    [
        lambda: Member("the-END", 1),
        lambda: Member("a b", 1),
        lambda: Member("a|b", 1),
        lambda: Member("a", 0),
        lambda: Member("a", 1, "300.1.1.1"),
        lambda: Member("a", 1, node_id="x y"),
        lambda: Topology(VERSION_MAX + 1),
        lambda: Topology(1, (ONE, Member(ONE.host, ONE.port))),
        lambda: Topology(1, (ONE, Member("other", 1, node_id="0001"))),
    ],
)
def test_what_clients_cannot_read_is_refused(make: object) -> None:
    assert callable(make)
    with pytest.raises(ConfigError):
        make()


def test_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "topology.json"
    assert read_topology(path) is None
    written = change_topology(path, lambda old: old.changed([ONE, TWO], 1_800_000_000))
    assert read_topology(path) == written == Topology(1_800_000_000, (ONE, TWO))


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"version": 1, "members": [1]})])
def test_file_that_is_no_list_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "topology.json"
    path.write_text(text)
    with pytest.raises(MembershipError, match=r"topology\.json is no list of nodes"):
        read_topology(path)

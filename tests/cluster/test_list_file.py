"""The list as the supervisor keeps it: what is lost is restored, what cannot be had is an error."""

import fcntl
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from memcachepy.cluster.list_file import ListFile
from memcachepy.errors import ClusterError
from memcachepy.membership.file import (
    VERSIONS_LEFT_MIN,
    change_topology,
    read_topology,
)
from memcachepy.membership.last_known import LastKnown, write_last_known
from memcachepy.topology import VERSION_MAX, Member, Topology

ONE, TWO = Member("127.0.0.1", 1, node_id="0001"), Member("127.0.0.1", 2, node_id="0002")
LIST = Topology(1_800_000_000, (ONE, TWO))


def node(member: Member) -> Any:
    return SimpleNamespace(node_id=member.node_id, member=member)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "topology.json"
    change_topology(path, lambda _: LIST)
    return path


def test_a_lost_file_is_restored_before_it_is_changed(path: Path) -> None:
    kept = ListFile(path)
    assert kept.topology == LIST
    path.unlink()
    changed = kept.change(leaving=["0002"])
    assert changed.members == (ONE,)
    assert changed.version > LIST.version
    path.unlink()
    assert kept.change(joining=[node(TWO)]).members == (ONE, TWO)


def test_a_lost_file_is_restored_when_it_is_looked_at(path: Path) -> None:
    kept = ListFile(path)
    kept.look()
    path.unlink()
    kept._look_at_s = 0.0
    kept.look()
    assert read_topology(path) == LIST


def test_without_a_file_the_newest_list_that_nodes_have_noted_is_taken(path: Path) -> None:
    path.unlink()
    url = f"file:{path}"
    noted = [
        LastKnown(url, "0001", Topology(7, (ONE,))),
        LastKnown(url, "0002", LIST),
        LastKnown("file:/other", "0003", Topology(LIST.version + 1, (ONE,))),
        LastKnown(url, "0004", Topology(VERSION_MAX, (ONE,))),
    ]
    files = [path.with_name(f"{known.node_id}.json") for known in noted]
    for file, known in zip(files, noted, strict=True):
        write_last_known(file, known)
    kept = ListFile(path)
    kept.recover([*files, path.with_name("none.json")])
    assert kept.topology == read_topology(path) == LIST


def test_what_is_there_is_not_taken_from_notes(path: Path) -> None:
    file = path.with_name("0001.json")
    write_last_known(file, LastKnown(f"file:{path}", "0001", Topology(LIST.version + 1, (ONE,))))
    kept = ListFile(path)
    kept.recover([file])
    assert kept.topology == LIST


def test_a_version_that_can_hardly_grow_is_refused_with_a_remedy(path: Path) -> None:
    kept = ListFile(path)
    assert kept.topology == LIST
    version = VERSION_MAX - VERSIONS_LEFT_MIN + 1
    path.write_text(json.dumps(Topology(version, (ONE,)).as_dict()))
    with pytest.raises(ClusterError, match=f"{version}, is too close to .*: remove it"):
        kept.change(leaving=["0001"])
    assert kept.last == LIST


def test_a_lock_that_is_kept_is_not_waited_for(path: Path) -> None:
    lock_fd = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR)
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX)
        with pytest.raises(ClusterError, match="keeps its lock"):
            ListFile(path).change(leaving=["0002"])
    finally:
        os.close(lock_fd)
    assert read_topology(path) == LIST

"""The events of a cluster: a file with one writer, read by anybody at any time."""

import json
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest

from memcachepy.cluster.events import (
    Event,
    EventLog,
    EventName,
    Filter,
    follow_events,
    read_events,
)
from memcachepy.errors import ClusterError


class Clock:
    """A second later every time."""

    def __init__(self) -> None:
        self.now_s = 1_800_000_000.0

    def __call__(self) -> float:
        self.now_s += 1.0
        return self.now_s


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


@pytest.fixture
def log(path: Path) -> EventLog:
    return EventLog(path, Clock())


def test_what_was_written_is_read_from_the_oldest_to_the_newest(log: EventLog, path: Path) -> None:
    first = log.add(EventName.CLUSTER_PROVISIONED, message="3 nodes")
    second = log.add(EventName.NODE_ADDED, "0004", 'it says "hello"\nand ünïcode')
    assert read_events(path) == [first, second]
    assert json.loads(path.read_bytes().splitlines()[1]) == {
        "at_s": 1_800_000_002.0,
        "name": "AddCacheNodeComplete",
        "node_id": "0004",
        "message": 'it says "hello"\nand ünïcode',
    }


def test_there_are_none_without_a_file(path: Path) -> None:
    assert read_events(path) == []


def test_they_are_filtered_by_time_name_and_node_and_counted_from_the_newest(
    log: EventLog, path: Path
) -> None:
    events = [log.add(EventName.NODE_ADDED, str(number)) for number in range(5)]
    events += [log.add(EventName.NODE_REMOVED, str(number)) for number in range(5)]
    assert read_events(path, Filter(since_s=events[6].at_s)) == events[6:]
    assert read_events(path, Filter(names={"RemoveCacheNodeComplete"})) == events[5:]
    assert read_events(path, Filter(node_ids={"3"})) == [events[3], events[8]]
    assert read_events(path, limit=2) == events[-2:]
    assert read_events(path, limit=0) == []
    assert read_events(path, limit=100) == events


def test_a_line_that_was_cut_off_costs_no_other(log: EventLog, path: Path) -> None:
    before = log.add(EventName.NODE_ADDED, "0001")
    cut = path.read_bytes()
    for length in range(1, len(cut)):
        path.write_bytes(cut + cut[:length])
        after = log.add(EventName.NODE_REMOVED, "0001")
        found = read_events(path)
        assert (found[0], found[-1]) == (before, after)
        # A line without its end only is an event after all.
        assert len(found) == (3 if length == len(cut) - 1 else 2)


def test_what_is_no_event_is_passed_over(log: EventLog, path: Path) -> None:
    junk = b'\n\n[]\n7\n"x"\nnull\n{}\n{"at_s": "x", "name": 1}\n\xff\xfe\n' + b"[" * 5000 + b"\n"
    path.write_bytes(junk)
    event = log.add(EventName.NODE_ADDED)
    assert read_events(path) == [event]


def test_the_file_is_bounded_and_the_newest_are_kept(path: Path) -> None:
    log = EventLog(path, Clock(), bytes_max=4096)
    events = [log.add(EventName.NODE_ADDED, f"{number:04}") for number in range(500)]
    files = sorted(path.parent.iterdir())
    assert [file.name for file in files] == ["events.jsonl", "events.jsonl.1"]
    assert all(file.stat().st_size <= 4096 for file in files)
    found = read_events(path)
    assert found == events[-len(found) :]
    assert len(found) > 4096 // len(path.read_bytes().splitlines()[0])


def test_a_long_message_is_cut(log: EventLog, path: Path) -> None:
    log.add(EventName.NODE_NOT_ADDED, "0001", "x" * 1_000_000)
    assert path.stat().st_size < 4096


class Waits:
    """What happens meanwhile, wait by wait; a test that waits too often fails."""

    def __init__(self, *meanwhile: object) -> None:
        self._meanwhile = iter(meanwhile)

    def __call__(self, _seconds: float) -> None:
        act = next(self._meanwhile, None)
        assert act is not None, "waited for what does not come"
        act()  # type: ignore[operator]


def following(path: Path, *meanwhile: object, **how: object) -> Iterator[Event]:
    return follow_events(path, wait=Waits(*meanwhile), **how)  # type: ignore[arg-type]


def test_following_tells_what_is_there_and_what_comes(log: EventLog, path: Path) -> None:
    names = [log.add(EventName.NODE_ADDED, str(number)).node_id for number in range(3)]
    came: list[Event] = []
    with closing(
        following(path, lambda: came.append(log.add(EventName.NODE_REMOVED, "9")), limit=2)
    ) as events:
        assert [event.node_id for event in islice(events, 2)] == names[1:]
        assert next(events) == came[0]


def test_following_begins_before_there_is_a_file(log: EventLog, path: Path) -> None:
    with closing(
        following(path, lambda: None, lambda: log.add(EventName.CLUSTER_PROVISIONED))
    ) as events:
        assert next(events).name == "CacheClusterProvisioningComplete"


def test_following_goes_on_in_the_next_file(path: Path) -> None:
    log = EventLog(path, Clock(), bytes_max=400)

    def add_some() -> None:
        for _ in range(4):
            log.add(EventName.NODE_ADDED, str(len(written)))
            written.append(str(len(written)))

    written: list[str] = []
    add_some()
    with closing(following(path, *[add_some] * 10)) as events:
        found = [event.node_id for event in islice(events, 40)]
    assert (path.parent / "events.jsonl.1").exists()
    # Between two looks the file was replaced at most once, so nothing is missing.
    assert found == [str(number) for number in range(40)]


def test_following_does_not_tell_half_a_line(log: EventLog, path: Path) -> None:
    log.add(EventName.NODE_ADDED, "0001")
    line = path.read_bytes()
    path.write_bytes(b"")

    def append(data: bytes) -> None:
        with path.open("ab") as file:
            file.write(data)

    with closing(following(path, lambda: append(line[:20]), lambda: append(line[20:]))) as events:
        assert next(events).node_id == "0001"


def test_an_unwritable_place_is_said(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="cannot be written"):
        EventLog(tmp_path / "nowhere" / "events.jsonl").add(EventName.NODE_ADDED)
    with pytest.raises(ClusterError, match="cannot be read"):
        read_events(tmp_path)

"""What has happened to a cluster, under ElastiCache's names: lines of JSON in a file.

The names are those of ElastiCache's notifications without their prefix "ElastiCache:":
https://docs.aws.amazon.com/AmazonElastiCache/latest/mem-ug/ElastiCacheSNS.html

A line is written whole or, when the machine dies, cut: then the next writer begins a new one, and
readers pass over what is no event. Lines are not synced to the disk; events are told, not counted
on. At `FILE_BYTES_MAX` the file becomes `events.jsonl.1`, in the place of the last of that name.
"""

import json
import os
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from memcachepy.errors import ClusterError

FILE_BYTES_MAX = 4 << 20
"""About 25,000 events."""
FOLLOW_S = 0.25
_MESSAGE_LEN_MAX = 2000


class EventName(StrEnum):
    """What can happen."""

    CLUSTER_PROVISIONED = "CacheClusterProvisioningComplete"
    CLUSTER_NOT_PROVISIONED = "CacheClusterProvisioningFailed"
    CLUSTER_SCALED = "CacheClusterScalingComplete"
    CLUSTER_NOT_SCALED = "CacheClusterScalingFailed"
    CLUSTER_DELETED = "DeleteCacheClusterComplete"
    PARAMETERS_CHANGED = "CacheClusterParametersChanged"
    NODE_ADDED = "AddCacheNodeComplete"
    NODE_NOT_ADDED = "AddCacheNodeFailed"
    NODE_REMOVED = "RemoveCacheNodeComplete"
    NODES_REBOOTED = "CacheNodesRebooted"
    REPLACING_NODE = "CacheNodeReplaceStarted"
    """Also when it died, and a new process takes its place."""
    NODE_REPLACED = "CacheNodeReplaceComplete"


@dataclass(frozen=True, slots=True)
class Event:
    """One of them."""

    at_s: float
    """Unix time."""
    name: str
    node_id: str = ""
    """Empty if it is about all of the cluster."""
    message: str = ""

    def as_dict(self) -> dict[str, object]:
        return {
            "at_s": self.at_s,
            "name": self.name,
            "node_id": self.node_id,
            "message": self.message,
        }

    @classmethod
    def parse(cls, line: bytes) -> Self | None:
        """None: it is no event, perhaps half of one."""
        try:
            raw: Any = json.loads(line)
            return cls(
                float(raw["at_s"]),
                str(raw["name"]),
                str(raw.get("node_id", "")),
                str(raw.get("message", "")),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events are wanted; an empty part does not ask."""

    since_s: float = 0.0
    names: Collection[str] = ()
    node_ids: Collection[str] = ()

    def wants(self, event: Event) -> bool:
        return (
            event.at_s >= self.since_s
            and (not self.names or event.name in self.names)
            and (not self.node_ids or event.node_id in self.node_ids)
        )


class EventLog:
    """Appends to a file, which has one writer at a time.

    Args:
        path: of the file; its folder must be there when the first event comes.
        clock: Unix time, seconds.
        bytes_max: the file makes room for another one at this length.
    """

    def __init__(
        self, path: Path, clock: Callable[[], float] = time.time, bytes_max: int = FILE_BYTES_MAX
    ) -> None:
        self._path = path
        self._clock = clock
        self._bytes_max = bytes_max

    def add(self, name: EventName, node_id: str = "", message: str = "") -> Event:
        """Raises ClusterError: it cannot be written."""
        event = Event(round(self._clock(), 3), str(name), node_id, message[:_MESSAGE_LEN_MAX])
        line = json.dumps(event.as_dict()).encode() + b"\n"
        try:
            self._write(line)
        except OSError as error:
            raise ClusterError(f"{self._path} cannot be written: {error.strerror}") from None
        return event

    def _write(self, line: bytes) -> None:
        with suppress(FileNotFoundError):
            if self._path.stat().st_size + len(line) > self._bytes_max:
                self._path.replace(_older(self._path))
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            size_bytes = os.fstat(fd).st_size
            if size_bytes and os.pread(fd, 1, size_bytes - 1) != b"\n":
                line = b"\n" + line  # The last writer was cut off.
            os.write(fd, line)
        finally:
            os.close(fd)


def read_events(path: Path, wanted: Filter | None = None, limit: int | None = None) -> list[Event]:
    """From the oldest to the newest; none if there is no file.

    Args:
        path: of the file that an `EventLog` writes.
        wanted: which ones.
        limit: so many, the newest.

    Raises:
        ClusterError: a file cannot be read.
    """
    wanted = wanted or Filter()
    found: list[Event] = []
    for file in (_older(path), path):
        try:
            data = file.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ClusterError(f"{file} cannot be read: {error.strerror}") from None
        found += _events(data.splitlines(), wanted)
    return found if limit is None else found[max(0, len(found) - limit) :]


def follow_events(
    path: Path,
    wanted: Filter | None = None,
    limit: int | None = None,
    wait: Callable[[float], object] = time.sleep,
) -> Iterator[Event]:
    """What `read_events` finds, then what comes, without end.

    Args:
        path: of the file, which may come later.
        wanted: which ones.
        limit: so many of those that are there, the newest.
        wait: called with a number of seconds whenever nothing new is there.

    Raises:
        ClusterError: a file cannot be read.
    """
    wanted = wanted or Filter()
    tail = _Tail(path)
    try:
        older = read_events(_older(path), wanted)
        found = older + _events(tail.lines(), wanted)
        yield from found if limit is None else found[max(0, len(found) - limit) :]
        while True:
            yield from _events(tail.lines(), wanted)
            wait(FOLLOW_S)
    except OSError as error:
        raise ClusterError(f"{path} cannot be read: {error.strerror}") from None
    finally:
        tail.close()


class _Tail:
    """Reads what was appended to a file since the last time, and to the one that took its place."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self._rest = b""

    def lines(self) -> list[bytes]:
        """Whole ones only."""
        lines = self._read()
        while self._has_been_replaced():
            lines += self._read()  # What came between the two looks.
            self.close()
            lines += self._read()
        return lines

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._rest = -1, b""

    def _read(self) -> list[bytes]:
        if self._fd < 0:
            try:
                self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return []
        while data := os.read(self._fd, 1 << 16):
            self._rest += data
        *lines, self._rest = self._rest.split(b"\n")
        return lines

    def _has_been_replaced(self) -> bool:
        try:
            now = self._path.stat()
        except FileNotFoundError:
            return False
        if self._fd < 0:
            return True
        mine = os.fstat(self._fd)
        return (now.st_dev, now.st_ino) != (mine.st_dev, mine.st_ino)


def _events(lines: list[bytes], wanted: Filter) -> list[Event]:
    found = (Event.parse(line) for line in lines if line.strip())
    return [event for event in found if event is not None and wanted.wants(event)]


def _older(path: Path) -> Path:
    return path.with_name(f"{path.name}.1")

"""The list of nodes in a file of JSON, replaced whole by whoever changes it."""

import fcntl
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from memcachepy.atomic_file import replace_file
from memcachepy.errors import MembershipError, NoListYet
from memcachepy.membership.membership import ReadOnly, following
from memcachepy.membership.url import FilePlace
from memcachepy.topology import VERSION_MAX, Topology

LOOK_S = 0.2
"""How often the file is looked at: a stat, and a read if it is another one."""
_REMEDY = "remove it, and a launched cluster's supervisor writes it anew"
VERSIONS_LEFT_MIN = 1 << 20
"""A list that leaves fewer versions could hardly be changed any more."""
_LOCK_TRIES = 50
_LOCK_PAUSE_S = 0.02
"""The lock is for one write: a supervisor cannot wait for somebody who keeps it."""


class FileMembership(ReadOnly):
    """A file that somebody else keeps: a launched cluster's supervisor, or a person.

    It only writes to it to raise its version, where clients know a larger one already.
    """

    place: FilePlace

    def __init__(self, place: FilePlace) -> None:
        super().__init__(place)
        self._seen: tuple[int, int, int] | None = None
        self._found: Topology | None = None
        self._failure = ""

    @property
    def pause_s(self) -> float:
        return LOOK_S

    def topology(self) -> Topology | None:
        return read_topology(self.place.path)

    def poll(self, last: Topology) -> Topology:
        self._read_if_changed()
        if self._failure:
            raise MembershipError(self._failure)
        if self._found is None:
            kind = MembershipError if last.version else NoListYet
            raise kind(f"{self.place.path} is not there")
        told = following(self._found, last, self.now())
        if told != self._found:
            self._raise_version(told)
        return told

    def _read_if_changed(self) -> None:
        try:
            found = self.place.path.stat()
        except FileNotFoundError:
            self._seen, self._found, self._failure = None, None, ""
            return
        except OSError as error:
            self._seen = None
            self._failure = f"{self.place.path} cannot be read: {error.strerror}"
            return
        seen = found.st_mtime_ns, found.st_ino, found.st_size
        if seen == self._seen:
            return
        self._seen = seen  # Of before the read: what is replaced meanwhile is read once more.
        try:
            self._found, self._failure = read_topology(self.place.path), ""
        except MembershipError as error:
            self._failure = str(error)

    def _raise_version(self, told: Topology) -> None:
        """For the other nodes that read it; where it cannot be written, each raises its own."""
        assert self._found is not None
        was = self._found
        try:
            change_topology(self.place.path, lambda old: told if old == was else old)
        except MembershipError:
            self._found = told


def read_topology(path: Path) -> Topology | None:
    """None if there is no such file.

    Raises:
        MembershipError: it cannot be read, or is no list, or its version cannot grow.
    """
    try:
        found = Topology.from_dict(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise MembershipError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise MembershipError(f"{path} is no list of nodes: {error}: {_REMEDY}") from None
    if not can_grow(found):
        why = f"its version, {found.version}, is too close to {VERSION_MAX}, the largest"
        raise MembershipError(f"{path} cannot be followed: {why}: {_REMEDY}")
    return found


def can_grow(topology: Topology) -> bool:
    """Whether there can be newer lists: clients pass over one whose version is not larger."""
    return topology.version <= VERSION_MAX - VERSIONS_LEFT_MIN


def change_topology(path: Path, change: Callable[[Topology], Topology]) -> Topology:
    """Replace the list by what `change` makes of it; of several callers one at a time.

    Readers see the old file or the new one, also when this process is killed at any moment.

    Raises:
        MembershipError: the file cannot be read or written, or is no list, or somebody else keeps
            its lock.
    """
    try:
        lock_fd = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise MembershipError(f"{path} cannot be changed: {error.strerror}") from None
    try:
        if not _locked(lock_fd):
            raise MembershipError(f"{path} cannot be changed: another process keeps its lock")
        old = read_topology(path) or Topology(0)
        new = change(old)
        if new != old:
            replace_file(
                path, json.dumps(new.as_dict(), indent=1).encode() + b"\n", MembershipError
            )
        return new
    finally:
        os.close(lock_fd)


def _locked(lock_fd: int) -> bool:
    for _ in range(_LOCK_TRIES):
        with suppress(OSError):
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(_LOCK_PAUSE_S)
    return False

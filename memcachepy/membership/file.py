"""The list of nodes in a file of JSON, replaced whole by whoever changes it."""

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path

from memcachepy.errors import MembershipError
from memcachepy.topology import Topology


def read_topology(path: Path) -> Topology | None:
    """None if there is no such file.

    Raises:
        MembershipError: it cannot be read, or is no list.
    """
    try:
        return Topology.from_dict(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise MembershipError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise MembershipError(f"{path} is no list of nodes: {error}") from None


def change_topology(path: Path, change: Callable[[Topology], Topology]) -> Topology:
    """Replace the list by what `change` makes of it; of several callers one at a time.

    Readers see the old file or the new one, also when this process is killed at any moment.

    Raises:
        MembershipError: the file cannot be read or written, or is no list.
    """
    try:
        lock_fd = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise MembershipError(f"{path} cannot be changed: {error.strerror}") from None
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX)
        old = read_topology(path) or Topology(0)
        new = change(old)
        if new != old:
            _replace(path, json.dumps(new.as_dict(), indent=1).encode() + b"\n")
        return new
    finally:
        os.close(lock_fd)


def _replace(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise MembershipError(f"{path} cannot be written: {error.strerror}") from None

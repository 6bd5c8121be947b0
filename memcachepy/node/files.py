"""Small files about a running node: its process id, and the ports that it listens on."""

import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from memcachepy.log import fact
from memcachepy.node.limits import effective_user
from memcachepy.node.listeners import Listener

log = logging.getLogger("memcachepy.node")

PORTS_VARIABLE = "MEMCACHED_PORT_FILENAME"
"""The environment variable that names the file of ports, as with memcached."""

_FAMILIES = {socket.AF_INET: "TCP INET", socket.AF_INET6: "TCP INET6"}


@contextmanager
def pid_file(path: str | None) -> Iterator[None]:
    """A file that holds this process's id; gone at the end, unless another process has written it.

    Without it nothing is lost but its use: a file that cannot be written is a warning.
    """
    if path is None:
        yield
        return
    file = Path(path)
    own = f"{os.getpid()}\n"
    running = _running_pid(file)
    if running:
        log.warning(fact("the pid file names a process that runs", path=path, pid=running))
    is_written = _try_to_replace(file, own, ".tmp")
    try:
        yield
    finally:
        if is_written:
            try:
                if file.read_text() == own:
                    file.unlink()
            except OSError as error:
                log.warning(fact("pid file stays", path=path, reason=error.strerror))


def _running_pid(file: Path) -> int:
    """Of another process that the file names; 0: of none."""
    with suppress(OSError, ValueError):
        pid = int(file.read_text())
        if pid > 0 and pid != os.getpid():
            os.kill(pid, 0)
            return pid
    return 0


def write_port_file(
    listeners: Sequence[Listener], environ: Mapping[str, str], user: str | None
) -> None:
    """The ports really opened, a line for each, where the environment asks for them.

    Args:
        listeners: in their order.
        environ: all of the environment.
        user: whom root will become; the file is made by that user if root may not.
    """
    path = environ.get(PORTS_VARIABLE)
    lines = [
        f"{_FAMILIES[listener.socket.family]}: {listener.port}\n"
        for listener in listeners
        if listener.port
    ]
    if not path or not lines:
        return
    try:
        _replace(Path(path), "".join(lines), ".lck")
    except PermissionError:
        with effective_user(user):
            _try_to_replace(Path(path), "".join(lines), ".lck")
    except OSError as error:
        log.warning(fact("file cannot be written", path=path, reason=error.strerror))


def _replace(file: Path, text: str, suffix: str) -> None:
    """Write it whole or not at all; who reads it never sees a part. Raises OSError."""
    new = file.with_name(file.name + suffix)
    new.write_text(text)
    new.replace(file)


def _try_to_replace(file: Path, text: str, suffix: str) -> bool:
    try:
        _replace(file, text, suffix)
    except OSError as error:
        log.warning(fact("file cannot be written", path=file, reason=error.strerror))
        return False
    return True

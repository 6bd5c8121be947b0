"""A real node in a process of its own, with one that watches it from inside the same memory.

`memcachepy serve` is run as it is, but for two things: right after it has created its segment it
forks the watcher, which therefore shares the segment and can check it when all others have ended;
and the supervisor does not back off when children die often, for here that is the plan.
"""

import os
import select
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from memcachepy import _core
from memcachepy.config import NodeConfig
from memcachepy.node import boot, supervisor
from memcachepy.node.listeners import Listener


@dataclass(frozen=True, slots=True)
class Node:
    """What the watcher sees of the node."""

    segment: _core.Segment
    pid: int
    port: int
    pidfd: int

    def has_ended(self, timeout_s: float = 0.0) -> bool:
        return bool(select.select([self.pidfd], [], [], timeout_s)[0])

    def children(self) -> list[tuple[int, str]]:
        """Process ids and names of its children, but for the watcher."""
        return [found for found in children_of(self.pid) if found[0] != os.getpid()]

    def stop(self, timeout_s: float = 20.0) -> bool:
        """False: it did not stop in time."""
        signal.pidfd_send_signal(self.pidfd, signal.SIGTERM)
        return self.has_ended(timeout_s)


def children_of(pid: int) -> list[tuple[int, str]]:
    found = []
    with suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with suppress(OSError):
                found.append((int(child), Path(f"/proc/{child}/comm").read_text().strip()))
    return found


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def run_watched(
    config: NodeConfig, log: Path, watch: Callable[[Node], None], fds: list[int]
) -> int:
    """Fork a node and, from it, its watcher; returns the node's process id.

    Args:
        config: the node's settings.
        log: where its log goes.
        watch: the watcher's whole life.
        fds: descriptors that only the watcher needs.
    """
    pid = os.fork()
    if pid == 0:
        _run_node(config, log, watch, fds)
    return pid


def _run_node(
    config: NodeConfig, log: Path, watch: Callable[[Node], None], fds: list[int]
) -> NoReturn:
    status = 1
    try:
        open_segment = boot._open_segment

        def open_watched(config: NodeConfig, listeners: Sequence[Listener]) -> _core.Segment:
            segment = open_segment(config, listeners)
            node_pid = os.getpid()
            if os.fork() == 0:
                _run_watcher(segment, node_pid, listeners, watch, fds)
            for fd in fds:
                os.close(fd)
            return segment

        boot._open_segment = open_watched
        supervisor.BACKOFF_S = 0.0
        log_fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log_fd, 2)
        status = boot.run_node(config)
    except Exception as error:
        print(f"the node failed: {error}", file=sys.stderr)
    finally:
        os._exit(status)


def _run_watcher(
    segment: _core.Segment,
    node_pid: int,
    listeners: Sequence[Listener],
    watch: Callable[[Node], None],
    fds: list[int],
) -> NoReturn:
    try:
        port = next(listener.port for listener in listeners if listener.port)
        kept = sorted({segment.fd, *fds})
        for first, last in zip([2, *kept], [*kept, 1024], strict=True):
            os.closerange(first + 1, last)
        # A test's own may have been among what was closed.
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        watch(Node(segment, node_pid, port, os.pidfd_open(node_pid)))
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os.kill(node_pid, signal.SIGTERM)
    finally:
        sys.stdout.flush()
        os._exit(0)

"""One forked process of a node: how it starts, reports and ends."""

import os
import resource
import select
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NoReturn

STATUS_FAILED = 70
"""Exit status of a child that raised; its reason is in the report pipe."""

READY = b"ready"
SETTLED = b"settled"
"""From the discovery process, later: it has joined the cluster, or knows that it cannot now."""
SIGNALS = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGUSR1,
    signal.SIGHUP,
    signal.SIGCHLD,
)
"""What the supervisor acts on."""
_IGNORED_BY_CHILDREN = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


@dataclass(slots=True)
class Child:
    """A process slot of the segment and the process that fills it now.

    The wake descriptor belongs to the slot and outlives its processes.
    """

    slot: int
    name: str
    keep_fds: Iterable[int]
    """What the process needs; everything else is closed in it."""
    run: Callable[[], int]
    """The loop; runs in the child, its result is the exit status."""
    prepare: Callable[[], None] = lambda: None
    """Called in the child before its loop."""
    wake_fd: int = field(default_factory=lambda: os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
    pid: int = 0
    """0 while no process fills the slot."""
    is_ready: bool = False
    """A process of this slot has reported that it enters its loop."""
    is_suspect: bool = False
    """It was killed while it ran with a lock and did not get on: for going round in circles."""
    failure: str = ""
    """Why one could not start, in its own words."""
    started_at_s: float = 0.0

    def fork(self, report_fd: int) -> None:
        """Fill the slot with a new process.

        Signals wait meanwhile: one that came to the child before it ignores them would be
        recorded in the supervisor's own wake-up socket, as if sent twice.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            self.pid = os.fork()
            if self.pid == 0:
                self._live(report_fd)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        self.is_suspect = False
        self.started_at_s = time.monotonic()

    def _live(self, report_fd: int) -> NoReturn:
        """The child's whole life."""
        status = STATUS_FAILED
        try:
            close_signals()
            _close_all_but([report_fd, self.wake_fd, *self.keep_fds])
            self.prepare()
            report(report_fd, self.slot, READY)
            status = self.run()
        except BaseException as error:
            reason = str(error) or type(error).__name__
            with suppress(OSError):
                report(report_fd, self.slot, reason.encode(errors="replace"))
        finally:
            os._exit(status)

    def wake(self) -> None:
        """Make its loop look at the segment's state."""
        with suppress(BlockingIOError):
            os.eventfd_write(self.wake_fd, 1)

    def kill(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)


def close_signals() -> None:
    """In a forked child: let none of the supervisor's signals reach it, or its handlers."""
    signal.set_wakeup_fd(-1)
    for number in _IGNORED_BY_CHILDREN:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _close_all_but(keep_fds: Iterable[int]) -> None:
    """Close every descriptor above the standard ones except these."""
    first = 3
    for fd in sorted(set(keep_fds)):
        if first < fd:  # closerange(0, 0) closes everything in some Pythons.
            os.closerange(first, fd)
        first = max(first, fd + 1)
    os.closerange(first, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def report(report_fd: int, slot: int, text: bytes) -> None:
    """One line, short enough that a pipe takes it whole among those of others."""
    line = b"%d %s" % (slot, text.replace(b"\n", b" "))
    os.write(report_fd, line[: select.PIPE_BUF - 1] + b"\n")

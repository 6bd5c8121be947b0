"""One node's process: started or found, watched through a pidfd, ended.

Lives in the loop of the cluster's supervisor. A node has a session of its own: Ctrl-C at the
terminal is for the supervisor, which then ends the nodes in order, and whoever kills the
supervisor does not kill the nodes. The next supervisor finds them by their command line
(`StateFolder.running_nodes`) and looks after them as if it had started them; only their exit
status it cannot learn.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

from memcachepy.config import ENVIRONMENT_PREFIX
from memcachepy.errors import ClusterError

STOP_TIMEOUT_S = 8.0
"""A node ends within 5 s of a SIGTERM; what is still there then is killed."""
LEAVE_S = 1.0
"""How long connections that are open may go on once a node accepts no more."""
_ORPHANS_END_S = 1.0


class NodeProcess:
    """A process that lives, or has ended as `ended` says. To be closed in any case."""

    def __init__(self, pid: int, pidfd: int, child: subprocess.Popen[bytes] | None) -> None:
        self.pid = pid
        self.started_at_s = time.monotonic()
        self.exit_text = ""
        """How it ended: a signal's name or an exit status; `?` if somebody else's child."""
        self._pidfd = pidfd
        self._child = child
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(pidfd, self._on_end)

    @classmethod
    def start(cls, words: list[str], log_fd: int, environ: Mapping[str, str], folder: Path) -> Self:
        """Run a program whose output goes into the log.

        Raises:
            ClusterError: the system does not start one more.
        """
        try:
            child = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log_fd,
                stderr=log_fd,
                env=environ,
                cwd=folder,
                start_new_session=True,
            )
            # A child that has ended stays a zombie until poll(): the number is still its own.
            return cls(child.pid, os.pidfd_open(child.pid), child)
        except OSError as error:
            raise ClusterError(f"a process cannot be started: {error.strerror}") from None

    @classmethod
    def adopt(cls, pid: int, is_still: Callable[[int], bool]) -> Self | None:
        """Look after a process that somebody else has started; None if it has ended.

        Args:
            pid: found a moment ago.
            is_still: whether the number still means the process that was found; asked when the
                descriptor is open, so that what it finds is what the descriptor means.
        """
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return None
        if not is_still(pid):
            os.close(pidfd)
            return None
        return cls(pid, pidfd, None)

    @property
    def is_alive(self) -> bool:
        return not self.ended.done()

    @property
    def is_own_child(self) -> bool:
        return self._child is not None

    @property
    def uptime_s(self) -> float:
        """Since it was started here, or found."""
        return time.monotonic() - self.started_at_s

    def send(self, number: int) -> None:
        """A signal, if it lives."""
        if self.is_alive:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def kill(self) -> None:
        """The whole node at once, its stopped workers, too."""
        if self.is_alive:
            self._kill_group()
            self.send(signal.SIGKILL)

    async def stop(self, *, gently: bool) -> None:
        """End it, and wait until it has.

        Args:
            gently: let open connections come to their end for a moment.
        """
        if gently:
            self.send(signal.SIGUSR1)
            await self._has_ended_within(LEAVE_S)
        self.send(signal.SIGTERM)
        self.send(signal.SIGCONT)
        if not await self._has_ended_within(STOP_TIMEOUT_S):
            self.kill()
            await asyncio.shield(self.ended)

    async def _has_ended_within(self, seconds: float) -> bool:
        await asyncio.wait([self.ended], timeout=seconds)
        return not self.is_alive

    def close(self) -> None:
        """Look after it no longer; it lives on."""
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        if self._child is not None:
            self._child.returncode = self._child.returncode or 0  # No word about an orphan.

    def _on_end(self) -> None:
        # What is left of a killed node ends by itself, unless it is stopped and holds the port.
        # Our own child is not reaped yet, so its group's number is nobody else's.
        self._kill_group()
        if self._child is not None:
            status = self._child.wait()
            self.exit_text = _signal_name(-status) if status < 0 else str(status)
        else:
            self.exit_text = "?"
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        self._loop.call_later(_ORPHANS_END_S, _reap_group, self.pid)
        self.ended.set_result(None)

    def _kill_group(self) -> None:
        with suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)


def _reap_group(pid: int) -> None:
    """Of a killed node, when we are process 1 of a container: its children have become ours."""
    with suppress(ChildProcessError):
        while os.waitpid(-pid, os.WNOHANG)[0]:
            pass


def serve_words(settings_path: Path) -> list[str]:
    """The command line of a node; `StateFolder.running_nodes` looks for it."""
    return [sys.executable, "-m", "memcachepy", "serve", "--config", str(settings_path)]


def node_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """What a node gets of our environment: its settings are in its file, all of them."""
    ours = (ENVIRONMENT_PREFIX, "NOTIFY_SOCKET", "WATCHDOG_")
    return {name: value for name, value in environ.items() if not name.startswith(ours)}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"

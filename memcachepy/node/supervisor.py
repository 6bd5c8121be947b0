"""The parent of a node's processes: forks them, replaces them when they die, ends them.

    signals ──► wake-up socket ─┐
    children ──► report pipe ───┼─► one loop ──► one method per event
    deadlines (respawn, stop, ──┘
      a look at who holds a lock)

Handlers only record: the interpreter writes each signal's number into a socket, and the loop acts.
The loop sleeps until something comes or a deadline is due; once a second it looks whether a process
holds a lock without running (`watch`). There is no second thread, so that
forking is safe at any time.

Descriptors that must survive a child belong to the supervisor: the listening sockets, both ends of
each worker's channel (what waits in it goes to the next process of that slot), an eventfd per slot
to wake it, and a pipe whose writing end nobody else holds, so that its end tells every child that
the supervisor is gone.

A node that joins a cluster has one process more, which knows the cluster (`discovery`). It is
forked once the node serves, and when the node is to stop, it is told first: it takes the node out
of the list, and ends, while the others still serve.
"""

import gc
import logging
import os
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from resource import struct_rusage
from types import FrameType, TracebackType
from typing import Self

from memcachepy import _core
from memcachepy.errors import BootError
from memcachepy.log import fact, start_again
from memcachepy.node.aside import recover
from memcachepy.node.child import READY, SETTLED, SIGNALS, Child, report
from memcachepy.node.control import Control
from memcachepy.node.discovery import Discovery
from memcachepy.node.guard import Guard
from memcachepy.node.listeners import Listener

log = logging.getLogger("memcachepy.supervisor")


ENTER_LOOP_S = 0.001
"""At the start only: how long to sleep while the last child enters its loop."""
STOP_TIMEOUT_S = 5.0
DRAIN_TIMEOUT_S = 30.0
LEAVE_TIMEOUT_S = 5.0
"""To leave the cluster before the node stops: a question that is under way, and another one."""
DEATHS_MAX = 5
"""So many deaths within `DEATHS_WINDOW_S` make the next respawn wait for `BACKOFF_S`."""
DEATHS_WINDOW_S = 10.0
BACKOFF_S = 1.0
_FAULTS = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT)
"""A process that ends by one of these may have been led to it by a damaged word."""


class Supervisor:
    """Runs a node until it is told to stop. Not thread-safe; the process must have one thread.

    Args:
        segment: outlives the supervisor; the caller closes it.
        listeners: closed by `run` when the node drains or stops, or else by the caller.
        worker_count: processes that serve.
        on_ready: called once, when every child has entered its loop.
        clock: seconds, monotonic.
        control: answers other processes; closed by the supervisor, or else by the caller.
        on_drain: called when the node begins to drain.
        on_stop: called when it begins to stop, with the reason.
        on_tick: called once a second; does not wait.
        prepare_child: called in every child before it serves.
        discovery: makes, in its process, what joins the cluster; None if there is none to join.
        on_settled: called once after `on_ready`: the node is in its cluster, or cannot be now.
        kill_stuck_attached: whether an attached process found stuck is killed, as children are.
    """

    def __init__(
        self,
        segment: _core.Segment,
        listeners: Sequence[Listener],
        worker_count: int,
        on_ready: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        control: Control | None = None,
        kill_stuck_attached: bool = False,
        prepare_child: Callable[[], None] = lambda: None,
        on_drain: Callable[[], None] = lambda: None,
        on_stop: Callable[[str], None] = lambda _why: None,
        on_tick: Callable[[], None] = lambda: None,
        discovery: Callable[[], Discovery] | None = None,
        on_settled: Callable[[], None] = lambda: None,
    ) -> None:
        self._segment = segment
        self._listeners = listeners
        self._worker_count = worker_count
        self._on_ready = on_ready
        self._clock = clock
        self._control = control
        self._prepare_child = prepare_child
        self._on_drain = on_drain
        self._on_stop = on_stop
        self._on_tick = on_tick
        self._make_discovery = discovery
        self._on_settled = on_settled
        self._state = _core.RUNNING
        self._children: dict[int, Child] = {}
        self._deaths: deque[float] = deque(maxlen=DEATHS_MAX)
        self._respawns: dict[int, float] = {}
        self._unrecovered: set[int] = set()
        """Slots whose process has ended with a lock that a stopped process has taken over."""
        self._guard = Guard(segment, self._children, control, kill_stuck_attached, clock())
        self._give_up_at_s: float | None = None
        self._leaving: tuple[float, Callable[[], None]] | None = None
        """Until when the discovery process may take the node out of the list, and what then."""
        self._failure: str | None = None
        self._is_ready = False
        self._is_about_to_stop = False
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        """Open what the processes share; from here signals are recorded."""
        with self._resources as opening:
            self._selector = opening.enter_context(selectors.DefaultSelector())
            self._signals = self._record_signals(opening)
            self._report_fd, self._report_in_fd = _pipe(opening)
            self._liveness_fd, _ = _pipe(opening)
            self._channels = [_channel(opening) for _ in range(self._worker_count)]
            workers = range(_core.SLOT_WORKER_FIRST, _core.SLOT_WORKER_FIRST + self._worker_count)
            for child in (self._acceptor(), self._maintainer(), *map(self._worker, workers)):
                opening.callback(os.close, child.wake_fd)
                child.prepare = self._prepare_child
                self._children[child.slot] = child
            self._discovery = self._discovery_child()
            opening.callback(os.close, self._discovery.wake_fd)
            self._discovery.prepare = self._prepare_child
            self._selector.register(self._report_fd, selectors.EVENT_READ, self._on_reports)
            self._selector.register(self._signals, selectors.EVENT_READ, self._on_signals)
            if self._control:
                self._control.start(self._selector)
                opening.callback(self._control.close)
            self._resources = opening.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for child in self._alive():
            child.kill()
            os.waitpid(child.pid, 0)
        self._resources.close()

    def _record_signals(self, opening: ExitStack) -> socket.socket:
        reading, writing = socket.socketpair()
        opening.enter_context(reading).setblocking(False)
        opening.enter_context(writing).setblocking(False)
        wakeup_fd = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        opening.callback(signal.set_wakeup_fd, wakeup_fd)
        for number in SIGNALS:
            opening.callback(signal.signal, number, signal.signal(number, _recorded))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        return reading

    def _acceptor(self) -> Child:
        listener_fds = [listener.socket.fileno() for listener in self._listeners]
        channel_fds = [sending.fileno() for sending, _ in self._channels]

        def run() -> int:
            wake_fd = self._children[_core.SLOT_ACCEPTOR].wake_fd
            return self._segment.run_acceptor(
                _core.SLOT_ACCEPTOR, listener_fds, channel_fds, wake_fd, self._liveness_fd
            )

        keep_fds = [
            self._segment.fd,
            self._segment.run_fd,
            self._liveness_fd,
            *listener_fds,
            *channel_fds,
        ]
        return Child(_core.SLOT_ACCEPTOR, "acceptor", keep_fds, run)

    def _maintainer(self) -> Child:
        def run() -> int:
            wake_fd = self._children[_core.SLOT_MAINTAINER].wake_fd
            return self._segment.run_maintainer(_core.SLOT_MAINTAINER, wake_fd, self._liveness_fd)

        keep_fds = [self._segment.fd, self._segment.run_fd, self._liveness_fd]
        return Child(_core.SLOT_MAINTAINER, "maintainer", keep_fds, run)

    def _discovery_child(self) -> Child:
        def run() -> int:
            assert self._make_discovery is not None
            start_again()
            if not self._segment.start_child(_core.SLOT_DISCOVERY):
                return _core.EXIT_ORPHANED
            self._segment.set_serving(_core.SLOT_DISCOVERY)

            def on_settled() -> None:
                report(self._report_in_fd, _core.SLOT_DISCOVERY, SETTLED)

            return self._make_discovery().run(
                self._discovery.wake_fd, self._liveness_fd, on_settled
            )

        keep_fds = [self._segment.fd, self._segment.run_fd, self._liveness_fd]
        return Child(_core.SLOT_DISCOVERY, "discovery", keep_fds, run)

    def _worker(self, slot: int) -> Child:
        channel_fd = self._channel_fd(slot)

        def run() -> int:
            wake_fd = self._children[slot].wake_fd
            return self._segment.run_worker(slot, channel_fd, wake_fd, self._liveness_fd)

        keep_fds = [self._segment.fd, self._segment.run_fd, self._liveness_fd, channel_fd]
        return Child(slot, f"worker-{slot - _core.SLOT_WORKER_FIRST}", keep_fds, run)

    def _channel_fd(self, slot: int) -> int:
        """The receiving end of a worker's channel; -1 for other slots."""
        index = slot - _core.SLOT_WORKER_FIRST
        return self._channels[index][1].fileno() if index >= 0 else -1

    def _alive(self) -> Iterator[Child]:
        return (child for child in self._children.values() if child.pid)

    def run(self) -> None:
        """Fork the children and look after them until all have ended.

        Raises:
            BootError: a child could not start.
        """
        gc.collect()
        gc.freeze()  # What the children share with us is not touched by their collector.
        self._segment.claim_slot(_core.SLOT_SUPERVISOR)
        self._segment.set_state(_core.RUNNING)
        for child in self._children.values():
            try:
                child.fork(self._report_in_fd)
            except OSError as error:
                raise BootError(
                    f"cannot start {child.name}: {error.strerror}: raise the limit of processes "
                    "(ulimit -u, --pids-limit of docker) or lower -t"
                ) from None
        self._on_child_exit()  # A stranger may have ended before signals were recorded.
        while self._state != _core.STOPPING or any(self._alive()):
            for key, _ in self._selector.select(self._seconds_to_deadline()):
                key.data()
            self._on_deadlines()
            self._look_whether_all_serve()
            self._report_shortage()
        if self._failure:
            raise BootError(self._failure)
        log.info(fact("stopped"))

    @property
    def _is_starting(self) -> bool:
        return self._state == _core.RUNNING and not self._is_ready

    def _look_whether_all_serve(self) -> None:
        """A child reports just before it enters its loop; the loop itself says when it has."""
        if self._is_starting and all(map(self._segment.is_serving, self._children)):
            self._is_ready = True
            self._on_ready()
            self._join()

    def _join(self) -> None:
        """The node serves: from here on clients may be told of it."""
        if self._make_discovery is None:
            self._on_settled()
        else:
            self._children[_core.SLOT_DISCOVERY] = self._discovery
            self._respawn(self._discovery)

    def _seconds_to_deadline(self) -> float:
        if self._is_starting and all(child.is_ready for child in self._children.values()):
            return ENTER_LOOP_S
        deadlines = [self._guard.due_at_s, *self._respawns.values()]
        if self._give_up_at_s is not None:
            deadlines.append(self._give_up_at_s)
        if self._leaving is not None:
            deadlines.append(self._leaving[0])
        return max(0.0, min(deadlines) - self._clock())

    def _on_deadlines(self) -> None:
        now_s = self._clock()
        for slot, at_s in list(self._respawns.items()):
            if at_s <= now_s:
                del self._respawns[slot]
                self._respawn(self._children[slot])
        if self._guard.due_at_s <= now_s:
            self._guard.look(now_s)
            self._mend()
            if self._control:
                self._control.tick()
            self._on_tick()
        if self._leaving is not None and self._leaving[0] <= now_s:
            log.warning(fact("child killed", name="discovery", reason="leave timeout"))
            self._discovery.kill()
            self._have_left()
        if self._give_up_at_s is not None and self._give_up_at_s <= now_s:
            if self._state == _core.DRAINING:
                self._stop("drain timeout")
            else:
                self._kill("stop timeout")

    def _recover(self, child: Child) -> dict[str, int]:
        """Free what the slot's last process left; later, if a stopped process is in the way."""
        repaired = recover(
            self._segment, child.slot, self._channel_fd(child.slot), child.is_suspect
        )
        if repaired is None:
            self._unrecovered.add(child.slot)
            return {}
        self._unrecovered.discard(child.slot)
        return repaired

    def _respawn(self, child: Child) -> None:
        if child.slot in self._unrecovered:
            self._recover(child)
        if child.slot in self._unrecovered:
            self._respawns[child.slot] = self._clock() + BACKOFF_S
            return
        try:
            child.fork(self._report_in_fd)
        except OSError as error:
            log.error(fact("respawn failed", name=child.name, reason=error.strerror))
            self._respawns[child.slot] = self._clock() + BACKOFF_S

    def _on_signals(self) -> None:
        for number in self._signals.recv(4096):
            match number:
                case signal.SIGCHLD:
                    self._on_child_exit()
                case signal.SIGTERM | signal.SIGINT if self._state == _core.STOPPING:
                    self._kill(f"second {signal.Signals(number).name}")
                case signal.SIGTERM | signal.SIGINT if self._is_about_to_stop:
                    self._have_left()
                case signal.SIGTERM | signal.SIGINT:
                    self._leave_and_stop(signal.Signals(number).name)
                case signal.SIGUSR1:
                    self._leave_and_drain()
                case signal.SIGHUP:
                    log.info(fact("signal ignored", signal="SIGHUP", reason="no reload yet"))

    def _on_reports(self) -> None:
        try:
            lines = os.read(self._report_fd, 1 << 16).splitlines()
        except BlockingIOError:
            return
        for line in lines:
            slot, _, text = line.partition(b" ")
            child = self._children[int(slot)]
            if text == READY:
                child.is_ready = True
                log.debug(fact("child ready", name=child.name, pid=child.pid))
            elif text == SETTLED:
                on_settled, self._on_settled = self._on_settled, lambda: None
                on_settled()
            else:
                child.failure = text.decode(errors="replace")
                log.error(fact("child failed", name=child.name, reason=child.failure))

    def _on_child_exit(self) -> None:
        """Several deaths may stand behind one signal; as PID 1 we reap strangers, too."""
        self._on_reports()
        while True:
            try:
                pid, wait_status, rusage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for child in self._alive():
                if child.pid == pid:
                    self._bury(child, os.waitstatus_to_exitcode(wait_status), rusage)
                    break
            else:
                log.debug(fact("stranger reaped", pid=pid))

    def _bury(self, child: Child, status: int, rusage: struct_rusage) -> None:
        """A child has ended: clean up what it left in the segment, and replace it if need be."""
        has_served = self._is_ready or self._segment.is_serving(child.slot)
        child.is_suspect = child.is_suspect or -status in _FAULTS
        repaired = self._recover(child)
        self._segment.add_child_rusage(rusage.ru_utime, rusage.ru_stime)
        facts: dict[str, object] = {
            "name": child.name,
            "pid": child.pid,
            "status": _signal_name(-status) if status < 0 else status,
            "uptime_s": time.monotonic() - child.started_at_s,
        }
        child.pid = 0
        if child is self._discovery and self._leaving is not None:
            log.debug(fact("child stopped", **facts))
            self._have_left()
        elif self._state != _core.RUNNING and status == _core.EXIT_STOPPED:
            log.debug(fact("child stopped", **facts))
        elif self._is_needed(child) and has_served:
            delay_s = self._respawn_delay_s()
            self._respawns[child.slot] = self._clock() + delay_s
            facts |= {name: count for name, count in repaired.items() if count}
            log.warning(fact("child exited", **facts, respawn_in_s=delay_s))
        elif self._is_needed(child):
            log.error(fact("child never served", **facts))
            reason = child.failure or f"it ended with status {facts['status']}"
            self._failure = f"{child.name} could not start: {reason}"
            self._stop("a child never served")
        else:
            log.warning(fact("child exited", **facts))
        serving = any(map(_is_worker, (*self._respawns, *(child.slot for child in self._alive()))))
        if self._state == _core.DRAINING and not serving:
            self._stop("drained")

    def _is_needed(self, child: Child) -> bool:
        """Whether an unexpected death calls for a new process: only workers go on in a drain."""
        is_draining = self._state == _core.DRAINING and _is_worker(child.slot)
        return self._state == _core.RUNNING or is_draining

    def _respawn_delay_s(self) -> float:
        now_s = self._clock()
        self._deaths.append(now_s)
        if len(self._deaths) < DEATHS_MAX or now_s - self._deaths[0] > DEATHS_WINDOW_S:
            return 0.0
        log.warning(
            fact("respawn backs off", deaths=DEATHS_MAX, within_s=DEATHS_WINDOW_S, for_s=BACKOFF_S)
        )
        return BACKOFF_S

    def _leave_and_stop(self, why: str) -> None:
        self._is_about_to_stop = True
        self._leave_then(lambda: self._stop(why))

    def _leave_and_drain(self) -> None:
        if self._state == _core.RUNNING and self._leaving is None:
            self._leave_then(self._drain)

    def _leave_then(self, act: Callable[[], None]) -> None:
        """Do it when the node is out of the list that clients ask for, or that takes too long."""
        if self._leaving is not None:
            self._leaving = self._leaving[0], act
        elif self._discovery.pid and self._state == _core.RUNNING:
            log.info(fact("leaving the cluster"))
            self._leaving = self._clock() + LEAVE_TIMEOUT_S, act
            self._discovery.wake()
        else:
            self._respawns.pop(_core.SLOT_DISCOVERY, None)
            act()

    def _have_left(self) -> None:
        if self._leaving is not None:
            _, act = self._leaving
            self._leaving = None
            self._make_discovery = None
            self._respawns.pop(_core.SLOT_DISCOVERY, None)
            act()

    def _drain(self) -> None:
        """Accept nothing more and serve what is open, until it closes or the deadline."""
        if self._state != _core.RUNNING:
            return
        log.info(fact("draining", signal="SIGUSR1", connections=self._segment.connection_count()))
        self._on_drain()
        self._give_up_at_s = self._clock() + DRAIN_TIMEOUT_S
        for slot in (_core.SLOT_ACCEPTOR, _core.SLOT_MAINTAINER):
            self._respawns.pop(slot, None)
        self._change_state(_core.DRAINING)

    def _stop(self, why: str) -> None:
        """Have every child answer what it received, flush, close and end, within the deadline."""
        if self._state == _core.STOPPING:
            return
        log.info(fact("stopping", reason=why))
        self._give_up_at_s = self._clock() + STOP_TIMEOUT_S
        self._change_state(_core.STOPPING)
        self._respawns.clear()
        self._on_stop(why)

    def _change_state(self, state: int) -> None:
        self._state = state
        for listener in self._listeners:
            listener.close()
        self._segment.set_state(state)
        for child in self._alive():
            child.wake()

    def _kill(self, why: str) -> None:
        """End whoever is left, at once."""
        self._give_up_at_s = None
        for child in self._alive():
            log.warning(fact("child killed", name=child.name, pid=child.pid, reason=why))
            child.kill()

    def _mend(self) -> None:
        """Write again what only we say, and tell of what others have damaged."""
        self._segment.set_state(self._state)
        locks, rebuilt, emptied, shard, counts_are_wrong = self._segment.mend()
        if counts_are_wrong:
            for child in self._alive():
                child.wake()
        if locks:
            log.warning(fact("locks mended", count=locks, reason="no process holds them"))
        if rebuilt:
            log.warning(fact("shards rebuilt", count=rebuilt, reason="their words made no sense"))
        if emptied:
            reason = "it could not be repaired"
            log.error(fact("shard emptied", count=emptied, last_shard=shard, reason=reason))

    def _report_shortage(self) -> None:
        if shortage := self._segment.take_shortage():
            log.warning(fact("memory is short", reason=shortage))
        lasted_s = self._segment.take_recovery()
        if lasted_s is not None:
            log.info(fact("memory limit is whole again", short_s=lasted_s))


def _is_worker(slot: int) -> bool:
    return slot >= _core.SLOT_WORKER_FIRST


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def _recorded(_number: int, _frame: FrameType | None) -> None:
    """The interpreter has written the number to the wake-up socket before it calls this."""


def _pipe(opening: ExitStack) -> tuple[int, int]:
    """Both ends, non-blocking to read, closed with the stack."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    opening.callback(os.close, reading)
    opening.callback(os.close, writing)
    return reading, writing


def _channel(opening: ExitStack) -> tuple[socket.socket, socket.socket]:
    """Sending and receiving end, non-blocking, closed with the stack."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    for end in pair:
        opening.enter_context(end).setblocking(False)
    return pair

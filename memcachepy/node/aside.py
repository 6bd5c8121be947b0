"""What the supervisor has a short-lived child do: all that follows references of the segment.

A process that maps the segment may have written over any word of it. Whoever repairs what that left
may die of it, and if that were the supervisor, all data would be gone. So a child of its own does
it, while the supervisor waits: a repair takes a millisecond or two, the fork not much more.
"""

import json
import logging
import os
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from memcachepy import _core
from memcachepy.log import fact
from memcachepy.node.child import SIGNALS, close_signals

log = logging.getLogger("memcachepy.supervisor")

TIMEOUT_S = 5.0
"""A child that takes longer goes round in circles, or waits for a stopped process."""
RECOVER_TRIES = _core.REPAIR_ATTEMPTS_MAX + 2
"""A shard that ends so many repairs is emptied by the next."""


class ChildDied(Exception):
    """The child did not live to answer; the message says how it ended."""


def run_aside(segment: _core.Segment, work: Callable[[], object]) -> object:
    """Call `work` in a forked child and return what it returned, which JSON must be able to say.

    Signals wait meanwhile, as in `Child.fork`.

    Raises:
        ChildDied: it was killed, raised something, or took too long.
        OSError: there is no child, or no pipe, to be had.
    """
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0):
        try:
            pid = _fork(segment, work, writing)
        finally:
            os.close(writing)
        try:
            answer = _read_all(reading, time.monotonic() + TIMEOUT_S)
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # It has answered, or it never will.
            _, wait_status = os.waitpid(pid, 0)
    if not answer.endswith(b"\n"):
        raise ChildDied(f"status {os.waitstatus_to_exitcode(wait_status)}")
    return json.loads(answer)


def _fork(segment: _core.Segment, work: Callable[[], object], writing: int) -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        pid = os.fork()
        if pid == 0:
            _live(segment, work, writing)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    return pid


def _live(segment: _core.Segment, work: Callable[[], object], writing: int) -> NoReturn:
    """The child's whole life."""
    try:
        close_signals()
        if segment.die_with_supervisor():
            os.write(writing, json.dumps(work()).encode() + b"\n")
    finally:
        os._exit(1)


def _read_all(reading: int, until_s: float) -> bytes:
    """Up to the end, or to the moment."""
    received = b""
    while (left_s := until_s - time.monotonic()) > 0 and not received.endswith(b"\n"):
        if not select.select([reading], [], [], left_s)[0]:
            break
        data = os.read(reading, 1 << 16)
        if not data:
            break
        received += data
    return received


def recover(
    segment: _core.Segment, slot: int, channel_fd: int = -1, is_suspect: bool = False
) -> dict[str, int] | None:
    """`Segment.recover`, in a child; another one if that dies of it.

    Returns:
        None, too, if all of them did: to be tried again.
    """
    segment.end_slot(slot)
    for _ in range(RECOVER_TRIES):
        try:
            repaired = run_aside(segment, lambda: segment.recover(slot, channel_fd, is_suspect))
        except ChildDied as error:
            log.warning(fact("recovery failed", slot=slot, reason=str(error)))
        except OSError as error:
            log.error(fact("recovery failed", slot=slot, reason=error.strerror))
            return None
        else:
            if repaired is not None:
                segment.close_slot(slot)
            return repaired  # type: ignore[return-value]
    return None

"""The thread that asks for the list of nodes again and again."""

import logging
import threading
import weakref
from typing import Protocol

from memcachepy.client.discovery import PollSchedule

_log = logging.getLogger("memcachepy.client")


class Polled(Protocol):
    """What is polled for."""

    def poll(self) -> tuple[bool, bool]:
        """Ask for the list and follow it: whether anybody answered, whether the list changed."""


class Poller:
    """A daemon thread, which ends when it is told to or when nobody has the client any more.

    A forked child has none of its parent's threads, so it needs a poller of its own.
    """

    def __init__(self, client: Polled, schedule: PollSchedule) -> None:
        self._client = weakref.ref(client, self._gone)
        self._schedule = schedule
        self._lock = threading.Lock()
        self._stopped = False
        self._wakeup = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memcachepy-poll", daemon=True)
        self._thread.start()

    def hasten(self) -> None:
        """A node has failed: ask soon."""
        with self._lock:
            if self._schedule.hasten():
                self._wakeup.set()

    def stop(self) -> None:
        """Does not wait for a poll that is under way."""
        self._stopped = True
        self._wakeup.set()

    def _gone(self, _: object) -> None:
        self.stop()

    def _run(self) -> None:
        while True:
            with self._lock:
                due_in_s = self._schedule.due_in_s()
            if self._wakeup.wait(due_in_s):
                self._wakeup.clear()
            if self._stopped:
                return
            with self._lock:
                if self._schedule.due_in_s() > 0:
                    continue
            client = self._client()
            if client is None:
                return
            try:
                answered, changed = client.poll()
            except Exception:
                # A thread's outermost edge: without it the list would be as it is for ever.
                _log.exception("asking for the list of nodes failed")
                answered = changed = False
            # Not to keep it alive until the next poll.
            del client
            with self._lock:
                self._schedule.polled(answered=answered, changed=changed)

"""What is done about processes that hold a lock and do not run. Part of the supervisor's loop."""

import logging
from collections.abc import Mapping
from pathlib import Path

from memcachepy import _core
from memcachepy.log import fact
from memcachepy.node.child import Child
from memcachepy.node.control import Control
from memcachepy.node.watch import Holder, Watch

log = logging.getLogger("memcachepy.supervisor")

_REASON = "it holds a lock and does not run"


class Guard:
    """Only the holder pays: whoever gets its lock next undoes what it had begun.

    Args:
        segment: tells who holds locks.
        children: by slot; killed when they are stuck.
        control: knows attached processes.
        kill_attached: whether they are killed, too.
        now_s: on the clock of `look`: monotonic.
    """

    def __init__(
        self,
        segment: _core.Segment,
        children: Mapping[int, Child],
        control: Control | None,
        kill_attached: bool,
        now_s: float,
    ) -> None:
        self._segment = segment
        self._children = children
        self._control = control
        self._kill_attached = kill_attached
        self._watch = Watch(now_s)

    @property
    def due_at_s(self) -> float:
        """When `look` should be called next."""
        return self._watch.due_at_s

    def look(self, now_s: float) -> None:
        holders = [Holder(*found) for found in self._segment.lock_holders()]
        stuck, freed = self._watch.tick(now_s, holders)
        for holder in freed:
            self._on_stuck(holder, False)
        for holder in stuck:
            self._on_stuck(holder, True)

    def _on_stuck(self, holder: Holder, is_stuck: bool) -> None:
        child = self._children.get(holder.slot)
        if child is None:
            self._on_stuck_attached(holder, is_stuck)
        elif is_stuck and child.pid == holder.pid:
            facts = {"name": child.name, "pid": child.pid, "lock": holder.lock}
            log.warning(fact("child killed", **facts, reason=_REASON))
            child.is_suspect = not _is_stopped(child.pid)
            child.kill()

    def _on_stuck_attached(self, holder: Holder, is_stuck: bool) -> None:
        """It is somebody else's process, perhaps in a debugger: named, and left alone."""
        facts: dict[str, object] = {"pid": holder.pid, "lock": holder.lock}
        self._segment.set_stuck(holder.slot, is_stuck)
        peer = self._control.peer_in(holder.slot) if self._control else None
        if not is_stuck:
            log.info(fact("attached process no longer stuck", **facts))
        elif not self._kill_attached or self._control is None or peer is None:
            log.warning(fact("attached process stuck", **facts, reason=_REASON))
        else:
            try:
                self._control.kill(peer)
                log.warning(fact("attached process killed", **facts, reason="stuck with a lock"))
            except OSError as error:
                log.error(fact("attached process stuck", **facts, reason=error.strerror))


def _is_stopped(pid: int) -> bool:
    """By a signal or a debugger, as the kernel says; then it is not to blame."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat[stat.rfind(b")") + 2 : stat.rfind(b")") + 3] in b"tT"

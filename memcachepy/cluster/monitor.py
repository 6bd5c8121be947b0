"""What is done about nodes that die, hang and come back: decisions only, on the caller's clock.

    the node's process ended   ──►             ┌──► START     a process in the place of the last
    a check has found ...      ──►   Monitor  ─┼──► KILL      a process that serves nobody
    time passes                ──►             ├──► TAKE_OUT  of the list that clients get
                                               └──► PUT_BACK  into it

- A node that dies is started again at once; after several deaths in a few minutes, later.
- A node that is not there, because it died or because its checks fail, stays in the list for a
  grace period: its keys are misses meanwhile, which is better than moving them twice.
- After that it is taken out, but in any minute no more than a fifth of the list, at least one node,
  and never the last one. When nobody seems to be there, it is more likely that the monitor is
  wrong than that everybody is gone. Operators are not held to this; they do not ask the monitor.
- A process that hangs is killed only once its node is out of the list, so the same limit holds for
  it (the last node of a list is killed where it is). One that is stopped by a signal is not killed:
  somebody stopped it, and may be looking at it.
- A node that was out of the list returns only with a new process, and so without items: those of
  the old one may have been changed elsewhere meanwhile. Where the list was lost, no more nodes that
  seem to be in none are killed than may be taken out.

Time counts only while the monitor runs: between two calls no more than `STEP_S` passes for it,
whatever the clock says. After Ctrl-Z, or on a machine that was paused, nobody's grace is over.
"""

import enum
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from memcachepy.cluster.health import Health
from memcachepy.errors import ConfigError

STEP_S = 5.0
STABLE_S = 5.0
"""So long a node must be healthy before it counts as there again."""
FAILED_CHECKS = 3
"""So many failed checks in a row before a node counts as not there."""
DEATHS_AT_ONCE = 3
"""So many deaths within `DEATHS_WINDOW_S` are answered at once, the next ones ever later."""
DEATHS_WINDOW_S = 300.0
BACKOFF_S_MAX = 30.0


@dataclass(frozen=True, slots=True)
class Limits:
    """How patient the monitor is."""

    grace_s: float = 60.0
    """How long a node that is not there stays in the list."""
    percent_max: int = 20
    """Of the list's nodes, so many may be taken out within `window_s`, and one in any case."""
    window_s: float = 60.0

    def __post_init__(self) -> None:
        if not 0 <= self.grace_s <= 86400:
            raise ConfigError("grace", self.grace_s, "must be 0 to 86400 seconds")


class Kind(enum.Enum):
    """What is to be done to a node."""

    START = "start"
    KILL = "kill"
    TAKE_OUT = "take out"
    PUT_BACK = "put back"


class Action(NamedTuple):
    """One thing to be done, and why: to be read behind the node's name, as in "died"."""

    kind: Kind
    node_id: str
    reason: str


class State(enum.Enum):
    """How a node is, for people."""

    HEALTHY = "healthy"
    STARTING = "starting"
    FAILING = "failing"
    """Its process runs, and its checks fail."""
    DOWN = "down"
    RETURNING = "returning"
    """Healthy again, but not for long."""


@dataclass(slots=True)
class _Node:
    node_id: str
    is_listed: bool
    is_running: bool
    is_new: bool
    """Its process was started after it was last in the list."""
    absent_since_s: float | None
    reason: str
    started_at_s: float
    healthy_since_s: float | None = None
    failed_checks: int = 0
    failing_since_s: float = 0.0
    start_at_s: float | None = None
    is_being_killed: bool = False
    is_counted: bool = False
    """Its way out of the list has been counted, or was somebody else's doing."""
    deaths_at_s: deque[float] = field(default_factory=lambda: deque(maxlen=16))


class Monitor:
    """Told what happens to nodes; says in `tick` what to do, and takes it for done.

    Args:
        limits: how patient it is.
        clock: seconds, monotonic.
        is_stopped: whether a signal or a debugger has stopped a node's process.
    """

    def __init__(
        self,
        limits: Limits,
        clock: Callable[[], float],
        is_stopped: Callable[[str], bool] = lambda _node_id: False,
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._is_stopped = is_stopped
        self._nodes: dict[str, _Node] = {}
        self._looked_at_s = clock()
        self._now_s = 0.0
        """Time in which the monitor ran."""
        self._taken_out_at_s: deque[float] = deque()
        self._quiet_until_s = 0.0
        """Until then nobody is taken out."""

    def follow_another(self) -> None:
        """Somebody else was the monitor a moment ago, and may have taken out what is allowed."""
        self._quiet_until_s = self._advance() + self._limits.window_s

    def watch(
        self,
        node_id: str,
        *,
        is_listed: bool,
        is_running: bool = True,
        is_list_doubtful: bool = False,
    ) -> None:
        """Look after a node from now on, as if nothing was known of it.

        Args:
            node_id: its name in all that follows.
            is_listed: whether clients are told of it. If not, it is put back with a new process.
            is_running: whether it has a process; if not, it gets one.
            is_list_doubtful: whether clients may still ask it, though it is in no list.
        """
        now_s = self._advance()
        node = _Node(
            node_id,
            is_listed,
            is_running,
            is_new=False,
            absent_since_s=now_s,
            reason="was never seen to serve",
            started_at_s=now_s,
            is_counted=not is_list_doubtful,
        )
        if not is_running:
            node.reason = "has no process"
            node.start_at_s = now_s
        self._nodes[node_id] = node

    def forget(self, node_id: str) -> None:
        """Whoever stops a node, or replaces it, does this first: no death is noticed then."""
        self._nodes.pop(node_id, None)

    def not_done(self, action: Action) -> None:
        """What `tick` said could not be done; it will say so again."""
        node = self._nodes.get(action.node_id)
        if node is None:
            return
        match action.kind:
            case Kind.START:
                self.on_died(node.node_id, node.reason)
            case Kind.KILL:
                node.is_being_killed = False
            case Kind.TAKE_OUT:
                node.is_listed = True
            case Kind.PUT_BACK:
                node.is_listed = False

    def on_started(self, node_id: str) -> None:
        """There is a new process, which may not serve yet."""
        if node := self._nodes.get(node_id):
            node.is_running, node.is_new, node.is_being_killed = True, True, False
            node.start_at_s = None
            node.started_at_s = self._advance()
            node.failed_checks = 0

    def on_died(self, node_id: str, reason: str = "died") -> None:
        """Its process has ended, or could not be started."""
        now_s = self._advance()
        node = self._nodes.get(node_id)
        if node is None:
            return
        if not node.is_being_killed:
            node.deaths_at_s.append(now_s)
            node.reason = reason
        self._is_missing(node, now_s)
        node.is_running = node.is_being_killed = False
        node.failed_checks = 0
        node.start_at_s = now_s + self._backoff_s(node)

    def on_health(self, node_id: str, health: Health) -> None:
        """What a check has found; what is the checker's own trouble says nothing of the node."""
        now_s = self._advance()
        node = self._nodes.get(node_id)
        if node is None or health.is_own_trouble or not node.is_running:
            return
        if health.is_healthy:
            node.failed_checks = 0
            if node.healthy_since_s is None:
                node.healthy_since_s = now_s
            return
        if node.failed_checks == 0:
            node.failing_since_s = now_s
        node.failed_checks += 1
        if node.failed_checks >= FAILED_CHECKS or node.absent_since_s is not None:
            if node.failed_checks >= FAILED_CHECKS:
                node.reason = health.reason
            self._is_missing(node, node.failing_since_s)

    @property
    def due_at_s(self) -> float:
        """When `tick` must be called at the latest, on the caller's clock."""
        wait_s = float("inf")
        for node in self._nodes.values():
            if node.absent_since_s is not None or not node.is_listed:
                wait_s = min(wait_s, 1.0)
            if node.start_at_s is not None:
                wait_s = min(wait_s, max(0.0, node.start_at_s - self._now_s))
        return self._looked_at_s + wait_s

    def tick(self) -> list[Action]:
        """What is to be done now, in this order; what cannot be done is to be told."""
        now_s = self._advance()
        actions = []
        for node in self._nodes.values():
            if node.start_at_s is not None and node.start_at_s <= now_s:
                node.start_at_s = None
                actions.append(Action(Kind.START, node.node_id, node.reason))
            self._look_whether_it_is_there(node, now_s)
            if node.absent_since_s is None and not node.is_listed and node.is_new:
                node.is_listed = True
                actions.append(Action(Kind.PUT_BACK, node.node_id, "is healthy again"))
        actions += self._taken_out(now_s)
        actions += self._killed(now_s)
        return actions

    def state(self, node_id: str) -> State:
        node = self._nodes[node_id]
        if not node.is_running:
            return State.DOWN
        if node.healthy_since_s is not None:
            return State.HEALTHY if node.absent_since_s is None else State.RETURNING
        return State.FAILING if node.failed_checks >= FAILED_CHECKS else State.STARTING

    def absent_s(self, node_id: str) -> float | None:
        """How long it has not been there; None if it is."""
        since_s = self._nodes[node_id].absent_since_s
        return None if since_s is None else self._advance() - since_s

    def _advance(self) -> float:
        clock_s = self._clock()
        self._now_s += min(clock_s - self._looked_at_s, STEP_S)
        self._looked_at_s = clock_s
        return self._now_s

    def _is_missing(self, node: _Node, since_s: float) -> None:
        node.healthy_since_s = None
        if node.absent_since_s is None:
            node.absent_since_s = since_s

    def _backoff_s(self, node: _Node) -> float:
        deaths = sum(at_s > self._now_s - DEATHS_WINDOW_S for at_s in node.deaths_at_s)
        if deaths <= DEATHS_AT_ONCE:
            return 0.0
        return min(2.0 ** (deaths - DEATHS_AT_ONCE - 1), BACKOFF_S_MAX)

    def _look_whether_it_is_there(self, node: _Node, now_s: float) -> None:
        since_s = node.healthy_since_s
        if since_s is not None and now_s - since_s >= STABLE_S:
            node.absent_since_s = None

    def _is_overdue(self, node: _Node, now_s: float) -> bool:
        """It has not been there for longer than the grace period, and is not just coming back."""
        since_s = node.absent_since_s
        if node.is_running and node.failed_checks < FAILED_CHECKS:
            return False
        is_missing = since_s is not None and node.healthy_since_s is None
        return is_missing and now_s - (since_s or 0.0) >= self._limits.grace_s

    def _may_empty(self, node: _Node, now_s: float) -> bool:
        """Whether one that is not in the list may be killed, with its items."""
        if not node.is_counted and self._is_within_limit(now_s):
            node.is_counted = True
            self._taken_out_at_s.append(now_s)
        return node.is_counted

    def _may_take_out(self, now_s: float) -> bool:
        return now_s >= self._quiet_until_s and self._is_within_limit(now_s)

    def _is_within_limit(self, now_s: float) -> bool:
        while self._taken_out_at_s and self._taken_out_at_s[0] <= now_s - self._limits.window_s:
            self._taken_out_at_s.popleft()
        before = self._listed_count + len(self._taken_out_at_s)
        return len(self._taken_out_at_s) < max(1, before * self._limits.percent_max // 100)

    @property
    def _listed_count(self) -> int:
        return sum(node.is_listed for node in self._nodes.values())

    def _taken_out(self, now_s: float) -> list[Action]:
        actions = []
        overdue = [node for node in self._nodes.values() if self._is_overdue(node, now_s)]
        for node in sorted(overdue, key=lambda node: node.absent_since_s or 0.0):
            if node.is_listed and self._listed_count > 1 and self._may_take_out(now_s):
                node.is_listed = node.is_new = False
                node.is_counted = True
                self._taken_out_at_s.append(now_s)
                why = f"was not there for {self._limits.grace_s:g} s: {node.reason}"
                actions.append(Action(Kind.TAKE_OUT, node.node_id, why))
        return actions

    def _killed(self, now_s: float) -> list[Action]:
        """Who hangs, and who was out of the list with its items."""
        actions = []
        for node in self._nodes.values():
            if not node.is_running or node.is_being_killed:
                continue
            if not node.is_listed and not node.is_new and node.healthy_since_s is not None:
                if not self._may_empty(node, now_s):
                    continue
                why = "was out of the list, and its items may be old"
            elif self._hangs(node, now_s) and self._may_kill(node, now_s):
                why = node.reason
            else:
                continue
            node.is_being_killed = True
            actions.append(Action(Kind.KILL, node.node_id, why))
        return actions

    def _hangs(self, node: _Node, now_s: float) -> bool:
        """For the grace period, as long as this process had it; a stopped one does not hang."""
        is_old = now_s - node.started_at_s >= self._limits.grace_s
        return is_old and self._is_overdue(node, now_s) and not self._is_stopped(node.node_id)

    def _may_kill(self, node: _Node, now_s: float) -> bool:
        if not node.is_listed:
            return self._may_empty(node, now_s)
        may = self._listed_count == 1 and self._may_take_out(now_s)
        if may:
            self._taken_out_at_s.append(now_s)
        return may

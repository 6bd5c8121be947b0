"""Decisions about nodes, on a clock that the tests move."""

from collections import deque
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from memcachepy.cluster.health import Health
from memcachepy.cluster.monitor import STABLE_S, Action, Kind, Limits, Monitor, State
from memcachepy.errors import ConfigError

OK = Health(True, "stores and returns", 0.001)
SILENT = Health(False, "does not answer within 2 s", 2.0)
OWN_TROUBLE = Health(False, "too many open files", 0.0, is_own_trouble=True)


class World:
    """A monitor with its nodes, and a launcher that does what it says."""

    def __init__(self, *node_ids: str, limits: Limits | None = None) -> None:
        self.now_s = 5000.0
        self.stopped: set[str] = set()
        self.dead: set[str] = set()
        self.silent: set[str] = set()
        self.broken: set[str] = set()
        """Whose processes die as soon as they are started."""
        self.listed = set(node_ids)
        self.done: list[tuple[float, Action]] = []
        self.monitor = Monitor(
            limits or Limits(), lambda: self.now_s, lambda node_id: node_id in self.stopped
        )
        self.nodes = set(node_ids)
        for node_id in node_ids:
            self.monitor.watch(node_id, is_listed=True)
        self.pass_s(10.0)
        assert not self.done

    def tick(self) -> list[Action]:
        actions = self.monitor.tick()
        for action in actions:
            self.done.append((self.now_s, action))
            match action.kind:
                case Kind.START:
                    self.start(action.node_id)
                case Kind.KILL:
                    self.silent.discard(action.node_id)
                    self.dead.add(action.node_id)
                    self.monitor.on_died(action.node_id, "died by SIGKILL")
                case Kind.TAKE_OUT:
                    self.listed.remove(action.node_id)
                case Kind.PUT_BACK:
                    self.listed.add(action.node_id)
        return actions

    def start(self, node_id: str) -> None:
        self.monitor.on_started(node_id)
        if node_id in self.broken:
            self.monitor.on_died(node_id, "ended with status 71")
        else:
            self.dead.discard(node_id)

    def die(self, node_id: str) -> list[Action]:
        self.dead.add(node_id)
        self.monitor.on_died(node_id, "died by SIGKILL")
        return self.tick()

    def pass_s(self, seconds: float) -> None:
        """With a check of each node every second, and a tick whenever the monitor wants one."""
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s = min(end_s, self.now_s + 1.0, max(self.now_s, self.monitor.due_at_s))
            for node_id in sorted(self.nodes):
                self.check(node_id)
            self.tick()

    def check(self, node_id: str) -> None:
        is_silent = node_id in self.silent | self.dead | self.stopped
        self.monitor.on_health(node_id, SILENT if is_silent else OK)

    def kinds(self, node_id: str = "") -> list[Kind]:
        return [action.kind for _, action in self.done if node_id in ("", action.node_id)]


def test_a_node_that_dies_is_started_at_once() -> None:
    world = World("a", "b", "c")
    assert world.die("b") == [Action(Kind.START, "b", "died by SIGKILL")]
    assert world.monitor.state("b") is State.STARTING
    world.pass_s(120.0)
    assert world.kinds() == [Kind.START]
    assert world.listed == {"a", "b", "c"}
    assert world.monitor.state("b") is State.HEALTHY


def test_repeated_deaths_are_answered_ever_later_up_to_half_a_minute() -> None:
    world = World("a", "b", limits=Limits(grace_s=86400))
    world.broken.add("a")
    world.die("a")
    world.pass_s(200.0)
    started_at_s = [at_s for at_s, action in world.done if action.kind is Kind.START]
    waits = [round(after - at) for at, after in pairwise(started_at_s)]
    assert waits[:10] == [0, 0, 1, 2, 4, 8, 16, 30, 30, 30]


def test_deaths_of_long_ago_are_forgotten() -> None:
    world = World("a", "b")
    for _ in range(8):
        assert [action.kind for action in world.die("a")] == [Kind.START]
        world.pass_s(150.0)


def test_a_node_that_does_not_come_back_is_taken_out_after_the_grace_period() -> None:
    world = World("a", "b", "c")
    world.broken.add("b")
    world.die("b")
    world.pass_s(59.0)
    assert world.listed == {"a", "b", "c"}
    world.pass_s(2.0)
    assert world.listed == {"a", "c"}
    _, action = next(did for did in world.done if did[1].kind is Kind.TAKE_OUT)
    assert action.reason == "was not there for 60 s: ended with status 71"


def test_it_is_put_back_when_it_is_healthy_again() -> None:
    world = World("a", "b", "c")
    world.broken.add("b")
    world.die("b")
    world.pass_s(100.0)
    world.broken.remove("b")
    world.pass_s(40.0)
    assert world.listed == {"a", "b", "c"}
    assert world.kinds("b")[-1] is Kind.PUT_BACK
    assert Kind.KILL not in world.kinds()


def test_a_process_that_hangs_is_killed_once_it_is_out_of_the_list() -> None:
    world = World("a", "b", "c")
    world.silent.add("b")
    world.pass_s(58.0)
    assert not world.done
    assert world.monitor.state("b") is State.FAILING
    world.pass_s(10.0)
    assert world.kinds() == [Kind.TAKE_OUT, Kind.KILL, Kind.START, Kind.PUT_BACK]
    assert world.done[0][1].reason == "was not there for 60 s: does not answer within 2 s"
    assert world.listed == {"a", "b", "c"}


def test_without_a_check_that_failed_no_running_node_is_thought_gone() -> None:
    world = World("a", "b", "c")
    world.die("b")
    for _ in range(100):  # The checker cannot check.
        world.now_s += 1.0
        for node_id in world.nodes:
            world.monitor.on_health(node_id, OWN_TROUBLE)
        assert not world.tick()


def test_two_failed_checks_are_nothing() -> None:
    world = World("a", "b")
    for _ in range(60):
        world.silent.add("a")
        world.pass_s(2.0)
        world.silent.remove("a")
        world.pass_s(1.0)
    assert not world.done


def test_the_checkers_own_trouble_is_held_against_nobody() -> None:
    world = World("a", "b", "c")
    for _ in range(200):
        world.now_s += 1.0
        for node_id in world.nodes:
            world.monitor.on_health(node_id, OWN_TROUBLE)
        world.tick()
    assert not world.done


def test_a_stopped_process_is_taken_out_but_not_killed_and_returns_without_its_items() -> None:
    world = World("a", "b", "c")
    world.stopped.add("b")
    world.pass_s(600.0)
    assert world.kinds() == [Kind.TAKE_OUT]
    world.stopped.remove("b")
    world.pass_s(10.0)
    assert world.kinds() == [Kind.TAKE_OUT, Kind.KILL, Kind.START, Kind.PUT_BACK]
    assert "old" in world.done[1][1].reason


def test_when_the_list_was_lost_not_all_caches_are_emptied_at_once() -> None:
    world = World()
    world.nodes = set("abcdefghij")
    for node_id in sorted(world.nodes):
        world.monitor.watch(node_id, is_listed=False, is_list_doubtful=True)
    world.pass_s(50.0)
    assert world.kinds().count(Kind.KILL) == 1
    world.pass_s(60.0)
    assert world.kinds().count(Kind.KILL) == 2


def test_who_has_not_joined_a_list_that_is_known_joins_it_at_once() -> None:
    world = World("a")
    world.nodes |= set("bcd")
    for node_id in "bcd":
        world.monitor.watch(node_id, is_listed=False)
    world.pass_s(20.0)
    assert world.kinds().count(Kind.KILL) == 3
    assert world.listed == set("abcd")


def test_a_new_process_has_the_grace_period_for_itself() -> None:
    world = World("a", "b", "c")
    world.silent.add("b")
    world.pass_s(62.0)
    assert world.kinds() == [Kind.TAKE_OUT, Kind.KILL, Kind.START]
    world.silent.add("b")  # The new one hangs, too.
    world.pass_s(57.0)
    assert world.kinds() == [Kind.TAKE_OUT, Kind.KILL, Kind.START]
    world.pass_s(4.0)
    assert world.kinds() == [Kind.TAKE_OUT, Kind.KILL, Kind.START, Kind.KILL, Kind.START]


@pytest.mark.parametrize(("count", "a_minute"), [(2, 1), (3, 1), (9, 1), (10, 2), (60, 12)])
def test_a_fifth_of_the_list_may_go_in_a_minute_and_one_in_any_case(
    count: int, a_minute: int
) -> None:
    names = [f"node-{number:02}" for number in range(count)]
    world = World(*names)
    world.silent.update(names)
    world.pass_s(64.0)
    assert count - len(world.listed) == a_minute


def test_whoever_follows_another_monitor_takes_nobody_out_for_a_minute() -> None:
    world = World("a", "b", "c", limits=Limits(grace_s=1))
    world.monitor.follow_another()
    world.silent.add("a")
    world.pass_s(58.0)
    assert not world.done
    world.pass_s(4.0)
    assert world.kinds()[0] is Kind.TAKE_OUT


def test_the_last_one_stays_whatever_the_monitor_believes() -> None:
    world = World("a", "b", "c")
    world.broken.update("abc")
    for node_id in "abc":
        world.die(node_id)
    world.pass_s(3600.0)
    assert len(world.listed) == 1
    assert world.kinds().count(Kind.TAKE_OUT) == 2


def test_the_last_one_is_killed_where_it_is_when_it_hangs() -> None:
    world = World("a")
    world.silent.add("a")
    world.pass_s(66.0)
    assert world.kinds() == [Kind.KILL, Kind.START]
    assert world.monitor.state("a") in (State.HEALTHY, State.RETURNING)


def test_time_in_which_the_monitor_did_not_run_counts_against_nobody() -> None:
    world = World("a", "b", "c")
    world.stopped.update("abc")
    world.pass_s(5.0)
    world.now_s += 8 * 3600.0  # The machine sleeps.
    world.tick()
    world.stopped.clear()
    world.pass_s(120.0)
    assert not world.done


def test_a_node_is_not_there_before_it_was_healthy_for_some_seconds() -> None:
    world = World("a", "b", "c")
    world.silent.add("a")
    world.pass_s(100.0)
    world.done.clear()
    for _ in range(20):  # It answers for moments, and not again.
        world.silent.discard("a")
        world.pass_s(2.0)
        world.silent.add("a")
        world.pass_s(3.0)
    assert Kind.PUT_BACK not in world.kinds()


def test_who_is_forgotten_may_die() -> None:
    world = World("a", "b", "c")
    world.monitor.forget("b")
    assert not world.die("b")
    world.monitor.on_health("b", SILENT)
    world.monitor.on_started("b")
    world.monitor.not_done(Action(Kind.START, "b", ""))
    world.nodes.remove("b")
    world.pass_s(100.0)
    assert not world.done


def test_an_adopted_node_without_process_gets_one() -> None:
    world = World("a")
    world.nodes.add("b")
    world.monitor.watch("b", is_listed=True, is_running=False)
    assert world.tick() == [Action(Kind.START, "b", "has no process")]


def test_an_adopted_node_out_of_the_list_returns_with_a_new_process() -> None:
    world = World("a", "b")
    world.nodes.add("c")
    world.monitor.watch("c", is_listed=False)
    world.pass_s(10.0)
    assert world.kinds() == [Kind.KILL, Kind.START, Kind.PUT_BACK]


def test_what_could_not_be_done_is_said_again() -> None:
    world = World("a", "b", "c")
    world.nodes.remove("c")
    world.monitor.forget("c")
    world.monitor.watch("c", is_listed=False, is_running=False)
    (start,) = world.monitor.tick()
    world.monitor.not_done(start)
    assert world.monitor.tick() == [Action(Kind.START, "c", "has no process")]
    world.monitor.on_started("c")
    world.nodes.add("c")
    world.pass_s(4.0)
    world.now_s += 2.0
    world.monitor.on_health("c", OK)
    (back,) = world.monitor.tick()
    assert back.kind is Kind.PUT_BACK
    world.monitor.not_done(back)
    world.now_s = world.monitor.due_at_s
    assert world.monitor.tick() == [back]


def test_nothing_is_due_when_all_are_there() -> None:
    assert World("a", "b").monitor.due_at_s == float("inf")


@pytest.mark.parametrize("grace_s", [-1.0, 86401.0, float("nan")])
def test_a_grace_period_out_of_range_is_refused(grace_s: float) -> None:
    with pytest.raises(ConfigError, match="grace"):
        Limits(grace_s=grace_s)


@dataclass
class Seen:
    """What the model knows of a node, from outside the monitor."""

    is_listed: bool
    is_running: bool = True
    is_new: bool = False
    failed: int = 0
    last_there_s: float = 0.0
    """When it last had been healthy for so long that it counts."""
    healthy_since_s: float | None = None
    started_at_s: float = 0.0
    is_stopped: bool = False


NAMES = st.integers(min_value=0, max_value=11).map(lambda number: f"n{number}")
LIMITS = Limits()


class MonitorMachine(RuleBasedStateMachine):
    """Whatever happens, the list is safe."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 100.0
        self.seen: dict[str, Seen] = {}
        self.taken_out_at_s: deque[float] = deque()
        self.monitor = Monitor(LIMITS, lambda: self.now_s, lambda name: self.seen[name].is_stopped)
        for number in range(6):
            self.watch(f"n{number}", True)

    @rule(name=NAMES, is_listed=st.booleans())
    def watch(self, name: str, is_listed: bool) -> None:
        if name not in self.seen:
            self.monitor.watch(name, is_listed=is_listed)
            self.seen[name] = Seen(is_listed, last_there_s=self.now_s)

    @rule(name=NAMES)
    def forget(self, name: str) -> None:
        self.monitor.forget(name)
        self.seen.pop(name, None)

    @rule(name=NAMES)
    def die(self, name: str) -> None:
        if name in self.seen and self.seen[name].is_running:
            self.seen[name].is_running = False
            self.seen[name].failed = 0
            self.seen[name].healthy_since_s = None
            self.monitor.on_died(name)

    @rule(name=NAMES, is_stopped=st.booleans())
    def stop_or_continue(self, name: str, is_stopped: bool) -> None:
        if name in self.seen:
            self.seen[name].is_stopped = is_stopped

    @rule(name=NAMES)
    def own_trouble(self, name: str) -> None:
        self.monitor.on_health(name, OWN_TROUBLE)

    @rule(silent=st.sets(NAMES), rounds=st.integers(1, 40), step_s=st.sampled_from([0.5, 2.0, 4.0]))
    def checks(self, silent: set[str], rounds: int, step_s: float) -> None:
        for _ in range(rounds):
            self.now_s += step_s
            for name, seen in list(self.seen.items()):
                if not seen.is_running:
                    continue
                is_ok = name not in silent and not seen.is_stopped
                seen.failed = 0 if is_ok else seen.failed + 1
                if not is_ok:
                    seen.healthy_since_s = None
                elif seen.healthy_since_s is None:
                    seen.healthy_since_s = self.now_s
                elif self.now_s - seen.healthy_since_s >= STABLE_S:
                    seen.last_there_s = self.now_s
                self.monitor.on_health(name, OK if is_ok else SILENT)
            self.tick()

    @rule(seconds=st.sampled_from([0.0, 1.0, 30.0, 61.0, 3600.0]))
    def pause(self, seconds: float) -> None:
        """Nobody could be seen, and nobody is thought gone: one step at most is counted."""
        self.now_s += seconds
        for seen in self.seen.values():
            seen.last_there_s += max(0.0, seconds - 5.0)
        self.tick()

    def tick(self) -> None:
        before = sum(seen.is_listed for seen in self.seen.values())
        for action in self.monitor.tick():
            seen = self.seen[action.node_id]
            match action.kind:
                case Kind.START:
                    assert not seen.is_running
                    seen.is_running, seen.is_new = True, True
                    seen.started_at_s = self.now_s
                    seen.failed = 0
                    self.monitor.on_started(action.node_id)
                case Kind.KILL:
                    self.killed(action, seen)
                case Kind.TAKE_OUT:
                    self.taken_out(seen)
                case Kind.PUT_BACK:
                    assert not seen.is_listed
                    assert seen.is_new, "its items may be old"
                    assert seen.is_running
                    assert seen.failed == 0
                    seen.is_listed = True
        after = sum(seen.is_listed for seen in self.seen.values())
        assert after >= 1 or before == 0, "the list became empty"

    def killed(self, action: Action, seen: Seen) -> None:
        assert seen.is_running
        assert not seen.is_stopped or seen.failed == 0
        listed = sum(other.is_listed for other in self.seen.values())
        if seen.is_listed:
            assert listed == 1
            assert seen.failed > 0
            self.count_removal(listed)
        seen.is_running = False
        seen.healthy_since_s = None
        self.monitor.on_died(action.node_id)

    def taken_out(self, seen: Seen) -> None:
        assert seen.is_listed
        assert self.now_s - seen.last_there_s >= LIMITS.grace_s - 0.001
        # Its process has just been told to start in this very tick, or does not answer.
        assert not seen.is_running or seen.failed >= 3 or seen.started_at_s == self.now_s
        seen.is_listed = seen.is_new = False
        self.count_removal(sum(other.is_listed for other in self.seen.values()))

    def count_removal(self, listed: int) -> None:
        while self.taken_out_at_s and self.taken_out_at_s[0] <= self.now_s - 60.0:
            self.taken_out_at_s.popleft()
        self.taken_out_at_s.append(self.now_s)
        most = max(1, (listed + len(self.taken_out_at_s)) * 20 // 100)
        assert len(self.taken_out_at_s) <= most

    @precondition(lambda self: self.seen)
    @invariant()
    def both_know_the_same_list(self) -> None:
        for name, seen in self.seen.items():
            assert self.monitor._nodes[name].is_listed == seen.is_listed
            assert self.monitor.state(name) in State


TestMonitorMachine = MonitorMachine.TestCase
TestMonitorMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

"""The process that learns who the cluster is, and keeps the node's list as its provider has it.

It joins the cluster when the node serves and leaves before the node stops; in between it writes
each new list into the segment, from which every worker answers, and into a file for the next start.
While the provider does not answer, the last known list stays. Provider libraries have threads and
may wait: the supervisor must not, and requests never depend on this process. Killed at any
instruction it is replaced: the list is in the segment, in the file and with the provider.
"""

import logging
import os
import selectors
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from memcachepy import _core
from memcachepy.errors import MembershipError, MemcachepyError, NoListYet
from memcachepy.log import fact
from memcachepy.membership.file import VERSIONS_LEFT_MIN
from memcachepy.membership.last_known import (
    LastKnown,
    known_of,
    read_last_known,
    write_last_known,
)
from memcachepy.membership.membership import Membership
from memcachepy.membership.url import Place
from memcachepy.topology import PAYLOAD_BYTES_ADVISED, VERSION_MAX, Member, Topology

log = logging.getLogger("memcachepy.discovery")

CLUSTER_KEY = "cluster"
"""The list, as clients ask for it."""
STATE_KEY = "memcachepy:discovery"
"""Lines of name and value, which `stats memcachepy` shows."""

VERSION_FOLLOWED_MAX = VERSION_MAX - 2 * VERSIONS_LEFT_MIN
"""Versions are not raised above one that was set by hand and is larger: a million must be left for
the changes that come, before the cluster's list is one that can hardly grow."""

STARTING, CONNECTED, LAST_KNOWN = "starting", "connected", "last_known"


class ConfigStore(Protocol):
    """The part of a segment that is used here."""

    def set_config(self, key: str | bytes, client_flags: int, data: bytes, /) -> None: ...

    def get_config(self, key: str | bytes, /) -> tuple[int, bytes] | None: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """What a node that joins a cluster knows before it does."""

    place: Place
    member: Member
    """This node."""
    state_file: Path | None
    known: LastKnown
    """From the last run; `topology` has version 0 if there was none."""


def publish(segment: ConfigStore, topology: Topology) -> None:
    """What `config get cluster` answers from now on, in every worker.

    Raises:
        MembershipError: the list is too long.
    """
    payload = topology.payload()
    if len(payload) > PAYLOAD_BYTES_ADVISED:
        reason = f"some clients read no more than {PAYLOAD_BYTES_ADVISED} bytes of it"
        facts = {"nodes": len(topology.members), "bytes": len(payload)}
        log.warning(fact("the list of nodes is long", **facts, reason=reason))
    try:
        segment.set_config(CLUSTER_KEY, 0, payload)
    except (ValueError, MemoryError, _core.CoreError) as error:
        raise MembershipError(f"the list cannot be served: {error}") from None


class Discovery:
    """Runs in a process of its own; for one thread.

    Args:
        plan: whom to join as whom.
        segment: gets the list.
        membership: closed by `run`.
        now: Unix time in seconds.
    """

    def __init__(
        self,
        plan: Plan,
        segment: ConfigStore,
        membership: Membership,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._plan = plan
        self._segment = segment
        self._membership = membership
        self._now = now
        self._last = self._newest_known()
        self._state = STARTING
        self._since_at_s = int(now())
        self._failure = ""
        self._told = b""

    @property
    def last(self) -> Topology:
        """The list that clients are told; version 0 if none is known yet."""
        return self._last

    @property
    def state(self) -> str:
        return self._state

    def _newest_known(self) -> Topology:
        """Of a process before this one, as the segment or the file has it; else the plan's."""
        known = self._plan.known.topology
        with suppress(MembershipError):
            stored = known_of(self._plan.place, read_last_known(self._plan.state_file))
            known = max(known, stored.topology, key=_version)
        return self._newer_served(known)

    def _newer_served(self, known: Topology) -> Topology:
        """The list that clients are told, if what is known is not newer; else that one.

        Clients take a list with a larger version only, so it must be followed by one.
        """
        with suppress(ValueError, _core.CoreError):
            if found := self._segment.get_config(CLUSTER_KEY):
                served = Topology.parse(found[1])
                is_followed = known.version <= served.version <= VERSION_FOLLOWED_MAX
                if is_followed and served.payload() != known.payload():
                    return served
        return known

    def run(self, wake_fd: int, liveness_fd: int, on_settled: Callable[[], None]) -> int:
        """Follow the provider until woken, then leave.

        Args:
            wake_fd: readable when the node is about to stop.
            liveness_fd: ends when the supervisor is gone.
            on_settled: called once, when the node has joined, or knows that it cannot now.

        Returns:
            EXIT_STOPPED or EXIT_ORPHANED.
        """
        with ExitStack() as closing:
            closing.enter_context(self._membership)
            selector = closing.enter_context(selectors.DefaultSelector())
            news_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            closing.callback(os.close, news_fd)
            self._membership.wake = lambda: _wake(news_fd)
            for fd in (wake_fd, liveness_fd, news_fd):
                selector.register(fd, selectors.EVENT_READ)
            self._membership.join(self._plan.member)
            self.step()
            on_settled()
            while True:
                ready = {key.fd for key, _ in selector.select(self._membership.pause_s)}
                if liveness_fd in ready:
                    return _core.EXIT_ORPHANED
                if wake_fd in ready:
                    self.leave()
                    return _core.EXIT_STOPPED
                if news_fd in ready:
                    os.eventfd_read(news_fd)
                self.step()

    def step(self) -> None:
        """Ask the provider once, and tell what is new."""
        try:
            # Also above what `config set` made of it, so that all clients get the provider's.
            self._take(self._membership.poll(self._newer_served(self._last)))
            self._repair()
        except MemcachepyError as error:
            level = logging.INFO if isinstance(error, NoListYet) else logging.WARNING
            self._on_failure(str(error), level)
        else:
            self._on_success()
        self._tell_state()

    def leave(self) -> None:
        """Out of the list, so that no client asks for this node any more."""
        if self._membership.is_read_only:
            return
        try:
            self._membership.leave()
            log.info(fact("left the cluster", provider=self._plan.place))
        except MemcachepyError as error:
            log.warning(fact("cannot leave the cluster", reason=error))
        else:
            self.step()  # Who still asks this node is told where else to go.

    def _take(self, found: Topology) -> None:
        if found == self._last or self._newer_served(found) != found:
            return  # Another was set meanwhile: the next poll is told of it.
        if found.payload() != self._last.payload():
            publish(self._segment, found)
            self._log_change(self._last, found)
        self._last = found
        # After the segment: a slow disk must not keep clients from the new list.
        known = LastKnown(str(self._plan.place), self._plan.member.node_id, found)
        try:
            write_last_known(self._plan.state_file, known)
        except MembershipError as error:
            log.warning(fact("the list will not be known after a restart", reason=error))

    def _repair(self) -> None:
        """The list of a node in a cluster is the cluster's, whatever `config set` made of it."""
        with suppress(ValueError, _core.CoreError):
            found = self._segment.get_config(CLUSTER_KEY)
            if found and found[1] == self._last.payload():
                return
            if self._last.members and self._newer_served(self._last) == self._last:
                publish(self._segment, self._last)
                log.warning(fact("list repaired", version=self._last.version))

    def _log_change(self, old: Topology, new: Topology) -> None:
        before = {member.address for member in old.members}
        after = {member.address for member in new.members}
        facts = {"version": new.version, "nodes": len(new.members)}
        added, removed = ",".join(sorted(after - before)), ",".join(sorted(before - after))
        log.info(fact("list changed", **facts, added=added or "none", removed=removed or "none"))

    def _on_failure(self, reason: str, level: int) -> None:
        if self._state != LAST_KNOWN:
            self._change_state(LAST_KNOWN)
            version = self._last.version or "none"
            text = fact("no answer about the cluster", reason=reason, last_known_version=version)
            log.log(level, text)
        elif reason != self._failure:
            log.debug(fact("still no answer about the cluster", reason=reason))
        self._failure = reason

    def _on_success(self) -> None:
        if self._state != CONNECTED:
            if self._state == LAST_KNOWN:
                away_s = int(self._now()) - self._since_at_s
                log.info(fact("the cluster answers again", after_s=away_s))
            self._change_state(CONNECTED)
        self._failure = ""

    def _change_state(self, state: str) -> None:
        self._state = state
        self._since_at_s = int(self._now())

    def _tell_state(self) -> None:
        rows = state_rows(self._plan, self._state, self._since_at_s, self._last)
        rows["joined"] = "yes" if self._membership.has_joined else "no"
        told = _lines(rows)
        if told != self._told:
            with suppress(ValueError, MemoryError, _core.CoreError):
                self._segment.set_config(STATE_KEY, 0, told)
                self._told = told


def state_rows(plan: Plan, state: str, since_at_s: int, last: Topology) -> dict[str, object]:
    """What `stats memcachepy` shows, each name with `discovery_` before it."""
    return {
        "provider": plan.place,
        "state": state,
        "since": since_at_s,
        "version": last.version,
        "nodes": len(last.members),
        "node_id": plan.member.node_id,
        "listed": "yes" if _is_listed(plan.member, last) else "no",
    }


def _is_listed(own: Member, topology: Topology) -> bool:
    """DNS may know the node by its address, and itself by its name; or the other way round."""
    return any(
        member.port == own.port and {member.host, member.ip} & {own.host, own.ip} - {""}
        for member in topology.members
    )


def tell_start(plan: Plan, segment: ConfigStore, now_s: float) -> None:
    """Before anybody is served: the last known list, and that nothing newer is known yet."""
    if plan.known.topology.members:
        publish(segment, plan.known.topology)
    rows = state_rows(plan, STARTING, int(now_s), plan.known.topology)
    segment.set_config(STATE_KEY, 0, _lines({**rows, "joined": "no"}))


def read_state(segment: ConfigStore) -> dict[str, str]:
    """The same rows of a node that runs; empty if it joins no cluster."""
    with suppress(_core.CoreError):
        if found := segment.get_config(STATE_KEY):
            lines = found[1].decode("ascii", "replace").splitlines()
            return {name: value for name, _, value in (line.partition(" ") for line in lines)}
    return {}


def _lines(rows: dict[str, object]) -> bytes:
    return "".join(f"{name} {value}\n" for name, value in rows.items()).encode("ascii", "replace")


def _version(topology: Topology) -> int:
    return topology.version


def _wake(fd: int) -> None:
    with suppress(OSError):  # It is awake, or has ended.
        os.eventfd_write(fd, 1)


def with_node_id(member: Member, chosen: str | None, known: LastKnown) -> Member:
    """The id that was asked for, else that of the last run, else one made of the address."""
    made = f"{member.host}-{member.port}".replace(":", "-")[:64]
    return replace(member, node_id=chosen or known.node_id or made)

"""The list of nodes in ZooKeeper, kept by the nodes themselves.

    PATH/members/<node id>   ephemeral; the node as JSON: it is there while its session lives
    PATH/topology            the list with its version as JSON, and when nodes were taken out

Whichever node notices a difference changes `topology`, by compare-and-set on the znode's version:
of several who try one succeeds and the others look again, so that all see one sequence of lists.
A node adds and removes itself; one whose session is gone is removed by the others (`absence`).
"""

import json
import logging
import random
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from kazoo.client import KazooClient, KazooState
from kazoo.exceptions import BadVersionError, KazooException, NodeExistsError, NoNodeError
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.retry import KazooRetry
from kazoo.security import CREATOR_ALL_ACL, READ_ACL_UNSAFE

from memcachepy.errors import MembershipError
from memcachepy.log import fact
from memcachepy.membership.absence import Absences, recent_removals, removals_left
from memcachepy.membership.membership import Membership, following
from memcachepy.membership.url import ZookeeperPlace
from memcachepy.topology import Member, Topology

log = logging.getLogger("memcachepy.discovery")

LOOK_S = 5.0
"""How often the list is compared though no watch has said anything."""
LOOK_CLOSELY_S = 1.0
"""The same while somebody is away, or the connection is."""
RECONNECT_S_MAX = 3.0
LEAVE_UNSEEN_S = 1.0
"""How long to wait for an answer when leaving, if there was none to the last question."""
AGAIN_S_MAX = 0.05
"""Who was not the fastest to change the list tries again after so long at most, by chance."""
RENEW_AFTER_SESSIONS = 3
"""After so many sessions' time without a connection the session is given up for a new one."""

_quiet = logging.getLogger("memcachepy.kazoo")
"""kazoo's own log: what matters of it is said here."""
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


@dataclass(frozen=True, slots=True)
class Stored:
    """What stands in `topology`."""

    topology: Topology
    removed_at_s: tuple[float, ...] = ()
    """When nodes were taken out by others, lately; Unix time."""

    def encode(self) -> bytes:
        removed = {"removed_at_s": list(self.removed_at_s)}
        return json.dumps({**self.topology.as_dict(), **removed}).encode()

    @classmethod
    def decode(cls, data: bytes) -> "Stored":
        """Raises MembershipError: it is no list."""
        try:
            raw = json.loads(data)
            removed = tuple(float(at_s) for at_s in raw.get("removed_at_s", ()))
            return cls(Topology.from_dict(raw), removed)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise MembershipError(f"the znode topology is no list of nodes: {error}") from None


class ZookeeperMembership(Membership):
    """A session with ZooKeeper. Its own threads only wake whoever polls.

    Args:
        place: servers and path.
        now: Unix time in seconds.
        clock: seconds, monotonic.
        make_client: from the place; for tests.
    """

    place: ZookeeperPlace

    def __init__(
        self,
        place: ZookeeperPlace,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        make_client: Callable[[ZookeeperPlace], Any] | None = None,
    ) -> None:
        super().__init__(place, now)
        self._clock = clock
        self._make_client = make_client or _make_client
        self._client: Any = self._new_client()
        self._is_started = False
        self._cut_off_at_s = 0.0
        self._give_up_at_s = 0.0
        """When what is asked just now has taken too long, all of it together."""
        self._has_paths = False
        self._member: Member | None = None
        self._has_announced = False
        self._has_joined = False
        self._id_taken_by = ""
        self._is_in_sight = False
        """ZooKeeper has answered the last question."""
        self._absences = Absences(place.grace_s)
        self._members_path = f"{place.path}/members"
        self._topology_path = f"{place.path}/topology"

    @property
    def is_read_only(self) -> bool:
        return False

    @property
    def has_joined(self) -> bool:
        return self._has_joined

    @property
    def pause_s(self) -> float:
        is_settled = self._client.connected and not self._absences
        return LOOK_S if is_settled and self._has_joined else LOOK_CLOSELY_S

    def topology(self) -> Topology | None:
        with self._asking():
            stored, _ = self._read()
            return stored.topology if stored else None

    def join(self, member: Member) -> None:
        self._member = member

    def poll(self, last: Topology) -> Topology:
        with self._asking():
            self._has_announced = self._member is not None and self._announce(self._member)
            present = self._call(
                self._client.get_children_async, self._members_path, watch=self._on_event
            )
            overdue: set[str] | None = None

            def revise(stored: Stored | None) -> Stored | None:
                nonlocal overdue
                if overdue is None:
                    overdue = self._overdue(stored, set(present))
                return self._revised(stored, overdue, last)

            stored = self._change(revise)
            if stored is None:
                raise MembershipError(f"there is no list of nodes at {self.place}")
            listed = self._member and stored.topology.member(self._member.node_id)
            self._has_joined = self._has_announced and listed == self._member
            return following(stored.topology, last, self.now())

    def leave(self) -> None:
        member, self._member, self._has_joined = self._member, None, False
        if member is None:
            return
        with self._asking(self.WAIT_S if self._is_in_sight else LEAVE_UNSEEN_S):
            self._change(partial(self._without, member))
            if self._has_announced:
                self._has_announced = False
                with suppress(NoNodeError):
                    self._call(self._client.delete_async, self._own_path(member))

    def close(self) -> None:
        """The session is given back if ZooKeeper takes it at once, else left to expire."""
        self._stop_client(self.WAIT_S if self._is_in_sight else 0.1)

    def _new_client(self) -> Any:
        client = self._make_client(self.place)
        client.add_listener(self._on_state)
        return client

    def _stop_client(self, wait_s: float) -> None:
        """Kazoo waits for ten seconds and more: not here."""
        client = self._client
        client.remove_listener(self._on_state)

        def stop() -> None:
            with suppress(Exception):  # Of a thread that nobody waits for any more.
                client.stop()
                client.close()

        stopping = threading.Thread(target=stop, daemon=True)
        stopping.start()
        stopping.join(wait_s)

    # ---- the session ---------------------------------------------------------------------------

    def _on_state(self, _state: KazooState) -> None:
        self.wake()

    def _on_event(self, _event: object) -> None:
        self.wake()

    def _asking(self, wait_s: float = Membership.WAIT_S) -> "_Asking":
        return _Asking(self, wait_s)

    def connect(self, wait_s: float) -> None:
        """Before questions that may take so long, all of them together.

        Raises:
            MembershipError: there is no connection; it is tried in the background.
        """
        self._give_up_at_s = self._clock() + wait_s
        if not self._is_started:
            self._is_started = True
            self._cut_off_at_s = self._clock()
            self._client.start_async().wait(wait_s)
        if self._client.connected:
            self._cut_off_at_s = self._clock()
            return
        self.lose_sight()
        if self._clock() - self._cut_off_at_s > RENEW_AFTER_SESSIONS * self.place.session_s:
            # Expired anyhow; and servers that have lost their data refuse who has seen more of it.
            self._stop_client(0.0)
            self._client, self._has_paths = self._new_client(), False
            self._cut_off_at_s = self._clock()
            self._client.start_async()
        raise MembershipError(f"no connection to ZooKeeper at {self.place.hosts_text}")

    def lose_sight(self) -> None:
        """Nothing is known of the others from now on, nor of the own znode."""
        self._absences.lose_sight()
        self._has_joined = False
        self._is_in_sight = False

    def answered(self) -> None:
        self._is_in_sight = True

    def _call(self, ask: Callable[..., Any], *words: Any, **names: Any) -> Any:
        left_s = max(0.001, self._give_up_at_s - self._clock())
        return ask(*words, **names).get(timeout=left_s)

    # ---- the node's own znode ------------------------------------------------------------------

    def _own_path(self, member: Member) -> str:
        return f"{self._members_path}/{member.node_id}"

    def _announce(self, member: Member) -> bool:
        """See to it that the node's znode is there and belongs to this session.

        Returns:
            False: another process has the node's id.
        """
        path = self._own_path(member)
        data = json.dumps(member.as_dict()).encode()
        if not self._has_paths:
            self._ensure_path(self._members_path)
            self._has_paths = True
        with suppress(NodeExistsError):
            if not self._call(self._client.exists_async, path):
                self._call(self._client.create_async, path, data, ephemeral=True)
                return True
        try:
            found, stat = self._call(self._client.get_async, path)
        except NoNodeError:
            return self._announce(member)
        if stat.ephemeralOwner == self._client.client_id[0]:
            return True
        other = _address_of(found)
        if other != member.address:
            if other != self._id_taken_by:
                log.warning(fact("node id is taken", node_id=member.node_id, by=other))
            self._id_taken_by = other
            return False
        # Whoever was at this very address before has ended: only one process can listen there.
        with suppress(NoNodeError):
            self._call(self._client.delete_async, path)
        self._call(self._client.create_async, path, data, ephemeral=True)
        return True

    def _ensure_path(self, path: str) -> None:
        """Kazoo's own one cannot be given a timeout."""
        for index in range(1, path.count("/") + 1):
            part = "/".join(path.split("/")[: index + 1])
            if not self._call(self._client.exists_async, part):
                with suppress(NodeExistsError):
                    self._call(self._client.create_async, part, b"")

    # ---- the list ------------------------------------------------------------------------------

    def _read(self) -> tuple[Stored | None, int]:
        """What is stored, and the version to compare with; -1: there is nothing."""
        try:
            data, stat = self._call(
                self._client.get_async, self._topology_path, watch=self._on_event
            )
        except NoNodeError:
            return None, -1
        return Stored.decode(data), stat.version

    def _change(self, revise: Callable[[Stored | None], Stored | None]) -> Stored | None:
        """Compare and set, again while others are faster; ends, for one of them always succeeds."""
        while True:
            stored, version = self._read()
            revised = revise(stored)
            if revised is None or revised == stored:
                return stored
            with suppress(BadVersionError, NodeExistsError, NoNodeError):
                if version < 0:
                    self._call(self._client.create_async, self._topology_path, revised.encode())
                else:
                    self._call(
                        self._client.set_async, self._topology_path, revised.encode(), version
                    )
                return revised
            if self._clock() >= self._give_up_at_s:
                raise MembershipError("the list is changed by others again and again")
            time.sleep(random.uniform(0, AGAIN_S_MAX))

    def _overdue(self, stored: Stored | None, present: set[str]) -> set[str]:
        """Addresses of nodes that have been away for too long."""
        if stored is None or self._member is None:
            return set()
        members = stored.topology.members
        here = {member.address for member in members if member.node_id in present}
        return set(self._absences.look(self._clock(), (m.address for m in members), here))

    def _revised(self, stored: Stored | None, overdue: set[str], last: Topology) -> Stored | None:
        """What the list should be, as far as this node is concerned."""
        if self._member is None or not self._has_announced:
            return stored
        if stored is None:
            # Lost, or kept elsewhere until now: a list of this node alone would empty the cluster.
            old = Stored(last if self._is_in(last) else Topology(last.version))
        else:
            old = stored
        now_s = self.now()
        members, removed = list(old.topology.members), list(old.removed_at_s)
        for member in old.topology.members:
            left = removals_left(len(members), removed, now_s)
            if member.address in overdue and member.address != self._member.address and left:
                members.remove(member)
                removed.append(round(now_s, 3))
                log.warning(fact("node removed", node=member.address, reason="its session is gone"))
        topology = old.topology.changed(_with(members, self._member), now_s)
        topology = following(topology, last, now_s)
        if topology == old.topology and stored is not None:
            return stored
        return Stored(topology, tuple(recent_removals(removed, now_s)))

    def _is_in(self, topology: Topology) -> bool:
        assert self._member is not None
        return any(member.address == self._member.address for member in topology.members)

    def _without(self, member: Member, stored: Stored | None) -> Stored | None:
        """The last node stays: clients can do nothing with an empty list.

        So does another node with the same id, which was there first.
        """
        if stored is None:
            return None
        own = (member.node_id, member.address)
        left = [m for m in stored.topology.members if (m.node_id, m.address) != own]
        if not left:
            return stored
        return replace(stored, topology=stored.topology.changed(left, self.now()))


class _Asking:
    """Around what is asked of ZooKeeper: connects first, and makes its errors ours."""

    def __init__(self, membership: ZookeeperMembership, wait_s: float) -> None:
        self._membership = membership
        self._wait_s = wait_s

    def __enter__(self) -> None:
        self._membership.connect(self._wait_s)

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, KazooException | KazooTimeoutError):
            self._membership.lose_sight()
            reason = str(error) or type(error).__name__
            raise MembershipError(f"ZooKeeper does not answer: {reason}") from error
        if error is None:
            self._membership.answered()


def read_auth(path: Path) -> str:
    """`user:password`, for the scheme digest.

    Raises:
        MembershipError: the file cannot be read, or has something else in it.
    """
    try:
        text = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise MembershipError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        text = ""
    if not re.fullmatch(r"[^:\s]+:[^\r\n]+", text):
        raise MembershipError(f"{path} must hold user:password, in one line")
    return text


def _make_client(place: ZookeeperPlace) -> Any:
    secured: dict[str, Any] = {}
    if place.auth_file is not None:
        # Anybody may look, as with the list itself: every node tells it to every client.
        secured["auth_data"] = [("digest", read_auth(place.auth_file))]
        secured["default_acl"] = CREATOR_ALL_ACL + READ_ACL_UNSAFE
    return KazooClient(
        hosts=place.hosts_text,
        timeout=place.session_s,
        logger=_quiet,
        connection_retry=KazooRetry(max_tries=-1, delay=0.1, backoff=2, max_delay=RECONNECT_S_MAX),
        command_retry=KazooRetry(max_tries=0),
        **secured,
    )


def _with(members: list[Member], own: Member) -> list[Member]:
    """This node in the place of whoever had its id or its address."""
    others = [m for m in members if m.node_id != own.node_id and m.address != own.address]
    return [*others, own]


def _address_of(data: bytes) -> str:
    try:
        return Member.from_dict(json.loads(data)).address
    except (ValueError, TypeError):
        return "?"

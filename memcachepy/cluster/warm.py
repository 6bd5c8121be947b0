"""Bringing the items whose home changes to their new home, before clients are told of the change.

    with WarmChange(old, new, hashing="rendezvous", address=control_socket_of) as change:
        change.copy(show_progress)
        ...                         # the new list is told, and every node serves it
        change.settle()             # while clients with the old list go on writing to the old homes

`copy` brings what belongs elsewhere by the new list, with client flags and the moment of expiry. A
copy is shown by its node only as long as nobody has changed or deleted the key, in its old home or
in the new one, since the change began (core/mem/track.h says how): to a client whose key was
written anywhere meanwhile, a copy is a miss. `settle` is the time for clients to learn of the list;
after it the copies are the nodes' own. Whoever leaves the block before has taken everything back;
if this process is killed, or stopped, or a source ends, the copies are hidden at once or within a
fifth of a second, and the next change removes them. The sources lose nothing in any case.

All nodes must run on this machine, as one user, with a control socket: the process attaches to
them, and they look at each other's memory through its descriptors, for which it must have their
user (of another, copies are misses until they have settled). Each must join the cluster (`--join`):
one that does not, and is killed and started again within a fifth of a second, may change what
others still show copies of. A `WarmChange` is for one thread, and for a process of its own:
`WarmProcess` of `memcachepy.cluster.warm_process` is one.

What is left out, and is a miss in its new home: values that are above the new home's item size
limit, long ones that find no room in the eighth of memory that uploads and pins may hold, items
that a client was told to store anew, and items in a node that is not their home by the old list.
"""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from memcachepy import _core
from memcachepy.cache.handshake import Address, attach_to, say
from memcachepy.client.hashing import Hashing, ring
from memcachepy.errors import AttachError, Busy, ConfigError, WarmError
from memcachepy.topology import Member, Topology

SETTLE_S = 120.0
"""Two polls of clients, which poll every 60 s."""
ATTACH_TIMEOUT_S = 5.0

_LOOK_EVERY_S = 0.02
"""A tenth of the time for which copies are shown after a look."""
_BITS_PER_ITEM_SHIFT = 5
_SHIFT_MIN = 20
_SHIFT_MAX = 27


@dataclass(slots=True)
class WarmReport:
    """What became of the items."""

    total: int = 0
    """Items that the sources have, as counted at the beginning."""
    read: int = 0
    """Of these, those that have been looked at."""
    copied: int = 0
    changed: int = 0
    """Not copied, because the key was changed meanwhile."""
    left_out: int = 0
    """Too large for the new home, or there was no room."""
    gone: int = 0
    """They ended between being read and being stored."""
    confirmed: int = 0
    """Copies that are the nodes' own in the end,"""
    hidden: int = 0
    """and those that were not, for the key was changed."""

    def as_dict(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in self.__slots__}


Progress = Callable[[WarmReport], None]


def control_socket_by_port(member: Member) -> Address:
    """Of a node whose control socket lies where it does by default."""
    return member.port


@dataclass(slots=True)
class _Node:
    member: Member
    core: _core.CopyNode
    gives: bool
    takes: bool
    has_begun: bool = field(default=False)


class WarmChange:
    """The copies of one change from an old list to a new one; see above.

    Args:
        old: the list that clients have.
        new: the list that they will be told.
        hashing: how the clients spread their keys.
        address: of a member's control socket, as of `Cache.attach`.
        settle_s: how long `settle` lets clients with the old list go on.
        key_prefix: what clients put in front of each key after they have chosen its node, as
            pymemcache does.
        pause: `time.sleep`, or one that raises to end the change; called every few milliseconds.
        on_attached: called when all nodes are attached and before they look at each other, which
            takes that this process has their user.

    Raises:
        ConfigError: no such hashing.
    """

    def __init__(
        self,
        old: Topology,
        new: Topology,
        *,
        hashing: Hashing = "rendezvous",
        address: Callable[[Member], Address] = control_socket_by_port,
        settle_s: float = SETTLE_S,
        key_prefix: bytes = b"",
        pause: Callable[[float], None] = time.sleep,
        on_attached: Callable[[], None] = lambda: None,
    ) -> None:
        if not old.members or not new.members:
            raise ConfigError("members", (), "must not be empty, before the change and after it")
        self._old = ring(old.members, hashing)
        self._new = ring(new.members, hashing)
        self._keys_as_str = hashing == "pymemcache"
        self._address = address
        self._settle_s = settle_s
        self._prefix = key_prefix
        self._pause = pause
        self._on_attached = on_attached
        self._resources = ExitStack()
        self._nodes: list[_Node] = []
        self._looked_at_s = 0.0
        self._is_open = False
        self.report = WarmReport()
        giving, taking = _roles(old.members, new.members)
        self._roles = {name: (name in giving, name in taking) for name in giving | taking}
        self._members = {_name(member): member for member in (*old.members, *new.members)}

    def __enter__(self) -> Self:
        try:
            self._begin()
        except BaseException:
            self._resources.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._is_open:
                with suppress(WarmError):  # What cannot be removed is hidden.
                    self.rollback()
        finally:
            self._resources.close()

    # ---- the beginning -----------------------------------------------------------------------

    def _begin(self) -> None:
        for name, (gives, takes) in sorted(self._roles.items()):
            member = self._members[name]
            self._nodes.append(_Node(member, self._attach(member), gives, takes))
        self._on_attached()
        session = secrets.randbits(62) | 1
        self.report.total = sum(node.core.items() for node in self._sources())
        bits = max(self.report.total, 1).bit_length() + _BITS_PER_ITEM_SHIFT
        shift = min(max(bits, _SHIFT_MIN), _SHIFT_MAX)
        for node in self._nodes:
            with _naming(node):
                node.core.begin(session, shift)
                node.has_begun = True
        for node in self._nodes:
            with _naming(node):
                self._accept(node)
        self._is_open = True
        self._keep_up()

    def _accept(self, node: _Node) -> None:
        """Without the hidden copies that a change left behind whose leader was killed."""
        has_hidden = node.core.copies() != "own"
        while has_hidden and node.core.end_step(False) is not None:
            self._pause(0)
        if node.takes:
            node.core.accept([source.core for source in self._sources() if source is not node])
        elif has_hidden:
            node.core.accept([])  # Its copies, none, are its own in the end.

    def _attach(self, member: Member) -> _core.CopyNode:
        try:
            attachment = attach_to(self._address(member), ATTACH_TIMEOUT_S)
        except AttachError as error:
            raise WarmError(f"cannot copy from or to {member.address}: {error}") from None
        core = _core.CopyNode()
        with attachment:
            try:
                core.open(
                    attachment.fd,
                    attachment.run_fd,
                    attachment.slot,
                    attachment.connection.fileno(),
                    say("detach"),
                )
            except _core.CoreError as error:
                raise WarmError(f"cannot copy from or to {member.address}: {error}") from None
            attachment.connection.detach()
        self._resources.callback(core.close)
        return core

    def _sources(self) -> Iterator[_Node]:
        return (node for node in self._nodes if node.gives)

    def _targets(self) -> Iterator[_Node]:
        return (node for node in self._nodes if node.takes)

    # ---- copying -----------------------------------------------------------------------------

    def copy(self, progress: Progress | None = None) -> WarmReport:
        """Bring the items to their new homes; before clients are told.

        Args:
            progress: called after every piece of some hundred items.

        Raises:
            WarmError: a node has ended, was flushed, or does not let go of a lock. Leave the block.
        """
        targets = {_name(node.member): node for node in self._targets()}
        for source in self._sources():
            while True:
                began_s = time.monotonic()
                with _naming(source):
                    keys = source.core.read()
                if keys is None:
                    break
                self.report.read += len(keys)
                for name, indices in self._homes(source.member, keys).items():
                    if name in targets:
                        self._take(targets[name], source, indices)
                self._keep_up()
                if progress is not None:
                    progress(self.report)
                # As long as it took, so that at most half of a CPU is taken from those who serve.
                self._pause(min(time.monotonic() - began_s, _LOOK_EVERY_S))
        return self.report

    def _homes(self, source: Member, keys: Sequence[bytes]) -> dict[str, list[int]]:
        """Of the keys that leave the source: their indices by the name of their new home."""
        homes: dict[str, list[int]] = {}
        for index, key in enumerate(keys):
            hashed = self._hashed(key)
            if _name(self._old.node_of(hashed)) != _name(source):
                continue
            home = _name(self._new.node_of(hashed))
            if home != _name(source):
                homes.setdefault(home, []).append(index)
        return homes

    def _hashed(self, key: bytes) -> str | bytes:
        """The key as the client had it in hand when it chose the node."""
        key = key.removeprefix(self._prefix)
        if self._keys_as_str:
            with suppress(UnicodeDecodeError):
                return key.decode()
        return key

    def _take(self, target: _Node, source: _Node, indices: list[int]) -> None:
        while indices:
            with _naming(target):
                done, copied, changed, left_out, gone = target.core.take(source.core, indices)
            self.report.copied += copied
            self.report.changed += changed
            self.report.left_out += left_out
            self.report.gone += gone
            indices = indices[done:]
            self._keep_up()

    # ---- afterwards --------------------------------------------------------------------------

    def settle(self, progress: Progress | None = None) -> WarmReport:
        """Wait until clients know the new list, then make the copies the nodes' own.

        Args:
            progress: called about every second.

        Raises:
            WarmError: a source has ended or was flushed meanwhile: the copies are hidden. The
                change itself goes on, as one without copies.
        """
        until_s = time.monotonic() + self._settle_s
        next_s = 0.0

        def is_over() -> bool:
            nonlocal next_s
            now_s = time.monotonic()
            if progress is not None and now_s >= next_s:
                next_s = now_s + 1.0
                progress(self.report)
            return now_s >= until_s

        self.wait_for(is_over)
        return self.finish()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Keep the copies shown until the condition is true.

        Raises:
            WarmError: as of `settle`.
        """
        while not condition():
            self._keep_up()
            self._pause(_LOOK_EVERY_S)

    def finish(self) -> WarmReport:
        """Make the copies that are shown the nodes' own now, and drop the others.

        Raises:
            WarmError: as of `settle`.
        """
        for node in self._targets():
            self._end(node, confirm=True)
        self._over(own=True)
        return self.report

    def rollback(self) -> None:
        """Take all copies back.

        Raises:
            WarmError: a node has ended, or does not let go of a lock; its copies are hidden.
        """
        try:
            self._hide()
            for node in self._targets():
                self._end(node, confirm=False)
        except BaseException:
            self._over(own=False)
            raise
        self._over(own=True)

    def _end(self, node: _Node, *, confirm: bool) -> None:
        while True:
            if confirm:
                self._keep_up()
            with _naming(node):
                counts = node.core.end_step(confirm)
            if counts is None:
                return
            if confirm:
                self.report.confirmed += counts[0]
                self.report.hidden += counts[1]

    def _over(self, *, own: bool) -> None:
        """Targets first: as long as they check their copies, the sources must know of changes."""
        self._is_open = False
        for node in sorted(self._nodes, key=lambda node: node.gives):
            if node.has_begun:
                node.core.end(own)

    def _keep_up(self) -> None:
        """Look at all nodes now and then, without which copies are not shown."""
        now_ns = time.monotonic_ns()
        if now_ns / 1e9 - self._looked_at_s < _LOOK_EVERY_S / 2:
            return
        for node in self._nodes:
            if not node.core.look():
                self._hide()
                raise WarmError(
                    f"{node.member.address} has ended or was flushed while items were copied"
                )
        self._looked_at_s = now_ns / 1e9
        for node in self._targets():
            node.core.show_from(now_ns)

    def _hide(self) -> None:
        """At once: a walk may take longer than a source to come back without its bits."""
        for node in self._targets():
            node.core.show_from(0)


def _name(member: Member) -> str:
    return member.address


def _roles(old: Sequence[Member], new: Sequence[Member]) -> tuple[set[str], set[str]]:
    """Whose items move, and where to: by hashings that move no more than they must."""
    before, after = {_name(member) for member in old}, {_name(member) for member in new}
    if before <= after:
        return before, after - before
    if after <= before:
        return before - after, after
    return before, after


@contextmanager
def _naming(node: _Node) -> Iterator[None]:
    try:
        yield
    except (WarmError, Busy) as error:
        raise WarmError(f"{node.member.address}: {error}") from None

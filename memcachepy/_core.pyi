"""The C core's surface: one segment, its processes' loops, the protocol without sockets."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Self, final

from typing_extensions import Buffer, disjoint_base

LAYOUT_VERSION: Final[int]
PROTOCOL_VERSION: Final[str]
"""What `version` answers: the memcached release whose protocol is spoken."""
MEMORY_BYTES_MAX: Final[int]
"""The largest memory limit that references can reach."""
WORKERS_MAX: Final[int]
ATTACHED_MAX: Final[int]
"""Processes outside the node that can be attached at the same time."""
EVICTION_POLICIES: Final[tuple[str, ...]]
"""What goes when memory is full, by name; the default first."""

SLOT_SUPERVISOR: Final[int]
SLOT_ACCEPTOR: Final[int]
SLOT_MAINTAINER: Final[int]
SLOT_DISCOVERY: Final[int]
SLOT_WORKER_FIRST: Final[int]
"""Where the slots of workers begin; those of attached processes follow the last worker's."""

RUNNING: Final[int]
DRAINING: Final[int]
STOPPING: Final[int]

EXIT_STOPPED: Final[int]
"""A loop ended because it was asked to."""
EXIT_ORPHANED: Final[int]
REPAIR_ATTEMPTS_MAX: Final[int]
"""A loop ended because the supervisor is gone."""

COPIES_OUTLIVED_NS: Final[int]
"""So long after a node has ended no other one shows a copy of what it had (`CopyNode`)."""

class CoreError(Exception):
    """The core refused to start; the message is a sentence for a person."""

class MemoryShortage(CoreError):
    """The host, a cgroup or the file system cannot hold the segment."""

@final
class Segment:
    """A node's shared memory, created by the supervisor before it forks.

    The mapping and its descriptor are released with the object. All methods may be called in any
    process that was forked after creation.
    """

    def __new__(cls, settings: Mapping[str, object]) -> Self:
        """Create a sealed, sparse memfd segment.

        Args:
            settings: the node's settings; every key of `SETTINGS` may be given, the rest default.

        Raises:
            ValueError: an unknown setting or a value out of range; names both.
            MemoryShortage: the limits of the host or of a cgroup are too small.
        """
    @classmethod
    def attach(cls, fd: int, run_fd: int) -> Self:
        """Map a segment that another process created; both descriptors are duplicated.

        Only to look at: what takes locks (`counters` and `check` among them) works in the
        supervisor's slot until `claim_slot` chose another.

        Raises:
            CoreError: it is no segment, or one of another build.
        """
    @property
    def fd(self) -> int:
        """Of the part that holds the data."""

    @property
    def run_fd(self) -> int:
        """Of the part that belongs to this run: locks, slots, settings."""

    @property
    def reserve_bytes(self) -> int:
        """Address space set aside for the largest limit that can be asked for later."""
    @property
    def page_bytes(self) -> int: ...
    @property
    def shard_count(self) -> int: ...
    def claim_slot(self, slot: int) -> None:
        """Make this process the owner of a process slot (`SLOT_…`)."""
    def set_state(self, state: int) -> None:
        """RUNNING, DRAINING or STOPPING; write to each loop's wake descriptor afterwards."""
    def change_settings(self, settings: Mapping[str, object], /) -> None:
        """Have every process take other values, all of them or none, from its next command on.

        Args:
            settings: some of `requests_per_event`, `flush_enabled`, `shutdown_enabled`,
                `dump_enabled`, `watch_enabled`.

        Raises:
            ValueError: a running node does not take this setting, or not this value.
        """
    def run_worker(self, slot: int, channel_fd: int, wake_fd: int, liveness_fd: int) -> int:
        """Serve connections that arrive on `channel_fd` until stopped. Releases the GIL.

        Args:
            slot: the worker's process slot.
            channel_fd: receiving end of a stream socket pair; one byte with one descriptor each.
            wake_fd: an eventfd; readable after `set_state` changed.
            liveness_fd: reading end of a pipe whose writing end only the supervisor holds.

        Returns:
            EXIT_STOPPED or EXIT_ORPHANED.
        """
    def run_acceptor(
        self,
        slot: int,
        listener_fds: Sequence[int],
        channel_fds: Sequence[int],
        wake_fd: int,
        liveness_fd: int,
    ) -> int:
        """Accept on every listener and pass each connection to the least loaded worker.

        `channel_fds[i]` is the sending end for the worker in slot SLOT_WORKER_FIRST + i. Ends
        as soon as the state is no longer RUNNING.
        """
    def run_maintainer(self, slot: int, wake_fd: int, liveness_fd: int) -> int:
        """Do the store's background work until the state is no longer RUNNING. Releases the GIL."""
    def start_child(self, slot: int) -> bool:
        """Claim a slot for a child whose loop is Python's: SLOT_DISCOVERY.

        Names the process and sees to it that it does not outlive its supervisor. Call `set_serving`
        once it works.

        Returns:
            False: the supervisor is gone, the process is to end.
        """
    def set_serving(self, slot: int) -> None:
        """Say of such a child what the other loops say of themselves, see `is_serving`."""
    def is_serving(self, slot: int) -> bool:
        """Whether the process in the slot has entered its loop since it claimed the slot."""
    def open_slot(self, pid: int) -> int:
        """Claim a free slot for an attached process; `recover` frees it. Supervisor only.

        Raises:
            CoreError: all are taken, or there is no memory for one more.
        """
    def end_slot(self, slot: int) -> None:
        """Believe no more what the slot says of locks: its process has ended. Supervisor only."""
    def close_slot(self, slot: int) -> None:
        """Forget that an attached process has the slot: `recover` is done. Supervisor only."""
    def die_with_supervisor(self) -> bool:
        """In a child that claims no slot: be killed when the supervisor ends.

        Returns:
            False: it has ended already.
        """
    def mend(self) -> tuple[int, int, int, int, bool]:
        """Once a second, in the supervisor: what other processes have written over.

        Becomes one whose owner has died: a lock that has been taken for three looks by a thread
        that does not exist, or whose words make no sense.

        Returns:
            Locks mended; shards rebuilt, and shards emptied since the last call because their words
            made no sense; the last of these; whether workers are to be woken, because the counts of
            their connections make no sense.
        """
    def recover(
        self, slot: int, channel_fd: int = -1, is_suspect: bool = False
    ) -> dict[str, int] | None:
        """Clean up after the process of a slot, which must have ended.

        Repairs every shard whose lock it held, frees its uploads, pins and pages in flight, and
        corrects the connection count: descriptors that still wait in `channel_fd` (the receiving
        end of a worker's channel) live on. Of a process that is suspect, because it died of a
        fault, the shard is rebuilt. A damaged segment may end the caller: not for the supervisor.

        Returns:
            shards_repaired, shards_rebuilt, uploads_freed, pins_released, connections_lost. None:
            a stopped process holds what is to be repaired; the slot stays taken, try again.
        """
    def lock_holders(self) -> list[tuple[int, int, int, int]]:
        """Processes that hold a shard's lock, the page pool's or the configurations', just now.

        Returns:
            Slot, pid, shard (-1: the pool; -2: the configurations), and how often the process has
            tried to get a lock so far: who holds one for long does not count on.
        """
    def set_stuck(self, slot: int, stuck: bool) -> None:
        """What `stats memcachepy` says of the slot's process, until it is recovered."""
    def add_child_rusage(self, user_s: float, system_s: float) -> None:
        """Add a reaped child's CPU time to what `stats` reports."""
    def connection_count(self) -> int: ...
    def counters(self) -> dict[str, int]:
        """Sums of all processes and shards, by their names in `stats`."""
    def check(self) -> list[str]:
        """Walk every shard under its lock and say what does not agree; empty when sound."""
    def rebuild(self) -> None:
        """Recompute every shard's table, free chunks and counters from its pages."""
    def set_config(self, key: str | bytes, client_flags: int, data: bytes, /) -> None:
        """Store what `config get <key>` answers; "cluster" is the list of nodes.

        Every worker answers with it from now on, and nobody ever sees a part of it, whenever the
        calling process is killed. There may be 16 keys of 1 to 250 bytes, without spaces and
        control characters, with up to 65,536 bytes each.

        Raises:
            ValueError: the key, the flags or the data are out of their range; says which.
            CoreError: there are 16 already, or a process that is stopped holds the lock: try again.
            MemoryShortage: the host has none for it; what was there stays.
        """
    def get_config(self, key: str | bytes, /) -> tuple[int, bytes] | None:
        """Client flags and data of a configuration.

        Raises:
            ValueError: no key can be this one.
            CoreError: somebody does nothing but change it.
        """
    def delete_config(self, key: str | bytes, /) -> bool:
        """Remove a configuration; False if there is none. Raises as `set_config` does."""
    def explain(self, key: bytes) -> dict[str, Any]:
        """Where a key is, or why it is not there. Never waits and leaves no trace.

        Returns:
            state, shard, remembers_s (how far back the shard's memory of departures reaches) and
            in_ghost (evicted lately; wrong for one of some thousand keys). With the state
            "stored", or "expired" or "flushed" and not reclaimed yet: cas, item_bytes (header, key
            and value), value_len, client_flags, class_id, hits (0 to 7, as eviction counts them),
            ttl_s (-1: never expires; of an expired item how long ago it did), last_access_s (ago),
            probation, chained, stale, fetched. With "gone": how ("deleted", "expired", "flushed",
            "refused" for an old value that went with a refused set, or the name of a counter of
            evictions), ago_s, fetched. Else "unknown", or "busy": ask again.

        Raises:
            ValueError: the key is empty or longer than 250 bytes.
        """
    def memory_report(self) -> dict[str, int]:
        """Walk every page and say where the memory went.

        Returns:
            items; pages_bytes, which is the sum of key_bytes, value_bytes, header_bytes,
            rounding_bytes (chunks less the items in them), unlinked_bytes (uploads, pinned or
            half-freed items), free_chunk_bytes, page_remainder_bytes, expiry_column_bytes,
            bucket_bytes, overflow_bytes, ring_bytes, table_spare_bytes, ghost_bytes and
            free_page_bytes.

        Raises:
            TimeoutError: a stopped process holds a shard's lock.
        """
    def replay(
        self,
        ids: Buffer,
        value_lens: int | Buffer,
        key_lens: int | Buffer = 16,
        ttl_s: int = 0,
        times_s: Buffer | None = None,
    ) -> tuple[int, int, int, int]:
        """Replay a trace as a read-through client: get, and on a miss set. Releases the GIL.

        The maintainer's work is done in between.

        Args:
            ids: the requests' keys as native 64-bit numbers. A key is the number's bytes, lowest
                first, filled up with zeros.
            value_lens: bytes of each request's value: a number, or native 32-bit numbers, one per
                request. A value above the item size limit is a miss and refused.
            key_lens: bytes of each request's key, likewise; 1 to 250.
            ttl_s: seconds that an item lives, up to 30 days; 0 is for ever.
            times_s: moments of the requests in seconds as native 32-bit numbers. What lies between
                two requests of this call passes on the node's clock.

        Returns:
            Hits, misses, sets that were refused, and the bytes of the values that were missed.

        Raises:
            ValueError: a buffer of another length; a number out of range; an id that needs more
                bytes than its key has.
        """
    def maintain(self) -> bool:
        """One step of the maintainer's work; whether there is more to do at once."""
    def advance_clock(self, seconds: int) -> None:
        """Move the node's clock forward, unless it is fixed; for tests and simulations."""
    def step_system_clock(self, seconds: int) -> None:
        """Pretend that the system clock was stepped by this much, unless it is fixed; for tests."""
    def take_shortage(self) -> str | None:
        """The newest memory shortage that lowered the effective limit, once; None if none."""
    def take_recovery(self) -> int | None:
        """How many seconds the newest shortage that has ended lasted, once; None if none has."""
    def close(self) -> None: ...

SETTINGS: Final[Mapping[str, object]]
"""Every setting the segment knows, with its default:

memory_limit_bytes, item_size_max_bytes, growth_factor, item_size_min_bytes (key + value + client
flags of the smallest slab class), conn_limit, worker_count, requests_per_event, backlog, verbosity,
eviction_policy (one of `EVICTION_POLICIES`), cas_enabled, flush_enabled, shutdown_enabled,
large_pages (bool), tcp_port, unix_socket (str), unix_mask (int),
listen (str: what `stats settings` shows as inter), supervisor_pid.
"""

@final
class Connection:
    """The protocol without a socket: bytes in, bytes out. For tests and tools."""

    def __new__(cls, segment: Segment, slot: int = ..., local: bool = True) -> Self:
        """`local`: the peer counts as one on this machine, who may change configurations."""
    def feed(self, data: bytes) -> bytes:
        """Give what arrived; returns all that would be sent. Empty after `closed`."""
    @property
    def closed(self) -> bool:
        """The protocol asked for the connection to be closed."""
    def close(self) -> None:
        """The peer went away."""

@disjoint_base
class Cache:
    """The store of a node, used without a socket. What there is to know: `memcachepy.cache.Cache`.

    A subclass has a method `_renew()` that calls `_open()` or raises: called before an operation
    when the object is not attached, when this process is a forked child of the one that attached
    it, and when the node is gone.
    """

    def get(self, key: str | bytes, default: Any = None) -> Any: ...
    def set(self, key: str | bytes, value: Buffer, expire: int = 0) -> None: ...
    def delete(self, key: str | bytes, /) -> bool: ...
    def incr(self, key: str | bytes, delta: int = 1) -> int | None: ...
    def decr(self, key: str | bytes, delta: int = 1) -> int | None: ...
    def close(self) -> None: ...
    def _open(self, fd: int, run_fd: int, slot: int, connection_fd: int, farewell: bytes) -> None:
        """Map the segment and use the slot, which the node has claimed for this process.

        Args:
            fd: of the segment's data; duplicated.
            run_fd: of its run; duplicated.
            slot: of an attached process.
            connection_fd: its end is the node's; owned and closed by the object from now on.
            farewell: sent over it when the slot is no longer used, but not by a forked child.

        Raises:
            CoreError: it is no segment, or one of another build.
        """

@final
class CopyNode:
    """A node that items are copied from or to; see `memcachepy.cluster.warm`. For one thread.

    Every method may raise `ValueError`: it is not attached; those that take locks `errors.Busy`: a
    process that is stopped holds one.
    """

    def open(self, fd: int, run_fd: int, slot: int, connection_fd: int, farewell: bytes, /) -> None:
        """As `Cache._open`."""
    def close(self) -> None:
        """Let go of the node. Of a session that goes on all copies are hidden."""
    def begin(self, session: int, shift: int, /) -> None:
        """Track from now on which keys are changed.

        Args:
            session: not 0, and the same number in all nodes of the change.
            shift: 2^shift bits are kept; 16 to 27.

        Raises:
            WarmError: another session goes on, or there is no memory for the bits.
        """
    def accept(self, sources: Sequence[CopyNode], /) -> None:
        """Take copies from these, which have begun, from now on; show those they do not object to.

        Its copies must be its own.
        """
    def look(self) -> bool:
        """Whether the node still lives, and nothing was changed in it that is not tracked."""
    def show_from(self, now_ns: int, /) -> None:
        """Let copies be shown for a fifth of a second from this moment of `time.monotonic_ns()`.

        At it, or later, all nodes of the change must have been looked at. 0 hides them at once.
        """
    def read(self) -> list[bytes] | None:
        """The keys of the next piece of the walk over all items, which are kept; None: no more.

        There may be none in a piece. Left out are copies, and items that somebody was told to store
        anew.
        """
    def take(self, source: CopyNode, indices: list[int], /) -> tuple[int, int, int, int, int]:
        """Store items of the piece that `source` has read last.

        Returns:
            How many of the indices are done, from the first on: about a megabyte of values at
            least. Of these, how many were stored; not stored because the key was changed; left out
            because they are too large or there is no room; no longer there.

        Raises:
            WarmError: this node was flushed.
        """
    def end_step(self, confirm: bool, /) -> tuple[int, int] | None:
        """A piece of the walk that ends the copies: drop the hidden ones, or all.

        Returns:
            How many are the node's own from now on, and how many went; None: the walk is over, and
            begins anew with the next call.
        """
    def end(self, own: bool, /) -> None:
        """End the session. What is still marked is the node's own; or hidden, until it is dropped.

        Only a node that accepts has such items.
        """
    def copies(self) -> str:
        """What its marked items are: "own", "checked" or "dead", that is hidden."""
    def items(self) -> int:
        """How many items it has."""

def allow_core() -> None:
    """Let the kernel write a core file though this process has changed its user. Raises OSError."""

def lock_memory() -> None:
    """Keep what this process has mapped, or will, in memory as soon as it is touched.

    Raises:
        OSError: the limit of locked memory forbids it.
    """

def xxh64(data: bytes, seed: int = 0) -> int: ...
def xxh64_highest(data: Buffer, seeds: Buffer, /) -> int:
    """The index of the seed with which the hash of `data` is highest; of equal ones the first.

    Args:
        data: the bytes to hash.
        seeds: 64-bit numbers of this machine's byte order, as in `array("Q")`.

    Raises:
        ValueError: there is none.
    """

"""Everything this package raises for a person to read, with the exit status each one means."""

import os
from typing import ClassVar, Self


class MemcachepyError(Exception):
    """The root; the message is a sentence that says what to do."""

    exit_status: ClassVar[int] = 1


class ConfigError(MemcachepyError):
    """A setting has a value that it cannot have.

    Args:
        name: the setting, as in the TOML file.
        value: what was given.
        must: what would be right, as in "must be 1 to 5".
        source: where the value came from, as in "-p" or "MEMCACHEPY_PORT"; filled in by whoever
            knows it.
    """

    exit_status = os.EX_USAGE

    def __init__(self, name: str, value: object, must: str, source: str = "") -> None:
        super().__init__(name, value, must, source)
        self.name = name
        self.value = value
        self.must = must
        self.source = source

    def given_by(self, source: str) -> Self:
        """The same error with its source."""
        return type(self)(self.name, self.value, self.must, source)

    def __str__(self) -> str:
        source = f" ({self.source})" if self.source else ""
        return f"{self.name} is {self.value!r}{source}: {self.must}"


class CoreRefusal(MemcachepyError):
    """The core does not take a setting that this package took for right."""

    exit_status = os.EX_USAGE


class BootError(MemcachepyError):
    """The system does not give what the node needs to start: a port, memory, descriptors."""

    exit_status = os.EX_OSERR


class ListenError(BootError):
    """A socket cannot be listened on.

    Args:
        sentence: says what to do.
        where: the address, or the file of a UNIX socket.
        reason: what the system said.
    """

    def __init__(self, sentence: str, where: str, reason: str) -> None:
        super().__init__(sentence, where, reason)
        self.where = where
        self.reason = reason

    def __str__(self) -> str:
        return str(self.args[0])


class UnknownUser(MemcachepyError):
    """The user to become does not exist."""

    exit_status = os.EX_NOUSER


class MembershipError(MemcachepyError):
    """The list of a cluster's nodes cannot be had or changed."""

    exit_status = os.EX_UNAVAILABLE


class NoListYet(MembershipError):
    """Nobody has made a list so far."""


class ClusterError(MemcachepyError):
    """A cluster cannot be started, or cannot be changed as asked; it is as the message says."""


class NoCluster(ClusterError):
    """No cluster of this name runs here."""

    exit_status = os.EX_UNAVAILABLE


class WarmError(MemcachepyError):
    """The items whose home changes cannot be copied; nothing was changed."""

    exit_status = os.EX_TEMPFAIL


class AttachError(MemcachepyError):
    """This process cannot attach to a node: none answers, or it refuses, or it is another build."""


class NodeGone(AttachError):
    """The node that was attached has ended, and no other has taken its place."""


class NodeUnreachable(MemcachepyError):
    """A server does not answer: nobody is there, it hangs up, or it takes too long."""

    exit_status = os.EX_UNAVAILABLE


class NodeRefuses(MemcachepyError):
    """A server does not do what it is asked for; the message has its words."""


class DumpExists(MemcachepyError):
    """A file is in the way of the one to be written."""

    exit_status = os.EX_CANTCREAT


class DamagedDump(MemcachepyError):
    """A dump file is not what was written.

    Args:
        path: of the file.
        block: number of the damaged block, from 0; None: the file's header.
        offset: of the block's first byte in the file.
        why: as in "its checksum is wrong".
    """

    exit_status = os.EX_DATAERR

    def __init__(self, path: object, block: int | None, offset: int, why: str) -> None:
        super().__init__(path, block, offset, why)
        self.path = path
        self.block = block
        self.offset = offset
        self.why = why

    def __str__(self) -> str:
        where = "its header" if self.block is None else f"block {self.block}"
        return f"{self.path} is damaged in {where}, at byte {self.offset}: {self.why}"


class CacheError(MemcachepyError):
    """An operation that could not be done."""


class Busy(CacheError):
    """A stopped process is in the way: trying again later may help."""


class CacheFull(CacheError):
    """There is no memory for the value, and nothing may be evicted."""


class InvalidKey(CacheError, ValueError):
    """A key that memcached does not take either."""


class ValueTooLarge(CacheError, ValueError):
    """Longer than the node's item size limit."""


class NotANumber(CacheError, ValueError):
    """Arithmetic on a value that is no decimal number of 64 bits."""

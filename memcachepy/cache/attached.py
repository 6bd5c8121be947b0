"""Attaching this process to a node on this machine, and keeping it attached."""

from types import TracebackType
from typing import Self

from memcachepy import _core
from memcachepy.cache.handshake import Address, Attachment, attach_to, say
from memcachepy.errors import AttachError, NodeGone

TIMEOUT_S = 5.0


class Cache(_core.Cache):
    """A node's items, read and written where they lie. Made by `attach`.

    Keys are `str` (as UTF-8) or `bytes`: 1 to 250 bytes without spaces and control characters.
    Values are bytes. Everything is shared with the node's other clients, whatever their protocol.

    Usable from several threads. A forked child attaches by itself on first use, with a slot of its
    own; so does everybody when the node has been restarted, which then has other items.

    Every operation may raise:

    * `errors.Busy`: a process that is stopped holds the lock of the key's shard.
    * `errors.NodeGone`: the node has ended. The next operation tries to attach again.
    * `ValueError`: the cache is closed.
    """

    __slots__ = ("_address", "_timeout_s")

    _address: Address
    _timeout_s: float

    @classmethod
    def attach(cls, address: Address = None, *, timeout_s: float = TIMEOUT_S) -> Self:
        """Map a node's memory and take a process slot.

        Args:
            address: the path of a control socket, or a node's port; None is what the environment
                variable MEMCACHEPY_CONTROL_SOCKET or else MEMCACHEPY_PORT names, or port 11211.
            timeout_s: for the node to answer.

        Raises:
            AttachError: no node answers there, it refuses, or it is of another build.
        """
        cache = cls()
        cache._address = address
        cache._timeout_s = timeout_s
        cache._renew_at(attach_to(address, timeout_s))
        return cache

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _renew(self) -> None:
        """Called by the core; see `_core.Cache`."""
        try:
            self._renew_at(attach_to(self._address, self._timeout_s))
        except AttachError as error:
            raise NodeGone(f"the node is gone: {error}") from None

    def _renew_at(self, attachment: Attachment) -> None:
        with attachment:
            try:
                self._open(
                    attachment.fd,
                    attachment.run_fd,
                    attachment.slot,
                    attachment.connection.fileno(),
                    say("detach"),
                )
            except _core.CoreError as error:
                raise AttachError(str(error)) from None
            attachment.connection.detach()

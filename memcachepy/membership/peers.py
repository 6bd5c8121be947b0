"""What the nodes of a list say the list is: `config get cluster`, asked of many at a time."""

import ipaddress
import selectors
import socket
import time
from collections.abc import Iterable
from contextlib import suppress

from memcachepy.topology import Member, Topology

QUESTION = b"config get cluster\r\n"
_ANSWER_BYTES_MAX = 1 << 17
_ENDS = (b"END\r\n", b"ERROR\r\n")


def ask_nodes(members: Iterable[Member], timeout_s: float) -> dict[Member, Topology]:
    """The answers that came in time and are lists; one connection for each, all at once."""
    answers: dict[Member, Topology] = {}
    give_up_at_s = time.monotonic() + timeout_s
    with selectors.DefaultSelector() as selector:
        try:
            for member in members:
                with suppress(OSError, ValueError):
                    _Question(member).open(selector)
            while selector.get_map() and (left_s := give_up_at_s - time.monotonic()) > 0:
                for key, _ in selector.select(left_s):
                    question: _Question = key.data
                    if question.go_on(selector):
                        topology = question.answer()
                        if topology is not None:
                            answers[question.member] = topology
        finally:
            for key in list(selector.get_map().values()):
                key.data.close(selector)
    return answers


class _Question:
    """A connection to one node.

    Raises:
        ValueError: the node has a name only: to look it up might take long.
    """

    def __init__(self, member: Member) -> None:
        self.member = member
        address = ipaddress.ip_address(member.ip or member.host)
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        self._where = (str(address), member.port)
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self._received = bytearray()
        self._is_asked = False

    def open(self, selector: selectors.BaseSelector) -> None:
        """Raises OSError: it cannot be connected to."""
        try:
            with suppress(BlockingIOError):
                self._socket.connect(self._where)
        except BaseException:
            self._socket.close()
            raise
        selector.register(self._socket, selectors.EVENT_WRITE, self)

    def close(self, selector: selectors.BaseSelector) -> None:
        selector.unregister(self._socket)
        self._socket.close()

    def go_on(self, selector: selectors.BaseSelector) -> bool:
        """Whether it is over, one way or another."""
        is_over = True
        with suppress(OSError):
            if not self._is_asked:
                self._socket.send(QUESTION)  # Few enough bytes to go at once, or never.
                self._is_asked = True
                selector.modify(self._socket, selectors.EVENT_READ, self)
                return False
            data = self._socket.recv(1 << 16)
            self._received += data
            has_ended = self._received.endswith(_ENDS)
            is_over = not data or has_ended or len(self._received) > _ANSWER_BYTES_MAX
        if is_over:
            self.close(selector)
        return is_over

    def answer(self) -> Topology | None:
        """None: it is no list."""
        header, _, rest = bytes(self._received).partition(b"\r\n")
        words = header.split()
        if len(words) != 4 or words[:2] != [b"CONFIG", b"cluster"]:
            return None
        with suppress(ValueError):
            return Topology.parse(rest[: int(words[3])])
        return None

"""What the meta commands tell of time; within the second that may pass meanwhile."""

import re
from collections.abc import Iterator

import pytest
from support.peers import InProcessPeer
from support.transcript import Link

pytestmark = pytest.mark.once

# The access time has 20 bits of a second, of which the last sixteenth is the future.
ACCESS_SPAN_S = 1 << 20


class Peer(InProcessPeer):
    """With one connection."""

    def __init__(self) -> None:
        super().__init__()
        self.link: Link = self.connect()


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


def ask(peer: Peer, line: bytes) -> bytes:
    peer.link.send(line + b"\r\n")
    reply = bytes(peer.link.buffer)
    peer.link.buffer.clear()
    return reply


def number(pattern: bytes, reply: bytes) -> int:
    found = re.search(pattern, reply)
    assert found is not None, reply
    return int(found[1])


def idle_s(peer: Peer) -> int:
    return number(rb" l(\d+)", ask(peer, b"mg k l u"))


def test_l_counts_the_seconds_since_the_item_was_asked_for(peer: Peer) -> None:
    ask(peer, b"ms k 1\r\na")
    peer.move_clock("advance", 7)
    assert 7 <= idle_s(peer) <= 8
    peer.move_clock("advance", 100_000)
    assert 100_007 <= idle_s(peer) <= 100_009
    assert 100_007 <= number(rb"la=(\d+)", ask(peer, b"me k")) <= 100_009
    assert 100_007 <= number(rb" l(\d+)", ask(peer, b"mg k v l")) <= 100_009
    assert idle_s(peer) <= 1


def test_get_touch_and_a_locked_read_begin_the_count_anew(peer: Peer) -> None:
    ask(peer, b"ms k 1\r\na")
    for line in (b"get k", b"touch k 0", b"mg k T0", b"mg k R5", b"add k 0 0 1\r\nb"):
        peer.move_clock("advance", 50)
        assert idle_s(peer) >= 50, line
        ask(peer, line)
        assert idle_s(peer) <= 1, line


def test_l_begins_again_after_twelve_days_and_never_tells_the_future(peer: Peer) -> None:
    ask(peer, b"ms k 1\r\na")
    peer.move_clock("advance", ACCESS_SPAN_S * 15 // 16 - 10)
    assert ACCESS_SPAN_S * 15 // 16 - 10 <= idle_s(peer) <= ACCESS_SPAN_S * 15 // 16 - 8
    peer.move_clock("advance", 20)
    assert idle_s(peer) == 0
    peer.move_clock("advance", ACCESS_SPAN_S // 16)
    assert 9 <= idle_s(peer) <= 13


def test_t_counts_down_and_r_tells_when_less_is_left(peer: Peer) -> None:
    ask(peer, b"ms k 1 T100\r\na")
    assert 99 <= number(rb" t(\d+)", ask(peer, b"mg k t")) <= 100
    peer.move_clock("advance", 60)
    assert 39 <= number(rb" t(\d+)", ask(peer, b"mg k t")) <= 40
    assert ask(peer, b"mg k R30") == b"HD\r\n"
    assert ask(peer, b"mg k R50") == b"HD W\r\n"
    assert ask(peer, b"mg k R50") == b"HD Z\r\n"
    peer.move_clock("advance", 41)
    assert ask(peer, b"mg k R50") == b"EN\r\n"


def test_absolute_and_relative_expiries_are_compared_as_ttls(peer: Peer) -> None:
    ask(peer, b"ms k 1 T3000000\r\na")  # Long ago.
    assert ask(peer, b"mg k") == b"EN\r\n"
    ask(peer, b"ms k 1 T4000000000\r\na")  # Negative in 32 bits.
    assert ask(peer, b"mg k") == b"EN\r\n"
    ask(peer, b"ms k 1 T3000000000\r\na")
    assert ask(peer, b"mg k R2592000") == b"HD\r\n"
    assert ask(peer, b"mg k R3000000100") == b"HD W\r\n"


def test_a_win_of_a_vivified_item_ends_with_it(peer: Peer) -> None:
    assert ask(peer, b"mg k N30 v") == b"VA 0 W\r\n\r\n"
    assert ask(peer, b"mg k N30 v") == b"VA 0 Z\r\n\r\n"
    peer.move_clock("advance", 31)
    assert ask(peer, b"mg k N30 v") == b"VA 0 W\r\n\r\n"


def test_ms_over_a_newer_item_keeps_its_expiry(peer: Peer) -> None:
    cas = number(rb"c(\d+)", ask(peer, b"ms k 1 c T1000\r\na"))
    ask(peer, b"md k I T30")
    assert ask(peer, b"ms k 1 I C%d T1000\r\nb" % cas) == b"HD\r\n"
    assert 29 <= number(rb" t(\d+)", ask(peer, b"mg k t")) <= 30

"""Which node of a cluster a key belongs to: pure functions of the key and the members.

A node is known by its `host:port` as the list has it, an IPv6 address without brackets. Each
distribution moves about one key in n when the n-th node comes, and the order of the members means
nothing.

- `rendezvous`, our own: highest random weight (Thaler and Ravishankar, 1998). The weight of a node
  for a key is XXH64 of the key's bytes, seeded with XXH64 of the node's name.
- `pymemcache`: what its HashClient does: the same with the 32-bit MurmurHash3 of `node-key`.
- `ketama`: what libmemcached does with KETAMA_WEIGHTED and equal weights: 160 points or a few less
  for each node on a circle of 32 bits, by MD5 (libhashkit, `hosts.cc: update_continuum`).
"""

import struct
from abc import ABC, abstractmethod
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from hashlib import md5
from operator import itemgetter
from typing import Literal, get_args

from memcachepy import _core
from memcachepy.errors import ConfigError
from memcachepy.topology import Member

Key = str | bytes
Hashing = Literal["rendezvous", "pymemcache", "ketama"]
HASHINGS: tuple[Hashing, ...] = get_args(Hashing)
_PORT_DEFAULT = 11211
_KETAMA_POINTS = 160
_MASK = 0xFFFFFFFF
_C1 = 0xCC9E2D51
_C2 = 0x1B873593


def node_of(key: Key, members: Sequence[Member], hashing: Hashing = "rendezvous") -> Member:
    """The member that has the key; for many keys make a `ring` once.

    Raises:
        ConfigError: there are no members, or no such hashing.
    """
    return ring(members, hashing).node_of(key)


def ring(members: Sequence[Member], hashing: Hashing = "rendezvous") -> "Ring":
    """The distribution over these members, prepared for many keys.

    Raises:
        ConfigError: there are no members, or no such hashing.
    """
    if hashing not in _RINGS:
        raise ConfigError("hashing", hashing, f"must be one of {', '.join(HASHINGS)}")
    if not members:
        raise ConfigError("members", members, "must not be empty")
    return _RINGS[hashing](members)


class Ring(ABC):
    """Members and a way to choose one; never changes, so any number of threads may use it."""

    __slots__ = ("members",)

    def __init__(self, members: Sequence[Member]) -> None:
        # Sorted, so that equal weights are decided alike everywhere.
        self.members = tuple(sorted(members))

    def node_of(self, key: Key) -> Member:
        return self.members[self.index_of(key)]

    @abstractmethod
    def index_of(self, key: Key) -> int:
        """The number of the key's node in `members`.

        A str means its bytes in UTF-8, but for `pymemcache`, which sends a key given as bytes
        elsewhere than the same one given as str, as HashClient does.
        """


class RendezvousRing(Ring):
    __slots__ = ("_seeds",)

    def __init__(self, members: Sequence[Member]) -> None:
        super().__init__(members)
        names = (_name(member).encode() for member in self.members)
        self._seeds = array("Q", map(_core.xxh64, names)).tobytes()

    def index_of(self, key: Key) -> int:
        if isinstance(key, str):
            key = key.encode()
        return _core.xxh64_highest(key, self._seeds)


class PymemcacheRing(Ring):
    """HashClient's way, with the part of the hash that is about the node computed beforehand."""

    __slots__ = ("_starts",)

    def __init__(self, members: Sequence[Member]) -> None:
        super().__init__(members)
        # Equal hashes are decided by the name, the greatest wins: it comes first here.
        named = sorted(((_name(member), i) for i, member in enumerate(self.members)), reverse=True)
        # What is left over of a name after its whole blocks -> (hash so far, length, index).
        self._starts: dict[bytes, list[tuple[int, int, int]]] = {}
        for name, index in named:
            prefix = f"{name}-".encode()
            whole = len(prefix) & ~3
            state = 0
            for block in _mixed_blocks(prefix[:whole]):
                state = _murmur3_step(state, block)
            self._starts.setdefault(prefix[whole:], []).append((state, len(prefix), index))

    def index_of(self, key: Key) -> int:
        # HashClient formats the key into a str, whatever it is, and takes each character's low
        # eight bits.
        text = f"{key!r}" if isinstance(key, bytes) else key
        data = text.encode("latin-1") if text.isascii() else bytes(ord(c) & 0xFF for c in text)
        highest = (-1, "")
        winner = 0
        for left_over, starts in self._starts.items():
            rest = left_over + data
            whole = len(rest) & ~3
            blocks = _mixed_blocks(rest[:whole])
            tail = _murmur3_mix(int.from_bytes(rest[whole:], "little"))
            for state, name_len, index in starts:
                for block in blocks:
                    state = _murmur3_step(state, block)
                score = _murmur3_end(state ^ tail, name_len + len(data))
                if score >= highest[0]:
                    rank = (score, _name(self.members[index]))
                    if rank > highest:
                        highest = rank
                        winner = index
        return winner


class KetamaRing(Ring):
    __slots__ = ("_indexes", "_points")

    def __init__(self, members: Sequence[Member]) -> None:
        super().__init__(members)
        count = len(self.members)
        # In single precision as in C: for some counts it comes out as 156 points a node.
        share = _f32(1.0 / count)
        points = int(_f32(_f32(_f32(_f32(share * _KETAMA_POINTS) / 4) * count) + _f32(1e-10)))
        circle: list[tuple[int, int]] = []
        for index, member in enumerate(self.members):
            name = member.host if member.port == _PORT_DEFAULT else _name(member)
            for number in range(points):
                digest = md5(f"{name}-{number}".encode(), usedforsecurity=False).digest()
                circle += ((point, index) for point in struct.unpack("<4I", digest))
        circle.sort(key=itemgetter(0))
        self._points = array("I", (point for point, _ in circle))
        self._indexes = array("I", (index for _, index in circle))

    def index_of(self, key: Key) -> int:
        if isinstance(key, str):
            key = key.encode()
        digest = md5(key, usedforsecurity=False).digest()
        at = bisect_left(self._points, int.from_bytes(digest[:4], "little"))
        return self._indexes[at if at < len(self._points) else 0]


_RINGS: dict[str, type[Ring]] = {
    "rendezvous": RendezvousRing,
    "pymemcache": PymemcacheRing,
    "ketama": KetamaRing,
}


def _name(member: Member) -> str:
    return f"{member.host}:{member.port}"


def _f32(value: float) -> float:
    """Rounded to C's float."""
    rounded: float = struct.unpack("f", struct.pack("f", value))[0]
    return rounded


# MurmurHash3_x86_32 by Austin Appleby, in its steps.


def _murmur3_mix(block: int) -> int:
    block = (block * _C1) & _MASK
    return ((block << 15 | block >> 17) * _C2) & _MASK


def _mixed_blocks(data: bytes) -> list[int]:
    return [_murmur3_mix(block) for block in struct.unpack(f"<{len(data) // 4}I", data)]


def _murmur3_step(state: int, mixed: int) -> int:
    state ^= mixed
    return ((state << 13 | state >> 19) * 5 + 0xE6546B64) & _MASK


def _murmur3_end(state: int, length: int) -> int:
    state ^= length
    state = ((state ^ state >> 16) * 0x85EBCA6B) & _MASK
    state = ((state ^ state >> 13) * 0xC2B2AE35) & _MASK
    return state ^ state >> 16

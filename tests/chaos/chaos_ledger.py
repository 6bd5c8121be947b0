"""What a client knows of its keys: what each may hold, and what every answer must therefore be.

Only the client writes its keys, so it knows exactly what is there; but for a request whose answer
never came, which happened whole or not at all: then two contents are possible until a read says
which it is. In a cache that evicts, a key may also be gone, and once it was seen gone it must not
come back.
"""

import hashlib
import random
from collections import deque
from dataclasses import dataclass, field

VALUE_LEN_MAX = 1_000_000
_HISTORY_LEN = 12
_VERSIONS_LEN = 60


@dataclass(frozen=True, slots=True)
class Content:
    value: bytes
    client_flags: int = 0

    def digest(self) -> bytes:
        return hashlib.blake2b(self.value, digest_size=8).digest()


@dataclass(slots=True)
class Record:
    """One key."""

    key: bytes
    is_counter: bool
    allowed: list[Content | None] = field(default_factory=lambda: [None])
    """One content; two after a request that was not answered."""
    cas: int = 0
    """The unique that the content was last seen with; 0: not seen since it was stored."""
    cas_floor: int = 0
    """No unique seen from now on is smaller."""
    version: int = 0
    history: deque[str] = field(default_factory=lambda: deque(maxlen=_HISTORY_LEN))
    versions: deque[bytes] = field(default_factory=lambda: deque(maxlen=_VERSIONS_LEN))
    """Digests of what was ever stored, to tell an old value from a torn one."""

    @property
    def is_certain(self) -> bool:
        return len(self.allowed) == 1

    def new_value(self, length: int) -> bytes:
        """Bytes that say whose they are and check themselves: no two versions share a block."""
        self.version += 1
        name = b"%s=%d;" % (self.key, self.version)
        block = hashlib.sha512(name).digest()
        return (name + block * (length // len(block) + 1))[:length]

    def settle(self, allowed: list[Content | None], *, stored: bool = False) -> None:
        """An answer came: this is what may be there now, with a new unique if it was stored."""
        if stored or allowed != self.allowed:
            self.cas = 0
        self.allowed = allowed

    def doubt(self, maybe: Content | None) -> None:
        """No answer came: it is as it was, or this."""
        if maybe not in self.allowed:
            self.allowed = [*self.allowed, maybe]
        self.cas = 0

    def remember(self, content: Content | None) -> None:
        if content is not None:
            self.versions.append(content.digest())

    def judge(self, found: Content | None, cas: int, evicts: bool) -> str | None:
        """What a read found. Returns what is wrong with it, or None."""
        if found not in self.allowed and not (found is None and evicts):
            wrong = self._what_is_wrong(found)
            self.settle([found])
            return wrong
        self.settle([found])
        if found is None or cas == 0:
            return None
        problem = None
        if self.cas not in (0, cas):
            problem = f"its cas changed from {self.cas} to {cas} without a store"
        elif cas < self.cas_floor:
            problem = f"its cas went back from {self.cas_floor} to {cas}"
        self.cas = self.cas_floor = cas
        return problem

    def _what_is_wrong(self, found: Content | None) -> str:
        if found is None:
            return "lost"
        lengths = [content and len(content.value) for content in self.allowed]
        facts = f"{len(found.value)} bytes, flags {found.client_flags}, instead of {lengths}"
        kind = "an older value" if found.digest() in self.versions else "torn"
        return f"{kind}: {facts}, beginning with {found.value[:60]!r}"


def draw_length(rng: random.Random) -> int:
    """Mostly small, now and then up to a megabyte."""
    choice = rng.random()
    if choice < 0.6:
        return rng.randint(1, 100)
    if choice < 0.85:
        return rng.randint(1, 4_000)
    if choice < 0.985:
        return rng.randint(1, 60_000)
    return rng.randint(60_000, VALUE_LEN_MAX)

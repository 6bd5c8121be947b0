"""Requests of one key, with the answers that each may have."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from chaos_ledger import VALUE_LEN_MAX, Content, Record, draw_length


@dataclass(slots=True)
class Operation:
    verb: str
    record: Record
    request: bytes
    outcomes: dict[bytes, list[Content | None]] = field(default_factory=dict)
    """What the key may hold after each answer that is right. None for a read."""
    maybe: Content | None = None
    """What the key holds if it happened and nobody said so."""

    @property
    def is_read(self) -> bool:
        return not self.outcomes


class Operations:
    """Draws operations on records whose content is certain.

    Args:
        rng: draws.
        evicts: the cache may evict, and be short of memory.
        is_plain: only what `memcachepy.Cache` offers: no client flags, no cas, no touch.
    """

    def __init__(self, rng: random.Random, *, evicts: bool, is_plain: bool) -> None:
        self._rng = rng
        self._evicts = evicts
        self._is_plain = is_plain
        if is_plain:
            self._of_values = [(self.read, 40), (self.set_, 40), (self.delete, 10)]
            self._of_counters = [(self.count, 60), (self.read, 20), (self.set_, 20)]
        else:
            self._of_values = [
                *[(self.read, 30), (self.set_, 25), (self.add, 5), (self.replace, 5)],
                *[(self.concat, 10), (self.cas, 8), (self.delete, 5), (self.touch, 4)],
            ]
            self._of_counters = [
                *[(self.count, 60), (self.read, 15), (self.add, 10), (self.set_, 5)],
                *[(self.delete, 4), (self.cas, 4)],
            ]

    def draw(self, record: Record) -> Operation:
        if not record.is_certain:
            return self.read(record)
        makers = self._of_counters if record.is_counter else self._of_values
        weights = [weight for _, weight in makers]
        maker: Callable[[Record], Operation] = self._rng.choices(makers, weights)[0][0]
        return maker(record)

    def _fresh(self, record: Record) -> Content:
        rng = self._rng
        client_flags = 0 if self._is_plain else rng.choice([0, 0, 1, 77, 2**32 - 1])
        if record.is_counter:
            return Content(b"%d" % rng.choice([0, 8, 98, 10**12]), client_flags)
        return Content(record.new_value(draw_length(rng)), client_flags)

    def read(self, record: Record) -> Operation:
        verb = "get" if self._is_plain else self._rng.choice(["get", "gets", "gets", "gat"])
        exptime = b"86400 " if verb == "gat" else b""
        return Operation(verb, record, b"%s %s%s\r\n" % (verb.encode(), exptime, record.key))

    def set_(self, record: Record) -> Operation:
        new = self._fresh(record)
        return Operation("set", record, _store("set", record, new), {b"STORED": [new]}, new)

    def add(self, record: Record) -> Operation:
        (now,) = record.allowed
        new = self._fresh(record)
        request = _store("add", record, new)
        if now is None:
            return Operation("add", record, request, {b"STORED": [new]}, new)
        operation = Operation("add", record, request, {b"NOT_STORED": [now]}, now)
        if self._evicts:
            operation.outcomes[b"STORED"] = [new]
            operation.maybe = new
        return operation

    def replace(self, record: Record) -> Operation:
        new = self._fresh(record)
        return self._over_old("replace", record, _store("replace", record, new), new)

    def concat(self, record: Record) -> Operation:
        (now,) = record.allowed
        if now is not None and len(now.value) > VALUE_LEN_MAX - 10_000:
            return self.read(record)
        verb = self._rng.choice(["append", "prepend"])
        added = Content(record.new_value(self._rng.choice([1, 30, 300, 9_000])))
        request = _store(verb, record, added)
        if now is None:
            return self._over_old(verb, record, request, added)
        whole = now.value + added.value if verb == "append" else added.value + now.value
        return self._over_old(verb, record, request, Content(whole, now.client_flags))

    def _over_old(self, verb: str, record: Record, request: bytes, new: Content) -> Operation:
        """Stored only over something."""
        (now,) = record.allowed
        if now is None:
            return Operation(verb, record, request, {b"NOT_STORED": [None]}, None)
        operation = Operation(verb, record, request, {b"STORED": [new]}, new)
        if self._evicts:
            operation.outcomes[b"NOT_STORED"] = [now]
        return operation

    def cas(self, record: Record) -> Operation:
        (now,) = record.allowed
        if record.cas == 0 or now is None:
            return Operation("gets", record, b"gets %s\r\n" % record.key)
        new = self._fresh(record)
        if self._rng.random() < 0.3:
            request = _store("cas", record, new, record.cas - 1)
            return self._gone_too(Operation("cas", record, request, {b"EXISTS": [now]}, now))
        request = _store("cas", record, new, record.cas)
        return self._gone_too(Operation("cas", record, request, {b"STORED": [new]}, new))

    def delete(self, record: Record) -> Operation:
        answer = b"NOT_FOUND" if record.allowed[0] is None else b"DELETED"
        request = b"delete %s\r\n" % record.key
        return self._gone_too(Operation("delete", record, request, {answer: [None]}, None))

    def touch(self, record: Record) -> Operation:
        (now,) = record.allowed
        answer = b"NOT_FOUND" if now is None else b"TOUCHED"
        request = b"touch %s 86400\r\n" % record.key
        return self._gone_too(Operation("touch", record, request, {answer: [now]}, now))

    def count(self, record: Record) -> Operation:
        (now,) = record.allowed
        verb = self._rng.choice(["incr", "incr", "decr"])
        delta = self._rng.randint(1, 9)
        request = b"%s %s %d\r\n" % (verb.encode(), record.key, delta)
        if now is None:
            return Operation(verb, record, request, {b"NOT_FOUND": [None]}, None)
        number = int(now.value)
        digits = b"%d" % (number + delta if verb == "incr" else max(0, number - delta))
        # A shorter number keeps the length of the stored one.
        new = Content(digits.ljust(len(now.value)), now.client_flags)
        return self._gone_too(Operation(verb, record, request, {digits: [new]}, new))

    def _gone_too(self, operation: Operation) -> Operation:
        if self._evicts:
            operation.outcomes.setdefault(b"NOT_FOUND", [None])
        return operation


def _store(verb: str, record: Record, content: Content, unique: int | None = None) -> bytes:
    token = b"" if unique is None else b" %d" % unique
    head = (verb.encode(), record.key, content.client_flags, len(content.value), token)
    return b"%s %s %d 0 %d%s\r\n%s\r\n" % (*head, content.value)

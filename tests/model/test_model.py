"""The store behind the protocol against a dict, over long histories of several connections."""

import re
from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

core = pytest.importorskip("memcachepy._core", reason="NO MODEL: memcachepy is not built")

CONNECTIONS = 3
MEMORY_BYTES = 64 << 20
MEMORY_BYTES_LARGE = 256 << 20
MEMORY_BYTES_TIGHT = 8 << 20
THIRTY_DAYS_S = 30 * 24 * 3600

KEYS = st.sampled_from([b"a", b"b", b"c", b"key:4", b"key:5", b"n" * 250, b"\x01\xff"])
MANY_KEYS = st.integers(0, 400).map(lambda number: b"key-%d" % number)
FLAGS = st.sampled_from([0, 0, 1, 2**32 - 1])
DELTAS = st.one_of(st.integers(0, 200), st.integers(0, 2**64 - 1))
TTLS_S = st.sampled_from([0, 0, 0, 5, 100, 5000, -1])


def _value(length: int, fill: int) -> bytes:
    """Different at every place within 256 bytes, so that a chunk out of order shows."""
    unit = bytes((fill + i * 7) & 0xFF for i in range(251))
    return (unit * (length // len(unit) + 1))[:length]


VALUES = st.one_of(
    st.binary(max_size=20),
    st.integers(0, 2**64 - 1).map(lambda number: b"%d" % number),
    st.builds(_value, st.integers(0, 3000), st.integers(0, 255)),
    st.builds(_value, st.integers(20_000, 300_000), st.integers(0, 255)),
)


@dataclass(frozen=True)
class Item:
    value: bytes
    flags: int
    expires_at_s: int | None
    """On the model's clock; None for never."""
    cas: int
    stale: bool = False
    sent: bool = False
    """Somebody was told to store it anew."""


class Model(RuleBasedStateMachine):
    """Every reply is predicted. The clock is only moved by the machine and stands still otherwise:
    lifetimes are longer than a run may take.
    """

    memory_bytes = MEMORY_BYTES
    evicts = False

    def __init__(self) -> None:
        super().__init__()
        self.segment = core.Segment({"memory_limit_bytes": self.memory_bytes})
        for slot in range(core.SLOT_WORKER_FIRST, core.SLOT_WORKER_FIRST + CONNECTIONS):
            self.segment.claim_slot(slot)
        self.connections = [
            core.Connection(self.segment, core.SLOT_WORKER_FIRST + i) for i in range(CONNECTIONS)
        ]
        self.items: dict[bytes, Item] = {}
        self.now_s = 0
        self.flush_at_s: int | None = None
        self.last_cas: int | None = None

    def teardown(self) -> None:
        for connection in self.connections:
            connection.close()
        self.segment.close()

    # What the model knows

    def live(self, key: bytes) -> Item | None:
        return self.items.get(key)

    def _drop_dead(self) -> None:
        """Forget what time has ended. A second either way is never asked about."""
        if self.flush_at_s is not None and self.now_s > self.flush_at_s:
            self.items.clear()
            self.flush_at_s = None
        for key, item in list(self.items.items()):
            if item.expires_at_s is not None and item.expires_at_s < self.now_s:
                del self.items[key]

    def expiry(self, ttl_s: int) -> int | None:
        if ttl_s == 0:
            return None
        return self.now_s + ttl_s if ttl_s > 0 else self.now_s - 1

    def store(self, key: bytes, item: Item) -> None:
        """Put it into the dict, unless it was born dead."""
        self.items[key] = item
        self._drop_dead()

    def next_cas(self) -> int:
        assert self.last_cas is not None
        self.last_cas += 1
        return self.last_cas

    # What is sent

    def ask(self, index: int, request: bytes) -> bytes:
        reply: bytes = self.connections[index].feed(request)
        assert not self.connections[index].closed
        return reply

    def put(
        self, index: int, command: bytes, key: bytes, flags: int, ttl_s: int, value: bytes, cut: int
    ) -> bytes:
        cas = b""
        if command.startswith(b"cas "):
            command, _, number = command.partition(b" ")
            cas = b" " + number
        request = b"%s %s %d %d %d%s\r\n%s\r\n" % (
            command,
            key,
            flags,
            ttl_s,
            len(value),
            cas,
            value,
        )
        cut = cut % len(request)
        first = self.ask(index, request[:cut])
        assert first == b"", f"answered {first!r} before the value was there"
        return self.ask(index, request[cut:])

    @initialize()
    def learn_the_cas_sequence(self) -> None:
        assert self.put(0, b"set", b"a", 0, 0, b"1", 0) == b"STORED\r\n"
        reply = self.ask(0, b"gets a\r\n")
        found = re.fullmatch(rb"VALUE a 0 1 ([0-9]+)\r\n1\r\nEND\r\n", reply)
        assert found is not None, reply
        self.last_cas = int(found[1])
        self.store(b"a", Item(b"1", 0, None, self.last_cas))

    connection = st.integers(0, CONNECTIONS - 1)

    @rule(
        index=connection,
        key=KEYS,
        flags=FLAGS,
        ttl_s=TTLS_S,
        value=VALUES,
        cut=st.integers(0, 400_000),
    )
    def set(self, index: int, key: bytes, flags: int, ttl_s: int, value: bytes, cut: int) -> None:
        assert self.put(index, b"set", key, flags, ttl_s, value, cut) == b"STORED\r\n"
        self.store(key, Item(value, flags, self.expiry(ttl_s), self.next_cas()))

    @rule(index=connection, key=KEYS, flags=FLAGS, ttl_s=TTLS_S, value=VALUES, adds=st.booleans())
    def add_or_replace(
        self, index: int, key: bytes, flags: int, ttl_s: int, value: bytes, adds: bool
    ) -> None:
        stores = (self.live(key) is None) == adds
        reply = self.put(index, b"add" if adds else b"replace", key, flags, ttl_s, value, 0)
        assert reply == (b"STORED\r\n" if stores else b"NOT_STORED\r\n")
        if stores:
            self.store(key, Item(value, flags, self.expiry(ttl_s), self.next_cas()))

    @rule(index=connection, key=KEYS, value=VALUES, appends=st.booleans())
    def append_or_prepend(self, index: int, key: bytes, value: bytes, appends: bool) -> None:
        old = self.live(key)
        if old is not None and len(old.value) + len(value) > 1_000_000:
            return
        reply = self.put(index, b"append" if appends else b"prepend", key, 9, 5, value, 0)
        assert reply == (b"NOT_STORED\r\n" if old is None else b"STORED\r\n")
        if old is not None:
            joined = old.value + value if appends else value + old.value
            self.store(key, Item(joined, old.flags, old.expires_at_s, self.next_cas()))

    @rule(
        index=connection, key=KEYS, flags=FLAGS, ttl_s=TTLS_S, value=VALUES, current=st.booleans()
    )
    def cas(
        self, index: int, key: bytes, flags: int, ttl_s: int, value: bytes, current: bool
    ) -> None:
        old = self.live(key)
        unique = 1 if old is None else old.cas if current else old.cas + 1
        reply = self.put(index, b"cas %d" % unique, key, flags, ttl_s, value, 0)
        if old is None:
            assert reply == b"NOT_FOUND\r\n"
        elif not current:
            assert reply == b"EXISTS\r\n"
        else:
            assert reply == b"STORED\r\n"
            self.store(key, Item(value, flags, self.expiry(ttl_s), self.next_cas()))

    @rule(index=connection, key=KEYS)
    def delete(self, index: int, key: bytes) -> None:
        known = self.items.pop(key, None) is not None
        reply = self.ask(index, b"delete %s\r\n" % key)
        assert reply == (b"DELETED\r\n" if known else b"NOT_FOUND\r\n")

    @rule(index=connection, key=KEYS, delta=DELTAS, up=st.booleans())
    def count(self, index: int, key: bytes, delta: int, up: bool) -> None:
        old = self.live(key)
        reply = self.ask(index, b"%s %s %d\r\n" % (b"incr" if up else b"decr", key, delta))
        if old is None:
            assert reply == b"NOT_FOUND\r\n"
            return
        number = _number(old.value)
        if number is None:
            assert reply == b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n"
            return
        result = (number + delta) % 2**64 if up else max(0, number - delta)
        assert reply == b"%d\r\n" % result
        self.store_number(key, old, result)

    def store_number(self, key: bytes, old: Item, number: int) -> None:
        """Padded to the old length; a longer one is another item, which nothing marks."""
        value = (b"%d" % number).ljust(len(old.value))
        stays = len(value) == len(old.value)
        marks = {} if stays else {"stale": False, "sent": False}
        self.store(key, replace(old, value=value, cas=self.next_cas(), **marks))

    @rule(index=connection, key=KEYS, ttl_s=TTLS_S)
    def touch(self, index: int, key: bytes, ttl_s: int) -> None:
        old = self.live(key)
        reply = self.ask(index, b"touch %s %d\r\n" % (key, ttl_s))
        assert reply == (b"NOT_FOUND\r\n" if old is None else b"TOUCHED\r\n")
        if old is not None:
            self.store(key, replace(old, expires_at_s=self.expiry(ttl_s)))

    @rule(index=connection, key=KEYS, ttl_s=TTLS_S)
    def get_and_touch(self, index: int, key: bytes, ttl_s: int) -> None:
        old = self.live(key)
        reply = self.ask(index, b"gats %d %s\r\n" % (ttl_s, key))
        assert reply == self.hit(key, old) + b"END\r\n"
        if old is not None:
            self.store(key, replace(old, expires_at_s=self.expiry(ttl_s)))

    @rule(index=connection, keys=st.lists(KEYS, min_size=1, max_size=5))
    def get(self, index: int, keys: list[bytes]) -> None:
        reply = self.ask(index, b"gets %s\r\n" % b" ".join(keys))
        assert reply == b"".join(self.hit(key, self.live(key)) for key in keys) + b"END\r\n"

    @rule(
        index=connection,
        key=KEYS,
        ttl_s=st.one_of(st.none(), TTLS_S),
        vivifies=st.booleans(),
        shows=st.booleans(),
    )
    def meta_get(
        self, index: int, key: bytes, ttl_s: int | None, vivifies: bool, shows: bool
    ) -> None:
        old = self.live(key)
        request = b"mg %s s f c%s%s" % (key, b" v" * shows, b" N5000" * vivifies)
        if ttl_s is not None:
            request += b" T%d" % ttl_s
        reply = self.ask(index, request + b"\r\n")
        if old is None and not vivifies:
            assert reply == b"EN\r\n"
            return
        created = old is None
        item = old or Item(b"", 0, self.expiry(5000), self.next_cas())
        won = created or (item.stale and not item.sent)
        tail = b" Z" * item.sent + b" X" * item.stale + b" W" * won
        head = b"s%d f%d c%d" % (len(item.value), item.flags, item.cas)
        if shows:
            expected = b"VA %d %s%s\r\n%s\r\n" % (len(item.value), head, tail, item.value)
        else:
            expected = b"HD %s%s\r\n" % (head, tail)
        assert reply == expected
        if ttl_s is not None:
            item = replace(item, expires_at_s=self.expiry(ttl_s))
        self.store(key, replace(item, sent=item.sent or won))

    @rule(
        index=connection,
        key=KEYS,
        flags=FLAGS,
        ttl_s=TTLS_S,
        value=VALUES,
        age=st.sampled_from([None, 0, 1, -1]),
        invalidates=st.booleans(),
        cut=st.integers(0, 400_000),
    )
    def meta_set(
        self,
        index: int,
        key: bytes,
        flags: int,
        ttl_s: int,
        value: bytes,
        age: int | None,
        invalidates: bool,
        cut: int,
    ) -> None:
        """By a cas that is the item's, older, newer, or none at all."""
        old = self.live(key)
        request = b"ms %s %d F%d T%d c s%s" % (key, len(value), flags, ttl_s, b" I" * invalidates)
        unique = (old.cas if old else 5) - (age or 0)
        if age is not None:
            request += b" C%d" % unique
        request += b"\r\n" + value + b"\r\n"
        cut %= len(request)
        assert self.ask(index, request[:cut]) == b""
        reply = self.ask(index, request[cut:])
        refused = b" c0 s%d\r\n" % len(value)
        if age is not None and old is None:
            assert reply == b"NF" + refused
            return
        older = age == 1 and invalidates and unique != 0  # 0 is the cas of none.
        if old is not None and age is not None and age != 0 and not older:
            assert reply == b"EX" + refused
            return
        item = Item(value, flags, self.expiry(ttl_s), self.next_cas())
        if old is not None and older:
            item = replace(item, expires_at_s=old.expires_at_s, stale=True, sent=old.sent)
        assert reply == b"HD c%d s%d\r\n" % (item.cas, len(value))
        self.store(key, item)

    @rule(
        index=connection,
        key=KEYS,
        ttl_s=st.one_of(st.none(), TTLS_S),
        empties=st.booleans(),
        invalidates=st.booleans(),
        current=st.booleans(),
    )
    def meta_delete(
        self,
        index: int,
        key: bytes,
        ttl_s: int | None,
        empties: bool,
        invalidates: bool,
        current: bool,
    ) -> None:
        old = self.live(key)
        request = b"md %s%s%s" % (key, b" x" * empties, b" I" * invalidates)
        request += b"" if ttl_s is None else b" T%d" % ttl_s
        request += b" C%d" % (5 if old is None else old.cas if current else old.cas + 1)
        reply = self.ask(index, request + b"\r\n")
        if old is None or not current:
            assert reply == (b"NF\r\n" if old is None else b"EX\r\n")
            return
        assert reply == b"HD\r\n"
        item = old
        if empties:
            item = Item(b"", 0, self.expiry(ttl_s or 0), old.cas)
        elif ttl_s is not None:
            item = replace(item, expires_at_s=self.expiry(ttl_s))
        if invalidates:
            item = replace(item, cas=self.next_cas(), stale=True, sent=False)
        if empties or invalidates:
            self.store(key, item)
        else:
            del self.items[key]

    @rule(index=connection, key=KEYS, delta=DELTAS, up=st.booleans(), creates=st.booleans())
    def meta_count(self, index: int, key: bytes, delta: int, up: bool, creates: bool) -> None:
        old = self.live(key)
        request = b"ma %s D%d M%s v c%s" % (
            key,
            delta,
            b"+" if up else b"-",
            b" N5000 J77" * creates,
        )
        reply = self.ask(index, request + b"\r\n")
        number = None if old is None else _number(old.value)
        if old is None and not creates:
            assert reply == b"NF\r\n"
            return
        if old is not None and number is None:
            assert reply == b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n"
            return
        if old is None or number is None:
            result = 77
            self.store(key, Item(b"77", 0, self.expiry(5000), self.next_cas()))
        else:
            result = (number + delta) % 2**64 if up else max(0, number - delta)
            self.store_number(key, old, result)
        assert reply == b"VA %d c%d\r\n%d\r\n" % (len(b"%d" % result), self.last_cas or 0, result)

    @staticmethod
    def hit(key: bytes, item: Item | None) -> bytes:
        if item is None:
            return b""
        head = b"VALUE %s %d %d %d\r\n" % (key, item.flags, len(item.value), item.cas)
        return head + item.value + b"\r\n"

    @rule(index=connection)
    def flush_all(self, index: int) -> None:
        assert self.ask(index, b"flush_all\r\n") == b"OK\r\n"
        self.next_cas()
        self.items.clear()
        self.flush_at_s = None

    @rule(index=connection, delay_s=st.sampled_from([20, 1000]))
    def flush_all_later(self, index: int, delay_s: int) -> None:
        assert self.ask(index, b"flush_all %d\r\n" % delay_s) == b"OK\r\n"
        self.flush_at_s = self.now_s + delay_s

    @rule(seconds=st.sampled_from([50, 2000, 10_000, THIRTY_DAYS_S]))
    def pass_time(self, seconds: int) -> None:
        # An item with five seconds to live must be gone and one with a hundred must not, so moves
        # stay away from every lifetime by more than the run takes.
        if self._near_an_end(self.now_s + seconds):
            return
        self.segment.advance_clock(seconds)
        self.now_s += seconds
        self._drop_dead()

    def _near_an_end(self, now_s: int) -> bool:
        ends = [i.expires_at_s for i in self.items.values() if i.expires_at_s is not None]
        if self.flush_at_s is not None:
            ends.append(self.flush_at_s)
        return any(abs(end - now_s) < 3 for end in ends)

    @rule(seconds=st.integers(-100_000, 100_000))
    def step_the_system_clock(self, seconds: int) -> None:
        self.segment.step_system_clock(seconds)

    @rule()
    def rebuild(self) -> None:
        """Derived state is recomputed from the pages, and nothing is lost."""
        self.segment.rebuild()

    @rule(index=connection)
    def reconnect(self, index: int) -> None:
        self.connections[index].close()
        self.connections[index] = core.Connection(self.segment, core.SLOT_WORKER_FIRST + index)

    @rule(index=connection, key=KEYS, value=VALUES, part=st.integers(1, 100))
    def break_off(self, index: int, key: bytes, value: bytes, part: int) -> None:
        """A set that ends in the middle of its value changes nothing."""
        request = b"set %s 0 0 %d\r\n%s\r\n" % (key, len(value), value)
        head = len(request) - len(value) - 2
        cut = head + len(value) * min(part, 99) // 100
        assert self.ask(index, request[:cut]) == b""
        self.reconnect(index)

    @rule(index=connection, key=KEYS, value=VALUES)
    def send_too_much(self, index: int, key: bytes, value: bytes) -> None:
        """A bad data chunk keeps the old value."""
        request = b"set %s 0 0 %d\r\n%s!?" % (key, len(value), value)
        assert self.ask(index, request) == b"CLIENT_ERROR bad data chunk\r\n"

    @invariant()
    def the_segment_agrees_with_itself(self) -> None:
        assert self.segment.check() == []

    @precondition(lambda self: not self.evicts and self.last_cas is not None)
    @invariant()
    def nothing_was_evicted(self) -> None:
        counters = self.segment.counters()
        assert counters["evictions"] == 0
        # Dead items that nobody asked for may still be counted; live ones must be.
        assert counters["curr_items"] >= len(self.items)


class LargePages(Model):
    """The same in pages of 64 KiB."""

    memory_bytes = MEMORY_BYTES_LARGE


# No longer value is a number, whatever it begins with.
NUMBER_BYTES_MAX = 1024


def _number(value: bytes) -> int | None:
    """What strtoull makes of a value, up to white space or a NUL; None if it is no number."""
    found = re.match(rb"[ \t\n\v\f\r]*([+-]?)([0-9]+)(?:$|[\0 \t\n\v\f\r])", value)
    if found is None or len(value) > NUMBER_BYTES_MAX:
        return None
    number = int(found[2])
    return number if number < 2**64 and (number == 0 or found[1] != b"-") else None


class Pressure(RuleBasedStateMachine):
    """A cache that is too small: any key may be missing, but what is there is what was stored last,
    and every set that fits succeeds.
    """

    def __init__(self) -> None:
        super().__init__()
        self.segment = core.Segment({"memory_limit_bytes": MEMORY_BYTES_TIGHT})
        self.segment.claim_slot(core.SLOT_WORKER_FIRST)
        self.connection = core.Connection(self.segment)
        self.newest: dict[bytes, tuple[int, bytes]] = {}
        self.stored = 0

    def teardown(self) -> None:
        self.connection.close()
        self.segment.close()

    def ask(self, request: bytes) -> bytes:
        reply: bytes = self.connection.feed(request)
        return reply

    def found(self, key: bytes) -> bool:
        reply = self.ask(b"get %s\r\n" % key)
        if reply == b"END\r\n":
            return False
        assert key in self.newest, f"{key!r} was never stored"
        flags, value = self.newest[key]
        expected = b"VALUE %s %d %d\r\n%s\r\nEND\r\n" % (key, flags, len(value), value)
        assert reply == expected, f"a wrong value for {key!r}"
        return True

    @rule(
        first=st.integers(0, 400),
        count=st.integers(1, 120),
        length=st.sampled_from([0, 10, 100, 900, 4000, 15_000, 40_000, 200_000]),
        fill=st.integers(0, 255),
    )
    def set_many(self, first: int, count: int, length: int, fill: int) -> None:
        count = min(count, 1 + (3 << 20) // (length + 100))
        for number in range(first, first + count):
            key = b"key-%d" % number
            value = _value(length, fill + number)
            self.stored = (self.stored + 1) % 2**32
            request = b"set %s %d 0 %d\r\n%s\r\n" % (key, self.stored, length, value)
            assert self.ask(request) == b"STORED\r\n"
            self.newest[key] = (self.stored, value)
            assert self.found(key), "the newest item is not there"

    @rule(first=st.integers(0, 520), count=st.integers(1, 200))
    def get_many(self, first: int, count: int) -> None:
        for number in range(first, first + count):
            self.found(b"key-%d" % number)

    @rule(key=MANY_KEYS, value=st.binary(max_size=2000))
    def append(self, key: bytes, value: bytes) -> None:
        reply = self.ask(b"append %s 0 0 %d\r\n%s\r\n" % (key, len(value), value))
        if reply == b"STORED\r\n":
            flags, old = self.newest[key]
            self.newest[key] = (flags, old + value)
        else:
            assert reply == b"NOT_STORED\r\n"

    @rule(key=MANY_KEYS)
    def delete(self, key: bytes) -> None:
        assert self.ask(b"delete %s\r\n" % key) in (b"DELETED\r\n", b"NOT_FOUND\r\n")
        self.newest.pop(key, None)

    @rule()
    def flush_all(self) -> None:
        assert self.ask(b"flush_all\r\n") == b"OK\r\n"
        self.newest.clear()

    @rule(length=st.sampled_from([30_000, 500_000]), part=st.integers(1, 90))
    def break_off(self, length: int, part: int) -> None:
        request = b"set key-1 0 0 %d\r\n%s" % (length, _value(length, 1)[: length * part // 100])
        assert self.ask(request) == b""
        self.connection.close()
        self.connection = core.Connection(self.segment)

    @rule()
    def rebuild(self) -> None:
        self.segment.rebuild()

    @rule()
    def count_all(self) -> None:
        """As many items are counted as are found; what is dead may be counted until it is met."""
        present = sum(self.found(key) for key in list(self.newest))
        assert self.segment.counters()["curr_items"] >= present
        self.segment.rebuild()
        assert self.segment.counters()["curr_items"] >= present

    @invariant()
    def the_segment_agrees_with_itself(self) -> None:
        assert self.segment.check() == []


def _run(machine: type[RuleBasedStateMachine], examples: int, steps: int) -> None:
    """Run the machine; hypothesis prints the steps of a failure and how to repeat them."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_store_behaves_like_a_dict() -> None:
    _run(Model, 250, 60)


def test_the_store_behaves_like_a_dict_with_larger_pages() -> None:
    _run(LargePages, 100, 60)


def test_under_pressure_a_value_is_missing_or_right() -> None:
    _run(Pressure, 100, 40)


@pytest.mark.slow
def test_the_store_behaves_like_a_dict_for_long() -> None:
    _run(Model, 2000, 100)


@pytest.mark.slow
def test_under_pressure_a_value_is_missing_or_right_for_long() -> None:
    _run(Pressure, 300, 60)

"""A client process: owns its keys, works on them at full load, and notices everything."""

import json
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from chaos_doors import Closed, Door, reap_attached
from chaos_ledger import Record
from chaos_operations import Operation, Operations

PIPELINE_BYTES_MAX = 1 << 16
"""Of requests sent before an answer is read: what socket buffers take, so that nobody waits."""
PIPELINE_LEN_MAX = 16
TELL_EVERY_S = 0.5
DOORS = 3


@dataclass(slots=True)
class Tally:
    operations: int = 0
    unanswered: int = 0
    doors_opened: int = 0
    refused: int = 0
    wait_s_max: float = 0.0


@dataclass(slots=True)
class Client:
    """One process's work.

    Args:
        name: first part of its keys.
        rng: draws everything.
        open_door: a new way into the node.
        report_fd: lines of JSON go there.
        evicts: the cache may evict.
        is_plain: see `Operations`.
    """

    name: str
    rng: random.Random
    open_door: Callable[[], Door]
    report_fd: int
    evicts: bool
    is_plain: bool
    key_count: int
    wait_s_max: float
    """A longer wait is told."""
    records: list[Record] = field(default_factory=list)
    doors: list[Door | None] = field(default_factory=lambda: [None] * DOORS)
    tally: Tally = field(default_factory=Tally)
    told_at_s: float = 0.0

    def live(self, until_s: float) -> None:
        """Works until then, reads every key, deletes every key."""
        for index in range(self.key_count):
            key = f"{self.name}:{index}".encode()
            self.records.append(Record(key, is_counter=index % 4 == 0))
        operations = Operations(self.rng, evicts=self.evicts, is_plain=self.is_plain)
        while time.monotonic() < until_s:
            self.work([operations.draw(record) for record in self.draw_records()])
        for record in self.records:
            self.insist(operations.read, record)
        for record in self.records:
            while record.allowed != [None]:
                self.insist(operations.read, record)
                self.work([operations.delete(record)])
        self.tell("done", **self.figures())

    def draw_records(self) -> list[Record]:
        if self.rng.random() < 0.5:
            return [self.rng.choice(self.records)]
        return self.rng.sample(self.records, self.rng.randint(2, PIPELINE_LEN_MAX))

    def insist(self, make: Callable[[Record], Operation], record: Record) -> None:
        """Until it is answered."""
        answered = 0
        while not answered:
            answered = self.work([make(record)])

    def work(self, operations: list[Operation]) -> int:
        """Send as much of it as may be pipelined, and read the answers; returns how many came."""
        batch: list[Operation] = []
        request_bytes = 0
        for operation in operations:
            request_bytes += len(operation.request)
            if batch and request_bytes > PIPELINE_BYTES_MAX:
                break
            batch.append(operation)
            operation.record.remember(operation.maybe)
        number = self.rng.randrange(DOORS)
        answered = 0
        sent_at_s = opened_at_s = time.monotonic()
        try:
            door = self.doors[number] or self.open(number)
            opened_at_s = time.monotonic()
            door.send(b"".join(operation.request for operation in batch))
            for operation in batch:
                self.read_answer(door, operation)
                answered += 1
                self.note_wait(sent_at_s, opened_at_s, operation)
        except (Closed, TimeoutError) as error:
            self.note_wait(sent_at_s, opened_at_s, batch[answered])
            self.lose(number, batch[answered:], isinstance(error, TimeoutError))
        self.tally.operations += answered
        if time.monotonic() > self.told_at_s + TELL_EVERY_S:
            self.tell("tick", **self.figures())
        return answered

    def open(self, number: int) -> Door:
        door = self.doors[number] = self.open_door()
        self.tally.doors_opened += 1
        return door

    def read_answer(self, door: Door, operation: Operation) -> None:
        record = operation.record
        if operation.is_read:
            found, cas, other = door.content()
            if other:
                self.problem(f"answered {other[:80]!r}", operation)
                return
            note = f"{len(found.value)} bytes" if found else "miss"
            record.history.append(f"{operation.verb} -> {note} cas {cas}")
            if wrong := record.judge(found, cas, self.evicts):
                self.problem(wrong, operation)
            return
        line = door.line()
        length = len(operation.maybe.value) if operation.maybe else None
        record.history.append(f"{operation.verb} [{length}] -> {line[:40].decode()}")
        if line in operation.outcomes:
            stored = line == b"STORED" or line.isdigit()
            record.settle(operation.outcomes[line], stored=stored)
        elif self.evicts and line.startswith(b"SERVER_ERROR"):
            self.tally.refused += 1
            record.settle([*record.allowed, None])
        else:
            record.doubt(operation.maybe)
            expected = b" or ".join(operation.outcomes)
            self.problem(f"answered {line[:80]!r} instead of {expected!r}", operation)

    def lose(self, number: int, batch: list[Operation], is_hung: bool) -> None:
        """The door is closed: the operations happened or not."""
        door = self.doors[number]
        if door is not None:
            door.close()
        self.doors[number] = None
        reap_attached()
        for operation in batch:
            self.tally.unanswered += door is not None
            operation.record.history.append(f"{operation.verb} unanswered")
            if not operation.is_read:
                operation.record.doubt(operation.maybe)
            if is_hung:
                self.problem("no answer at all", operation)

    def note_wait(self, sent_at_s: float, opened_at_s: float, operation: Operation) -> None:
        """From the wish to send it on, with the time that a new way into the node took."""
        at_s = time.monotonic()
        wait_s = at_s - sent_at_s
        self.tally.wait_s_max = max(self.tally.wait_s_max, wait_s)
        if wait_s > self.wait_s_max:
            self.tell(
                "slow",
                at=time.time(),
                wait_ms=round(wait_s * 1000),
                opening_ms=round((opened_at_s - sent_at_s) * 1000),
                began_s=sent_at_s,
                ended_s=at_s,
                **self.describe(operation),
            )

    def problem(self, what: str, operation: Operation) -> None:
        self.tell("problem", what=what, **self.describe(operation))

    def describe(self, operation: Operation) -> dict[str, object]:
        record = operation.record
        return {
            "key": record.key.decode(),
            "operation": operation.verb,
            "history": list(record.history),
        }

    def figures(self) -> dict[str, object]:
        self.told_at_s = time.monotonic()
        tally = self.tally
        return {
            "operations": tally.operations,
            "unanswered": tally.unanswered,
            "doors_opened": tally.doors_opened,
            "refused": tally.refused,
            "wait_ms_max": round(tally.wait_s_max * 1000, 1),
        }

    def tell(self, kind: str, **facts: object) -> None:
        """One line; a reader that is gone ends the process."""
        os.write(self.report_fd, json.dumps({"kind": kind, **facts}).encode() + b"\n")

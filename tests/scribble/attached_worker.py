"""A process that is attached to a node whose memory is scribbled over, and works all the while.

    python attached_worker.py <control socket> <seed> <first key> <keys>

Writes a line for every so many operations, so that it is seen to be alive, and ends when its
standard input does. Whatever error an operation ends with is fine; another key's value is not: it
is told on the last line, and the status is WRONG.
"""

import os
import random
import select
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from values import LENGTHS, Wrong, check_value, counter_of, key_of, value_of

from memcachepy import Cache
from memcachepy.errors import MemcachepyError

WRONG = 3
TOLD_EVERY_S = 0.2
ATTACH_TIMEOUT_S = 5.0


class Worker:
    def __init__(self, path: Path, seed: int, first: int, count: int) -> None:
        self._path = path
        self._random = random.Random(seed)
        self._keys = range(first, first + count)
        self._done = self._failed = self._hits = 0
        self._told_at_s = 0.0
        self._over = False

    def run(self) -> None:
        while not self._is_over():
            try:
                with Cache.attach(self._path, timeout_s=ATTACH_TIMEOUT_S) as cache:
                    self._work(cache)
            except (MemcachepyError, OSError, RuntimeError) as error:
                self._failed += 1
                print(f"error {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                time.sleep(0.01)

    def _work(self, cache: Cache) -> None:
        for _ in range(self._random.choice((3000, 30_000))):  # Then it attaches anew.
            try:
                self._operate(cache, self._random.choice(self._keys))
            except MemcachepyError:
                self._failed += 1
            self._done += 1
            if self._is_over():
                return

    def _operate(self, cache: Cache, number: int) -> None:
        draw = self._random
        match draw.randrange(10):
            case 0 | 1 | 2:
                cache.set(key_of(number), value_of(number, draw.choice(LENGTHS)))
            case 3:
                cache.delete(key_of(number))
            case 4:
                cache.incr(counter_of(number))
            case 5:
                cache.set(counter_of(number), memoryview(b"1"), expire=1000)
            case _:
                value = cache.get(key_of(number))
                if value is not None:
                    self._hits += 1
                    check_value(number, value)

    def _is_over(self) -> bool:
        now_s = time.monotonic()
        if now_s - self._told_at_s >= TOLD_EVERY_S:
            self._told_at_s = now_s
            print(self._done, self._failed, self._hits, flush=True)
            self._over = bool(select.select([0], [], [], 0)[0])
        return self._over


if __name__ == "__main__":
    path, seed, first, count = sys.argv[1:]
    try:
        Worker(Path(path), int(seed), int(first), int(count)).run()
    except Wrong as wrong:
        print(f"wrong: {wrong}", flush=True)
        os._exit(WRONG)

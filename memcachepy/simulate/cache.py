"""Caches under a trace: segments of this process, replayed in step."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from memcachepy import _core
from memcachepy.errors import MemcachepyError
from memcachepy.simulate.requests import Requests

MEMORY_BYTES_MIN = 1 << 20
_ITEM_SIZE_MAX_DEFAULT = 1 << 20


class SimulationError(MemcachepyError):
    """A cache cannot be simulated as asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheConfig:
    """One cache; what the letters of `memcachepy serve` set.

    memory_bytes: -m, 1 MB or more.
    item_size_max_bytes: -I; by default 1 MB, or half of the memory where that is less.
    ttl_s: exptime of every set, up to 30 days; 0 is for ever.

    Raises:
        SimulationError: the memory is too small, or the policy needs a ttl.
    """

    memory_bytes: int
    eviction_policy: str = _core.EVICTION_POLICIES[0]
    growth_factor: float = 1.1
    item_size_min_bytes: int = 8
    item_size_max_bytes: int | None = None
    ttl_s: int = 0

    def __post_init__(self) -> None:
        if self.memory_bytes < MEMORY_BYTES_MIN:
            raise SimulationError(
                f"a cache of {self.memory_bytes:,} bytes is too small; the least is 1 MB"
            )
        if self.eviction_policy.startswith("volatile-") and not self.ttl_s:
            raise SimulationError(
                f"{self.eviction_policy} evicts only items with an expiry: give a ttl (--ttl)"
            )

    def settings(self) -> dict[str, object]:
        """For `_core.Segment`."""
        item_size_max = self.item_size_max_bytes
        if item_size_max is None:
            item_size_max = min(_ITEM_SIZE_MAX_DEFAULT, self.memory_bytes // 2)
        return {
            "memory_limit_bytes": self.memory_bytes,
            "eviction_policy": self.eviction_policy,
            "growth_factor": self.growth_factor,
            "item_size_min_bytes": self.item_size_min_bytes,
            "item_size_max_bytes": item_size_max,
        }


@dataclass(slots=True)
class CacheFigures:
    """What a cache did under a trace.

    refused: sets that were not stored: larger than -I, or memory full under a policy that may not
        evict.
    window_misses: misses of each batch of requests; `window_requests` says how long each was.
    """

    config: CacheConfig
    requests: int = 0
    misses: int = 0
    refused: int = 0
    requested_bytes: int = 0
    missed_bytes: int = 0
    evictions: int = 0
    items: int = 0
    window_requests: list[int] = field(default_factory=list)
    window_misses: list[int] = field(default_factory=list)

    @property
    def miss_ratio(self) -> float:
        return self.misses / self.requests if self.requests else 0.0

    @property
    def byte_miss_ratio(self) -> float:
        """By bytes of the values."""
        return self.missed_bytes / self.requested_bytes if self.requested_bytes else 0.0


class Cache:
    """One cache, replayed a batch at a time; its memory is released at the end of the block.

    Raises:
        SimulationError: the core refuses the settings, or memory is short.
    """

    def __init__(self, config: CacheConfig) -> None:
        self._figures = CacheFigures(config)
        self._last_time_s: int | None = None
        try:
            self._segment = _core.Segment(config.settings())
        except (ValueError, _core.CoreError) as error:
            raise SimulationError(str(error)) from None
        self._segment.claim_slot(_core.SLOT_WORKER_FIRST)

    def replay(self, batch: Requests) -> None:
        """Read through: get each key, and set what is missing.

        Raises:
            SimulationError: the machine ran out of memory.
        """
        figures = self._figures
        self._advance_clock(batch)
        _, misses, refused, missed_bytes = self._segment.replay(
            batch.ids, batch.value_lens, batch.key_lens, figures.config.ttl_s, batch.times_s
        )
        shortage = self._segment.take_shortage()
        if shortage is not None:
            raise SimulationError(f"{shortage}; simulate fewer or smaller caches at a time")
        figures.requests += len(batch)
        figures.misses += misses
        figures.refused += refused
        figures.missed_bytes += missed_bytes
        figures.requested_bytes += batch.value_bytes
        figures.window_requests.append(len(batch))
        figures.window_misses.append(misses)

    def figures(self) -> CacheFigures:
        """Until now."""
        counters = self._segment.counters()
        self._figures.evictions = counters["evictions"]
        self._figures.items = counters["curr_items"]
        return self._figures

    def _advance_clock(self, batch: Requests) -> None:
        """The time between the last batch and this one."""
        if batch.times_s:
            if self._last_time_s is not None and batch.times_s[0] > self._last_time_s:
                self._segment.advance_clock(batch.times_s[0] - self._last_time_s)
            self._last_time_s = max(batch.times_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._segment.close()


def simulate(
    batches: Iterable[Requests],
    configs: Sequence[CacheConfig],
    *,
    thread_count: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[CacheFigures]:
    """Replay a trace against several caches at once, reading it once.

    Args:
        batches: as from `Trace.requests`.
        configs: the caches; all of their memory is in use at the same time.
        thread_count: caches replayed at the same time; as many as there are cores without it.
        progress: called with the number of requests done after each batch.

    Raises:
        SimulationError: a cache cannot be made, or memory is short.
    """
    with ExitStack() as stack:
        caches = [stack.enter_context(Cache(config)) for config in configs]
        count = thread_count or min(len(caches), len(os.sched_getaffinity(0)))
        pool = stack.enter_context(ThreadPoolExecutor(max(count, 1)))
        done = 0
        for batch in batches:
            list(pool.map(lambda cache, batch=batch: cache.replay(batch), caches))
            done += len(batch)
            if progress is not None:
                progress(done)
        return [cache.figures() for cache in caches]

"""How many keys a trace has, and how much memory they would all take together."""

from collections.abc import Iterable
from dataclasses import dataclass

from memcachepy.simulate.requests import Requests

ITEM_OVERHEAD_BYTES = 40
"""Of an item beside key and value: 28 of header, its place in the hash table, and the rounding up
to its chunk, which depends on sizes and growth factor."""

KEYS_EXACT_MAX = 1 << 20
"""Up to so many keys they are counted one by one; of more, a sample of about as many is."""

_SCATTER = 0x9E3779B97F4A7C15


@dataclass(frozen=True, slots=True)
class Footprint:
    """Counts of a whole trace; `item_bytes` is the memory for all its keys together."""

    request_count: int
    key_count: int
    item_bytes: int


def measure_footprint(batches: Iterable[Requests], exact_max: int = KEYS_EXACT_MAX) -> Footprint:
    """Read a trace and count its keys in bounded memory.

    Above `exact_max` keys only those are kept whose number, scattered, falls below a bound that
    halves whenever they have become too many again; the counts are then right to about
    1 / sqrt(exact_max), a tenth of a percent.
    """
    sizes: dict[int, int] = {}
    request_count = 0
    halvings = 0

    def is_sampled(key: int) -> bool:
        return (key * _SCATTER & (1 << 64) - 1) >> (64 - halvings) == 0

    for batch in batches:
        request_count += len(batch)
        pairs = zip(batch.ids, batch.key_and_value_bytes(), strict=True)
        if halvings == 0:
            sizes.update(pairs)
        else:
            sizes.update(pair for pair in pairs if is_sampled(pair[0]))
        while len(sizes) > exact_max:
            halvings += 1
            sizes = {key: size for key, size in sizes.items() if is_sampled(key)}
    payload_bytes = sum(sizes.values()) + ITEM_OVERHEAD_BYTES * len(sizes)
    return Footprint(request_count, len(sizes) << halvings, payload_bytes << halvings)

"""Streams of keys to replay: Zipf over a number of keys, and what disturbs a cache under it.

A request is a native 64-bit number, the number of its key; streams are arrays of them. Numbers from
`ONCE_FIRST` on occur once in a stream.
"""

import random
from array import array
from itertools import accumulate

ONCE_FIRST = 1 << 40
_CHUNK_REQUESTS = 1 << 16


def zipf(key_count: int, exponent: float, request_count: int, seed: int) -> "array[int]":
    """Keys 0 to key_count - 1, where key k has the weight (k + 1) ** -exponent."""
    chance = random.Random(seed)
    keys = range(key_count)
    weights = list(accumulate((rank + 1) ** -exponent for rank in keys))
    stream = array("Q")
    while len(stream) < request_count:
        count = min(_CHUNK_REQUESTS, request_count - len(stream))
        stream.extend(chance.choices(keys, cum_weights=weights, k=count))
    return stream


def with_one_hit_keys(stream: "array[int]", share: float, seed: int) -> "array[int]":
    """The stream, thinned out: `share` of its requests ask for a key that never comes again."""
    chance = random.Random(seed)
    mixed = array("Q", stream)
    for at in range(len(mixed)):
        if chance.random() < share:
            mixed[at] = ONCE_FIRST + at
    return mixed


def with_scans(stream: "array[int]", scan_keys: int, every: int) -> "array[int]":
    """The stream with a run of `scan_keys` new keys after each `every` of its requests."""
    mixed = array("Q")
    for at in range(0, len(stream), every):
        mixed.extend(stream[at : at + every])
        if at + every < len(stream):
            first = ONCE_FIRST + len(mixed)
            mixed.extend(range(first, first + scan_keys))
    return mixed

"""Streams of keys to replay: Zipf over a number of keys, and what disturbs a cache under it.

A request is a native 64-bit number, the number of its key; streams are arrays of them. Numbers from
`ONCE_FIRST` on occur once in a stream.
"""

import math
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


def with_reuse(
    request_count: int, key_count: int, exponent: float, seed: int, run_len: int = 1
) -> "array[int]":
    """Requests that repeat earlier ones: what a program's accesses to its data look like.

    Requests come in runs of `run_len`. A run is of new keys, which are consecutive numbers, or
    repeats the requests that began `request ** (chance ** exponent)` before it: the larger the
    exponent, the nearer. Almost all of `key_count` keys occur.
    """
    chance = random.Random(seed)
    stream = array("Q", range(run_len))
    keys = run_len
    while len(stream) < request_count:
        at = len(stream)
        count = min(run_len, request_count - at)
        if chance.random() < (key_count - keys) / (request_count - at):
            count = min(count, key_count - keys)
            stream.extend(range(keys, keys + count))
            keys += count
        else:
            distance = int(math.exp(chance.random() ** exponent * math.log(at)))
            begin = at - max(distance, 1)
            stream.extend(stream[begin : begin + count])
    return stream


def log_normal_sizes(
    key_count: int, median: float, sigma: float, low: int, high: int, seed: int
) -> "array[int]":
    """A size for each of the keys 0 to key_count - 1, clipped to the range."""
    chance = random.Random(seed)
    mean = math.log(median)
    sizes = (round(chance.lognormvariate(mean, sigma)) for _ in range(key_count))
    return array("I", (min(max(size, low), high) for size in sizes))

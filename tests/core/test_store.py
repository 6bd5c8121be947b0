"""Facts about the store that take a whole history to show, through the protocol without sockets."""

import os
import random
from collections.abc import Sequence

import pytest

from memcachepy import _core


def _segment(**settings: object) -> _core.Segment:
    return _core.Segment({"memory_limit_bytes": 4 << 20, "worker_count": 1, **settings})


def test_pages_that_became_empty_serve_items_of_another_size() -> None:
    segment = _segment()
    connection = _core.Connection(segment)
    for value, count in ((b"x" * 500, 5_000), (b"y" * 10, 20_000)):
        for i in range(count):
            request = b"set key%d 0 0 %d\r\n%s\r\n" % (i, len(value), value)
            assert connection.feed(request) == b"STORED\r\n"
    assert segment.counters()["curr_items"] == 20_000
    assert segment.check() == []


def test_a_rebuild_of_a_full_cache_keeps_what_the_table_can_hold() -> None:
    segment = _segment()
    connection = _core.Connection(segment)
    for i in range(60_000):
        connection.feed(b"set key%d 0 0 20 noreply\r\n%020d\r\n" % (i, i))
    before = segment.counters()["curr_items"]
    segment.rebuild()
    assert segment.check() == []
    assert segment.counters()["curr_items"] > before * 0.9
    assert segment.counters()["rebuilds"] == segment.shard_count
    for i in range(59_000, 60_000):
        reply = connection.feed(b"get key%d\r\n" % i)
        assert reply in (b"VALUE key%d 0 20\r\n%020d\r\nEND\r\n" % (i, i), b"END\r\n")


@pytest.mark.parametrize(
    ("megabytes", "value_lens"),
    [(16, (10,)), (64, (10, 100, 1000, 9000)), (256, (3000, 20_000, 400_000))],
)
def test_the_limit_bounds_all_that_grows_with_data(
    megabytes: int, value_lens: Sequence[int], rng: random.Random
) -> None:
    limit = megabytes << 20
    segment = _core.Segment({"memory_limit_bytes": limit, "worker_count": 1})
    segment.claim_slot(_core.SLOT_WORKER_FIRST)
    connection = _core.Connection(segment, _core.SLOT_WORKER_FIRST)
    stored_bytes = key = 0
    while stored_bytes < 2 * limit:
        value = b"v" * rng.choice(value_lens)
        requests = [
            b"set k%d 0 0 %d noreply\r\n%s\r\n" % (key + i, len(value), value) for i in range(50)
        ]
        asked = [b"get k%d\r\n" % rng.randrange(key, key + 50) for _ in range(10)]
        connection.feed(b"".join(requests + asked))
        key += 50
        stored_bytes += 50 * (len(value) + 40)
    used_bytes = os.fstat(segment.fd).st_blocks * 512
    assert segment.counters()["evictions"] > 0
    # Slots, shards and directories: less than a percent, and a part that small caches have, too.
    assert limit * 0.97 < used_bytes < limit + limit // 128 + (256 << 10)
    assert segment.check() == []

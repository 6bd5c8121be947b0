"""Facts about the store that take a whole history to show, through the protocol without sockets."""

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

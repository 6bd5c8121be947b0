"""`lru_crawler metadump`, mgdump and crawl: what a dump tells, while everything goes on."""

import random
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

import pytest
from support import binary
from support.client import RawClient
from support.peers import InProcessPeer
from support.server import Server, node
from support.waiting import wait_until

pytestmark = pytest.mark.once

LINE = re.compile(
    rb"key=(?P<key>[A-Za-z0-9._~%-]+) exp=(?P<exp>-1|[0-9]+) la=(?P<la>[0-9]+) "
    rb"cas=(?P<cas>[0-9]+) fetch=(?P<fetch>yes|no) cls=(?P<cls>[0-9]+) size=(?P<size>[0-9]+) "
    rb"flags=(?P<flags>[0-9]+) \n"
)


@pytest.fixture(scope="module", params=[1, 3], ids=["one worker", "three workers"])
def dumped(request: pytest.FixtureRequest) -> Iterator[Server]:
    with node("-m", "256", workers=request.param) as server:
        yield server


@pytest.fixture
def empty_node(dumped: Server) -> Server:
    with dumped.client() as client:
        client.ask(b"flush_all\r\n", b"OK\r\n")
    return dumped


def _dump(client: RawClient, what: bytes = b"all") -> list[dict[str, bytes]]:
    """The items that a metadump tells, each line looked at byte by byte."""
    client.send(b"lru_crawler metadump " + what + b"\r\n")
    client.expect(b"OK\r\n")
    text = client.take_until(b"END\r\n")
    body = text[: -len(b"END\r\n")]
    items = [match.groupdict() for match in LINE.finditer(body)]
    assert b"".join(match[0] for match in LINE.finditer(body)) == body
    return items


def _store(client: RawClient, keys: list[bytes], value: bytes = b"v") -> None:
    sets = [b"set %s 0 0 %d noreply\r\n%s\r\n" % (key, len(value), value) for key in keys]
    client.send(b"".join(sets) + b"version\r\n")
    client.take_until(b"VERSION ")
    client.take_until(b"\r\n")


def test_a_line_tells_what_the_item_has(empty_node: Server) -> None:
    with empty_node.client() as client:
        client.ask(b"set a,b% 5 0 3\r\nabc\r\n", b"STORED\r\n")
        now = int(time.time())
        client.send(b"gets a,b%\r\n")
        cas = client.take_until(b"END\r\n").split()[4]
        client.ask(b"set b\x80\t 0 100 5\r\nhello\r\n", b"STORED\r\n")
        items = {unquote_to_bytes(item["key"]): item for item in _dump(client)}
        assert items.keys() == {b"a,b%", b"b\x80\t"}
        assert items[b"a,b%"]["key"] == b"a%2Cb%25"
        assert items[b"b\x80\t"]["key"] == b"b%80%09"
        assert items[b"a,b%"]["cas"] == cas
        assert [items[b"a,b%"][name] for name in ("exp", "fetch", "flags")] == [b"-1", b"yes", b"5"]
        assert items[b"b\x80\t"]["fetch"] == b"no"
        assert abs(int(items[b"b\x80\t"]["exp"]) - now - 100) <= 2
        assert abs(int(items[b"a,b%"]["la"]) - now) <= 2
        assert int(items[b"a,b%"]["size"]) > len(b"a,b%") + 3


def test_the_connection_takes_commands_after_a_dump(empty_node: Server) -> None:
    with empty_node.client() as client:
        client.send(b"lru_crawler metadump all\r\nlru_crawler mgdump all\r\nversion\r\n")
        client.expect(b"OK\r\nEND\r\n")
        client.expect(b"ERROR cannot pipeline other commands before mgdump\r\n")
        client.take_until(b"VERSION ")
        client.take_until(b"\r\n")
        client.ask(b"lru_crawler mgdump all\r\n", b"OK\r\nEN\r\n")


def test_nothing_may_be_unanswered_before_a_dump(empty_node: Server) -> None:
    with empty_node.client() as client:
        client.send(b"get none\r\nlru_crawler metadump all\r\n")
        client.expect(b"END\r\nERROR cannot pipeline other commands before metadump\r\n")


@pytest.mark.parametrize("command", [b"metadump", b"mgdump"])
@pytest.mark.parametrize(
    ("classes", "answer"),
    [
        (b"0", b"BADCLASS invalid class id\r\n"),
        (b"64", b"BADCLASS invalid class id\r\n"),
        (b"1,all", b"BADCLASS invalid class id\r\n"),
        (b"hash,2", b"BADCLASS invalid class id\r\n"),
        (b",", b"NOTSTARTED no items to crawl\r\n"),
    ],
)
def test_a_dump_names_classes_from_1_to_63(
    empty_node: Server, command: bytes, classes: bytes, answer: bytes
) -> None:
    with empty_node.client() as client:
        client.ask(b"lru_crawler %s %s\r\n" % (command, classes), answer)


def test_mgdump_gives_commands_that_find_the_items(empty_node: Server) -> None:
    keys = [b"key%d" % i for i in range(1000)]
    with empty_node.client() as client:
        _store(client, keys)
        client.send(b"lru_crawler mgdump hash\r\n")
        client.expect(b"OK\r\n")
        lines = client.take_until(b"EN\r\n").split(b"\r\n")[:-2]
        assert sorted(lines) == sorted(b"mg " + key for key in keys)


def test_a_key_that_came_in_base64_is_given_back_so(empty_node: Server) -> None:
    with empty_node.client() as client:
        client.ask(b"ms /wAK 1 b\r\nx\r\n", b"HD\r\n")
        client.ask(b"lru_crawler mgdump all\r\n", b"OK\r\nmg /wAK b\r\nEN\r\n")
        assert [item["key"] for item in _dump(client)] == [b"%FF%00%0A"]
        client.ask(b"mg /wAK b\r\n", b"HD\r\n")


def test_a_key_with_a_line_feed_is_no_command_in_a_dump(empty_node: Server) -> None:
    flush = b"YQpmbHVzaF9hbGwKYg=="  # a, flush_all and b in three lines
    with empty_node.client() as client:
        client.ask(b"ms %s 1 b\r\n5\r\n" % flush, b"HD\r\n")
        client.ask(b"ms %s 1 b MA\r\n5\r\n" % flush, b"HD\r\n")  # Takes the mark away.
        client.ask(b"set \x7f 0 0 1\r\n1\r\n", b"STORED\r\n")
        with empty_node.client() as other:
            other.send(binary.store("setq", b"a b", b"v") + binary.request("noop"))
            other.take(binary.HEADER.size)
        client.send(b"lru_crawler mgdump all\r\n")
        client.expect(b"OK\r\n")
        lines = client.take_until(b"EN\r\n").split(b"\r\n")[:-2]
        assert sorted(lines) == sorted(b"mg " + key + b" b" for key in (flush, b"YSBi", b"fw=="))
        client.ask(b"mg %s b v\r\n" % flush, b"VA 2\r\n55\r\n")


def test_a_class_is_dumped_by_its_id(empty_node: Server) -> None:
    with empty_node.client() as client:
        _store(client, [b"small%d" % i for i in range(100)], b"x")
        _store(client, [b"large%d" % i for i in range(50)], b"x" * 3000)
        items = _dump(client)
        classes = {item["cls"] for item in items if item["key"].startswith(b"large")}
        assert len(classes) == 1
        large = classes.pop()
        assert {item["key"] for item in _dump(client, large)} == {b"large%d" % i for i in range(50)}
        small = {item["cls"] for item in items} - {large}
        assert len(_dump(client, b",".join(small))) == 100


def test_the_dead_are_not_dumped(empty_node: Server) -> None:
    with empty_node.client() as client:
        _store(client, [b"flushed%d" % i for i in range(100)])
        client.ask(b"flush_all\r\n", b"OK\r\n")
        client.ask(b"set expired 0 -1 1\r\nx\r\n", b"STORED\r\n")
        client.ask(b"set alive 0 0 1\r\nx\r\n", b"STORED\r\n")
        assert [item["key"] for item in _dump(client)] == [b"alive"]


def test_what_lives_all_along_is_dumped_exactly_once_while_others_change(
    empty_node: Server,
) -> None:
    """Some keys rest, some are stored anew all the time, some come and go and grow the table."""
    seed = 20_260
    print(f"seed {seed}")
    rest = [b"rest%d" % i for i in range(20_000)]
    rewritten = [b"again%d" % i for i in range(2_000)]
    stop = threading.Event()
    rounds = [0]

    def change() -> None:
        draw = random.Random(seed)
        with RawClient(empty_node.address) as other:
            number = 0
            while not stop.is_set():
                _store(other, draw.sample(rewritten, 500), b"y" * draw.randrange(200))
                _store(other, [b"new%d" % (i % 50_000) for i in range(number, number + 500)])
                number += 500
                gone = [b"new%d" % draw.randrange(50_000) for _ in range(250)]
                other.send(b"".join(b"delete %s noreply\r\n" % key for key in gone))
                rounds[0] += 1

    with empty_node.client(timeout_s=60) as client:
        _store(client, rest)
        _store(client, rewritten)
        thread = threading.Thread(target=change)
        thread.start()
        try:
            for _ in range(3):
                more = rounds[0] + 1
                keys = Counter(item["key"] for item in _dump(client))
                assert keys.most_common(1)[0][1] == 1
                assert keys.keys() >= {*rest, *rewritten}
                wait_until(lambda wanted=more: rounds[0] >= wanted, "changes meanwhile")
        finally:
            stop.set()
            thread.join()


def test_a_slow_reader_of_a_dump_delays_nobody_and_holds_no_more_than_a_piece(
    empty_node: Server,
) -> None:
    keys = [b"k%d" % i + b"x" * 200 for i in range(60_000)]
    with empty_node.client(timeout_s=60) as client, empty_node.client() as other:
        _store(client, keys)
        client.send(b"lru_crawler metadump all\r\n")
        client.expect(b"OK\r\n")
        assert int(empty_node.stats()["lru_crawler_running"]) >= 1
        for i in range(200):
            other.ask(b"set other%d 0 0 1\r\nx\r\n" % (i % 10), b"STORED\r\n")
        found = client.take_until(b"END\r\n").count(b"key=k")
        assert found == len(keys)
        wait_until(lambda: empty_node.stats()["lru_crawler_running"] == "0", "the dump to end")


def test_who_goes_away_in_the_middle_ends_the_dump(empty_node: Server) -> None:
    with empty_node.client(timeout_s=60) as client:
        _store(client, [b"k%d" % i + b"x" * 200 for i in range(60_000)])
    for _ in range(5):
        with empty_node.client() as client:
            client.send(b"lru_crawler metadump all\r\n")
            client.expect(b"OK\r\n")
    wait_until(lambda: empty_node.stats()["lru_crawler_running"] == "0", "the dumps to end")


def test_several_dumps_at_a_time_are_all_whole(empty_node: Server) -> None:
    keys = {b"k%d" % i for i in range(5_000)}
    with empty_node.client() as client:
        _store(client, sorted(keys))
    clients = [empty_node.client() for _ in range(4)]
    for client in clients:
        client.send(b"lru_crawler metadump all\r\n")
    for client in clients:
        client.expect(b"OK\r\n")
        assert {m["key"] for m in LINE.finditer(client.take_until(b"END\r\n"))} == keys
        client.close()


def test_minus_x_forbids_dumps() -> None:
    peer = InProcessPeer()
    try:
        segment = peer.segment
        settings = {"memory_limit_bytes": 64 << 20, "dump_enabled": False}
        peer.segment = peer._core.Segment(settings)
        segment.close()
        peer.segment.claim_slot(peer._core.SLOT_WORKER_FIRST)
        link = peer.connect()
        link.send(b"lru_crawler metadump all\r\n")
        link.send(b"lru_crawler mgdump all\r\n")
        assert link.buffer == b"ERROR metadump not allowed\r\nERROR key dump not allowed\r\n"
    finally:
        peer.close()


def test_a_crawl_reclaims_what_has_expired(empty_node: Server) -> None:
    with empty_node.client() as client:
        before = empty_node.stats()
        _store(client, [b"live%d" % i for i in range(100)])
        sets = [b"set dead%d 0 -1 1 noreply\r\nx\r\n" % i for i in range(100)]
        client.send(b"".join(sets))
        client.ask(b"lru_crawler crawl all\r\n", b"OK\r\n")
        wait_until(lambda: empty_node.stats()["lru_crawler_running"] == "0", "the crawl to end")
        after = empty_node.stats()

    def moved(name: str) -> int:
        return int(after[name]) - int(before[name])

    assert int(after["curr_items"]) == 100
    assert moved("lru_crawler_starts") == 1
    assert moved("crawler_reclaimed") >= 100
    assert moved("crawler_items_checked") >= 100


def test_a_crawl_that_goes_on_is_not_begun_again() -> None:
    """In this process there is no maintainer: the first one never ends."""
    peer = InProcessPeer()
    try:
        link = peer.connect()
        link.send(b"lru_crawler crawl 1,2\r\n")
        link.send(b"lru_crawler crawl all\r\n")
        assert link.buffer == b"OK\r\nBUSY currently processing crawler request\r\n"
    finally:
        peer.close()

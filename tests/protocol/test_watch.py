"""`watch`: what all workers do, told in one stream and in order, while nobody waits for it."""

import re
import signal
import socket
import time
from collections.abc import Iterator
from os import kill

import pytest
from support.client import ClosedByPeer, RawClient
from support.peers import InProcessPeer
from support.server import Server, node
from support.waiting import wait_until

pytestmark = pytest.mark.once

HEAD = re.compile(rb"ts=(\d{10})\.(\d{6}) gid=(\d+) type=(.*)")


@pytest.fixture(scope="module", params=[1, 3], ids=["one worker", "three workers"])
def watched(request: pytest.FixtureRequest) -> Iterator[Server]:
    with node("-m", "64", workers=request.param) as server:
        yield server


class Watcher:
    """A watching connection, and what it has been told."""

    def __init__(self, server: Server, classes: bytes) -> None:
        self.client = server.client()
        self.client.ask(b"watch " + classes + b"\r\n", b"OK\r\n")
        self.gids: list[int] = []

    def next(self) -> bytes:
        """The next line behind `type=`, with the head checked."""
        line = self.client.line()
        match = HEAD.fullmatch(line)
        assert match, line
        assert abs(int(match[1]) - time.time()) < 60
        self.gids.append(int(match[3]))
        return match[4]

    def next_of(self, kind: bytes) -> bytes:
        while not (line := self.next()).startswith(kind + b" "):
            pass
        return line

    def close(self) -> None:
        self.client.close()


def _fields(line: bytes) -> dict[bytes, bytes]:
    return dict(word.split(b"=", 1) for word in line.split()[1:])


def _no_watchers(server: Server) -> None:
    wait_until(lambda: server.stats()["log_watchers"] == "0", "the watchers of before to end")


def test_fetchers_are_told_of_every_look_up(watched: Server) -> None:
    _no_watchers(watched)
    with watched.client() as client:
        client.ask(b"set k%,y 0 0 5\r\nhello\r\n", b"STORED\r\n")
        watcher = Watcher(watched, b"fetchers")
        client.send(b"get k%,y none\r\ntouch k%,y 0\r\nincr none 1\r\ngat 0 k%,y\r\n")
        client.take_until(b"NOT_FOUND\r\n")
        lines = [_fields(watcher.next()) for _ in range(5)]
        assert [line[b"key"] for line in lines] == [
            b"k%25%2Cy",
            b"none",
            b"k%25%2Cy",
            b"none",
            b"k%25%2Cy",
        ]
        assert [line[b"status"] for line in lines] == [
            b"found",
            b"not_found",
            b"found",
            b"not_found",
            b"found",
        ]
        assert [line[b"size"] for line in lines] == [b"5", b"0", b"5", b"0", b"5"]
        assert lines[0][b"clsid"] != b"0"
        assert lines[1][b"clsid"] == b"0"
        assert len({line[b"cfd"] for line in lines}) == 1
        watcher.close()


def test_without_classes_fetchers_are_watched(watched: Server) -> None:
    with watched.client() as watcher, watched.client() as client:
        watcher.ask(b"watch\r\n", b"OK\r\n")
        client.ask(b"get none\r\n", b"END\r\n")
        assert b"type=item_get key=none status=not_found" in watcher.line()


def test_expired_and_flushed_items_are_told_as_such(watched: Server) -> None:
    with watched.client() as client:
        client.ask(b"set flushed 0 0 1\r\nx\r\n", b"STORED\r\n")
        client.ask(b"flush_all\r\n", b"OK\r\n")
        client.ask(b"set expired 0 -1 1\r\nx\r\n", b"STORED\r\n")
        watcher = Watcher(watched, b"fetchers")
        client.ask(b"get flushed expired\r\n", b"END\r\n")
        told = {_fields(line)[b"status"] for line in (watcher.next(), watcher.next())}
        # The sweep may have come first.
        assert told <= {b"flushed", b"expired", b"not_found"}
        watcher.close()


def test_mutations_are_told_with_what_came_of_them(watched: Server) -> None:
    _no_watchers(watched)
    watcher = Watcher(watched, b"mutations")
    cases = [
        (b"set m 0 100 5\r\nhello", b"STORED", b"stored", b"set", b"5"),
        (b"add m 0 0 1\r\nx", b"NOT_STORED", b"not_stored", b"add", b"1"),
        (b"replace none 0 0 1\r\nx", b"NOT_STORED", b"not_stored", b"replace", b"1"),
        (b"append m 0 0 2\r\nxx", b"STORED", b"stored", b"append", b"7"),
        (b"prepend m 0 0 1\r\nx", b"STORED", b"stored", b"prepend", b"8"),
        (b"cas m 0 0 1 1\r\nx", b"EXISTS", b"exists", b"cas", b"1"),
        (b"cas none 0 0 1 1\r\nx", b"NOT_FOUND", b"not_found", b"cas", b"1"),
    ]
    with watched.client() as client:
        for request, reply, status, command, size in cases:
            client.ask(request + b"\r\n", reply + b"\r\n")
            line = _fields(watcher.next_of(b"item_store"))
            assert (line[b"status"], line[b"cmd"], line[b"size"]) == (status, command, size)
            if command == b"set":
                assert line[b"ttl"] in (b"99", b"100")
        client.send(b"set big 0 0 2000000\r\n" + b"x" * 2_000_000 + b"\r\n")
        client.expect(b"SERVER_ERROR object too large for cache\r\n")
        line = _fields(watcher.next_of(b"item_store"))
        assert (line[b"status"], line[b"size"], line[b"clsid"]) == (b"too_large", b"0", b"0")
    watcher.close()


def test_large_values_are_told_as_small_ones(watched: Server) -> None:
    watcher = Watcher(watched, b"mutations fetchers")
    with watched.client() as client:
        client.ask(b"set large 0 0 300000\r\n" + b"x" * 300_000 + b"\r\n", b"STORED\r\n")
        assert _fields(watcher.next_of(b"item_store"))[b"size"] == b"300000"
        client.send(b"get large\r\n")
        client.take_until(b"END\r\n")
        line = _fields(watcher.next_of(b"item_get"))
        assert (line[b"size"], line[b"status"]) == (b"300000", b"found")
    watcher.close()


def test_deletions_are_told_with_class_and_size(watched: Server) -> None:
    watcher = Watcher(watched, b"deletions")
    with watched.client() as client:
        client.ask(b"delete none\r\n", b"NOT_FOUND\r\n")
        client.ask(b"set d 0 0 3\r\nabc\r\n", b"STORED\r\n")
        client.ask(b"delete d\r\n", b"DELETED\r\n")
        line = watcher.next()
        assert line.startswith(b"deleted key=d cmd=delete clsid=")
        assert line.endswith(b" size=3")
    watcher.close()


def test_meta_and_binary_commands_are_told_as_the_classic_ones(watched: Server) -> None:
    _no_watchers(watched)
    watcher = Watcher(watched, b"fetchers mutations deletions")
    with watched.client() as client, watched.client() as binary:
        client.ask(b"ms meta 3\r\nabc\r\n", b"HD\r\n")
        assert watcher.next().startswith(b"item_get key=meta status=not_found ")
        assert b"status=stored cmd=set " in watcher.next()
        client.ask(b"mg meta v\r\n", b"VA 3\r\nabc\r\n")
        assert watcher.next().startswith(b"item_get key=meta status=found ")
        client.ask(b"md meta\r\n", b"HD\r\n")
        assert watcher.next().startswith(b"item_get key=meta status=found ")
        assert watcher.next().startswith(b"deleted key=meta cmd=md clsid=")
        client.ask(b"ma meta\r\n", b"NF\r\n")
        assert watcher.next().startswith(b"item_get key=meta status=not_found ")
        binary.send(b"\x80\x00\x00\x01" + bytes(4) + b"\x00\x00\x00\x01" + bytes(12) + b"k")
        assert binary.take(24)[6:8] == b"\x00\x01"
        assert watcher.next().startswith(b"item_get key=k status=not_found ")
    watcher.close()


def test_evictions_are_told(watched: Server) -> None:
    watcher = Watcher(watched, b"evictions")
    with watched.client() as client:
        value = b"x" * 100_000
        for i in range(1000):
            client.send(b"set fill%d 0 1000 100000 noreply\r\n%s\r\n" % (i, value))
        while not (line := _fields(watcher.next_of(b"eviction")))[b"key"].startswith(b"fill"):
            pass
        assert line[b"size"] == b"100000"
        assert line[b"fetch"] == b"no"
        assert 900 <= int(line[b"ttl"]) <= 1000
        assert 0 <= int(line[b"la"]) <= 60
        client.ask(b"flush_all\r\n", b"OK\r\n")
    watcher.close()


def test_connections_are_told_when_they_come_and_when_they_end(watched: Server) -> None:
    _no_watchers(watched)
    watcher = Watcher(watched, b"connevents")
    with watched.client() as client:
        port = client.socket.getsockname()[1]
        client.ask(b"get none\r\n", b"END\r\n")
        new = watcher.next_of(b"conn_new")
        while _fields(new)[b"rport"] != b"%d" % port:
            new = watcher.next_of(b"conn_new")
    end = watcher.next_of(b"conn_close")
    while _fields(end)[b"rport"] != b"%d" % port:
        end = watcher.next_of(b"conn_close")
    cfd = _fields(new)[b"cfd"]
    assert new == b"conn_new rip=127.0.0.1 rport=%d transport=tcp cfd=%s" % (port, cfd)
    assert end == b"conn_close rip=127.0.0.1 rport=%d transport=tcp reason=normal cfd=%s" % (
        port,
        cfd,
    )
    watcher.close()


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"", b"normal"),
        (b"vers", b"normal"),
        (b"set k 0 0 10\r\nabc", b"normal"),
        (b"quit\r\n", b"normal"),
        (b"\x80\x07" + bytes(22), b"normal"),
        (b"GET / HTTP/1.1\r\n", b"error"),
        (b"x" * 3000, b"error"),
        (b"\x80\x00\x00\xfb" + bytes(7) + b"\xfb" + bytes(12) + b"k" * 251, b"error"),
        (b"\x80\x0a" + bytes(22) + b"get k\r\n" + bytes(17), b"error"),
    ],
)
def test_who_broke_the_protocol_is_told_apart_from_who_left(
    watched: Server, sent: bytes, reason: bytes
) -> None:
    _no_watchers(watched)
    watcher = Watcher(watched, b"connevents")
    with watched.client() as client:
        port = client.socket.getsockname()[1]
        client.send(sent)
        client.socket.shutdown(socket.SHUT_WR)
        end = watcher.next_of(b"conn_close")
        while _fields(end)[b"rport"] != b"%d" % port:
            end = watcher.next_of(b"conn_close")
        assert _fields(end)[b"reason"] == reason
    watcher.close()


def test_system_events_are_page_moves_and_crawls(watched: Server) -> None:
    watcher = Watcher(watched, b"sysevents")
    with watched.client() as client:
        for i in range(200):
            client.ask(b"set page%d 0 0 8000\r\n%s\r\n" % (i, b"x" * 8000), b"STORED\r\n")
        client.ask(b"lru_crawler crawl all\r\n", b"OK\r\n")
        assert watcher.next_of(b"lru_crawler").startswith(b"lru_crawler crawler=all elapsed=")
        client.ask(b"slabs reassign -1 0\r\n", b"OK\r\n")
        assert re.fullmatch(rb"slab_move src=\d+ dst=0", watcher.next_of(b"slab_move"))
    watcher.close()


def test_all_workers_are_told_of_in_one_order(watched: Server) -> None:
    watcher = Watcher(watched, b"fetchers")
    clients = [watched.client() for _ in range(6)]
    for i in range(300):
        clients[i % 6].ask(b"get key%d\r\n" % i, b"END\r\n")
    keys = [_fields(watcher.next())[b"key"] for _ in range(300)]
    assert keys == [b"key%d" % i for i in range(300)]
    assert watcher.gids == sorted(set(watcher.gids))
    for client in clients:
        client.close()
    watcher.close()


def test_several_watchers_are_told_what_each_asked_for(watched: Server) -> None:
    _no_watchers(watched)
    gets, sets, both = (
        Watcher(watched, c) for c in (b"fetchers", b"mutations", b"fetchers mutations")
    )
    with watched.client() as client:
        client.ask(b"set a 0 0 1\r\nx\r\n", b"STORED\r\n")
        client.ask(b"get b\r\n", b"END\r\n")
    kinds = [both.next().split()[0] for _ in range(3)]
    assert kinds == [b"item_get", b"item_store", b"item_get"]
    assert [_fields(gets.next())[b"key"] for _ in range(2)] == [b"a", b"b"]
    assert _fields(sets.next())[b"key"] == b"a"
    assert int(watched.stats()["log_watchers"]) == 3
    for watcher in (gets, sets, both):
        watcher.close()


def test_unknown_classes_are_refused_and_silent_ones_accepted(watched: Server) -> None:
    with watched.client() as client:
        client.ask(b"watch bogus\r\n", b"ERROR\r\n")
        client.ask(b"watch fetchers bogus\r\n", b"ERROR\r\n")
        client.ask(b"version\r\nwatch\r\n", b"VERSION 1.6.45\r\nERROR cannot pipeline ")
        client.expect(b"other commands before watch\r\n")
        client.ask(b"watch rawcmds proxyreqs proxyevents proxyuser\r\n", b"OK\r\n")


def test_what_a_watching_connection_sends_is_ignored(watched: Server) -> None:
    watcher = Watcher(watched, b"mutations")
    watcher.client.send(b"set ignored 0 0 1\r\nx\r\nversion\r\nquit\r\n")
    with watched.client() as client:
        client.ask(b"get ignored\r\n", b"END\r\n")
        client.ask(b"set told 0 0 1\r\nx\r\n", b"STORED\r\n")
    assert _fields(watcher.next())[b"key"] == b"told"
    watcher.close()


def test_there_are_at_most_twenty_watchers(watched: Server) -> None:
    _no_watchers(watched)
    watchers = [Watcher(watched, b"mutations") for _ in range(20)]
    with watched.client() as client:
        client.ask(b"watch\r\n", b"WATCHER_TOO_MANY log watcher limit reached\r\n")
        watchers.pop().close()
        wait_until(lambda: watched.stats()["log_watchers"] == "19", "one to end")
        client.ask(b"watch\r\n", b"OK\r\n")
    for watcher in watchers:
        watcher.close()
    _no_watchers(watched)


def test_nothing_is_logged_while_nobody_watches(watched: Server) -> None:
    _no_watchers(watched)
    before = watched.stats()["log_worker_written"]
    with watched.client() as client:
        for i in range(100):
            client.ask(b"get none%d\r\n" % i, b"END\r\n")
        client.ask(b"set k 0 0 1\r\nx\r\n", b"STORED\r\n")
    assert watched.stats()["log_worker_written"] == before


def test_a_watcher_that_does_not_read_misses_lines_and_is_told_how_many(watched: Server) -> None:
    """Nobody waits for it. Once it reads on, the count stands before the next line."""
    _no_watchers(watched)
    watcher = RawClient(watched.address, timeout_s=30)
    watcher.ask(b"watch fetchers\r\n", b"OK\r\n")
    key = b"k" * 240
    sent = 0
    with watched.client(timeout_s=30) as client:
        while watched.stats()["log_watcher_skipped"] == "0" or sent < 20_000:
            client.send(b"get %s\r\n" % b" ".join([key] * 20) * 50)
            for _ in range(50):
                client.expect(b"END\r\n")
            sent += 1000
            assert sent < 3_000_000, "the watcher's buffers never filled"
        told = skipped = 0
        client.ask(b"get last\r\n", b"END\r\n")
        while True:
            line = watcher.line()
            if line.startswith(b"skipped="):
                skipped += int(line.split(b"=")[1])
                # The last may be skipped itself: ask once more, now that it reads.
                client.ask(b"get last\r\n", b"END\r\n")
                continue
            told += 1
            if b" key=last " in line and skipped:
                break
            if b" key=last " in line:
                client.ask(b"get last\r\n", b"END\r\n")
    assert skipped > 0
    assert told + skipped >= sent
    watcher.close()


def test_a_killed_worker_takes_its_watchers_and_nothing_else(watched: Server) -> None:
    _no_watchers(watched)
    watchers = [Watcher(watched, b"mutations") for _ in range(6)]
    victims = watched.worker_pids()
    kill(victims[0], signal.SIGKILL)
    wait_until(
        lambda: len(watched.worker_pids()) == len(victims)
        and victims[0] not in watched.worker_pids(),
        "a new worker",
    )
    wait_until(
        lambda: int(watched.stats()["log_watchers"]) == 6 - 6 // len(victims), "its watchers to go"
    )
    with watched.client() as client:
        client.ask(b"set after 0 0 1\r\nx\r\n", b"STORED\r\n")
    alive = 0
    for watcher in watchers:
        if watcher.client.more(timeout_s=5.0) and not watcher.client.closed:
            assert _fields(watcher.next())[b"key"] == b"after"
            alive += 1
        watcher.close()
    assert alive == 6 - 6 // len(victims)
    _no_watchers(watched)
    before = watched.stats()["log_worker_written"]
    with watched.client() as client:
        client.ask(b"set quiet 0 0 1\r\nx\r\n", b"STORED\r\n")
    assert watched.stats()["log_worker_written"] == before


def test_what_a_killed_worker_had_logged_is_still_told() -> None:
    with node("-m", "64", workers=2) as server:
        watchers = [Watcher(server, b"mutations") for _ in range(2)]  # one with each worker
        clients = [server.client() for _ in range(4)]
        for i in range(20):
            clients[i % 4].ask(b"set key%d 0 0 1\r\nx\r\n" % i, b"STORED\r\n")
        kill(server.worker_pids()[0], signal.SIGKILL)
        survivors = 0
        for watcher in watchers:
            try:
                keys = [_fields(watcher.next())[b"key"] for _ in range(20)]
            except ClosedByPeer:
                continue
            assert keys == [b"key%d" % i for i in range(20)]
            survivors += 1
        assert survivors >= 1
        for client in (*clients, *(watcher.client for watcher in watchers)):
            client.close()


def test_minus_w_forbids_watching() -> None:
    peer = InProcessPeer()
    try:
        peer.segment.close()
        settings = {"memory_limit_bytes": 64 << 20, "watch_enabled": False}
        peer.segment = peer._core.Segment(settings)
        peer.segment.claim_slot(peer._core.SLOT_WORKER_FIRST)
        link = peer.connect()
        link.send(b"watch\r\n")
        assert link.buffer == b"CLIENT_ERROR watch commands not allowed\r\n"
    finally:
        peer.close()

"""`memcachepy dump` and `restore` between nodes and memcached: whole, interrupted and damaged."""

import json
import os
import random
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from admin_support import (
    SAMPLE,
    Item,
    ServerMaker,
    address_of,
    assert_stored,
    is_stored,
    json_of,
    memcachepy,
    store,
)
from support.server import Server
from support.waiting import wait_until

from memcachepy.admin.client import Address
from memcachepy.admin.dump import DumpOptions, DumpResult, dump, part_path
from memcachepy.admin.dumpfile import CLASS_END, ITEMS, DumpReader
from memcachepy.admin.restore import (
    RestoreOptions,
    RestoreResult,
    restore,
    state_path,
)
from memcachepy.errors import (
    ConfigError,
    DamagedDump,
    DumpExists,
    MemcachepyError,
    NodeRefuses,
    NodeUnreachable,
)

Progress = Callable[[int, int], None]


def quiet(_done: int, _all: int) -> None:
    pass


class Interruption(Exception):
    """What a test interrupts with."""


def interrupt_after(calls: int) -> Progress:
    left = [calls]

    def progress(_done: int, _all: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Interruption

    return progress


def dump_of(server: Server, path: Path, **how: object) -> DumpResult:
    options = DumpOptions(Address.parse(address_of(server)), path, timeout_s=10)
    return dump(replace(options, **how), quiet)  # type: ignore[arg-type]


def restored(
    path: Path, server: Server, progress: Progress = quiet, **how: object
) -> RestoreResult:
    result = RestoreResult()
    options = RestoreOptions(path, Address.parse(address_of(server)), timeout_s=10)
    restore(replace(options, **how), progress, result)  # type: ignore[arg-type]
    return result


def keys_of(path: Path) -> list[bytes]:
    with DumpReader(path) as reader:
        return [
            record.key
            for block in reader.blocks()
            if block.kind == ITEMS
            for record in block.records()
        ]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dump"


# ---- whole ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["ours", "memcached"])
@pytest.mark.parametrize("source", ["ours", "memcached"])
def test_everything_survives_the_way_there(
    serve: ServerMaker, path: Path, source: str, target: str
) -> None:
    source_server = serve(source, "-I", "2m")
    store(source_server, SAMPLE)
    done = memcachepy("dump", path, "--server", address_of(source_server), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json_of(done)
    assert report["items"] == len(SAMPLE)
    assert report["value_bytes"] == sum(len(item.value) for item in SAMPLE)
    assert report["vanished"] == report["unreadable"] == report["stale"] == 0
    assert report["file_bytes"] == path.stat().st_size
    assert os.listdir(path.parent) == [path.name], "nothing is left beside it"
    target_server = serve(target, "-I", "2m")
    done = memcachepy("restore", path, "--server", address_of(target_server), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json_of(done)
    assert (report["stored"], report["refused"], report["error"]) == (len(SAMPLE), 0, None)
    for item in SAMPLE:
        assert_stored(target_server, item)
    assert os.listdir(path.parent) == [path.name]


def test_values_longer_than_blocks(serve: ServerMaker, path: Path) -> None:
    source, target = serve("ours", "-I", "8m"), serve("memcached", "-I", "8m")
    long = [Item(b"long%d" % size, os.urandom(size)) for size in (1 << 20, 3_333_333)]
    store(source, [*long, Item(b"short", b"x")])
    assert dump_of(source, path).totals.items == 3
    assert restored(path, target).counts.stored == 3
    for item in long:
        assert_stored(target, item)


def test_many_items_in_batches_and_blocks(
    serve: ServerMaker, path: Path, rng: random.Random
) -> None:
    source, target = serve("memcached"), serve("ours")
    items = [Item(b"%d" % n, rng.randbytes(rng.randrange(2000))) for n in range(5000)]
    store(source, items)
    assert dump_of(source, path).totals.items == 5000
    assert sorted(keys_of(path)) == sorted(item.key for item in items)
    assert restored(path, target).counts.stored == 5000
    for item in rng.sample(items, 100):
        assert_stored(target, item)


def test_a_dump_of_a_busy_server_has_only_what_was_stored(
    server: Server, path: Path, seed: int
) -> None:
    """Clients store, replace and delete meanwhile; a value names its key as often as it is long."""
    stop = threading.Event()

    def churn(number: int) -> None:
        rng = random.Random(seed + number)
        with server.client() as client:
            while not stop.is_set():
                key = b"key%d" % rng.randrange(3000)
                value = key * rng.randrange(0, 200)
                if rng.random() < 0.3:
                    client.send(b"delete %s\r\n" % key)
                else:
                    client.send(b"set %s 0 0 %d\r\n%s\r\n" % (key, len(value), value))
                assert client.line() in (b"STORED", b"DELETED", b"NOT_FOUND")

    store(server, [Item(b"key%d" % n, b"key%d" % n) for n in range(0, 3000, 2)])
    store(server, [Item(b"still%d" % n, b"still%d" % n) for n in range(500)])
    threads = [threading.Thread(target=churn, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            dump_of(server, path, overwrite=True)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    seen = set()
    with DumpReader(path) as reader:
        for block in reader.blocks():
            for record in block.records() if block.kind == ITEMS else ():
                seen.add(record.key)
                times, rest = divmod(record.value_len, len(record.key))
                assert (bytes(record.value), rest) == (record.key * times, 0)
    assert {b"still%d" % n for n in range(500)} <= seen, "what nobody touched is there"


def test_a_dump_over_a_unix_socket(serve: ServerMaker, path: Path, tmp_path: Path) -> None:
    socket = tmp_path / "s"
    server = serve("ours", "-s", str(socket))
    store(server, [Item(b"k", b"v")])
    done = memcachepy("dump", path, "--server", socket)
    assert (done.returncode, done.stderr) == (0, "")
    assert keys_of(path) == [b"k"]


def test_a_rate_is_kept(server: Server, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(server, [Item(b"%d" % number, bytes(10_000)) for number in range(200)])
    now_s = [1000.0]
    monkeypatch.setattr("memcachepy.admin.dump.time.monotonic", lambda: now_s[0])
    monkeypatch.setattr(
        "memcachepy.admin.dump.time.sleep", lambda pause_s: now_s.append(now_s.pop() + pause_s)
    )
    dump_of(server, path, rate_bytes_s=1e6)
    assert now_s[0] - 1000 == pytest.approx(2.0)


def test_an_empty_server_gives_an_empty_dump(server: Server, path: Path) -> None:
    assert dump_of(server, path).totals.items == 0
    assert restored(path, server).counts.stored == 0


def test_the_prefix_chooses(server: Server, path: Path, tmp_path: Path) -> None:
    store(server, [Item(b"user:1", b"a"), Item(b"user:2", b"b"), Item(b"page:1", b"c")])
    assert dump_of(server, path, prefix=b"user:").totals.items == 2
    assert sorted(keys_of(path)) == [b"user:1", b"user:2"]
    whole = tmp_path / "whole"
    dump_of(server, whole)
    with server.client() as client:
        client.ask(b"flush_all\r\n", b"OK\r\n")
    result = restored(whole, server, prefix=b"page:")
    assert (result.counts.stored, result.counts.filtered) == (1, 2)
    assert is_stored(server, b"page:1")
    assert not is_stored(server, b"user:1")


def test_add_keeps_what_is_there(server: Server, path: Path) -> None:
    binary = Item(b"with space", b"old")
    store(server, [Item(b"k", b"old"), Item(b"gone", b"old"), binary])
    dump_of(server, path)
    store(server, [Item(b"k", b"new"), replace(binary, value=b"new")])
    with server.client() as client:
        client.ask(b"delete gone\r\n", b"DELETED\r\n")
    result = restored(path, server, add=True)
    assert (result.counts.stored, result.counts.kept) == (1, 2)
    assert_stored(server, Item(b"k", b"new"))
    assert_stored(server, replace(binary, value=b"new"))
    assert_stored(server, Item(b"gone", b"old"))


def test_what_expires_on_the_way_is_not_restored(server: Server, path: Path) -> None:
    store(server, [Item(b"short", b"a", ttl_s=2), Item(b"long", b"b", ttl_s=1000)])
    assert dump_of(server, path).totals.items == 2
    with DumpReader(path) as reader:
        expiries = [
            record.expire_at_s
            for block in reader.blocks()
            if block.kind == ITEMS
            for record in block.records()
        ]
    wait_until(lambda: time.time() > min(expiries), "the first expiry")
    with server.client() as client:
        client.ask(b"flush_all\r\n", b"OK\r\n")
    result = restored(path, server)
    assert (result.counts.stored, result.counts.expired) == (1, 1)
    assert not is_stored(server, b"short")


def test_a_dump_leaves_no_trace_in_the_server(server: Server, path: Path) -> None:
    store(server, [Item(b"k", b"v")])
    dump_of(server, path)
    with server.client() as client:
        client.send(b"mg k h\r\n")
        assert client.line() == b"HD h0", "nobody has asked for it"


def test_stale_items_stay_where_they_are_and_are_renewed_by_clients(
    server: Server, path: Path
) -> None:
    store(server, [Item(b"k", b"v"), Item(b"fresh", b"v")])
    with server.client() as client:
        client.ask(b"md k I\r\n", b"HD\r\n")
        result = dump_of(server, path)
        assert (result.totals.items, result.totals.stale) == (1, 1)
        client.send(b"mg k v\r\n")
        words = client.line().split()
        assert (words[:2], set(words[2:])) == ([b"VA", b"1"], {b"W", b"X"}), "the task is not lost"


def test_refusals_are_counted_and_named(serve: ServerMaker, path: Path) -> None:
    source, target = serve("ours", "-I", "2m"), serve("memcached")
    store(source, [Item(b"k", b"v"), Item(b"large", bytes(1_500_000))])
    dump_of(source, path)
    done = memcachepy("restore", path, "--server", address_of(target), "--json")
    assert done.returncode == 1
    report = json_of(done)
    assert (report["stored"], report["refused"]) == (1, 1)
    assert report["refusals"] == {"SERVER_ERROR object too large for cache": 1}
    assert is_stored(target, b"k")


# ---- interrupted ---------------------------------------------------------------------------------


def many_classes() -> list[Item]:
    return [
        Item(b"%d-%d" % (size, number), os.urandom(size))
        for size in (10, 100, 1000, 10_000)
        for number in range(200)
    ]


def test_an_interrupted_dump_goes_on_behind_the_last_whole_class(
    server: Server, path: Path
) -> None:
    items = many_classes()
    store(server, items)
    options = DumpOptions(Address.parse(address_of(server)), path)
    with pytest.raises(Interruption):
        dump(options, interrupt_after(10))
    assert not path.exists()
    assert part_path(path).exists()
    with pytest.raises(DumpExists, match="--resume continues it"):
        dump(options, quiet)
    result = dump(replace(options, resume=True), quiet)
    assert result.resumed_classes >= 1
    assert result.totals.items == len(items)
    assert sorted(keys_of(path)) == sorted(item.key for item in items), "each of them once"
    assert not part_path(path).exists()
    assert restored(path, server).counts.stored == len(items)


def test_a_dump_can_be_resumed_from_any_byte(server: Server, path: Path) -> None:
    store(server, many_classes()[::20])
    count = dump_of(server, path).totals.items
    whole = path.read_bytes()
    with DumpReader(path) as reader:
        header_bytes = reader.first_offset
        ends = [block.end_offset for block in reader.blocks() if block.kind == CLASS_END]
    cuts = {header_bytes, len(whole) - 1, *ends, *(end - 1 for end in ends), *(e + 1 for e in ends)}
    for cut in sorted(cuts):
        path.unlink()
        part_path(path).write_bytes(whole[:cut])
        result = dump_of(server, path, resume=True)
        assert result.resumed_classes == sum(end <= cut for end in ends)
        assert result.totals.items == count
        assert len(keys_of(path)) == count


def test_another_dump_is_not_continued(serve: ServerMaker, path: Path) -> None:
    one, other = serve("memcached"), serve("memcached")
    store(one, many_classes())
    with pytest.raises(Interruption):
        dump(DumpOptions(Address.parse(address_of(one)), path), interrupt_after(2))
    with pytest.raises(ConfigError, match="was begun with"):
        dump_of(other, path, resume=True)


def test_an_existing_file_is_replaced_only_when_asked_for(server: Server, path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(DumpExists, match="--overwrite replaces it"):
        dump_of(server, path)
    assert path.read_text() == "precious"
    dump_of(server, path, overwrite=True)
    assert keys_of(path) == []


@contextmanager
def started(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """The command with SIGINT as in a terminal; who runs the tests may have it ignored."""
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_ctrl_c_leaves_a_dump_that_can_be_resumed(server: Server, path: Path) -> None:
    items = many_classes()
    store(server, items)
    command = [sys.executable, "-P", "-m", "memcachepy", "dump", str(path)]
    command += ["--server", address_of(server), "--rate", "0.05"]
    with started(command) as process:
        wait_until(lambda: _has_class(part_path(path)), "the first class", 20)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, "")
    assert "--resume continues" in errors
    assert not path.exists()
    done = memcachepy("dump", path, "--server", address_of(server), "--resume", "--json")
    assert done.returncode == 0
    assert json_of(done)["items"] == len(items)
    assert json_of(done)["resumed_classes"] >= 1


def _has_class(part: Path) -> bool:
    """Whether a class is whole in a dump that is being written."""
    with suppress(MemcachepyError), DumpReader(part) as reader:
        return any(block.kind == CLASS_END for block in reader.blocks())
    return False


def test_a_dump_goes_on_after_the_workers_were_killed(serve: ServerMaker, path: Path) -> None:
    server = serve("ours")
    items = many_classes()
    store(server, items)
    command = [sys.executable, "-P", "-m", "memcachepy", "dump", str(path)]
    command += ["--server", address_of(server), "--rate", "0.05"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: _has_class(part_path(path)), "the first class", 20)
        for pid in server.worker_pids():
            os.kill(pid, signal.SIGKILL)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == os.EX_UNAVAILABLE
    assert address_of(server) in errors
    result = dump_of(server, path, resume=True)
    assert result.resumed_classes >= 1
    assert sorted(keys_of(path)) == sorted(item.key for item in items)


def test_an_interrupted_restore_goes_on_with_its_block(server: Server, path: Path) -> None:
    items = many_classes()
    store(server, items)
    dump_of(server, path)
    with server.client() as client:
        client.ask(b"flush_all\r\n", b"OK\r\n")
    with pytest.raises(Interruption):
        restored(path, server, interrupt_after(5))
    noted = json.loads(state_path(path).read_text())
    stored_before = noted["counts"]["stored"]
    assert 0 < stored_before < len(items)
    assert sum(is_stored(server, item.key) for item in items) == stored_before
    result = restored(path, server, resume=True)
    assert result.counts.stored == len(items), "with those of before"
    assert all(is_stored(server, item.key) for item in items[::50])
    assert not state_path(path).exists()


def test_ctrl_c_leaves_a_restore_that_can_be_resumed(serve: ServerMaker, path: Path) -> None:
    source, target = serve("ours"), serve("memcached")
    items = many_classes()
    store(source, items)
    dump_of(source, path)
    with stalled(target) as (address, stall):
        command = [sys.executable, "-P", "-m", "memcachepy", "restore", str(path), "--json"]
        with started([*command, "--server", str(address)]) as process:
            wait_until(stall.is_set, "the restore to wait for an answer", 20)
            process.send_signal(signal.SIGINT)
            out, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert json.loads(out)["error"] == "interrupted"
    assert "--resume continues it" in errors
    noted = json.loads(state_path(path).read_text())
    noted["address"] = address_of(target)
    state_path(path).write_text(json.dumps(noted))
    assert restored(path, target, resume=True).counts.stored == len(items)
    assert all(is_stored(target, item.key) for item in items[::50])


@contextmanager
def stalled(server: Server) -> Iterator[tuple[Address, threading.Event]]:
    """A way to the server that passes on 200,000 bytes and then nothing more, and says so."""
    stall = threading.Event()

    def pass_on(source: socket.socket, sink: socket.socket, count: int | None) -> None:
        with suppress(OSError):
            while data := source.recv(4096):
                sink.sendall(data)
                if count is not None and (count := count - len(data)) <= 0:
                    stall.set()
                    return

    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

        def serve_one() -> None:
            near, _ = listener.accept()
            far = socket.create_connection(server.address)
            with near, far:
                back = threading.Thread(target=pass_on, args=(far, near, None))
                back.start()
                pass_on(near, far, 200_000)
                done.wait()
                far.shutdown(socket.SHUT_RDWR)
                back.join()

        done = threading.Event()
        thread = threading.Thread(target=serve_one)
        thread.start()
        try:
            yield Address("127.0.0.1", listener.getsockname()[1]), stall
        finally:
            done.set()
            thread.join()


def test_another_restore_is_not_continued(server: Server, path: Path) -> None:
    store(server, many_classes())
    dump_of(server, path)
    with pytest.raises(Interruption):
        restored(path, server, interrupt_after(3))
    with pytest.raises(ConfigError, match=r"dump\.restore is about"):
        restored(path, server, resume=True, prefix=b"1")


# ---- damaged, and servers that fail --------------------------------------------------------------


def test_of_a_damaged_file_nothing_wrong_is_stored(server: Server, path: Path) -> None:
    items = many_classes()
    store(server, items)
    dump_of(server, path)
    with DumpReader(path) as reader:
        blocks = [block for block in reader.blocks() if block.kind == ITEMS]
    hit = blocks[1]
    data = bytearray(path.read_bytes())
    data[hit.offset + 500] ^= 4
    path.write_bytes(data)
    with server.client() as client:
        client.ask(b"flush_all\r\n", b"OK\r\n")
    done = memcachepy("restore", path, "--server", address_of(server))
    assert done.returncode == os.EX_DATAERR
    where = f"{path} is damaged in block {hit.number}, at byte {hit.offset}: its checksum is wrong"
    assert where in done.stderr
    good = {record.key for record in blocks[0].records()}
    assert {item.key for item in items if is_stored(server, item.key)} == good
    assert memcachepy("restore", path, "--check").returncode == os.EX_DATAERR
    done = memcachepy("restore", path, "--server", address_of(server), "--json")
    assert json_of(done)["error"] == where


def test_a_long_value_with_damage_in_the_middle_leaves_the_old_one(
    serve: ServerMaker, path: Path
) -> None:
    server = serve("memcached", "-I", "8m")
    store(server, [Item(b"long", os.urandom(5_000_000))])
    dump_of(server, path)
    data = bytearray(path.read_bytes())
    data[3_000_000] ^= 1
    path.write_bytes(data)
    store(server, [Item(b"long", b"old")])
    with pytest.raises(DamagedDump):
        restored(path, server)
    assert_stored(server, Item(b"long", b"old"))


def test_nobody_there_is_said_in_a_sentence(path: Path, tmp_path: Path) -> None:
    done = memcachepy("dump", path, "--server", str(tmp_path / "no.sock"))
    assert done.returncode == os.EX_UNAVAILABLE
    assert done.stderr == (
        f"memcachepy: {tmp_path}/no.sock cannot be reached: No such file or directory\n"
    )
    assert not path.exists()
    assert not part_path(path).exists()


class _Script(socketserver.StreamRequestHandler):
    """Answers by the first word of a line."""

    answers: dict[bytes, bytes] = {}  # noqa: RUF012

    def handle(self) -> None:
        while line := self.rfile.readline():
            answer = self.answers.get(line.split()[0], b"ERROR\r\n")
            if not answer:
                return
            self.wfile.write(answer)


@contextmanager
def scripted(answers: dict[bytes, bytes]) -> Iterator[Address]:
    """A server of an old or broken kind."""
    handler = type("Handler", (_Script,), {"answers": answers})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield Address("127.0.0.1", server.server_address[1])
        finally:
            server.shutdown()
            thread.join()


def test_a_server_without_meta_commands_is_read_by_get(path: Path) -> None:
    expire_at_s = int(time.time()) + 500
    answers = {
        b"version": b"VERSION 1.4.39\r\n",
        b"stats": b"STAT items:1:number 3\r\nEND\r\n",
        b"lru_crawler": b"key=a exp=%d la=1 cas=1 fetch=no cls=1 size=60\n"
        b"key=gone exp=-1 la=1 cas=1 fetch=no cls=1 size=60\n"
        b"key=a%%20b exp=-1 la=1 cas=1 fetch=no cls=1 size=60\nEND\r\n" % expire_at_s,
        b"get": b"VALUE a 7 3\r\nabc\r\nEND\r\n",
    }
    with scripted(answers) as address:
        result = dump(DumpOptions(address, path), quiet)
    assert (result.totals.items, result.totals.vanished, result.totals.unreadable) == (1, 1, 1)
    with DumpReader(path) as reader:
        (record,) = next(reader.blocks()).records()
    assert (record.key, record.client_flags, record.expire_at_s) == (b"a", 7, expire_at_s)
    assert record.value == b"abc"


def test_a_server_that_lists_nothing_is_named(path: Path) -> None:
    answers = {b"stats": b"STAT items:1:number 1\r\nEND\r\n"}
    answers |= {
        b"version": b"VERSION 1.6.45\r\n",
        b"lru_crawler": b"ERROR metadump not allowed\r\n",
    }
    with (
        scripted(answers) as address,
        pytest.raises(NodeRefuses, match="metadump 1: ERROR metadump not allowed"),
    ):
        dump(DumpOptions(address, path), quiet)


def test_a_server_that_hangs_up_leaves_what_can_be_resumed(path: Path, server: Server) -> None:
    store(server, many_classes())
    dump_of(server, path)
    answers = {b"version": b"VERSION 1.6.45\r\n", b"mn": b"MN\r\n", b"set": b""}
    result = RestoreResult()
    with scripted(answers) as address, pytest.raises(NodeUnreachable):
        restore(RestoreOptions(path, address), quiet, result)
    assert result.counts.stored == 0, "nothing is claimed that was not acknowledged"
    assert state_path(path).exists()


def test_a_server_that_wants_a_password_gets_no_values(path: Path, server: Server) -> None:
    store(server, [Item(b"k", b"v")])
    dump_of(server, path)
    with (
        scripted({b"version": b"CLIENT_ERROR unauthenticated\r\n"}) as address,
        pytest.raises(NodeRefuses, match="unauthenticated"),
    ):
        restore(RestoreOptions(path, address), quiet, RestoreResult())

"""What a node answers about configurations: who may change them, in how many pieces answers leave,
and the packets of the binary protocol. The lines of text are in transcripts/config.txt.
"""

import base64
import json
import random
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from control import ControlClient
from nodes import Node, Start
from support.binary import (
    AUTH_ERROR,
    INVALID,
    NOT_FOUND,
    NOT_STORED,
    TOO_LARGE,
    Reply,
    error,
    hit,
    replies,
    request,
    store,
)
from support.client import RawClient
from support.waiting import wait_until

from memcachepy import _core

GET, GETQ, GETK, GETKQ, SET, SETQ, DELETE, DELETEQ, LIST = range(0x60, 0x69)
PAYLOAD = b"1\nn1.mc.cfg.test|10.0.0.1|11211 n2.mc.cfg.test|10.0.0.2|11211\n"
ANSWER = b"CONFIG cluster 0 62\r\n" + PAYLOAD + b"\r\nEND\r\n"
FORBIDDEN = b"only loopback addresses and UNIX sockets may change what every client connects to"
HERE = Path(__file__).parent

pytestmark = pytest.mark.once

Exchange = Callable[[bytes], list[Reply]]


@pytest.fixture
def exchange(segment: _core.Segment) -> Exchange:
    """Send packets over one connection, get all replies."""
    connection = _core.Connection(segment)

    def exchange(packets: bytes) -> list[Reply]:
        found, rest = replies(connection.feed(packets))
        assert rest == b""
        return found

    return exchange


def config_set(key: bytes, value: bytes, flags: int = 0, opcode: int = SET) -> bytes:
    return request(opcode, key, extras=struct.pack("!I", flags), value=value, opaque=9)


def own_stat(segment: _core.Segment, name: bytes) -> int:
    lines = _core.Connection(segment).feed(b"stats memcachepy\r\n").splitlines()
    return int(next(line.split(b" ")[2] for line in lines if line.split(b" ")[1] == name))


# ---- packets -----------------------------------------------------------------------------------


def test_packets_set_get_and_delete(exchange: Exchange) -> None:
    stored, found, with_key = exchange(
        config_set(b"cluster", PAYLOAD, 7) + request(GET, b"cluster") + request(GETK, b"cluster")
    )
    assert stored == Reply("0x64", opaque=9, cas=stored.cas)
    assert stored.cas != 0
    assert found == hit("0x60", PAYLOAD, client_flags=7, cas=stored.cas)
    assert with_key == hit("0x62", PAYLOAD, client_flags=7, key=b"cluster", cas=stored.cas)
    (again,) = exchange(config_set(b"cluster", PAYLOAD, 7))
    assert again.cas > stored.cas
    assert exchange(request(DELETE, b"cluster")) == [Reply("0x66")]
    assert exchange(request(DELETE, b"cluster")) == [error("0x66", NOT_FOUND)]
    assert exchange(request(GET, b"cluster", opaque=3)) == [error("0x60", NOT_FOUND, opaque=3)]
    assert exchange(request(GETK, b"k")) == [Reply("0x62", NOT_FOUND, key=b"k")]


def test_quiet_packets_tell_hits_and_errors_alone(exchange: Exchange) -> None:
    noop = request("noop")
    quiet = request(GETQ, b"k") + request(GETKQ, b"k") + config_set(b"k", b"v", opcode=SETQ)
    assert exchange(quiet + noop) == [Reply("noop")]
    one, other, end = exchange(request(GETQ, b"k") + request(GETKQ, b"k") + noop)
    assert (one.value, one.key, other.value, other.key) == (b"v", b"", b"v", b"k")
    assert end == Reply("noop")
    assert exchange(request(DELETEQ, b"k") + noop) == [Reply("noop")]
    assert exchange(request(DELETEQ, b"k")) == [error("0x67", NOT_FOUND)]


def test_list_tells_all_and_ends_with_a_packet_without_a_key(exchange: Exchange) -> None:
    assert exchange(request(LIST, opaque=5)) == [Reply("0x68", opaque=5)]
    values = {b"k%d" % i: b"%d" % i * 65536 if i < 10 else b"" for i in range(16)}
    for key, value in values.items():
        (stored,) = exchange(config_set(key, value, 3))
        assert stored.status == 0
    *found, end = exchange(request(LIST))
    assert end == Reply("0x68")
    assert {reply.key: reply.value for reply in found} == values
    assert {reply.extras for reply in found} == {b"\0\0\0\3"}
    assert exchange(config_set(b"k16", b"")) == [error("0x64", NOT_STORED, opaque=9)]


def test_packets_that_cannot_be_stored_are_refused_and_the_next_is_read(exchange: Exchange) -> None:
    noop = request("noop")
    long = config_set(b"k", b"x" * 65537)
    assert exchange(long + noop) == [error("0x64", TOO_LARGE, opaque=9), Reply("noop")]
    assert exchange(config_set(b"a b", b"x") + noop) == [
        error("0x64", INVALID, opaque=9),
        Reply("noop"),
    ]
    (stored,) = exchange(config_set(b"k", b"x" * 65536))
    assert stored.status == 0


def test_a_set_in_pieces_is_a_set(segment: _core.Segment) -> None:
    connection = _core.Connection(segment)
    for packet in (config_set(b"k", b"xyz"), b"config set l 0 3\r\nuvw\r\n"):
        for at in range(len(packet)):
            connection.feed(packet[at : at + 1])
        connection.close()
        connection = _core.Connection(segment)
    assert segment.get_config("k") == (0, b"xyz")
    assert segment.get_config("l") == (0, b"uvw")


def test_older_key_is_answered_to_packets_too(segment: _core.Segment, exchange: Exchange) -> None:
    legacy = b"AmazonElastiCache:cluster"
    assert exchange(request("get", legacy)) == [error("get", NOT_FOUND)]
    assert exchange(request("getk", legacy)) == [Reply("getk", NOT_FOUND, key=legacy)]
    segment.set_config("cluster", 0, PAYLOAD)
    before = segment.counters()
    one, other, last = exchange(
        request("getq", legacy, opaque=1) + request("getk", legacy, opaque=2) + request("noop")
    )
    assert one == hit("getq", PAYLOAD, cas=one.cas, opaque=1)
    assert other == hit("getk", PAYLOAD, key=legacy, cas=one.cas, opaque=2)
    assert last == Reply("noop")
    assert exchange(store("set", legacy, b"x")) == [error("set", NOT_STORED)]
    after = segment.counters()
    assert [n for n in after if after[n] != before[n]] == ["cmd_config_get"]
    assert after["cmd_config_get"] - before["cmd_config_get"] == 2


def test_health_in_packets_is_no_traffic(segment: _core.Segment, exchange: Exchange) -> None:
    key = b"memcachepy:health"
    before = segment.counters()
    assert exchange(request("get", key)) == [error("get", NOT_FOUND)]
    (stored,) = exchange(store("set", key, b"ok", exptime=10))
    assert stored.status == 0
    (found,) = exchange(request("get", key))
    assert found == hit("get", b"ok", cas=stored.cas)
    after = segment.counters()
    moved = {name for name in after if after[name] != before[name]}
    # It is an item, no more: nothing of what monitoring takes for traffic.
    assert not {n for n in moved if n.startswith(("cmd_", "get_", "cas_", "store_"))}
    assert {"curr_items", "total_items"} <= moved
    rows = _core.Connection(segment).feed(b"stats slabs\r\n").splitlines()
    counts = {row.split(b":")[1].split(b" ")[0]: row.split(b" ")[2] for row in rows if b":" in row}
    assert (counts[b"get_hits"], counts[b"cmd_set"]) == (b"0", b"0")


def test_a_long_health_value_is_like_any_other(segment: _core.Segment) -> None:
    connection = _core.Connection(segment)
    value = b"v" * 100_000
    assert connection.feed(b"set memcachepy:health 0 0 %d\r\n%s\r\n" % (len(value), value)) == (
        b"STORED\r\n"
    )
    assert connection.feed(b"get memcachepy:health\r\n") == (
        b"VALUE memcachepy:health 0 %d\r\n%s\r\nEND\r\n" % (len(value), value)
    )
    assert connection.feed(b"delete memcachepy:health\r\n") == b"DELETED\r\n"
    assert segment.check() == []


def test_what_is_asked_and_set_is_counted(segment: _core.Segment) -> None:
    connection = _core.Connection(segment)
    connection.feed(b"config set a 0 1\r\nx\r\nconfig set b 0 1\r\nx\r\nconfig set c 0 65537\r\n")
    connection.close()
    connection = _core.Connection(segment)
    connection.feed(b"config get a\r\nconfig get none\r\nconfig get\r\nconfig get a b\r\n")
    assert own_stat(segment, b"cmd_config_set") == 2
    assert own_stat(segment, b"cmd_config_get") == 3
    assert own_stat(segment, b"curr_config") == 2
    connection.feed(b"stats reset\r\n")
    assert own_stat(segment, b"cmd_config_get") == 0
    assert own_stat(segment, b"curr_config") == 2


# ---- who may change them -----------------------------------------------------------------------


def test_who_is_not_local_may_ask_and_not_change(segment: _core.Segment) -> None:
    segment.set_config("cluster", 0, PAYLOAD)
    remote = _core.Connection(segment, local=False)
    refusal = b"CLIENT_ERROR " + FORBIDDEN + b"\r\n"
    assert remote.feed(b"config get cluster\r\n") == ANSWER
    assert remote.feed(b"config set cluster 0 1\r\nx\r\n") == refusal
    assert remote.feed(b"config set cluster 0 1 noreply\r\nx\r\n") == b""
    assert remote.feed(b"config delete cluster\r\n") == refusal
    assert remote.feed(b"config delete cluster noreply\r\n") == b""
    assert remote.feed(b"config get cluster\r\n") == ANSWER
    packets = _core.Connection(segment, local=False)
    found, _ = replies(
        packets.feed(config_set(b"cluster", b"x") + request(DELETE, b"cluster") + request("noop"))
    )
    assert found == [
        error("0x64", AUTH_ERROR, FORBIDDEN, opaque=9),
        error("0x66", AUTH_ERROR, FORBIDDEN),
        Reply("noop"),
    ]
    assert segment.get_config("cluster") == (0, PAYLOAD)


def global_address() -> str:
    """Of this machine, from which others would come; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return ""
        address: str = probe.getsockname()[0]
        return "" if address.startswith("127.") else address


def test_loopback_and_unix_sockets_may_and_other_addresses_may_not(
    start: Start, tmp_path: Path
) -> None:
    node = start("-p", "-1", "-l", "*", "-s", str(tmp_path / "s"), "-t", "1")
    (port,) = {int(text.rpartition(":")[2]) for text in node.addresses if "/" not in text}
    local = [("127.0.0.1", port), ("127.1.2.3", port), str(tmp_path / "s")]
    if any(text.startswith("[") for text in node.addresses):
        local.append(("::1", port))
    for number, address in enumerate(local):
        with RawClient(address) as client:
            client.send(b"config set k%d 0 1\r\nx\r\nconfig delete k%d\r\n" % (number, number))
            client.expect(b"STORED\r\nDELETED\r\n")
    remote = global_address()
    if not remote:
        pytest.skip("NOT TESTED: this machine has no other address than loopback")
    with RawClient((remote, port)) as client:
        client.send(b"config set k 0 1\r\nx\r\nversion\r\n")
        assert client.line() == b"CLIENT_ERROR " + FORBIDDEN
        assert client.line().startswith(b"VERSION")


# ---- real nodes --------------------------------------------------------------------------------


def test_every_worker_answers_alike_and_at_once(start: Start, tmp_path: Path) -> None:
    node = start("-t", "3", "--control-socket", str(tmp_path / "c"))
    with ControlClient(tmp_path / "c") as control:
        for version in range(1, 4):
            payload = b"%d" % version + PAYLOAD[1:]
            data = base64.b64encode(payload).decode()
            assert control.ask(op="config_set", key="cluster", data=data)["ok"]
            for _ in range(6):  # The acceptor gives each worker two of them.
                with RawClient(node.address) as client:
                    client.send(b"config get cluster\r\n")
                    assert client.take(len(ANSWER)) == ANSWER.replace(PAYLOAD, payload)


def test_workers_killed_while_they_change_a_list_leave_whole_ones(
    start: Start, rng: random.Random
) -> None:
    """And the list can be changed again at once. tests/crash kills at each single instruction."""
    node = start("-t", "2")
    over = threading.Event()
    versions: list[int] = []

    def payload(version: int) -> bytes:
        rows = b" ".join(b"n%d.lan|10.0.0.%d|%d" % (version, i, 20000 + version) for i in range(60))
        return b"%d\n%s\n" % (version, rows)

    def change() -> None:
        version = 0
        while not over.is_set():
            with suppress(AssertionError, OSError), RawClient(node.address) as client:
                while not over.is_set():
                    version += 1
                    value = payload(version)
                    line = b"config set cluster 0 %d\r\n" % len(value)
                    client.ask(line + value + b"\r\n", b"STORED\r\n")
                    versions.append(version)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(8):
            known = len(versions)
            wait_until(lambda known=known: len(versions) > known + 20, "changes", 30)
            time.sleep(rng.random() / 100)  # The moment of the kill is drawn.
            rng.choice(node.workers()).kill()
            known = len(versions)
            wait_until(lambda known=known: len(versions) > known, "a change after the kill", 30)
            told = list_told(node)
            version = int(told.split(b"\n")[0])
            assert told == payload(version)
            assert version >= versions[known]
    finally:
        over.set()
        thread.join()
    assert node.stop() == 0


def list_told(node: Node) -> bytes:
    """By some worker: it may be killed before it has answered, and then another is asked."""

    def told() -> bytes:
        with suppress(AssertionError, OSError), RawClient(node.address) as client:
            client.send(b"config get cluster\r\n")
            words = client.line().split()
            return client.take(int(words[3]))
        return b""

    return wait_until(told, "the list", 30)


@pytest.mark.parametrize("node_count", [2, 60, 1000])
def test_an_answer_leaves_in_one_send(start: Start, tmp_path: Path, node_count: int) -> None:
    """Clients break on lists in pieces: pymemcache's looks at the last piece alone."""
    library, sends = tmp_path / "sends.so", tmp_path / "sends"
    command = ["cc", "-shared", "-fPIC", "-O1", str(HERE / "sends.c"), "-o", str(library), "-ldl"]
    subprocess.run(["cc", "-D_GNU_SOURCE", *command[1:]], check=True, timeout=120)
    environment = {"LD_PRELOAD": str(library), "MEMCACHEPY_TEST_SENDS": str(sends)}
    node = start("-t", "1", "--control-socket", str(tmp_path / "c"), env=environment)
    rows = " ".join(f"n{i}.mc.cfg.test|10.0.0.1|{11211 + i}" for i in range(node_count))
    payload = b"1\n" + rows.encode() + b"\n"
    answer = b"CONFIG cluster 0 %d\r\n%s\r\nEND\r\n" % (len(payload), payload)
    with ControlClient(tmp_path / "c") as control:
        data = base64.b64encode(payload).decode()
        line = json.dumps({"v": 1, "op": "config_set", "key": "cluster", "data": data})
        control.socket.sendall(line.encode() + b"\n")
        assert control.answer()["ok"]
    with RawClient(node.address) as client:
        client.send(b"config get cluster\r\n")
        assert client.take(len(answer)) == answer
    wait_until(
        lambda: sends.exists() and sends.read_text().endswith("\n"), "sends to be written down", 30
    )
    assert sends.read_text().split() == [str(len(answer))]

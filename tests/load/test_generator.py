"""The generator counts what happened, notices what is wrong, and ends when it should."""

import signal
import socket
import time
from types import FrameType
from typing import Any

import pytest
from load_server import TinyServer
from support.server import memcached

from memcachepy import _load

SMALL = {"connection_count": 4, "key_count": 100, "request_count": 400, "duration_ms": 0}


def run(server: TinyServer, **settings: object) -> dict[str, Any]:
    results = _load.run(server.target | SMALL | settings)
    load = results["load"]
    assert load is not None
    return load


def test_counts_are_what_the_server_saw(server: TinyServer) -> None:
    results = _load.run(
        server.target | SMALL | {"prefill": 1, "set_share": 1, "get_share": 3, "verify": 1}
    )
    prefill, load = results["prefill"], results["load"]
    assert prefill is not None
    assert load is not None
    assert (prefill["requests"], prefill["stored"]) == (100, 100)
    assert len(server.items) == 100
    assert (load["requests"], load["sets"], load["gets"]) == (400, 100, 300)
    assert (load["stored"], load["hits"], load["misses"]) == (100, 300, 0)
    assert (server.sets, server.gets, server.hits) == (200, 300, 300)
    assert load["errors"] == load["wrong_values"] == load["lost_requests"] == 0


def test_a_key_that_is_not_there_is_a_miss(server: TinyServer) -> None:
    load = run(server)
    assert (load["hits"], load["misses"], load["errors"]) == (0, 400, 0)


@pytest.mark.parametrize("depth", [1, 3, 16, 100])
def test_the_number_of_requests_is_exact_at_any_depth(server: TinyServer, depth: int) -> None:
    load = run(server, pipeline_depth=depth, connection_count=7, request_count=1001)
    assert load["requests"] == server.gets == 1001


def test_a_get_of_many_keys_counts_each_key(server: TinyServer) -> None:
    for number in range(0, 100, 2):
        server.items[b"key:%012d" % number] = _load.make_value(number, 30)
    load = run(server, keys_per_get=10, request_count=100, verify=1)
    assert (load["requests"], load["keys_requested"]) == (100, 1000)
    assert load["hits"] == server.hits
    assert load["hits"] + load["misses"] == 1000
    assert 300 < load["hits"] < 700
    assert load["wrong_values"] == 0


def test_meta_gets_count_hits_and_misses(server: TinyServer) -> None:
    for number in range(50):
        server.items[b"key:%012d" % number] = _load.make_value(number, 30)
    load = run(server, meta=1, verify=1, pipeline_depth=8)
    assert load["hits"] == server.hits
    assert load["hits"] + load["misses"] == 400
    assert load["wrong_values"] == 0


def test_replies_may_come_byte_by_byte(server: TinyServer) -> None:
    def send_slowly(peer: socket.socket, reply: bytes) -> None:
        for byte in reply:
            peer.sendall(bytes([byte]))

    server.send = send_slowly
    load = run(server, prefill=1, verify=1, request_count=60, key_count=10, keys_per_get=2)
    assert (load["requests"], load["hits"], load["wrong_values"]) == (60, 120, 0)


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda reply: reply.replace(b"\r\nEND", b"\0\r\nEND", 1)[1:], "unexpected reply"),
        (lambda _: b"HELLO\r\n", "unexpected reply: HELLO"),
        (lambda _: b"STORED\r\n", "unexpected reply: STORED"),
        (lambda _: b"x" * 600, "unexpected reply: xxx"),
    ],
)
def test_a_reply_of_no_protocol_is_an_error_and_ends_the_connection(
    server: TinyServer, spoil: Any, what: str
) -> None:
    server.change = spoil
    load = run(server, request_count=20)
    assert load["errors"] == 20
    assert load["connections_lost"] == load["lost_requests"] == 20
    assert load["error_sample"].startswith(what)


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        (b"AAAAAA", b"AAAAAB", "another value than was stored"),
        (b"VALUE key:0", b"VALUE kex:0", "a key that was not asked for"),
        (b" 0 100\r\n", b" 1 100\r\n", "client flags other than 0"),
    ],
)
def test_verify_notices_what_is_wrong_with_a_hit(
    server: TinyServer, old: bytes, new: bytes, what: str
) -> None:
    server.change = lambda reply: reply.replace(old, new, 1)
    load = run(server, prefill=1, verify=1)
    assert (load["hits"], load["wrong_values"]) == (400, 400)
    assert load["wrong_sample"].endswith(what)


def test_verify_notices_a_value_of_another_key(server: TinyServer) -> None:
    server.items = {b"key:%012d" % number: _load.make_value(7, 100) for number in range(100)}
    load = run(server, verify=1)
    right = sum(1 for key in _load.sample_keys(100, 0.0, 1, 400) if key == 7)
    assert load["wrong_values"] == 400 - right


def test_without_verify_values_are_only_counted(server: TinyServer) -> None:
    server.items = {b"key:%012d" % number: b"x" * 100 for number in range(100)}
    load = run(server)
    assert (load["hits"], load["wrong_values"]) == (400, 0)


def test_an_error_is_counted_and_its_text_kept(server: TinyServer) -> None:
    server.change = lambda _: b"SERVER_ERROR out of memory storing object\r\n"
    load = run(server, set_share=1, get_share=0)
    assert (load["requests"], load["stored"], load["errors"]) == (400, 0, 400)
    assert load["error_sample"] == "SERVER_ERROR out of memory storing object"


def test_a_lost_connection_is_opened_again(server: TinyServer) -> None:
    replies = iter(range(1, 10_000))
    server.change = lambda reply: None if next(replies) % 50 == 0 else reply
    load = run(server, request_count=400)
    assert load["lost_requests"] == load["connections_lost"] == 8
    assert load["requests"] == 392
    assert server.accepted in (4 + 7, 4 + 8)  # The last may be lost when nothing is left to do.


def test_a_server_that_is_full_is_not_stormed(server: TinyServer) -> None:
    def refuse(peer: socket.socket, _reply: bytes) -> None:
        peer.sendall(b"ERROR Too many open connections\r\n")
        peer.shutdown(socket.SHUT_RDWR)

    server.send = refuse
    load = run(server, request_count=0, duration_ms=300)
    assert load["error_sample"] == "ERROR Too many open connections"
    # Four connections, each again after 10 ms.
    assert 4 < server.accepted < 4 * 35


def test_reconnect_makes_a_connection_for_each_request(server: TinyServer) -> None:
    load = run(server, reconnect=1, prefill=1, verify=1)
    assert load["requests"] == load["hits"] == load["connections"] == 400
    assert server.accepted == 404


def test_a_unix_socket_is_loaded(unix_server: TinyServer) -> None:
    load = run(unix_server, prefill=1, verify=1, pipeline_depth=4)
    assert (load["hits"], load["wrong_values"]) == (400, 0)
    assert run(unix_server, reconnect=1)["connections"] == 400


def test_ipv6_is_loaded(ipv6_server: TinyServer) -> None:
    load = run(ipv6_server, prefill=1)
    assert load["hits"] == 400


def test_values_have_the_sizes_asked_for(server: TinyServer) -> None:
    run(server, set_share=1, get_share=0, value_bytes_min=3, value_bytes_max=9, key_bytes=20)
    sizes = {len(value) for value in server.items.values()}
    assert sizes == {3, 4, 5, 6, 7, 8, 9}
    for key, value in server.items.items():
        assert len(key) == 20
        assert value == _load.make_value(int(key[4:]), len(value))


def test_zipf_asks_for_few_keys_often(server: TinyServer) -> None:
    asked: dict[bytes, int] = {}

    def count(reply: bytes) -> bytes:
        key = reply.split()[1]
        asked[key] = asked.get(key, 0) + 1
        return reply

    server.items = {b"key:%012d" % number: b"x" for number in range(100)}
    server.change = count
    run(server, zipf_exponent=1.2, request_count=1000)
    most = sorted(asked.values(), reverse=True)
    assert sum(most[:10]) > 600


def test_open_loop_sends_at_its_rate(server: TinyServer) -> None:
    load = run(server, rate_per_s=500, request_count=0, duration_ms=400)
    assert load["requests"] == 200
    assert load["unsent_requests"] == 0
    assert 0.39 < load["wall_s"] < 1


def test_open_loop_measures_from_the_moment_a_request_was_due(server: TinyServer) -> None:
    """One connection, 500 requests a second, and a server that stops once for 0.3 s.

    A closed loop would see one slow request. Here the 150 that fell due meanwhile were slow, each
    by what was left of the stop.
    """
    replies = iter(range(10_000))

    def stop_once(reply: bytes) -> bytes:
        if next(replies) == 20:
            time.sleep(0.3)
        return reply

    server.change = stop_once
    load = run(server, connection_count=1, rate_per_s=500, request_count=300)
    latency_us = load["latency_us"]
    assert load["requests"] == 300
    assert latency_us["max"] > 295_000
    # Half of 300 requests fell into the stop; a tenth waited 0.24 s or longer.
    assert latency_us["p90"] > 200_000
    assert latency_us["mean"] > 50_000


def test_open_loop_ends_on_time_and_says_what_it_never_sent(server: TinyServer) -> None:
    def hold(reply: bytes) -> bytes:
        time.sleep(0.02)
        return reply

    server.change = hold
    load = run(server, connection_count=1, rate_per_s=1000, request_count=0, duration_ms=300)
    assert load["wall_s"] < 1
    assert load["unsent_requests"] > 200
    assert load["requests"] + load["unsent_requests"] == 300


def test_late_sends_are_not_blamed_on_a_slow_server(server: TinyServer) -> None:
    def hold(reply: bytes) -> bytes:
        time.sleep(0.005)
        return reply

    server.change = hold
    load = run(server, connection_count=1, rate_per_s=2000, request_count=40)
    assert load["latency_us"]["max"] > 100_000
    assert load["late_sends"] <= 4  # Another process may have had the CPU.


def test_a_server_that_never_answers_ends_the_run(server: TinyServer) -> None:
    server.change = lambda _: b""
    with pytest.raises(_load.LoadError, match="load: no reply for 100 ms with 4 requests"):
        run(server, timeout_ms=100)


def test_nobody_listening_is_said_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(_load.LoadError, match="cannot connect: Connection refused"):
        _load.run({"port": port, "reconnect": 1})
    with pytest.raises(_load.LoadError, match="cannot connect: No such file"):
        _load.run({"port": 0, "address": "/nonexistent/socket"})


def test_progress_is_called_and_may_end_the_run(server: TinyServer) -> None:
    seen = []

    class Enough(Exception):
        pass

    def progress(phase: str, elapsed_s: float, requests: int, errors: int) -> None:
        seen.append((phase, elapsed_s, requests, errors))
        if len(seen) == 2:
            raise Enough

    settings = server.target | SMALL | {"request_count": 0, "duration_ms": 60_000}
    with pytest.raises(Enough):
        _load.run(settings, progress)
    assert [row[0] for row in seen] == ["load", "load"]
    assert 0.19 < seen[0][1] < seen[1][1]
    assert 0 < seen[0][2] < seen[1][2]


def test_a_signal_ends_the_run_within_a_fraction_of_a_second(server: TinyServer) -> None:
    class Alarm(Exception):
        pass

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise Alarm

    old = signal.signal(signal.SIGALRM, ring)
    begin_s = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(Alarm):
            run(server, request_count=0, duration_ms=60_000)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert time.monotonic() - begin_s < 2


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"pipeline_depth": 0}, "pipeline_depth is 0; it must be 1 to 4096"),
        ({"keys": 5}, "keys is no setting of the load generator"),
        ({"key_count": -1}, "key_count is -1; it must be 0 to 2\\^64 - 1"),
        ({"key_count": "5"}, "key_count is '5'; it must be a whole number"),
        ({"zipf_exponent": 11.0}, "zipf_exponent is 11; it must be 0 \\(uniform\\) to 10"),
        ({"key_bytes": 8}, 'key_bytes is 8; prefix "key:" and the numbers of 100000 keys need 9'),
        ({"key_prefix": "a b"}, "key_prefix holds byte 32"),
        ({"meta": 1, "keys_per_get": 2}, "keys_per_get must be 1 with meta"),
        ({"reconnect": 1, "pipeline_depth": 2}, "pipeline_depth must be 1 with reconnect"),
        ({"set_share": 0, "get_share": 0}, "set_share and get_share are both 0"),
        ({"duration_ms": 0}, "duration_ms and request_count are both 0"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(
    settings: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        _load.run(settings)


def test_counts_agree_with_memcached() -> None:
    with memcached() as reference:
        before = reference.stats()
        results = _load.run(
            {
                "port": reference.port,
                "connection_count": 5,
                "pipeline_depth": 8,
                "key_count": 1000,
                "prefill": 1,
                "keys_per_get": 3,
                "set_share": 1,
                "get_share": 4,
                "value_bytes_min": 0,
                "value_bytes_max": 5000,
                "request_count": 5000,
                "duration_ms": 0,
                "verify": 1,
            }
        )
        after = reference.stats()

    def moved(name: str) -> int:
        return int(after[name]) - int(before[name])

    load = results["load"]
    assert load is not None
    assert moved("cmd_set") == 1000 + load["sets"] == 2000
    assert moved("cmd_get") == load["keys_requested"] == 12_000
    assert moved("get_hits") == load["hits"] == 12_000
    assert load["wrong_values"] == load["errors"] == 0


def test_large_values_survive_pipelines_against_memcached() -> None:
    with memcached("-m", "256") as reference:
        results = _load.run(
            {
                "port": reference.port,
                "connection_count": 8,
                "pipeline_depth": 8,
                "key_count": 50,
                "prefill": 1,
                "set_share": 1,
                "get_share": 1,
                "value_bytes_min": 1000,
                "value_bytes_max": 900_000,
                "request_count": 600,
                "duration_ms": 0,
                "verify": 1,
            }
        )
    load = results["load"]
    assert load is not None
    assert (load["sets"], load["stored"], load["gets"]) == (300, 300, 300)
    assert load["wrong_values"] == load["errors"] == load["lost_requests"] == 0

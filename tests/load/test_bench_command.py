"""`memcachepy bench` as a person or a script meets it."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from load_server import TinyServer

from memcachepy import _load
from memcachepy.cli import bench as bench_module

REPORT_KEYS = {
    "memcachepy", "started_at", "target", "settings", "prefill", "warmup", "load",
}  # fmt: skip


def target_of(server: TinyServer) -> str:
    return f"127.0.0.1:{server.target['port']}"


def bench(*arguments: str, **how: Any) -> subprocess.CompletedProcess[str]:
    """Run the command without a terminal."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "memcachepy", "bench", *arguments],
        **({"stdin": subprocess.DEVNULL} | how),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_json_has_every_phase_and_figure(server: TinyServer) -> None:
    done = bench(target_of(server), "-n", "500", "--keys", "50", "--prefill", "--verify", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert set(report) == REPORT_KEYS
    assert report["warmup"] is None
    assert report["prefill"]["stored"] == 50
    load = report["load"]
    assert load["requests"] == 500
    assert (load["sets"], load["gets"], load["hits"]) == (45, 455, 455)
    assert set(load["latency_us"]) == {"min", "mean", "p50", "p90", "p99", "p99_9", "max"}
    assert load["requests_per_s"] == pytest.approx(500 / load["wall_s"])
    assert 0 < load["generator_cpu_share"] <= 1.05
    assert load["requests_per_generator_cpu_s"] > 0
    assert isinstance(load["generator_bound"], list)
    assert report["settings"]["key_count"] == 50


def test_the_table_names_what_happened(server: TinyServer) -> None:
    done = bench(target_of(server), "-n", "500", "--keys", "50", "--warmup", "0.05")
    assert done.returncode == 0
    assert re.search(r"^requests +500 in ", done.stdout, re.MULTILINE)
    assert re.search(r"^gets +455; ", done.stdout, re.MULTILINE)
    assert re.search(r"^latency +p50 +p90 +p99 +p99.9 +max", done.stdout, re.MULTILINE)
    assert done.stderr == ""


def test_a_wrong_value_is_shown_and_is_the_exit_status(server: TinyServer) -> None:
    server.items = {b"key:%012d" % number: b"x" * 100 for number in range(50)}
    done = bench(target_of(server), "-n", "100", "--keys", "50", "--ratio", "0:1", "--verify")
    assert done.returncode == 1
    assert re.search(r"^WRONG +100; the first: key number ", done.stdout, re.MULTILINE)


def test_a_prefill_that_did_not_store_all_is_shown(server: TinyServer) -> None:
    server.change = lambda reply: reply.replace(b"STORED", b"SERVER_ERROR out of memory")
    done = bench(target_of(server), "-n", "100", "--keys", "50", "--ratio", "0:1", "--prefill")
    assert "0 of 50 keys were stored; the first error: SERVER_ERROR out of memory" in done.stdout


def test_progress_is_shown_when_asked_for(server: TinyServer) -> None:
    done = bench(target_of(server), "-d", "0.5", "--keys", "50", "--progress")
    assert re.match(r"load +0\.2 s +[0-9,]+ requests", done.stderr)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--connections", "0"], ["--connections", "0", "1<=x<=100000"]),
        (["--pipeline", "5000"], ["--pipeline", "5000", "4096"]),
        (["--ratio", "1"], ["--ratio", "1", "SETS:GETS"]),
        (["--ratio", "0:0"], ["--ratio", "0:0"]),
        (["--value-size", "9-1"], ["--value-size", "9-1"]),
        (["--value-size", "999m"], ["--value-size", "999m", "134217728"]),
        (["--duration", "soon"], ["--duration", "soon"]),
        (["--duration", "-1"], ["--duration", "-1", "604800"]),
        (["--zipf", "11"], ["--zipf", "11", "10"]),
        (["--key-size", "5"], ["--key-size", "5", "9 to 250"]),
        (["--key-prefix", "a b"], ["--key-prefix"]),
        (["--reconnect", "--pipeline", "2"], ["--reconnect", "--pipeline"]),
        (["--meta", "--multi-get", "2"], ["--meta", "--multi-get"]),
        (["--pin", "9999"], ["--pin", "9999"]),
        (["localhost:99999"], ["TARGET", "99999", "65535"]),
        (["a:b:c"], ["TARGET", "a:b:c"]),
        (["--nonsense"], ["--nonsense"]),
    ],
)
def test_a_usage_error_exits_with_64_and_names_the_setting(
    arguments: list[str], words: list[str]
) -> None:
    done = bench(*arguments)
    assert done.returncode == os.EX_USAGE, done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    assert done.stdout == ""


def test_another_machine_is_not_loaded_without_a_terminal_to_ask_on() -> None:
    done = bench("192.0.2.1:11211")
    assert done.returncode == os.EX_USAGE
    assert "192.0.2.1:11211 is not loopback; give --yes" in done.stderr


def test_on_a_terminal_it_asks_before_it_loads_another_machine() -> None:
    controller, terminal = pty.openpty()
    try:
        os.write(controller, b"n\n")
        done = bench("192.0.2.1", stdin=terminal)
    finally:
        os.close(controller)
        os.close(terminal)
    assert "Load 192.0.2.1, which is not loopback? [y/N]" in done.stderr
    assert done.returncode not in (0, os.EX_USAGE)


@pytest.mark.parametrize(
    ("address", "port", "is_local"),
    [
        ("127.0.0.1", 1, True),
        ("127.9.9.9", 1, True),
        ("::1", 1, True),
        ("::ffff:127.0.0.1", 1, True),
        ("/run/memcached.sock", 0, True),
        ("10.0.0.1", 1, False),
        ("::ffff:10.0.0.1", 1, False),
        ("fe80::1%eth0", 1, False),
    ],
)
def test_loopback_and_sockets_are_local(address: str, port: int, is_local: bool) -> None:
    assert bench_module._is_local(address, port) is is_local


@pytest.mark.parametrize(
    ("target", "split"),
    [
        ("localhost", ("localhost", 11211)),
        ("localhost:1", ("localhost", 1)),
        (":2", ("127.0.0.1", 2)),
        ("[::1]:3", ("::1", 3)),
        ("[::1]", ("::1", 11211)),
        ("::1", ("::1", 11211)),
        ("/tmp/a.sock", ("/tmp/a.sock", 0)),
        ("unix:a.sock", ("a.sock", 0)),
    ],
)
def test_a_target_is_a_host_and_port_or_a_path(target: str, split: tuple[str, int]) -> None:
    assert bench_module._split_target(target) == split


def test_localhost_is_whichever_address_answers(server: TinyServer) -> None:
    done = bench(f"localhost:{server.target['port']}", "-n", "20", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["settings"]["address"] == "127.0.0.1"


def test_nobody_listening_is_a_sentence(tmp_path: Path) -> None:
    done = bench(str(tmp_path / "none.sock"))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "cannot connect: No such file or directory" in done.stderr


def test_the_generator_owns_up_to_being_the_bottleneck() -> None:
    quiet = {
        "generator_cpu_share": 0.5, "late_sends": 0, "requests": 1000, "port_shortages": 0,
        "send_delay_us_max": 0,
    }  # fmt: skip
    closed, open_loop = {"rate_per_s": 0}, {"rate_per_s": 100}
    assert bench_module.bottleneck(closed, quiet) == []
    assert (
        "97% of its core"
        in bench_module.bottleneck(closed, quiet | {"generator_cpu_share": 0.97})[0]
    )
    late = quiet | {"late_sends": 20, "send_delay_us_max": 4500}
    assert "20 of 1,000 requests were sent 1 ms" in bench_module.bottleneck(open_loop, late)[0]
    assert bench_module.bottleneck(open_loop, late | {"late_sends": 5}) == []
    assert "local port" in bench_module.bottleneck(closed, quiet | {"port_shortages": 1})[0]


def test_every_setting_has_an_option_in_messages() -> None:
    switches = {"prefill", "verify"}
    assert set(_load.SETTINGS) - switches <= set(bench_module._OPTIONS)

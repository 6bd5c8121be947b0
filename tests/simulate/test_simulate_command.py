"""`memcachepy simulate` as a person or a script meets it."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from traces import encode, write

KEYS = list(range(2000)) * 3


def simulate(*arguments: str | Path, **how: Any) -> subprocess.CompletedProcess[str]:
    """Run the command without a terminal."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "memcachepy", "simulate", *map(str, arguments)],
        **({"stdin": subprocess.DEVNULL} | how),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def trace(tmp_path: Path) -> str:
    return write(tmp_path / "loop.u32", encode("u32", KEYS, []))


def test_a_table_of_every_policy_and_size(trace: str) -> None:
    done = simulate(trace, "-m", "1,2m,65536k", "--eviction-policy", "s3fifo,allkeys-lru")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"{trace}: 6,000 requests"
    assert lines[2].split() == "policy memory miss ratio by bytes misses evictions items".split()
    rows = [line.split() for line in lines[3:]]
    assert [row[:2] for row in rows] == [
        [policy, memory] for policy in ("s3fifo", "allkeys-lru") for memory in ("1m", "2m", "64m")
    ]
    assert {tuple(row[2:]) for row in rows} == {("0.3333", "0.3333", "2,000", "0", "2,000")}
    assert len({len(line) for line in lines[2:]}) == 1, "the columns are aligned"


def test_percents_of_the_keys(trace: str) -> None:
    done = simulate(trace, "--keys-percent", "100,1000", "--value-size", "10000", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)["traces"][0]
    assert (report["keys"], report["requests"], report["format"]) == (2000, 6000, "u32")
    small, large = report["rows"]
    assert small["keys_percent"] == 100
    assert small["memory_bytes"] == pytest.approx(2000 * 10_056, rel=0.01)
    assert large["memory_bytes"] == pytest.approx(small["memory_bytes"] * 10, rel=0.01)
    assert (large["misses"], large["evictions"]) == (2000, 0)


def test_percents_below_the_smallest_cache_say_what_it_is(trace: str) -> None:
    report = json.loads(simulate(trace, "--json").stdout)["traces"][0]
    assert [(row["memory_bytes"], row["keys_percent"]) for row in report["rows"]] == [
        (1 << 20, round((1 << 20) / (2000 * 156) * 100, 1))
    ]


def test_csv_of_several_traces(trace: str, tmp_path: Path) -> None:
    other = write(tmp_path / "other.csv", b"a,5\nb,7\na,5\n")
    done = simulate(trace, other, "-m", "1", "--csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [(row["trace"], row["requests"], row["misses"]) for row in rows] == [
        (trace, "6000", "2000"),
        (other, "3", "2"),
    ]
    assert float(rows[1]["byte_miss_ratio"]) == pytest.approx(12 / 17, abs=1e-5)


def test_stdin_is_text() -> None:
    done = simulate("-", "-m", "1", "--json", stdin=None, input="a\nb\na\n")
    assert json.loads(done.stdout)["traces"][0]["rows"][0]["misses"] == 2


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_picture(suffix: str, trace: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / f"curve.{suffix}"
    assert simulate(trace, "-m", "1,2", "--plot", picture).returncode == 0
    content = picture.read_bytes()
    assert content.startswith(b"\x89PNG" if suffix == "png" else b"<?xml")


def test_a_picture_without_matplotlib_says_what_to_install(trace: str, tmp_path: Path) -> None:
    (tmp_path / "matplotlib.py").write_text("raise ImportError\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = simulate(trace, "-m", "1", "--plot", tmp_path / "curve.png", env=environment)
    assert done.returncode == 1
    assert "pip install 'memcachepy[plot]'" in done.stderr
    assert done.stdout == ""


def test_progress_goes_to_stderr(trace: str) -> None:
    done = simulate(trace, "-m", "1", "--progress", "--json")
    assert "loop.u32" in done.stderr
    assert json.loads(done.stdout)


def test_traces_before_a_damaged_one_are_reported(trace: str, tmp_path: Path) -> None:
    damaged = write(tmp_path / "damaged.u32", b"abc")
    done = simulate(trace, damaged, "-m", "1")
    assert done.returncode == 65
    assert done.stdout == ""
    assert f"{trace}: 6,000 requests" in done.stderr
    assert done.stderr.splitlines()[-1] == (
        f"memcachepy: {damaged}: byte 0: the file ends in the middle of a record of 4 bytes"
    )


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["-m", "512k"], 64, "512k is not in the range 1m to 983040m"),
        (["-m", "x"], 64, "x is not a size"),
        (["-m", "1", "--keys-percent", "5"], 64, "--memory and --keys-percent exclude each other"),
        (["--keys-percent", "0"], 64, "0 is not in the range above 0"),
        (["--eviction-policy", "lru"], 64, "lru is none of s3fifo"),
        (["-m", "1", "--eviction-policy", "volatile-ttl"], 1, "give a ttl (--ttl)"),
        (["-m", "1", "-f", "0.5"], 64, "slab_growth_factor is '0.5' (-f)"),
        (["-m", "1", "-I", "1m"], 1, "half of memory_limit_bytes"),
        (["-m", "1", "--plot", "curve.pdf"], 1, "a picture is a file .png or .svg"),
        (["-m", "1", "--json", "--csv"], 64, "--json and --csv exclude each other"),
        (["-m", "1", "-", "-"], 64, "stdin is read only once"),
        (["-"], 64, "give --memory instead of --keys-percent"),
    ],
)
def test_what_cannot_be_is_said(
    arguments: list[str], status: int, message: str, trace: str
) -> None:
    if "-" not in arguments:
        arguments = [trace, *arguments]
    done = simulate(*arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert message in done.stderr

"""The two commands: one sentence for whatever is missing, and nothing to do the second time."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
TOOLS = "cat cut dirname find flock grep mkdir rm sed sh sha256sum sort tail uname xargs".split()


@pytest.fixture
def bin_folder(tmp_path: Path) -> Path:
    """A PATH with what every system has, and no more."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found, tool
        (folder / tool).symlink_to(found)
    return folder


def environ() -> dict[str, str]:
    """Ours, without what would send a script to this run's own environment."""
    return {name: value for name, value in os.environ.items() if name not in {"PYTHON", "VENV"}}


def put(folder: Path, name: str, script: str) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def serve(folder: Path, **env: str) -> str:
    """What scripts/serve says when it gives up."""
    env = {"PATH": str(folder), "HOME": "/", "VENV": str(folder / "venv"), **env}
    done = subprocess.run(
        [str(TOP / "scripts" / "serve"), "-h"], env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]


def python_without(what: str) -> str:
    return f'echo "3.11.2 {what} /usr/bin/python3.11"'


def test_other_systems_and_machines(bin_folder: Path) -> None:
    put(bin_folder, "uname", "echo Darwin")
    assert serve(bin_folder) == "serve: memcachepy runs on Linux only; this is Darwin"
    put(bin_folder, "uname", '[ "$1" = -s ] && echo Linux || echo riscv64')
    assert (
        serve(bin_folder) == "serve: memcachepy runs on x86-64 and arm64; this machine is riscv64"
    )


def test_missing_flock(bin_folder: Path) -> None:
    (bin_folder / "flock").unlink()
    assert serve(bin_folder).startswith("serve: flock is missing; install it: package util-linux")


def test_missing_python(bin_folder: Path) -> None:
    put(bin_folder, "apt-get", "")
    assert "no Python of at least 3.11 was found; install it: apt-get install python3;" in serve(
        bin_folder
    )
    put(bin_folder, "python3", "exit 1")
    assert "no Python of at least 3.11" in serve(bin_folder)
    assert "PYTHON=/bin/false is not a CPython" in serve(bin_folder, PYTHON="/bin/false")


@pytest.mark.parametrize(
    ("manager", "hint"),
    [
        ("apt-get", "apt-get install python3.11-dev"),
        ("dnf", "dnf install python3.11-devel"),
        ("apk", "apk add python3-dev"),
    ],
)
def test_missing_python_header(manager: str, hint: str, bin_folder: Path) -> None:
    put(bin_folder, manager, "")
    put(bin_folder, "python3", python_without("Python.h"))
    assert serve(bin_folder) == (
        f"serve: Python.h of /usr/bin/python3.11 is missing; install it: {hint}"
    )


def test_missing_venv(bin_folder: Path) -> None:
    put(bin_folder, "apt-get", "")
    put(bin_folder, "python3", python_without("venv"))
    assert serve(bin_folder).endswith("install the module venv: apt-get install python3.11-venv")


def test_missing_compiler(bin_folder: Path) -> None:
    put(bin_folder, "apt-get", "")
    put(bin_folder, "python3", python_without("nothing"))
    hint = "a C compiler that works is missing; install one: apt-get install build-essential"
    assert hint in serve(bin_folder)
    put(bin_folder, "cc", "exit 1")
    assert hint in serve(bin_folder)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the build needs, without anything built."""
    top = tmp_path / "a checkout"
    ignore = shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info")
    shutil.copytree(TOP / "memcachepy", top / "memcachepy", ignore=ignore)
    shutil.copytree(TOP / "scripts", top / "scripts")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(TOP / name, top / name)
    return top


def test_missing_network(checkout: Path) -> None:
    env = {k: v for k, v in environ().items() if not k.startswith("PIP_")}
    env |= {"PYTHON": sys.executable, "PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "0"}
    env |= {"PIP_INDEX_URL": "http://127.0.0.1:9/simple"}
    done = subprocess.run(
        [str(checkout / "scripts" / "serve"), "-V"], env=env, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "the package index cannot be reached" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_second_run_is_quick_and_changed_sources_rebuild_without_network(checkout: Path) -> None:
    def version(*, works: bool = True, **env: str) -> tuple[float, str]:
        began_s = time.monotonic()
        done = subprocess.run(
            [str(checkout / "scripts" / "serve"), "-V"],
            env={**environ(), "PYTHON": sys.executable, **env},
            capture_output=True,
            text=True,
        )
        assert done.stdout.startswith("memcachepy ") == works, done.stderr
        return time.monotonic() - began_s, done.stderr

    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}
    assert "building" in version()[1]
    took_s, said = version(**offline)
    assert took_s < 1
    assert said == ""
    header = next((checkout / "memcachepy" / "core" / "base").glob("*.h"))
    text = header.read_text()
    header.write_text(text + "#error on purpose\n")
    assert "building failed" in version(works=False, **offline)[1].splitlines()[-1]
    header.write_text(text + "\n")
    assert "building into" in version(**offline)[1]
    assert version(**offline)[1] == ""


@pytest.mark.slow
def test_two_first_runs_at_once_build_once(checkout: Path) -> None:
    runs = [
        subprocess.Popen(
            [str(checkout / "scripts" / "serve"), "-V"],
            env={**environ(), "PYTHON": sys.executable},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    texts = [run.communicate(timeout=300) for run in runs]
    assert all(out.startswith("memcachepy ") for out, _ in texts), texts
    assert sum("building" in error for _, error in texts) == 1

"""Data in a file that another run opens again; see reopen.c."""

import os
import random
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.programs import DEBUGGING, SANITIZERS, compile_program

from memcachepy import _core

pytestmark = pytest.mark.once

HERE = Path(__file__).parent
WRAPS = ("-Wl,--wrap=clock_gettime", "-Wl,--wrap=boot_id_read")
FINGERPRINT_AT = 12


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("reopen") / "reopen"
    return compile_program(HERE / "reopen.c", program, *SANITIZERS, *DEBUGGING, *WRAPS)


@pytest.fixture(params=["disk", "memory"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Where there is memory that is a file system, a file there, too."""
    if request.param == "disk":
        yield tmp_path / "data"
        return
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("there is no /dev/shm")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder) / "data"


def run(program: Path, file: Path, *arguments: object, timeout_s: float = 120) -> str:
    command = [str(program), str(file), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    assert result.returncode == 0, f"{command}:\n{result.stdout[-4000:]}\n{result.stderr[-4000:]}"
    return result.stdout


def test_a_run_with_other_settings_finds_all_that_was_stored(program: Path, file: Path) -> None:
    assert run(program, file, "keeps") == "ok\n"


def test_ttls_go_on_over_a_reboot_of_the_host(program: Path, file: Path) -> None:
    assert run(program, file, "reboots") == "ok\n"


def test_what_this_release_cannot_read_is_refused_by_name(program: Path, file: Path) -> None:
    assert run(program, file, "refuses") == "ok\n"


def test_what_processes_held_when_all_ended_is_released(program: Path, file: Path) -> None:
    assert run(program, file, "holds") == "ok\n"


def test_the_death_of_all_processes_at_any_point_loses_nothing_acknowledged(
    program: Path, file: Path
) -> None:
    seed = random.randrange(1, 2**31)
    print(run(program, file, "dies", 200, seed), "seed", seed)


def test_workers_killed_together_lose_nothing_acknowledged(program: Path, file: Path) -> None:
    seed = random.randrange(1, 2**31)
    print(run(program, file, "killed", 60, seed), "seed", seed)


def test_builds_of_one_source_have_one_fingerprint(program: Path, tmp_path: Path) -> None:
    other = compile_program(HERE / "reopen.c", tmp_path / "other", "-O2", *DEBUGGING, *WRAPS)
    segment = _core.Segment({"memory_limit_bytes": 2 << 20})
    own = int.from_bytes(os.pread(segment.fd, 4, FINGERPRINT_AT), "little")
    segment.close()
    for built in (program, other):
        assert run(built, tmp_path / "data", "fingerprint") == f"{own} ok\n"

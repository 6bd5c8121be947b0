"""Copies between two segments in C alone: orders of events, and deaths, under sanitizers."""

import random
import subprocess
from pathlib import Path

import pytest
from support.programs import DEBUGGING, SANITIZERS, compile_program

pytestmark = pytest.mark.once

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_program(
        HERE / "copies.c", tmp_path_factory.mktemp("copies") / "copies", *SANITIZERS, *DEBUGGING
    )


def run(program: Path, *arguments: object, timeout_s: float = 120) -> str:
    command = [str(program), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert result.returncode == 0, f"{command}:\n{result.stdout[-4000:]}\n{result.stderr[-4000:]}"
    return result.stdout


def test_orders_of_changes_and_copies(program: Path) -> None:
    assert run(program) == "ok\n"


def test_a_leader_that_dies_at_any_crash_point_leaves_no_copy_and_loses_nothing(
    program: Path,
) -> None:
    seed = random.randrange(1, 2**32)
    print("seed", seed)
    said = run(program, 80, seed)
    assert not said.startswith("0 deaths")


@pytest.mark.slow
def test_two_thousand_deaths_of_a_leader(program: Path) -> None:
    seed = random.randrange(1, 2**32)
    print("seed", seed, run(program, 2000, seed, timeout_s=900))

"""Deaths after every single instruction of an operation, by ptrace; see single_step.c."""

import platform
import subprocess
from pathlib import Path

import pytest
from support.programs import compile_program

HERE = Path(__file__).parent
QUICK = (
    *("set_over", "delete", "incr", "upload_commit", "invalidate", "win"),
    *("set_tracked", "delete_tracked", "flush_all_tracked"),
    *("config_set", "config_delete"),
    *("table_merge", "table_merge_chain", "table_page_release"),
)
"""Operations whose every instruction takes a second."""

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(
        platform.machine() != "x86_64",
        reason="the stepper knows x86-64's registers and breakpoints",
    ),
]


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled as the releases are: their instructions are the ones that matter."""
    folder = tmp_path_factory.mktemp("crash")
    # Symbols are bound at the start: the first call of a function is not another path.
    return compile_program(HERE / "single_step.c", folder / "single_step", "-O3", "-Wl,-z,now")


def sweep(program: Path, seed: int, repairs: int, *operation: str, timeout_s: float = 300) -> None:
    command = [str(program), str(seed), str(repairs), *operation]
    result = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    print(result.stdout)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr


@pytest.mark.parametrize("operation", QUICK)
def test_a_death_after_any_instruction_leaves_all_or_nothing(
    program: Path, seed: int, operation: str
) -> None:
    sweep(program, seed, 0, operation)


def test_a_repairer_may_die_after_any_instruction(program: Path, seed: int) -> None:
    sweep(program, seed, 1, "delete_chain")


@pytest.mark.slow
def test_a_death_after_any_instruction_of_any_operation_and_of_its_repair(
    program: Path, seed: int
) -> None:
    sweep(program, seed, 2, timeout_s=1800)

"""The commands that only test builds have; releases answer ERROR (transcripts/later.txt)."""

import subprocess
from pathlib import Path

import pytest
from support.programs import CORE, DEBUGGING, SANITIZERS, compile_program

pytestmark = pytest.mark.once


def test_debugtime_moves_the_clock_and_debugitem_holds_items(tmp_path: Path) -> None:
    protocol = sorted(str(path) for path in (CORE / "proto").glob("*.c"))
    program = compile_program(
        Path(__file__).parent / "debug_commands.c",
        tmp_path / "debug_commands",
        *SANITIZERS,
        *DEBUGGING,
        *protocol,
    )
    result = subprocess.run([program], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout == "ok\n"

"""When items and flushes take effect, to the millisecond."""

import subprocess
from pathlib import Path

import pytest
from support.programs import CORE, DEBUGGING, SANITIZERS, compile_program

pytestmark = pytest.mark.once


def test_ttls_and_flushes_are_what_was_asked_for_whatever_happens_meanwhile(
    tmp_path: Path,
) -> None:
    protocol = sorted(str(path) for path in (CORE / "proto").glob("*.c"))
    program = compile_program(
        Path(__file__).parent / "moments.c",
        tmp_path / "moments",
        *SANITIZERS,
        *DEBUGGING,
        "-Wl,--wrap=track_spoil",
        *protocol,
    )
    result = subprocess.run([program], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout == "ok\n"

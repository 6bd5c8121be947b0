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
    wrapped = ("track_spoil", "store_view_confirm", "output_add_pin")
    program = compile_program(
        Path(__file__).parent / "moments.c",
        tmp_path / "moments",
        *SANITIZERS,
        *DEBUGGING,
        *(f"-Wl,--wrap={name}" for name in wrapped),
        *protocol,
    )
    result = subprocess.run([program], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout == "ok\n"

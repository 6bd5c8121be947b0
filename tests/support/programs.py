"""Test programs in C: a source of a test's with the core's layers below the protocol."""

import subprocess
from pathlib import Path

CORE = Path(__file__).parents[2] / "memcachepy" / "core"
_LAYERS = ("base", "mem", "store")


def compile_program(source: Path, program: Path, *flags: str) -> Path:
    """Compile `source` with the layers into `program`, and return that."""
    layers = sorted(str(path) for layer in _LAYERS for path in (CORE / layer).glob("*.c"))
    command = ["cc", "-std=c11", "-D_GNU_SOURCE", "-g", "-Wall", "-Wextra", "-Werror", *flags]
    command += [f"-I{CORE}", f"-I{source.parent}", str(source), *layers]
    command += ["-o", str(program), "-lpthread"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    return program

"""Test programs in C: a source of a test's with the core's layers below the protocol.

Each layer source is compiled once for each set of flags, several at a time; programs with the same
flags share the objects.
"""

import atexit
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
CORE = HERE.parents[1] / "memcachepy" / "core"
SANITIZERS = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
DEBUGGING = ("-DMEMCACHEPY_DEBUG", "-DMEMCACHEPY_CRASH_POINTS")
"""Most programs are compiled with `SANITIZERS` and `DEBUGGING`, and share the objects."""
_LAYERS = ("base", "mem", "store")
_ALWAYS = ("-std=c11", "-D_GNU_SOURCE", "-g", "-Wall", "-Wextra", "-Werror")
_TIMEOUT_S = 300


def compile_program(source: Path, program: Path, *flags: str) -> Path:
    """Compile `source` with the layers into `program`, and return that.

    Args:
        source: has `main`; headers are looked for in its folder and in this one.
        program: to be made.
        flags: of the compiler; what begins with -Wl, or -l is for the linker, and what is a path
            of a C file is another source.
    """
    linking = [flag for flag in flags if flag.startswith(("-Wl,", "-l"))]
    others = [flag for flag in flags if flag.endswith(".c")]
    compiling = tuple(flag for flag in flags if flag not in linking and flag not in others)
    objects = [*_layers(compiling), *_compile([*map(Path, others)], compiling)]
    include = [f"-I{CORE}", f"-I{source.parent}", f"-I{HERE}"]
    command = [*_ALWAYS, *compiling, *include, str(source), *map(str, objects)]
    _cc([*command, "-o", str(program), *linking, "-lpthread", "-lm"])
    return program


@functools.cache
def _layers(flags: tuple[str, ...]) -> list[Path]:
    return _compile([path for layer in _LAYERS for path in (CORE / layer).glob("*.c")], flags)


def _compile(sources: Iterable[Path], flags: tuple[str, ...]) -> list[Path]:
    """The objects; they last as long as this process."""
    folder = Path(tempfile.mkdtemp(dir=_folder()))

    def compile_one(source: Path) -> Path:
        made = folder / f"{source.parent.name}-{source.stem}.o"
        _cc([*_ALWAYS, *flags, f"-I{CORE}", f"-I{HERE}", "-c", str(source), "-o", str(made)])
        return made

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(compile_one, sorted(sources)))


@functools.cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="memcachepy-objects-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _cc(arguments: list[str]) -> None:
    command = ["cc", *arguments]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    assert result.returncode == 0, result.stderr

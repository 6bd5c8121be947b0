"""The fuzz target under gcc's sanitizers: the corpus, and mutations of it from a printed seed."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
CORE = FOLDER.parent.parent / "memcachepy" / "core"
LAYERS = ("base", "mem", "store", "proto")
MUTATIONS = 3000
SECONDS_MAX = 10
SECONDS_SLOW = 600


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fuzz target with its driver, built with AddressSanitizer and UBSan."""
    compiler = shutil.which(os.environ.get("CC", "gcc")) or shutil.which("cc")
    if compiler is None:
        pytest.skip("NOT FUZZED: no C compiler")
    sources = [path for layer in LAYERS for path in sorted((CORE / layer).glob("*.c"))]
    if not sources or not (CORE / "proto" / "conn.c").exists():
        pytest.skip("NOT FUZZED: the core's sources are not here")
    built = tmp_path_factory.mktemp("fuzz") / "fuzz_protocol"
    command = [
        compiler,
        *"-std=c11 -D_GNU_SOURCE -O1 -g -fno-omit-frame-pointer -pthread".split(),
        *"-fsanitize=address,undefined -fno-sanitize-recover=all".split(),
        f"-I{CORE}",
        f"-I{FOLDER}",
        *map(str, [*sources, FOLDER / "fuzz_protocol.c", FOLDER / "driver.c"]),
        *"-lm -o".split(),
        str(built),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return built


def _fuzz(target: Path, folder: Path, seed: int, mutations: int, seconds: int) -> None:
    command = [target, FOLDER / "corpus", FOLDER / "protocol.dict", mutations, seed, seconds]
    result = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds + 120,
        check=False,
    )
    crash = folder / "crash-input"
    detail = f"\ninput: {crash.read_bytes()[:2000]!r}" if crash.exists() else ""
    assert result.returncode == 0, f"seed {seed}\n{result.stdout}\n{result.stderr}{detail}"


def test_corpus_and_mutations_leave_no_trace(target: Path, tmp_path: Path, seed: int) -> None:
    _fuzz(target, tmp_path, seed, MUTATIONS, SECONDS_MAX)


@pytest.mark.slow
def test_many_mutations_leave_no_trace(target: Path, tmp_path: Path, seed: int) -> None:
    _fuzz(target, tmp_path, seed, 10**9, SECONDS_SLOW)

"""The fuzz target under sanitizers: the corpus, and a minute of new inputs from a printed seed."""

import os
import subprocess
from pathlib import Path

import fuzz
import pytest

SECONDS = 50
SECONDS_SLOW = 600
# Beside the time asked for: the corpus, and inputs that take long.
SECONDS_MORE = 180

pytestmark = pytest.mark.once


@pytest.fixture(scope="session")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> fuzz.Fuzzer:
    try:
        return fuzz.build(tmp_path_factory.mktemp("fuzz"))
    except fuzz.BuildError as error:
        if "no C compiler" in str(error):
            pytest.skip(f"NOT FUZZED: {error}")
        raise


def _run(command: list[str], folder: Path, seconds: int) -> None:
    result = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"ASAN_OPTIONS": "detect_leaks=0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=seconds + SECONDS_MORE,
        check=False,
    )
    found = [path for path in folder.iterdir() if path.is_file()]
    detail = "".join(f"\n{path.name}: {path.read_bytes()[:2000]!r}" for path in found)
    assert result.returncode == 0, f"{result.stdout[-8000:]}{detail}"


def test_the_corpus_leaves_no_trace(fuzzer: fuzz.Fuzzer, tmp_path: Path) -> None:
    """Each input of it was a finding, or is the shortest way to some code."""
    inputs = sorted(str(path) for path in (fuzz.FOLDER / "corpus").iterdir())
    assert inputs
    _run([*fuzzer.replay_command(Path(inputs[0])), *inputs[1:]], tmp_path, SECONDS)


def test_new_inputs_leave_no_trace(fuzzer: fuzz.Fuzzer, tmp_path: Path, seed: int) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    _run(fuzzer.command(corpus, seed, SECONDS), tmp_path, SECONDS)


@pytest.mark.slow
def test_many_new_inputs_leave_no_trace(fuzzer: fuzz.Fuzzer, tmp_path: Path, seed: int) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    _run(fuzzer.command(corpus, seed, SECONDS_SLOW), tmp_path, SECONDS_SLOW)

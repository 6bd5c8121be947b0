"""Builds the fuzz target and runs it: clang's libFuzzer where it is, our own mutator elsewhere.

    scripts/fuzz --seconds 3600     fuzz, beginning from what earlier runs found worth keeping
    scripts/fuzz --replay FILE      play one input

What a run needs lies in a folder outside the tree: `corpus` (inputs that reached something new),
`findings` (inputs that failed), and the built target.
"""

import argparse
import hashlib
import os
import random
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
CORE = FOLDER.parent.parent / "memcachepy" / "core"
LAYERS = ("base", "mem", "store", "proto")
TARGET = ("fuzz_protocol.c", "session.c")
# Code that judges the target and is no part of it: what it does is nothing new to a fuzzer.
JUDGES = (CORE / "store" / "check.c", FOLDER / "bench.c", FOLDER / "replies.c")
CLANGS = ("clang", *(f"clang-{version}" for version in range(22, 13, -1)))
FLAGS = "-std=c11 -D_GNU_SOURCE -DMEMCACHEPY_DEBUG -O1 -g -fno-omit-frame-pointer -pthread".split()
SANITIZERS = "-fsanitize=address,undefined -fno-sanitize-recover=all".split()
# Large values are chains of chunks from 8 KiB on; longer inputs (as some of the corpus) are slow.
INPUT_BYTES_MAX = 40_000
# One input; the longest take about a tenth of a second.
INPUT_SECONDS_MAX = 60


class BuildError(Exception):
    """The target could not be built; carries what the compiler said."""


@dataclass(frozen=True)
class Fuzzer:
    """A built target.

    Attributes:
        has_engine: it is libFuzzer's; else driver.c's.
    """

    program: Path
    has_engine: bool

    def command(self, corpus: Path, seed: int, seconds: int) -> list[str]:
        """To fuzz; inputs that are worth keeping go to `corpus`, failing ones to the working
        folder as `crash-*`, `timeout-*` or `leak-*`.
        """
        dictionary = FOLDER / "protocol.dict"
        if not self.has_engine:
            words = [self.program, FOLDER / "corpus", dictionary, 10**9, seed, seconds]
            return list(map(str, words))
        return [
            str(self.program),
            f"-dict={dictionary}",
            f"-max_len={INPUT_BYTES_MAX}",
            f"-max_total_time={seconds}",
            f"-timeout={INPUT_SECONDS_MAX}",
            f"-seed={seed}",
            "-rss_limit_mb=4096",
            "-print_final_stats=1",
            str(corpus),
            str(FOLDER / "corpus"),
        ]

    def replay_command(self, finding: Path) -> list[str]:
        """To play one input."""
        return [str(self.program), str(finding)]


def find_engine() -> str | None:
    """A clang that links libFuzzer."""
    for name in CLANGS:
        if shutil.which(name) is None:
            continue
        probe = "#include <stddef.h>\nint LLVMFuzzerTestOneInput(const char *b, size_t n)\n"
        result = subprocess.run(
            [name, "-x", "c", "-fsanitize=fuzzer,address,undefined", "-", "-o", os.devnull],
            input=probe + "{ (void)b; return n == 0; }\n",
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode == 0:
            return name
    return None


def sources() -> list[Path]:
    """All of the target, its judges and the core below the sockets."""
    core = [path for layer in LAYERS for path in sorted((CORE / layer).glob("*.c"))]
    return [*core, *(FOLDER / name for name in TARGET), FOLDER / "bench.c", FOLDER / "replies.c"]


def _compile(compiler: str, files: list[Path], *more: str) -> None:
    command = [compiler, *FLAGS, *SANITIZERS, f"-I{CORE}", f"-I{FOLDER}", *more]
    result = subprocess.run(
        [*command, *map(str, files)], capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        raise BuildError(result.stderr)


def build(folder: Path) -> Fuzzer:
    """Build into the folder what was not built there from the same sources.

    Raises:
        BuildError: with the compiler's words, or because there is none.
    """
    engine = find_engine()
    compiler = engine or shutil.which(os.environ.get("CC", "gcc")) or shutil.which("cc")
    if compiler is None:
        raise BuildError("no C compiler")
    digest = hashlib.sha256(compiler.encode())
    for path in sorted([*CORE.rglob("*.[ch]"), *FOLDER.glob("*.[ch]"), Path(__file__)]):
        digest.update(path.read_bytes())
    program = folder / f"fuzz_protocol-{digest.hexdigest()[:12]}"
    if program.exists():
        return Fuzzer(program, engine is not None)
    folder.mkdir(parents=True, exist_ok=True)
    judges = folder / "judges"
    shutil.rmtree(judges, ignore_errors=True)
    judges.mkdir()
    for path in JUDGES:
        _compile(compiler, [path], "-c", "-o", str(judges / f"{path.stem}.o"))
    rest = [path for path in sources() if path not in JUDGES]
    rest += [judges / f"{path.stem}.o" for path in JUDGES]
    if engine is None:
        _compile(compiler, [*rest, FOLDER / "driver.c"], "-lm", "-o", str(program))
    else:
        _compile(compiler, rest, "-fsanitize=fuzzer", "-lm", "-o", str(program))
    return Fuzzer(program, engine is not None)


def default_folder() -> Path:
    """Where runs keep what they found."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "memcachepy-fuzz"


def fuzz(fuzzer: Fuzzer, folder: Path, seed: int, seconds: int) -> int:
    """Fuzz in the foreground; the exit status is not 0 if something was found."""
    corpus, findings = folder / "corpus", folder / "findings"
    for path in (corpus, findings):
        path.mkdir(parents=True, exist_ok=True)
    kind = "libFuzzer" if fuzzer.has_engine else "our own mutator (no clang with libFuzzer)"
    print(f"{kind}, seed {seed}, {seconds} s, corpus in {corpus}", flush=True)
    command = fuzzer.command(corpus, seed, seconds)
    # Leaks are looked for when the target has let go of everything, which libFuzzer has it not.
    options = os.environ | {"ASAN_OPTIONS": "detect_leaks=0"} if fuzzer.has_engine else None
    status = subprocess.run(command, cwd=findings, env=options, check=False).returncode
    found = sorted(path for path in findings.iterdir() if path.is_file())
    for path in found:
        print(f"finding: {path}\n  replay it: scripts/fuzz --replay {path}")
    # A slow input is told, and is no failure: the machine may have been busy.
    failed = [path for path in found if not path.name.startswith("slow-unit-")]
    return status or (1 if failed else 0)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="0: another one each time")
    parser.add_argument("--folder", type=Path, default=default_folder())
    parser.add_argument("--replay", type=Path, help="play this input only")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    try:
        fuzzer = build(folder)
    except BuildError as error:
        print(f"scripts/fuzz: the target does not build: {error}", file=sys.stderr)
        return 2
    if arguments.replay is not None:
        command = fuzzer.replay_command(arguments.replay.resolve())
        return subprocess.run(command, check=False).returncode
    seed = arguments.seed or random.SystemRandom().randrange(1, 2**32)
    return fuzz(fuzzer, folder, seed, arguments.seconds)


if __name__ == "__main__":
    sys.exit(main())

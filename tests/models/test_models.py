"""Proofs by exhaustion, with spin, of what no test of a running store can reach.

Each model says at its top what it proves and what it leaves out. A model is run as it is, where the
whole of its states must be without an error, and once with each of its mutations, for which an
error must be found: a proof that would accept a store without its fences proves nothing.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

HERE = Path(__file__).parent
MEMORY_MB = 1000
DEPTH = 200_000
TIMEOUT_S = 300

MUTATIONS = {
    "configs": (
        "NO_CONFIRM",
        "NO_ACQUIRE_FENCE",
        "NO_ACQUIRE_LOAD",
        "NO_RELEASE_FENCE",
        "NO_RELEASE_STORE",
        "SAME_COPY",
        "SAME_SEQUENCE",
        "FIRST_FREE",
    ),
    "freemap": (
        "FREE_BEFORE_BIT",
        "NO_LOOK_AGAIN",
        "CLEAR_UNNAMED",
        "NOT_CONFIRMED",
        "UPPER_FIRST",
    ),
    "hits": ("SAME_PAGE_AND_WRAP", "NO_GENERATION", "PLAIN_STORE", "BYTES_MAY_MATCH"),
    "journal": (
        "COUNT_BEFORE_WORD",
        "CHANGE_BEFORE_LOG",
        "OLDEST_FIRST",
        "UNDO_FORGETS",
        "CLOSE_BEFORE_COMMIT",
        "REOPEN_BEFORE_UNDO",
        "OPEN_UNNAMED",
        "FORGET_BEFORE_CLOSE",
    ),
    "pages": (
        "NAMELESS_HAND",
        "NAME_AFTERWARDS",
        "NAME_NOT_DETACHED",
        "RECOVER_AT_ONCE",
        "RECOVER_UNPOPULATED",
        "DETACH_OVER_HAND",
    ),
    "reads": (
        "NO_VERSION_CHECK",
        "NO_WORD_CHECK",
        "WORD_FIRST",
        "NO_RELEASE_FENCE",
        "NO_ACQUIRE_FENCE",
        "MERGE_CLEARS",
        "MERGE_KEEPS_GENERATION",
        "REPAIR_KEEPS_GENERATION",
        "NO_REBUILD_FENCE",
    ),
    "share": ("JUDGE_FIRST", "PASSES", "PASSES_ALONE"),
}

WORLDS = {"WORD_FIRST": "BEGINS_SPLIT", "REPAIR_KEEPS_GENERATION": "BEGINS_SPLIT"}
"""Where a mutation is found, if not in the model's first world."""

VARIANTS = [
    *((model, ()) for model in MUTATIONS),
    ("freemap", ("OWN_WORDS",)),
    ("hits", ("SAME_PAGE",)),
    ("reads", ("BEGINS_SPLIT",)),
]
"""What has to hold: each model, another world, and a stronger claim about a smaller one."""


def _search(model: str, folder: Path, *defines: str) -> str:
    """All states of the model, or those up to its first error; what the search printed."""
    if shutil.which("spin") is None:
        pytest.skip("NO PROOF: spin is not installed (Debian: apt-get install spin)")
    # Without optimisation: most searches take less time than that would.
    cc = ["cc", "-O0", "-w", "-DSAFETY", "-DCOLLAPSE", f"-DMEMLIM={MEMORY_MB}"]
    commands = [
        ["spin", "-a", *(f"-D{name}" for name in defines), str(HERE / f"{model}.pml")],
        [*cc, "-o", "pan", "pan.c"],
        ["./pan", f"-m{DEPTH}"],
    ]
    for command in commands:
        result = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S
        )
        assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"
    return result.stdout


def _errors(printed: str) -> int:
    found = re.search(r"errors: (\d+)", printed)
    assert found is not None, printed
    return int(found[1])


@pytest.mark.parametrize(("model", "defines"), VARIANTS)
def test_the_model_holds_in_every_state(
    model: str, defines: tuple[str, ...], tmp_path: Path
) -> None:
    printed = _search(model, tmp_path, *defines)
    assert _errors(printed) == 0, printed
    for incomplete in ("Search not completed", "max search depth too small"):
        assert incomplete not in printed, printed


@pytest.mark.parametrize(
    ("model", "mutation"),
    [(model, mutation) for model, mutations in MUTATIONS.items() for mutation in mutations],
)
def test_what_the_model_rests_on_cannot_be_left_out(
    model: str, mutation: str, tmp_path: Path
) -> None:
    text = (HERE / f"{model}.pml").read_text()
    assert text.count(mutation) > 1, "the mutation is not in the model"
    world = [WORLDS[mutation]] if mutation in WORLDS else []
    printed = _search(model, tmp_path, mutation, *world)
    assert _errors(printed) > 0, printed


def test_every_model_is_run() -> None:
    assert {path.stem for path in HERE.glob("*.pml")} == set(MUTATIONS)

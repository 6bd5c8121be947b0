"""The C core alone: units, random histories, crash sweeps, under sanitizers and without Python."""

import os
import random
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import xxhash
from support.programs import DEBUGGING, SANITIZERS, compile_program

from memcachepy import _core

pytestmark = pytest.mark.once

HERE = Path(__file__).parent
# gcc says that it does not follow fences; what rests on them alone is named in tsan.supp.
THREAD = ("-O1", "-fsanitize=thread", "-Wno-tsan")

LARGE_SYSTEM_PAGES = (
    str(HERE / "system_pages.c"),
    *(f"-Wl,--wrap={name}" for name in ("sysconf", "fallocate", "mmap")),
)

Build = Callable[..., Path]


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Compiles one of this folder's programs with the layers below the protocol."""
    folder = tmp_path_factory.mktemp("core")

    def build_program(name: str, *flags: str) -> Path:
        program = folder / f"{name}-{len(list(folder.iterdir()))}"
        return compile_program(HERE / f"{name}.c", program, *flags, *DEBUGGING)

    return build_program


def run(program: Path, *arguments: object, timeout_s: float = 120) -> str:
    command = [str(program), *map(str, arguments)]
    # The longest history, for a stack that cannot be restored cannot be suppressed by its name.
    tsan = f"suppressions={HERE / 'tsan.supp'} history_size=7"
    environment = {**os.environ, "TSAN_OPTIONS": tsan}
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout_s, env=environment
    )
    assert result.returncode == 0, f"{command}:\n{result.stdout[-4000:]}\n{result.stderr[-4000:]}"
    return result.stdout


def test_units_hold_under_sanitizers(build: Build) -> None:
    assert run(build("units", *SANITIZERS)) == "ok\n"


def test_damaged_words_of_a_dead_process_end_no_other_and_lose_no_store(build: Build) -> None:
    assert run(build("damage", *SANITIZERS)) == "ok\n"


def test_what_a_later_build_stored_is_named_and_no_walk_frees_or_misreads_it(build: Build) -> None:
    assert run(build("extended", *SANITIZERS)) == "ok\n"


def test_damaged_words_of_what_is_under_way_show_and_change_no_other_value(build: Build) -> None:
    assert run(build("underway", *SANITIZERS)) == "ok\n"


def test_the_pool_takes_ahead_and_keeps_a_moving_limit(build: Build) -> None:
    assert run(build("pool", *SANITIZERS)) == "ok\n"


def test_free_pages_are_found_with_few_looks_and_none_is_lost(build: Build) -> None:
    seed = random.randrange(1, 2**31)
    print("seed", seed)
    wraps = ("-Wl,--wrap=hostmem_total", "-Wl,--wrap=freemap_next")
    assert run(build("freemap", *SANITIZERS, *wraps), seed, 20) == "ok\n"
    assert run(build("freemap", "-O2", *wraps), seed, 200) == "ok\n"


@pytest.mark.parametrize("machine", [(), LARGE_SYSTEM_PAGES], ids=["this", "64k"])
def test_the_layout_rests_on_whole_system_pages(build: Build, machine: tuple[str, ...]) -> None:
    assert run(build("layout", *SANITIZERS, *machine)) == "ok\n"


def test_a_shortage_that_is_over_leaves_no_lower_limit(build: Build) -> None:
    wraps = ("-Wl,--wrap=hostmem_available", "-Wl,--wrap=clock_gettime")
    assert run(build("shortage", *SANITIZERS, *wraps)) == "ok\n"


@pytest.mark.parametrize("flags", [(), ("-DLOCK_ALWAYS_POLLS",)], ids=["clocklock", "polls"])
def test_a_wait_for_a_lock_is_not_of_the_system_clock(build: Build, flags: tuple[str, ...]) -> None:
    assert run(build("lockwait", *SANITIZERS, *flags, "-Wl,--wrap=clock_gettime")) == "ok\n"


def test_what_a_stopped_process_keeps_from_being_released_is_released_later(build: Build) -> None:
    assert run(build("left", *SANITIZERS)) == "ok\n"


def test_what_waits_longest_for_its_share_is_not_passed_for_ever(build: Build) -> None:
    assert run(build("turns", *SANITIZERS)) == "ok\n"


def test_a_concatenation_is_stored_however_often_the_item_changes_meanwhile(build: Build) -> None:
    assert run(build("concat", *SANITIZERS, "-Wl,--wrap=store_pin_pieces")) == "ok\n"


def test_log_rings_hold_whole_entries_whenever_their_writer_is_killed(build: Build) -> None:
    seed = random.randrange(1, 2**31)
    print("seed", seed)
    assert run(build("logring", *SANITIZERS), seed, 10) == "ok\n"
    assert run(build("logring", "-O2"), seed, 50) == "ok\n"


def test_prefixes_hold_over_resets_and_shortages_in_the_middle(build: Build) -> None:
    assert run(build("prefixes", *SANITIZERS, "-Wl,--wrap=populate")) == "ok\n"


def test_configurations_are_whole_whenever_their_writer_is_killed(build: Build) -> None:
    seed = random.randrange(1, 2**31)
    print("seed", seed)
    assert run(build("configs", *SANITIZERS, "-Wl,--wrap=populate"), seed, 30) == "ok\n"


def test_huge_pages_that_fail_hold_up_no_others(build: Build) -> None:
    assert run(build("hugepages", *SANITIZERS, "-Wl,--wrap=madvise")) == "ok\n"


def test_hash_is_xxh64() -> None:
    seed = random.randrange(2**64)
    print("seed", seed)
    source = random.Random(seed)
    for length in range(200):
        data = source.randbytes(length)
        assert _core.xxh64(data, seed) == xxhash.xxh64_intdigest(data, seed)


def test_a_death_at_every_crash_point_leaves_a_sound_segment(build: Build) -> None:
    program = build("crash_sweep", *SANITIZERS)
    seed = random.randrange(2**32)
    print(run(program, 1, 1, 400, seed), "seed", seed)


@pytest.mark.parametrize("point", ["journal_undo_word", "rebuild_swept", "rebuild_relinked"])
def test_a_repairer_may_die_too(build: Build, point: str) -> None:
    # These points are passed by who comes after a dead process, or not at all: then nobody dies.
    run(build("crash_sweep", "-O1"), 1, 1, 10, 5, point)


@pytest.mark.parametrize("point", ["table_split_filled", "table_split_switched", "swept_item"])
def test_points_that_all_of_them_together_seldom_reach(build: Build, point: str) -> None:
    said = run(build("crash_sweep", "-O1"), 1, 1, 12, 7, point)
    assert "12 deaths" in said


def test_processes_killed_at_random_lose_nothing_acknowledged(build: Build) -> None:
    seed = random.randrange(2**32)
    print(run(build("torture", "-O2"), 4, 150, seed), "seed", seed)


# Each is passed in the sweep's traffic while memory goes to the host and comes back.
@pytest.mark.parametrize(
    "point",
    [
        "page_punched",
        "page_absent_not_counted",
        "page_present_not_counted",
        "limit_set_not_in_force",
        "pool_grown_not_counted",
        "page_listed_not_free",
        "page_listed_still_absent",
    ],
)
def test_a_death_while_memory_comes_or_goes_leaves_it_counted(build: Build, point: str) -> None:
    said = run(build("crash_sweep", "-O1"), 1, 3, 12, 5, point)
    assert not said.startswith("0 deaths")


def test_a_moving_limit_and_deaths_leave_the_segment_within_it(build: Build) -> None:
    seed = random.randrange(2**32)
    print(run(build("shrink", *SANITIZERS), 16, 3, 12, seed), "seed", seed)
    print(run(build("shrink", "-O2"), 64, 3, 25, seed), "seed", seed)


def test_small_caches_hold_and_shrink_where_system_pages_are_large(build: Build) -> None:
    seed = random.randrange(2**32)
    print(run(build("shrink", "-O2", *LARGE_SYSTEM_PAGES), 32, 3, 12, seed), "seed", seed)
    program = build("pressure", "-O2", *LARGE_SYSTEM_PAGES)
    for megabytes, value_max in ((4, 300_000), (16, 900_000)):
        print(run(program, megabytes, 4, 3000, value_max, seed), "seed", seed)


def repair_us(output: str) -> tuple[float, float]:
    """CPU time of repairs as a program printed it: the 99th percentile and the longest."""
    match = re.search(r"p99 ([\d.]+), max ([\d.]+) of", output)
    assert match, output
    return float(match[1]), float(match[2])


@pytest.mark.slow
def test_a_thousand_deaths_at_crash_points_and_at_random(build: Build) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    for output in (
        run(build("crash_sweep", "-O2"), 1, 1, 5000, seed, timeout_s=600),
        run(build("torture", "-O2"), 8, 2000, seed, timeout_s=600),
    ):
        print(output)
        p99_us, max_us = repair_us(output)
        assert p99_us <= 1000
        assert max_us <= 10_000


@pytest.mark.parametrize(("megabytes", "value_max"), [(4, 300_000), (16, 900_000), (64, 900_000)])
def test_every_set_of_several_writers_finds_room(
    build: Build, megabytes: int, value_max: int
) -> None:
    seed = random.randrange(2**32)
    print(run(build("pressure", "-O2"), megabytes, 4, 3000, value_max, seed), "seed", seed)


def test_the_units_of_very_large_caches_hold_small_ones(build: Build) -> None:
    seed = random.randrange(2**32)
    print(run(build("pressure", "-O1", "-DUNIT_SHIFT_MIN=8"), 16, 2, 3000, 9000, seed))
    print(run(build("crash_sweep", "-O1", "-DUNIT_SHIFT_MIN=8"), 1, 7, 100, seed), "seed", seed)


def test_locks_and_reads_hold_under_thread_sanitizer(build: Build) -> None:
    seed = random.randrange(2**32)
    print(run(build("threads", *THREAD), 3, seed), "seed", seed)

"""Whatever mix of sizes filled the cache before, a set that fits succeeds (see room.c)."""

import random
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from support.programs import compile_program
from support.server import node

pytestmark = pytest.mark.once

HERE = Path(__file__).parent
POLICIES = ("s3fifo", "allkeys-lru", "allkeys-lfu", "allkeys-random")
MEBIBYTE = 1 << 20
ITEM_BYTES_MIN = 64 << 10
OVERHEAD_BYTES = 96
"""Of -I: more than memcached counts for an item with room.c's keys."""
RUN_TIMEOUT_S = 120

Room = Callable[..., None]


@pytest.fixture(scope="session")
def room(tmp_path_factory: pytest.TempPathFactory) -> Room:
    """Runs room.c with the store below it; fails the test with what it printed."""
    made = tmp_path_factory.mktemp("room") / "room"
    program = compile_program(HERE / "room.c", made, "-O2", "-DMEMCACHEPY_DEBUG")

    def run(*arguments: object) -> None:
        words = [str(program), *map(str, arguments)]
        result = subprocess.run(words, capture_output=True, text=True, timeout=RUN_TIMEOUT_S)
        said = f"{' '.join(words[1:])}\n{result.stdout}{result.stderr}"
        assert result.returncode == 0, said

    return run


# ---- mixes ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mix:
    megabytes: int
    item_bytes_max: int
    policy: str
    workers: int
    seed: int
    phases: tuple[str, ...]

    def arguments(self) -> list[object]:
        return [
            self.megabytes,
            self.item_bytes_max,
            self.policy,
            self.workers,
            self.seed,
            *self.phases,
        ]


@st.composite
def phases(draw: st.DrawFn, item_bytes_max: int) -> str:
    """One phase in room.c's words: sizes spread over the powers of two up to -I."""
    largest = item_bytes_max - OVERHEAD_BYTES
    low = draw(st.integers(0, largest.bit_length()).map(lambda bits: min(1 << bits, largest)))
    high = min(low << draw(st.integers(0, 12)), largest)
    volume = draw(st.sampled_from([120, 30, 200]))
    keys = draw(st.sampled_from([10_000_000, 3, 20, 200]))
    expired = draw(st.sampled_from([0, 0, 30, 100]))
    deleted = draw(st.sampled_from([0, 0, 20]))
    held = draw(st.sampled_from([0, 0, 5, 30]))
    return f"{low}-{high}:{volume}:{keys}:{expired}:{deleted}:{held}"


@st.composite
def mixes(draw: st.DrawFn, megabytes: tuple[int, ...]) -> Mix:
    memory = draw(st.sampled_from(megabytes))
    half = memory * MEBIBYTE // 2
    item_bytes_max = draw(
        st.one_of(st.sampled_from([min(MEBIBYTE, half), half]), st.integers(ITEM_BYTES_MIN, half))
    )
    return Mix(
        memory,
        item_bytes_max,
        draw(st.sampled_from(POLICIES)),
        draw(st.integers(1, 4)),
        draw(st.integers(0, 2**32 - 1)),
        tuple(draw(st.lists(phases(item_bytes_max), min_size=1, max_size=5))),
    )


SMALL = (2, 3, 5, 8, 16)
ALL = (*SMALL, 64, 100)


def _try_mixes(room: Room, how: str, megabytes: tuple[int, ...], examples: int) -> None:
    """Hypothesis reduces a mix that fails to a small one and prints it as room.c's arguments."""

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
        # Not explained: a run of processes need not fail twice in the same way.
        phases=(Phase.generate, Phase.shrink),
    )
    @given(mix=mixes(megabytes))
    def try_one(mix: Mix) -> None:
        note(f"room {how} {' '.join(map(str, mix.arguments()))}")
        room(how, *mix.arguments())

    try_one()


def test_a_set_that_fits_succeeds_whatever_was_stored_before(room: Room) -> None:
    _try_mixes(room, "turns", SMALL, 150)


def test_a_set_that_fits_succeeds_while_others_write(room: Room) -> None:
    _try_mixes(room, "processes", SMALL, 40)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["turns", "processes"])
def test_a_set_that_fits_succeeds_for_long(room: Room, how: str) -> None:
    _try_mixes(room, how, ALL, 1500)


@pytest.mark.parametrize(
    "phases",
    [
        ("553000-553000", "20000-20000", "30000-30000"),
        ("1-1", "900000-1048480"),
        ("9000-9000", "1-100", "500000-1048480", "7000-8200"),
    ],
)
def test_one_size_after_another_finds_room(room: Room, phases: tuple[str, ...], seed: int) -> None:
    words = [f"{sizes}:150:10000000:0:0:0" for sizes in phases]
    room("turns", 100, MEBIBYTE, "s3fifo", 2, seed, *words)


def test_an_evicted_value_that_is_pinned_is_not_the_last_to_go(room: Room) -> None:
    """It gives no room before it is released, so others have to go for 2 MiB."""
    large = "1048576-1048576:120:10000000:0:0:0"
    first = "131072-4194208:120:10000000:0:0:0"
    phases = (first, large, "1-4096:120:3:0:0:0", large, "2097152-2097152:120:3:0:0:30")
    room("turns", 8, 4194304, "s3fifo", 1, 293596, *phases)


@pytest.mark.parametrize("megabytes", [2, 8, 64])
def test_values_of_half_the_memory_wait_for_each_other(
    room: Room, megabytes: int, seed: int
) -> None:
    """Two of them at the same time cannot both have room, and neither is refused for it."""
    half = megabytes * MEBIBYTE // 2
    phase = f"{half * 9 // 10}-{half}:1500:10000000:0:0:0"
    room("processes", megabytes, half, "s3fifo", 4, seed, phase)


# ---- through a node ------------------------------------------------------------------------------


def test_large_values_of_several_connections_are_all_stored(seed: int) -> None:
    """Each takes more than the share of uploads, so they come one after another."""
    sets = 8
    lengths = [random.Random(seed + i).randrange(3 << 20, 7 << 20) for i in range(4)]

    def write(index: int) -> None:
        value = b"%d" % index * lengths[index]
        with server.client(timeout_s=60) as client:
            for i in range(sets):
                head = b"set large-%d-%d 0 0 %d\r\n" % (index, i % 2, len(value))
                client.ask(head + value + b"\r\n", b"STORED\r\n")

    with (
        node("-m", "16", "-I", "8m", workers=3) as server,
        ThreadPoolExecutor(len(lengths)) as writers,
    ):
        for written in [writers.submit(write, i) for i in range(len(lengths))]:
            written.result()
        assert server.stats()["cmd_set"] == str(sets * len(lengths))

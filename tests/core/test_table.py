"""The hash table at its bounds, and the hash that it stands on; see table.c."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.programs import DEBUGGING, SANITIZERS, compile_program

pytestmark = pytest.mark.once

HERE = Path(__file__).parent
MASK = 2**64 - 1


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("table") / "table"
    return compile_program(HERE / "table.c", program, *SANITIZERS, *DEBUGGING)


@pytest.fixture(scope="module")
def siphash(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, int, int], list[int]]:
    """The table's hash of 0, 1, 2, … bytes that count up from 0."""
    program = tmp_path_factory.mktemp("siphash") / "siphash"
    compile_program(HERE / "siphash.c", program, *SANITIZERS, *DEBUGGING)

    def hashes(key_0: int, key_1: int, lengths: int) -> list[int]:
        command = [str(program), str(key_0), str(key_1), str(lengths)]
        said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return [int(line) for line in said.stdout.split()]

    return hashes


@pytest.mark.parametrize(
    "case",
    [
        "a_full_cache_settles_below_14_items_a_bucket",
        "ordinary_keys_do_not_fill_a_chain",
        "a_long_chain_makes_the_splits_hurry",
        "a_full_chain_evicts",
        "a_full_chain_refuses_where_nothing_may_be_evicted",
        "keys_that_collide_under_every_seed_of_xxh64_are_spread",
        "a_table_shrinks_with_its_items",
        "a_chain_that_is_a_circle_costs_a_rebuild",
    ],
)
def test_table(table: Path, case: str) -> None:
    result = subprocess.run([str(table), case], capture_output=True, text=True, timeout=120)
    assert result.stdout == "ok\n", result.stdout + result.stderr


def _rotated(value: int, bits: int) -> int:
    return (value << bits | value >> (64 - bits)) & MASK


def _siphash(c: int, d: int, key_0: int, key_1: int, data: bytes) -> int:
    """SipHash-c-d as its paper has it (Aumasson and Bernstein, 2012)."""
    v = [
        key_0 ^ 0x736F6D6570736575,
        key_1 ^ 0x646F72616E646F6D,
        key_0 ^ 0x6C7967656E657261,
        key_1 ^ 0x7465646279746573,
    ]

    def half_round(a: int, b: int, bits: int) -> None:
        v[a] = (v[a] + v[b]) & MASK
        v[b] = _rotated(v[b], bits) ^ v[a]

    def rounds(count: int) -> None:
        for _ in range(count):
            half_round(0, 1, 13)
            half_round(2, 3, 16)
            v[0] = _rotated(v[0], 32)
            half_round(2, 1, 17)
            half_round(0, 3, 21)
            v[2] = _rotated(v[2], 32)

    padded = data + bytes(7 - len(data) % 8) + bytes([len(data) % 256])
    for at in range(0, len(padded), 8):
        word = int.from_bytes(padded[at : at + 8], "little")
        v[3] ^= word
        rounds(c)
        v[0] ^= word
    v[2] ^= 0xFF
    rounds(d)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def test_the_hash_is_siphash_1_3(siphash: Callable[[int, int, int], list[int]]) -> None:
    # The example in the paper's appendix, of SipHash-2-4.
    key = 0x0706050403020100, 0x0F0E0D0C0B0A0908
    assert _siphash(2, 4, *key, bytes(range(15))) == 0xA129CA6149BE45E5
    expected = [_siphash(1, 3, *key, bytes(i % 256 for i in range(n))) for n in range(300)]
    assert siphash(*key, 300) == expected


@pytest.mark.skipif(
    sys.hash_info.algorithm != "siphash13", reason="this Python hashes by another algorithm"
)
def test_the_hash_is_that_of_python(siphash: Callable[[int, int, int], list[int]]) -> None:
    # With PYTHONHASHSEED=0 the key is zero. Nothing hashes to 0 there, and -1 becomes -2.
    code = "print(*(hash(bytes(range(n))) & 2**64 - 1 for n in range(1, 200)))"
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert siphash(0, 0, 200)[1:] == [int(word) for word in said.stdout.split()]

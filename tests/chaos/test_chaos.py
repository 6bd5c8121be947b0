"""A short run of chaos, and what its ledger would notice."""

import random

import pytest
from chaos import options_from, run
from chaos_ledger import Content, Record
from chaos_operations import Operations

SHORT = ["--seconds", "8", "--kills-per-second", "6", "--clients", "2", "--attached", "1"]

# How long anybody waits is for a machine that does nothing else: scripts/chaos by itself.
UNTIMED = ["--wait-ms-max", "10000"]


@pytest.mark.parametrize("flags", [[], ["--evict", "-m", "8"]], ids=["roomy", "evicting"])
def test_kills_at_random_lose_and_tear_nothing(seed: int, flags: list[str]) -> None:
    verdict = run(options_from([*SHORT, *UNTIMED, "--seed", str(seed), *flags]))
    assert verdict["verdict"] == "sound", verdict
    assert verdict["kills"] > 10
    assert verdict["unanswered"] > 0
    assert set(verdict["kills_of"]) >= {"worker", "attached"}


@pytest.mark.slow
def test_ten_minutes_of_kills(seed: int) -> None:
    verdict = run(options_from(["--seconds", "600", "--seed", str(seed), *UNTIMED]))
    assert verdict["verdict"] == "sound", verdict


def stored(*values: bytes) -> tuple[Record, list[Content]]:
    record = Record(b"k", is_counter=False)
    contents = [Content(value, 7) for value in values]
    for content in contents:
        record.remember(content)
        record.settle([content], stored=True)
    return record, contents


def test_ledger_notices_what_is_lost() -> None:
    record, _ = stored(b"a")
    assert record.judge(None, 0, evicts=False) == "lost"


def test_ledger_lets_a_cache_that_evicts_forget_but_not_remember_again() -> None:
    record, (content,) = stored(b"a")
    assert record.judge(None, 0, evicts=True) is None
    wrong = record.judge(content, 5, evicts=True)
    assert wrong is not None
    assert wrong.startswith("an older value")


def test_ledger_notices_an_older_value() -> None:
    record, (old, _) = stored(b"a", b"b")
    wrong = record.judge(old, 5, evicts=False)
    assert wrong is not None
    assert wrong.startswith("an older value")


@pytest.mark.parametrize("found", [Content(b"ax", 7), Content(b"ab", 8)], ids=["bytes", "flags"])
def test_ledger_notices_what_nobody_stored(found: Content) -> None:
    record, _ = stored(b"ab")
    wrong = record.judge(found, 5, evicts=False)
    assert wrong is not None
    assert wrong.startswith("torn") or "flags 8" in wrong


def test_ledger_knows_that_a_request_without_an_answer_may_have_happened() -> None:
    record, (old,) = stored(b"a")
    new = Content(b"b")
    record.doubt(new)
    assert record.judge(new, 9, evicts=False) is None
    assert record.judge(old, 9, evicts=False) is not None


def test_ledger_notices_a_cas_that_changes_or_goes_back() -> None:
    record, (content,) = stored(b"a")
    assert record.judge(content, 9, evicts=False) is None
    assert "changed" in (record.judge(content, 10, evicts=False) or "")
    record.settle([content], stored=True)
    assert "back" in (record.judge(content, 4, evicts=False) or "")


def test_counters_are_expected_to_the_digit(rng: random.Random) -> None:
    record = Record(b"n", is_counter=True, allowed=[Content(b"10")])
    operations = Operations(rng, evicts=False, is_plain=True)
    for _ in range(100):
        operation = operations.count(record)
        (answer,) = operation.outcomes
        delta = int(operation.request.split()[2])
        number = 10 + delta if operation.verb == "incr" else 10 - delta
        assert int(answer) == number
        assert operation.maybe == Content(b"%d" % number if number > 9 else b"%d " % number)

"""Keys, values and percentiles, each alone."""

import itertools
import math
import random
from collections import Counter
from statistics import mean

import pytest

from memcachepy import _load


def test_a_value_is_a_function_of_key_and_length() -> None:
    lengths = [0, 1, 7, 8, 9, 100, 5000]
    keys = [0, 1, 63, 64, 99_999, 2**32 - 1]
    values = {(key, length): _load.make_value(key, length) for key in keys for length in lengths}
    for (key, length), value in values.items():
        assert len(value) == length
        assert value == _load.make_value(key, length)
    long_values = [value for value in values.values() if len(value) >= 8]
    assert len(set(long_values)) == len(long_values)


def test_a_value_is_printable() -> None:
    assert _load.make_value(12345, 10_000).decode("ascii").isprintable()


def test_neighbouring_keys_have_different_values_throughout() -> None:
    one, two = _load.make_value(1000, 1000), _load.make_value(1001, 1000)
    same = sum(a == b for a, b in zip(one, two, strict=True))
    assert same < 100


def test_uniform_keys_cover_the_range_evenly(seed: int) -> None:
    counts = Counter(_load.sample_keys(10, 0.0, seed, 20_000))
    assert sorted(counts) == list(range(10))
    # Six standard deviations of a binomial: once in half a billion runs.
    assert all(abs(count - 2000) < 6 * math.sqrt(1800) for count in counts.values())


@pytest.mark.parametrize("exponent", [0.5, 0.99, 1.0, 1.00000001, 1.5, 3.0])
def test_zipf_ranks_have_zipf_frequencies(seed: int, exponent: float) -> None:
    key_count, draws = 50, 100_000
    counts = sorted(Counter(_load.sample_keys(key_count, exponent, seed, draws)).values())[::-1]
    weights = [rank**-exponent for rank in range(1, key_count + 1)]
    for rank in range(5):
        expected = draws * weights[rank] / sum(weights)
        assert abs(counts[rank] - expected) < 6 * math.sqrt(expected) + 5, (exponent, rank)


@pytest.mark.parametrize("key_count", [1, 2, 3, 1000, 2**32 - 1])
def test_zipf_keys_stay_in_the_range(seed: int, key_count: int) -> None:
    assert all(0 <= key < key_count for key in _load.sample_keys(key_count, 0.9, seed, 2000))


def test_the_hottest_keys_are_scattered(seed: int) -> None:
    counts = Counter(_load.sample_keys(1_000_000, 1.1, seed, 50_000))
    hottest = sorted(key for key, _ in counts.most_common(10))
    assert min(b - a for a, b in itertools.pairwise(hottest)) > 1000


def test_the_same_seed_draws_the_same_keys() -> None:
    assert _load.sample_keys(1000, 0.9, 7, 100) == _load.sample_keys(1000, 0.9, 7, 100)
    assert _load.sample_keys(1000, 0.9, 7, 100) != _load.sample_keys(1000, 0.9, 8, 100)


def test_percentiles_are_at_most_a_hundredth_above_the_exact_ones(rng: random.Random) -> None:
    values = [int(rng.lognormvariate(12, 2)) for _ in range(20_000)]
    summary = _load.percentiles(values)
    values.sort()
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99_9", 0.999)):
        exact_us = values[math.ceil(share * len(values)) - 1] / 1000
        assert exact_us <= summary[name] <= exact_us * 1.01, name
    assert summary["min"] == values[0] / 1000
    assert summary["max"] == values[-1] / 1000
    assert summary["mean"] == pytest.approx(mean(values) / 1000)


@pytest.mark.parametrize("value", [0, 1, 127, 128, 255, 256, 10**6, 2**50 - 1, 2**50, 2**63])
def test_one_value_is_all_its_percentiles(value: int) -> None:
    summary = _load.percentiles([value])
    assert summary["max"] == value / 1000
    if value < 2**50:
        assert summary["p50"] == value / 1000


def test_no_values_are_all_zero() -> None:
    assert set(_load.percentiles([]).values()) == {0.0}

"""The list behind -o: what its names set, and which are refused in which words."""

import pytest

from memcachepy.config import NodeConfig, resolve
from memcachepy.errors import ConfigError
from memcachepy.extended import EXTENDED, REFUSED, TAKEN, UnknownExtended, read_extended


def config(*texts: str) -> NodeConfig:
    return resolve(read_extended(texts), {})[0]


def refusal(*texts: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        config(*texts)
    return caught.value


def test_names_values_and_negations() -> None:
    chosen = config("idle_timeout=60,no_maxconns_fast,,track_sizes", "hash_algorithm=murmur3")
    assert (chosen.idle_timeout, chosen.hash_algorithm) == (60, "murmur3")
    assert (chosen.maxconns_fast, chosen.track_sizes) == (False, True)


def test_of_several_values_the_last_counts() -> None:
    assert config("idle_timeout=1,idle_timeout=2", "idle_timeout=3").idle_timeout == 3
    assert config("no_maxconns_fast,maxconns_fast").maxconns_fast


@pytest.mark.parametrize(
    ("text", "level"),
    [("slab_automove", 1), ("slab_automove=2", 2), ("no_slab_automove", 0), ("slab_automove=0", 0)],
)
def test_slab_automove_takes_a_level_or_none(text: str, level: int) -> None:
    assert config(text).slab_automove == level


def test_modern_is_nothing_and_no_modern_is_several_names() -> None:
    assert config("modern") == NodeConfig()
    old = config("no_modern,slab_reassign")
    assert (old.lru_crawler, old.maxconns_fast, old.hash_algorithm) == (False, False, "jenkins")
    assert (old.slab_reassign, old.slab_automove) == (True, 0)


@pytest.mark.parametrize("name", sorted(TAKEN - {"no_modern"}))
def test_what_has_no_effect_is_taken_with_and_without_a_value(name: str) -> None:
    assert config(name) == config(f"{name}=1") == NodeConfig()


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_offered_is_refused_with_its_reason(name: str) -> None:
    error = refusal(f"{name}=1")
    assert (error.name, error.must, error.exit_status) == (name, REFUSED[name], 64)


@pytest.mark.parametrize("text", ["nosuch", "nosuch=1", "no_idle_timeout", "no_nosuch", "=1"])
def test_unknown_name_is_refused_by_name(text: str) -> None:
    error = refusal(text)
    assert isinstance(error, UnknownExtended)
    assert error.name == text.partition("=")[0]


@pytest.mark.parametrize("sizes", ["31", "64-64", "128-64", "64--128", "x", "-64"])
def test_slab_sizes_grow(sizes: str) -> None:
    assert "must be at most 60 growing sizes" in str(refusal(f"slab_sizes={sizes}"))


def test_missing_and_wrong_values_name_the_option() -> None:
    assert str(refusal("idle_timeout")).startswith("idle_timeout is '' (-o idle_timeout): must")
    assert str(refusal("hashpower=5")).startswith("hashpower is '5' (-o hashpower): must")


def test_an_option_can_also_come_from_the_environment() -> None:
    environ = {"MEMCACHEPY_IDLE_TIMEOUT": "5", "MEMCACHEPY_MAXCONNS_FAST": "off"}
    chosen = resolve(read_extended(["maxconns_fast"]), environ)[0]
    assert (chosen.idle_timeout, chosen.maxconns_fast) == (5, True)
    assert set(EXTENDED) >= {"idle_timeout", "maxconns_fast"}

"""The command line: letters, long names, what is refused, and exit statuses."""

import sys
from collections.abc import Callable, Sequence

import pytest

import memcachepy
from memcachepy import cli
from memcachepy.cli import serve
from memcachepy.config import SETTINGS, NodeConfig
from memcachepy.extended import EXTENDED, TAKEN
from memcachepy.kinds import Address, Switch

Run = Callable[..., tuple[int, NodeConfig | None]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command line without a node: its exit status, and the config that a node would get."""

    def run(*words: str) -> tuple[int, NodeConfig | None]:
        seen: list[NodeConfig] = []

        def run_node(config: NodeConfig, _warnings: Sequence[str]) -> int:
            seen.append(config)
            return 0

        monkeypatch.setattr(serve, "run_node", run_node)
        monkeypatch.setattr(sys, "argv", ["memcachepy", *words])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert isinstance(caught.value.code, int)
        return caught.value.code, seen[0] if seen else None

    return run


OWN_FLAGS = [name for name, setting in SETTINGS.items() if not setting.is_extended]


@pytest.mark.parametrize("name", OWN_FLAGS)
def test_letter_and_long_name_mean_the_same(name: str, run: Run) -> None:
    setting = SETTINGS[name]
    values = {"udp_port": "0", "max_item_size": "2k", "slab_growth_factor": "2"}
    values |= {"listen": "::1", "unix_socket": "/s", "user": "nobody", "verbose": ""}
    values |= {"eviction_policy": "allkeys-lru", "join": "file:/s"}
    values |= {"protocol": "ascii", "stat_key_prefix": "/"}
    value: str = "" if isinstance(setting.kind, Switch) else values.get(name, "5")
    short, long = (
        run("serve", flag, *([value] if value else []))
        for flag in (setting.short_flag, setting.flag)
    )
    assert short[0] == 0
    assert short == long
    if name != "udp_port":
        assert getattr(short[1], name) != getattr(NodeConfig(), name)


def test_flags_stand_together_as_with_memcached(run: Run) -> None:
    status, config = run("serve", "-vvMCp", "11300", "-l127.0.0.1,[::1]", "-U", "0")
    assert status == 0
    assert config is not None
    assert (config.verbose, config.port) == (2, 11300)
    assert config.disable_evictions
    assert config.disable_cas
    assert config.listen == (Address("127.0.0.1"), Address("::1"))


@pytest.mark.parametrize("letter", "SYZe")
@pytest.mark.parametrize("value", [[], ["x=1"]])
def test_letter_that_is_not_there_is_refused_by_name(
    letter: str, value: list[str], run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("serve", "-p", "0", f"-{letter}", *value) == (64, None)
    assert f"-{letter} (--" in capsys.readouterr().err


def test_license(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("serve", "-i") == (0, None)
    assert "BSD 3-Clause" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [["serve", "-p"], ["serve", "-p", "x"], ["serve", "--nonsense"], ["serve", "x"], ["x"]]
)
def test_usage_errors_exit_with_64(words: list[str], run: Run) -> None:
    assert run(*words) == (64, None)


@pytest.mark.parametrize("words", [["--version"], ["-V"], ["serve", "-V"]])
def test_version(words: list[str], run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*words) == (0, None)
    assert capsys.readouterr().out == f"memcachepy {memcachepy.__version__}\n"


def test_help_names_every_setting(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("serve", "-h") == (0, None)
    text = capsys.readouterr().out
    assert all(
        f"{s.short_flag}, {s.flag}" in text or (not s.letter and s.flag in text)
        for s in SETTINGS.values()
        if not s.is_extended
    )
    assert all(name in text for name in [*EXTENDED, *TAKEN])

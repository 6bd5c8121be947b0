"""The command line of memcached: what it means, what it says, and with which status it ends."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from support.server import memcached_path

from memcachepy import _core, cli
from memcachepy.cli import memcached
from memcachepy.config import NodeConfig
from memcachepy.errors import ListenError, UnknownUser
from memcachepy.extended import EXTENDED, REFUSED, TAKEN
from memcachepy.kinds import Address

Run = Callable[..., tuple[int, NodeConfig | None]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command line without a node: its exit status, and the config that a node would get."""

    def run(*words: str, uid: int = 1000, error: Exception | None = None) -> object:
        seen: list[NodeConfig] = []

        def run_node(config: NodeConfig, _warnings: Sequence[str], is_quiet: bool) -> int:
            assert is_quiet
            seen.append(config)
            if error:
                raise error
            return 0

        monkeypatch.setattr(memcached, "run_node", run_node)
        monkeypatch.setattr(os, "geteuid", lambda: uid)
        monkeypatch.setattr(sys, "argv", ["/usr/bin/memcached", *words])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return caught.value.code, seen[0] if seen else None

    return run


def config(run: Run, *words: str) -> NodeConfig:
    status, found = run(*words)
    assert status == 0
    assert found is not None
    return found


def test_defaults_are_memcacheds(run: Run) -> None:
    found = config(run)
    assert (found.listen, found.port, found.threads) == ((Address("*"),), 11211, 4)
    assert (found.memory_limit, found.conn_limit, found.max_item_size) == (64, 1024, 1 << 20)


def test_slab_classes_are_as_fine_as_ever(run: Run) -> None:
    found = config(run)
    assert (found.slab_growth_factor, found.slab_min_size) == (1.1, 8)


def test_a_line_as_debians_unit_has_it(run: Run) -> None:
    line = "-m 64 -p 11211 -u memcache -l 127.0.0.1 -P /var/run/memcached/memcached.pid"
    status, found = run(*line.split(), uid=0)
    assert status == 0
    assert found is not None
    assert (found.user, found.listen) == ("memcache", (Address("127.0.0.1"),))
    assert found.pidfile == "/var/run/memcached/memcached.pid"


def test_letters_stand_together_and_long_names_may_be_shortened(run: Run) -> None:
    found = config(
        run, "-dvvMCp11300", "--memory-l=100", "ignored", "--conn-l", "5", "--napi_ids=2"
    )
    assert found.daemon
    assert (found.verbose, found.port, found.conn_limit) == (2, 11300, 5)
    assert found.memory_limit == 100
    assert found.disable_evictions
    assert found.disable_cas


def test_unix_socket_turns_tcp_off_whatever_else_is_said(run: Run) -> None:
    found = config(run, "-s", "/s", "-p", "11211", "-l", "10.0.0.1:5")
    assert (found.port, found.listen, found.unix_socket) == (0, (Address("*"),), "/s")


def test_numbers_are_read_up_to_what_is_none(run: Run) -> None:
    found = config(run, "-m", "128m", "-c", " 20x", "-f", "1.5x", "-t", "1000", "-D", "/x")
    assert (found.memory_limit, found.conn_limit, found.slab_growth_factor) == (128, 20, 1.5)
    assert (found.threads, found.stat_key_prefix) == (_core.WORKERS_MAX, "/")


def test_user_is_only_for_root(run: Run) -> None:
    assert config(run, "-u", "nosuch").user is None


def test_environment_reaches_the_node(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMCACHEPY_THREADS", "2")
    monkeypatch.setenv("MEMCACHEPY_UNIX_SOCKET", "/s")
    found = config(run)
    assert (found.threads, found.port) == (2, 0)


def test_root_has_to_name_a_user(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("-p", "11300", uid=0) == (64, None)
    assert capfd.readouterr().err == "can't run as root without the -u switch\n"
    assert run("-u", "root", uid=0)[0] == 0


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        ("-q", 1, "memcached: invalid option -- 'q'\nIllegal argument \"?\""),
        ("--nosuch", 1, "memcached: unrecognized option '--nosuch'\nIllegal argument \"?\""),
        ("-p", 1, "memcached: option requires an argument -- 'p'\nIllegal argument \"?\""),
        ("-t 0", 1, "Number of threads must be greater than 0"),
        ("-c 0", 1, "Maximum connections must be greater than 0"),
        ("-f 1", 1, "Factor must be greater than 1"),
        ("-n 0", 1, "Chunk size must be greater than 0"),
        ("-R 0", 1, "Number of requests per event must be greater than 0"),
        ("-p 80000", 64, "ERROR: Invalid port number 80000."),
        ("-B x", 64, "Invalid value for binding protocol: x"),
        ("-I 1", 64, "Item max size cannot be less than 1024 bytes."),
        ("-I 40m", 64, "Cannot set item size limit higher than 1/2 of memory max."),
        ("-m 0", 64, "Cannot set item size limit higher than 1/2 of memory max."),
        ("-o nosuch", 1, 'Illegal suboption "nosuch"'),
        ("-o idle_timeout", 1, "Missing numeric argument for idle_timeout"),
        ("-o slab_automove=9", 1, "slab_automove is '9'"),
        ("-o ssl_key=x", 1, "ssl_key is 'x' (-o ssl_key): TLS is not offered yet"),
        ("-Z", 64, "enable_ssl is 'on' (-Z): TLS is not offered yet"),
        ("-S", 64, "enable_sasl is 'on' (-S): there is no authentication yet"),
        ("-Y x", 64, "auth_file is 'x' (-Y): there is no authentication yet"),
        ("-e x", 64, "memory_file is 'x' (-e): items do not outlive the node yet"),
        ("-U 11211", 64, "udp_port is '11211' (-U): must be 0: UDP is not offered"),
    ],
)
def test_what_is_wrong_is_said_as_memcached_says_it(
    words: str, status: int, sentence: str, run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(*words.split()) == (status, None)
    assert capfd.readouterr().err.startswith(sentence)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("", "TCP port 11211"),
        ("-p 5", "TCP port 5"),
        ("-l a,b -l c", "one of interface(s) a,b,c"),
        ("-s /s", "UNIX socket: /s"),
    ],
)
def test_what_cannot_be_listened_on_is_named_as_memcached_names_it(
    words: str, what: str, run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    error = ListenError("ours", "127.0.0.1", "Address already in use")
    assert run(*words.split(), error=error)[0] == 71
    said = capfd.readouterr().err
    assert said == f"failed to listen on {what}: Address already in use\nours\n"


def test_unknown_user(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("-u", "nosuch", uid=0, error=UnknownUser("ours"))[0] == 67
    assert capfd.readouterr().err == "can't find the user nosuch to switch to\n"


@pytest.mark.parametrize("word", ["-V", "--version"])
def test_version(word: str, run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(word, uid=0) == (0, None)
    assert capfd.readouterr().out == "memcached 1.6.45\n"


def test_license(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("-i", uid=0) == (0, None)
    assert "BSD 3-Clause" in capfd.readouterr().out


def test_help_has_a_line_for_every_option(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("-h", uid=0) == (0, None)
    text = capfd.readouterr().out
    assert text.startswith("memcached 1.6.45\n-p, --port=<num>          ")
    for name in EXTENDED.keys() - {"drop_privileges"}:
        assert re.search(rf"^   - {name}: ", text, re.MULTILINE), name
    # By these words programs find out what a build of memcached has.
    for absent in ("-S", "-Z", "-Y", "ext_path", "proxy_config", "drop_privileges", "enable-ssl"):
        assert absent not in text


def _options_of(text: str) -> set[str]:
    """Letters, long names and names for -o in a help text of memcached's form."""
    found = set()
    for line in text.splitlines():
        if match := re.match(r"(-\w)(?:,? +|=|$)(?:.*?(--[\w-]+))?", line):
            found |= {option for option in match.groups() if option}
        elif match := re.match(r"   - (\w+):", line):
            found.add(match[1])
    return found


def test_every_option_of_debians_memcached_is_known(run: Run) -> None:
    text = subprocess.run([memcached_path(), "-h"], capture_output=True, text=True, check=True)
    theirs = _options_of(text.stdout)
    assert {"-p", "--port", "-D", "--napi_ids", "idle_timeout", "ssl_key"} <= theirs
    for option in sorted(theirs - {"-v"}):
        if not option.startswith("-"):
            assert option.removeprefix("no_") in {*EXTENDED, *REFUSED, *TAKEN}, option
            continue
        value = {"-I": "2k", "--max-item-size": "2k", "-B": "auto", "--protocol": "auto"}
        value |= {"-U": "0", "--udp-port": "0", "-f": "2", "--slab-growth-factor": "2"}
        words = ["-o", "modern"] if option in ("-o", "--extended") else []
        if not words and option in _WITH_VALUE:
            words = [option, value.get(option, "5")]
        assert run(*(words or [option]))[0] in (0, 64), option


_WITH_VALUE = """-p --port -U --udp-port -s --unix-socket -a --unix-mask -l --listen -u --user -m
--memory-limit -c --conn-limit -P --pidfile -f --slab-growth-factor -n --slab-min-size -D -t
--threads -R --max-reqs-per-event -b --listen-backlog -B --protocol -I --max-item-size -Y
--auth-file -e --memory-file -N --napi_ids""".split()


def test_other_programs_of_that_folder_are_not_mistaken(tmp_path: Path) -> None:
    link = tmp_path / "memcached"
    link.symlink_to(Path(sys.executable).with_name("memcachepy"))
    done = subprocess.run([link, "-V"], capture_output=True, text=True, check=True)
    assert done.stdout == "memcached 1.6.45\n"

"""Listening sockets: what is opened, what is removed, and the sentence for each refusal."""

import errno
import os
import socket
import stat
from contextlib import ExitStack
from pathlib import Path

import pytest

from memcachepy.config import NodeConfig
from memcachepy.errors import BootError
from memcachepy.kinds import Address
from memcachepy.node import listeners
from memcachepy.node.listeners import Listener, open_listeners


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="IPv6 is off here")


def refusal(config: NodeConfig) -> str:
    with pytest.raises(BootError) as caught, open_listeners(config):
        pass
    assert caught.value.exit_status == 71
    return str(caught.value)


def on(host: str, port: int = -1) -> NodeConfig:
    return NodeConfig(port=port, listen=(Address(host),))


def unix(path: Path, mask: int = 0o700) -> NodeConfig:
    return NodeConfig(port=0, unix_socket=str(path), unix_mask=mask)


def can_connect(listener: Listener) -> bool:
    with socket.socket(listener.socket.family, socket.SOCK_STREAM) as client:
        client.connect(listener.socket.getsockname())
    return True


def test_loopback_on_any_port() -> None:
    with open_listeners(on("127.0.0.1")) as (listener,):
        assert listener.port > 0
        assert listener.name == f"127.0.0.1:{listener.port}"
        assert can_connect(listener)
        assert not listener.socket.getblocking()


@needs_ipv6
def test_everywhere_is_both_families_on_one_port() -> None:
    with open_listeners(on("*")) as (first, second):
        assert {first.socket.family, second.socket.family} == {socket.AF_INET, socket.AF_INET6}
        assert first.port == second.port


def test_an_addresss_own_port_beats_the_nodes() -> None:
    with open_listeners(on("127.0.0.1")) as (probe,):
        port = probe.port
    config = NodeConfig(port=0, listen=(Address("127.0.0.2"), Address("127.0.0.1", port)))
    with open_listeners(config) as found:
        assert [listener.name for listener in found] == [f"127.0.0.1:{port}"]


def test_taken_port_is_named_with_the_remedy() -> None:
    with open_listeners(on("127.0.0.1")) as (listener,):
        assert refusal(on("127.0.0.1", listener.port)) == (
            f"127.0.0.1:{listener.port} is already in use by another process: stop that one, "
            "or choose another port with -p"
        )


def test_foreign_address_and_unknown_name() -> None:
    assert "no network interface of this machine" in refusal(on("192.0.2.1"))
    assert "neither an address nor a name" in refusal(on("nowhere.invalid"))


def failing(monkeypatch: pytest.MonkeyPatch, number: int, families: set[int]) -> None:
    real = listeners._listen_tcp

    def listen_tcp(family: socket.AddressFamily, host: str, port: int, backlog: int) -> Listener:
        if family in families:
            raise OSError(number, os.strerror(number))
        return real(family, host, port, backlog)

    monkeypatch.setattr(listeners, "_listen_tcp", listen_tcp)


def test_privileged_port_is_named_with_the_remedies(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, errno.EACCES, {socket.AF_INET})
    text = refusal(on("127.0.0.1", 80))
    assert text.startswith("port 80 is privileged")
    assert "-p" in text
    assert "-u" in text


@pytest.mark.parametrize("number", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_ipv6_off_is_said_but_not_for_everywhere(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, number, {socket.AF_INET6})
    assert refusal(on("::1")) == "-l [::1]: IPv6 is off on this machine: use an IPv4 address"
    with open_listeners(on("*")) as found:
        assert [listener.socket.family for listener in found] == [socket.AF_INET]


def test_unix_socket_has_its_mask_and_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with open_listeners(unix(path, 0o660)) as (listener,):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert can_connect(listener)
        assert (listener.name, listener.port) == (str(path), 0)
    assert not path.exists()


def test_unix_socket_that_nobody_answers_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with open_listeners(unix(path)) as (listener,):
        assert can_connect(listener)


def test_live_unix_socket_is_refused_and_stays(tmp_path: Path) -> None:
    with open_listeners(unix(tmp_path / "s")) as (listener,):
        assert "already in use by another process" in refusal(unix(tmp_path / "s"))
        assert can_connect(listener)


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, lambda path: path.symlink_to("/etc")])
def test_any_other_file_is_refused_and_stays(make: object, tmp_path: Path) -> None:
    assert callable(make)
    make(tmp_path / "s")
    assert "is not a socket" in refusal(unix(tmp_path / "s"))
    assert os.path.lexists(tmp_path / "s")


def test_file_that_took_the_sockets_place_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with open_listeners(unix(path)):
        path.unlink()
        path.write_text("mine")
    assert path.read_text() == "mine"


def test_unix_path_that_cannot_be_is_named(tmp_path: Path) -> None:
    assert "No such file or directory" in refusal(unix(tmp_path / "none" / "s"))
    assert "too long" in refusal(unix(tmp_path / ("x" * 200)))


def test_what_was_opened_is_closed_when_a_later_one_fails(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with ExitStack() as stack:
        probe = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = probe.getsockname()[1]
    config = NodeConfig(port=port, unix_socket=str(path))
    refusal(config)
    with open_listeners(on("127.0.0.1", port)) as (listener,):
        assert listener.port == port

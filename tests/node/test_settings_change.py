"""Settings that a running node takes over its control socket."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from control import ControlClient
from nodes import Node, Start

from memcachepy import _core

pytestmark = pytest.mark.once


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "node.control"


@pytest.fixture
def node(start: Start, path: Path) -> Node:
    return start("-t", "2", "--control-socket", str(path))


@pytest.fixture
def control(node: Node, path: Path) -> Iterator[ControlClient]:
    with ControlClient(path) as client:
        assert node.process.poll() is None
        yield client


@pytest.mark.parametrize(
    ("settings", "command", "before", "after"),
    [
        ({"disable_watch": True}, b"watch", b"OK", b"CLIENT_ERROR watch commands not allowed"),
        (
            {"disable_dumping": "yes"},
            b"lru_crawler metadump all",
            b"OK",
            b"ERROR metadump not allowed",
        ),
        (
            {"disable_flush_all": True},
            b"flush_all",
            b"OK",
            b"CLIENT_ERROR flush_all not allowed",
        ),
    ],
)
def test_every_worker_takes_it_from_its_next_command_on(
    node: Node,
    control: ControlClient,
    settings: dict[str, object],
    command: bytes,
    before: bytes,
    after: bytes,
) -> None:
    clients = [node.client() for _ in range(4)]
    for client in clients:
        client.send(command + b"\r\n")
        assert client.line() == before
    assert control.ask(op="settings_change", settings=settings) == {"v": 1, "ok": True}
    # Who watches already has nothing to ask any more.
    for client in [node.client() for _ in range(4)]:
        client.send(command + b"\r\n")
        assert client.line() == after
    back = dict.fromkeys(settings, False)
    assert control.ask(op="settings_change", settings=back)["ok"]
    with node.client() as client:
        client.send(command + b"\r\n")
        assert client.line() == before


def test_shutdown_and_requests_per_event_are_shown_as_they_are_now(
    node: Node, control: ControlClient
) -> None:
    settings = {"enable_shutdown": True, "max_reqs_per_event": 33}
    assert control.ask(op="settings_change", settings=settings)["ok"]
    with node.client() as client:
        shown = client.stats("settings")
        assert (shown["shutdown_command"], shown["reqs_per_event"]) == ("yes", "33")
        client.send(b"shutdown\r\n")
    assert node.wait() == 0


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (None, "settings are missing"),
        ([], "settings are missing"),
        ({"disable_watch": True, "idle_timeout": 5}, "idle_timeout cannot be changed here"),
        ({"disable_watch": True, "max_reqs_per_event": 0}, "must be a whole number from 1"),
        ({"disable_watch": "perhaps"}, "must be true or false"),
    ],
)
def test_what_is_refused_changes_nothing(
    node: Node, control: ControlClient, settings: object, why: str
) -> None:
    answer = control.ask(op="settings_change", settings=settings)
    assert answer["ok"] is False
    assert why in answer["error"]
    with node.client() as client:
        client.send(b"watch\r\n")
        assert client.line() == b"OK"


def test_the_core_takes_all_or_nothing() -> None:
    segment = _core.Segment({"memory_limit_bytes": 8 << 20})
    connection = _core.Connection(segment)
    try:
        for wrong in ({"flush_enabled": False, "backlog": 1}, {"requests_per_event": 1 << 40}):
            with pytest.raises(ValueError, match="backlog|out of range"):
                segment.change_settings(wrong)
        assert connection.feed(b"flush_all\r\n") == b"OK\r\n"
        segment.change_settings({"flush_enabled": False, "requests_per_event": 7})
        assert b"not allowed" in connection.feed(b"flush_all\r\n")
        assert b"STAT reqs_per_event 7\r\n" in connection.feed(b"stats settings\r\n")
    finally:
        connection.close()
        segment.close()

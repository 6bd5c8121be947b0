"""What whoever started a node is told over a datagram socket, as systemd would be."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest
from nodes import SERVE, Start, is_alive
from receiver import Receiver
from support.waiting import wait_until

from memcachepy.node.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def receiver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Receiver]:
    is_path = request.param == "path"
    name = str(tmp_path / "notify") if is_path else f"@memcachepy-test-{os.getpid()}-{id(tmp_path)}"
    with closing(Receiver(name)) as receiver:
        yield receiver


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_messages_are_those_of_sd_notify(receiver: Receiver) -> None:
    notifier = Notifier(receiver.name)
    notifier.ready("serving\nREADY=0")
    assert receiver.message() == {
        "READY": "1",
        "MAINPID": str(os.getpid()),
        "STATUS": "serving READY=0",
    }
    notifier.reloading("reading")
    told = receiver.message()
    assert told["RELOADING"] == "1"
    assert int(told["MONOTONIC_USEC"]) > 0
    notifier.status("fine")
    assert receiver.message() == {"STATUS": "fine"}
    notifier.stopping("SIGTERM")
    assert receiver.message() == {"STOPPING": "1", "STATUS": "SIGTERM"}


def test_the_watchdog_is_fed_every_half_of_its_time(receiver: Receiver) -> None:
    clock = Clock()
    notifier = Notifier(receiver.name, watchdog_s=4.0, clock=clock)
    notifier.alive()
    assert receiver.message() == {"WATCHDOG": "1"}
    clock.now_s += 1.9
    notifier.alive()
    assert receiver.is_silent()
    clock.now_s += 0.1
    notifier.alive()
    assert receiver.message() == {"WATCHDOG": "1"}


def test_without_a_watchdog_nothing_is_fed(receiver: Receiver) -> None:
    Notifier(receiver.name).alive()
    assert receiver.is_silent()


def test_the_environment_is_taken_not_shared(receiver: Receiver) -> None:
    environ = {
        "NOTIFY_SOCKET": receiver.name,
        "WATCHDOG_USEC": "2000000",
        "WATCHDOG_PID": str(os.getpid()),
        "OTHER": "stays",
    }
    notifier = Notifier.taken_from(environ)
    assert environ == {"OTHER": "stays"}
    notifier.alive()
    assert receiver.message() == {"WATCHDOG": "1"}


@pytest.mark.parametrize(
    "watchdog", [{"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "9", "WATCHDOG_PID": "1"}]
)
def test_a_watchdog_of_others_is_none(receiver: Receiver, watchdog: dict[str, str]) -> None:
    Notifier.taken_from({"NOTIFY_SOCKET": receiver.name, **watchdog}).alive()
    assert receiver.is_silent()


def test_nobody_listens_and_it_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Notifier().ready("to nobody")
    assert not caplog.records
    notifier = Notifier(str(tmp_path / "absent"))
    notifier.ready("still to nobody")
    notifier.stopping("over")
    assert len(caplog.records) == 1
    assert "absent" in caplog.text


def test_an_address_of_another_kind_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    Notifier.taken_from({"NOTIFY_SOCKET": "vsock:2:1234"}).ready("to nobody")
    assert "vsock:2:1234" in caplog.text


def test_a_receiver_whose_queue_is_full_holds_up_no_status(receiver: Receiver) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler:
        filler.setblocking(False)
        filler.connect("\0" + receiver.name[1:] if receiver.name[0] == "@" else receiver.name)
        with suppress(BlockingIOError):
            while True:
                filler.send(b"FULL=1")
        Notifier(receiver.name).status("lost")
    assert receiver.message() == {"FULL": "1"}


def test_a_node_says_when_it_serves_and_when_it_stops(receiver: Receiver, start: Start) -> None:
    node = start("-t", "1", env={"NOTIFY_SOCKET": receiver.name})
    told = receiver.message()
    assert (told["READY"], told["MAINPID"]) == ("1", str(node.pid))
    assert node.addresses[0] in told["STATUS"]
    node.client().ask(b"version\r\n", b"VERSION 1.6.45\r\n")
    assert node.stop() == 0
    assert receiver.message() == {"STOPPING": "1", "STATUS": "stopping: SIGTERM"}
    assert receiver.is_silent()


@pytest.mark.parametrize("receiver", ["path"], indirect=True)
@pytest.mark.parametrize("is_there", [True, False], ids=["a list", "no list"])
def test_a_node_that_joins_says_so_once_it_has_or_cannot(
    is_there: bool, receiver: Receiver, launch: Start, tmp_path: Path
) -> None:
    path = tmp_path / "topology.json"
    if is_there:
        path.write_text('{"version": 7, "members": [{"host": "10.0.0.7", "port": 1}]}')
    node = launch(
        *("-p", "-1", "-m", "16", "-t", "1", "--join", f"file:{path}", "--discovery-state", "off"),
        env={"NOTIFY_SOCKET": receiver.name},
    )
    assert receiver.message()["READY"] == "1"
    told = node.segment().get_config(b"cluster")
    assert (told is not None) == is_there
    assert told is None or told[1] == b"7\n10.0.0.7||1\n"


@pytest.mark.parametrize("receiver", ["path"], indirect=True)
def test_a_node_that_drains_says_so_first(receiver: Receiver, start: Start) -> None:
    node = start("-t", "1", env={"NOTIFY_SOCKET": receiver.name})
    receiver.message()
    client = node.client()
    client.ask(b"version\r\n", b"VERSION 1.6.45\r\n")
    node.process.send_signal(signal.SIGUSR1)
    assert receiver.message()["STATUS"].startswith("draining")
    client.close()
    assert receiver.message()["STOPPING"] == "1"
    assert node.wait() == 0


@pytest.mark.parametrize("receiver", ["path"], indirect=True)
def test_a_node_feeds_its_watchdog(receiver: Receiver, start: Start) -> None:
    start("-t", "1", env={"NOTIFY_SOCKET": receiver.name, "WATCHDOG_USEC": "100000"})
    assert receiver.message()["READY"] == "1"
    for _ in range(2):
        assert receiver.message() == {"WATCHDOG": "1"}


@pytest.mark.parametrize("receiver", ["path"], indirect=True)
def test_a_node_in_the_background_names_itself_and_not_its_parent(
    receiver: Receiver, launch: Start, tmp_path: Path
) -> None:
    pidfile = tmp_path / "pid"
    first = launch(
        *("-d", "-p", "-1", "-m", "16", "-t", "1", "-P", str(pidfile)),
        command=SERVE,
        env={"NOTIFY_SOCKET": receiver.name},
    )
    node = psutil.Process(int(receiver.message()["MAINPID"]))
    try:
        assert first.wait() == 0
        assert node.pid == int(pidfile.read_text()) != first.pid
    finally:
        node.terminate()
        wait_until(lambda: not is_alive(node), "the node to end", 20.0)

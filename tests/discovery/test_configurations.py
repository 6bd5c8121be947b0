"""Configurations through the segment and over the control socket."""

import base64
import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from control import ControlClient
from nodes import Start
from support.waiting import wait_until

from memcachepy import _core
from memcachepy.node import control_config

DATA_BYTES_MAX = 65536


def test_what_was_set_is_found_until_it_is_deleted(segment: _core.Segment) -> None:
    assert segment.get_config("cluster") is None
    segment.set_config("cluster", 5, b"1\na|1.2.3.4|1\n")
    segment.set_config(b"other", 2**32 - 1, b"")
    assert segment.get_config(b"cluster") == (5, b"1\na|1.2.3.4|1\n")
    assert segment.get_config("other") == (2**32 - 1, b"")
    assert segment.delete_config("cluster") is True
    assert segment.delete_config("cluster") is False
    assert segment.get_config("cluster") is None


def test_limits_are_told(segment: _core.Segment) -> None:
    for key in ("", "k" * 251, "a b", "a\n"):
        with pytest.raises(ValueError, match="1 to 250 bytes without spaces"):
            segment.set_config(key, 0, b"")
        with pytest.raises(ValueError, match="1 to 250 bytes"):
            segment.get_config(key)
        with pytest.raises(ValueError, match="1 to 250 bytes"):
            segment.delete_config(key)
    with pytest.raises(ValueError, match="65537 bytes; the range is 0 to 65536"):
        segment.set_config("k", 0, b"x" * (DATA_BYTES_MAX + 1))
    with pytest.raises(ValueError, match="client_flags: 4294967296"):
        segment.set_config("k", 2**32, b"")
    for index in range(16):
        segment.set_config(f"k{index}", 0, b"x" * DATA_BYTES_MAX)
    with pytest.raises(_core.CoreError, match="16 configurations already"):
        segment.set_config("k16", 0, b"")
    assert segment.get_config("k15") == (0, b"x" * DATA_BYTES_MAX)


def test_a_segment_that_is_closed_has_none() -> None:
    segment = _core.Segment({"memory_limit_bytes": 8 << 20})
    segment.close()
    with pytest.raises(ValueError, match="closed"):
        segment.set_config("k", 0, b"")
    with pytest.raises(ValueError, match="closed"):
        segment.get_config("k")
    with pytest.raises(ValueError, match="closed"):
        segment.delete_config("k")


def test_a_writer_that_is_stopped_keeps_others_from_changing_and_nobody_from_reading(
    segment: _core.Segment,
) -> None:
    old, new = b"o" * DATA_BYTES_MAX, b"n" * DATA_BYTES_MAX
    segment.set_config("k", 0, old)
    pid = os.fork()
    if pid == 0:
        try:
            segment.claim_slot(_core.SLOT_WORKER_FIRST)
            while True:
                segment.set_config("k", 0, old)
                segment.set_config("k", 0, new)
        finally:
            os._exit(1)
    try:
        writer = psutil.Process(pid)
        wait_until(lambda: stops_with_lock(segment, writer), "the writer to stop with the lock", 60)
        with pytest.raises(_core.CoreError, match="a process that is stopped"):
            segment.set_config("k", 0, b"")
        found = segment.get_config("k")
        assert found is not None
        assert found[1] in (old, new)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert segment.get_config("k") == found
    segment.set_config("k", 0, b"later")
    assert segment.get_config("k") == (0, b"later")


def stops_with_lock(segment: _core.Segment, writer: psutil.Process) -> bool:
    """Stop it; unless it has the lock of configurations just then, it runs on."""
    writer.suspend()
    wait_until(lambda: writer.status() == psutil.STATUS_STOPPED, "the writer to stop", 30)
    if any((pid, lock) == (writer.pid, -2) for _, pid, lock, _ in segment.lock_holders()):
        return True
    writer.resume()
    return False


# ---- over the control socket -------------------------------------------------------------------


class Client(ControlClient):
    """Its answers may be longer than what one call receives."""

    def answer(self) -> dict[str, Any]:
        data = b""
        while not data.endswith(b"\n"):
            data += self.socket.recv(1 << 16)
        found: dict[str, Any] = json.loads(data)
        return found

    def set_config(self, key: str, data: bytes, **more: object) -> dict[str, Any]:
        return self.ask(op="config_set", key=key, data=base64.b64encode(data).decode(), **more)


def test_control_socket_sets_what_clients_are_answered(start: Start, tmp_path: Path) -> None:
    node = start("-t", "2", "--control-socket", str(tmp_path / "c"))
    with Client(tmp_path / "c") as client:
        assert client.ask(op="config_get", key="k") == {"v": 1, "ok": True, "found": False}
        assert client.set_config("k", b"1\nx|1.2.3.4|5\n") == {"v": 1, "ok": True}
        found = client.ask(op="config_get", key="k")
        assert (found["found"], found["flags"]) == (True, 0)
        assert base64.b64decode(found["data"]) == b"1\nx|1.2.3.4|5\n"
        for value in (b"", b"\xff\0" * (DATA_BYTES_MAX // 2)):
            assert client.set_config("k" * 250, value, flags=7)["ok"]
            found = client.ask(op="config_get", key="k" * 250)
            assert (found["flags"], base64.b64decode(found["data"])) == (7, value)
        assert client.ask(op="config_delete", key="k")["found"] is True
        assert client.ask(op="config_delete", key="k")["found"] is False
    assert node.stop() == 0


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        ({"op": "config_get"}, "key is missing"),
        ({"op": "config_get", "key": 5}, "key is missing"),
        ({"op": "config_get", "key": "a b"}, "without spaces"),
        ({"op": "config_set", "key": "k"}, "data are missing"),
        ({"op": "config_set", "key": "k", "data": "!"}, "base64|[Ii]ncorrect padding"),
        ({"op": "config_set", "key": "k", "data": "", "flags": -1}, "flags: -1"),
        ({"op": "config_set", "key": "k", "data": "", "flags": True}, "flags: True"),
        ({"op": "config_set", "key": "k", "data": "eHh4" * 21846}, "65538 bytes"),
        ({"op": "config_delete", "key": ""}, "1 to 250 bytes"),
    ],
)
def test_wrong_requests_are_told_why(
    segment: _core.Segment, request_: dict[str, object], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        getattr(control_config, str(request_["op"]))(segment, request_)

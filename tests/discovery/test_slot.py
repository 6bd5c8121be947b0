"""The slot of the process that learns who a node's cluster is: most nodes have none."""

import os
import signal

import psutil
from support.waiting import wait_until

from memcachepy import _core


def own_stats(segment: _core.Segment) -> dict[bytes, bytes]:
    conn = _core.Connection(segment, _core.SLOT_WORKER_FIRST)
    lines = conn.feed(b"stats memcachepy\r\n").splitlines()
    return dict(line.split(b" ", 2)[1:] for line in lines[:-1])


def test_a_slot_without_a_process_is_harmless(segment: _core.Segment) -> None:
    assert not segment.is_serving(_core.SLOT_DISCOVERY)
    assert b"discovery:pid" not in own_stats(segment)
    assert segment.lock_holders() == []
    assert segment.recover(_core.SLOT_DISCOVERY) is not None
    assert segment.check() == []


def test_a_child_takes_the_slot_and_recovery_frees_it(segment: _core.Segment) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            if segment.start_child(_core.SLOT_DISCOVERY):
                segment.set_serving(_core.SLOT_DISCOVERY)
                signal.pause()
        finally:
            os._exit(1)
    try:
        wait_until(lambda: segment.is_serving(_core.SLOT_DISCOVERY), "the child to serve", 30)
        assert own_stats(segment)[b"discovery:pid"] == b"%d" % pid
        assert psutil.Process(pid).name() == "mcpy-discovery"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert segment.recover(_core.SLOT_DISCOVERY) is not None
    assert not segment.is_serving(_core.SLOT_DISCOVERY)
    assert b"discovery:pid" not in own_stats(segment)

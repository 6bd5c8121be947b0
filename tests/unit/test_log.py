"""The log: facts with fields, and a stderr that may be full, stopped, closed or a socket."""

import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from memcachepy import log
from memcachepy.log import LINE_BYTES_MAX, NeverWaiting, fact

HandlerFor = Callable[[int], NeverWaiting]


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)
    os.close(writing)


@pytest.fixture
def handler_for() -> Iterator[HandlerFor]:
    """Makes handlers and closes them."""
    with ExitStack() as stack:

        def make(fd: int) -> NeverWaiting:
            handler = NeverWaiting(fd)
            stack.callback(handler.close)
            return handler

        yield make


def say(handler: logging.Handler, text: str) -> None:
    handler.handle(logging.LogRecord("memcachepy.test", logging.INFO, "", 0, text, (), None))


def test_fact_quotes_what_could_be_taken_for_two_fields() -> None:
    assert fact("worker exited", pid=5, status="SIGKILL", uptime_s=3.25) == (
        "worker exited pid=5 status=SIGKILL uptime_s=3.25"
    )
    assert fact("x", a="b c", d="e=f", g="", h='"', i=0.0, j="k\nl") == (
        'x a="b c" d="e=f" g="" h="\\"" i=0 j="k\\nl"'
    )


def test_line_has_utc_time_level_and_source(pipe: tuple[int, int], handler_for: HandlerFor) -> None:
    say(handler_for(pipe[1]), "hello\nthere \u20ac")
    line = os.read(pipe[0], 4096).decode("ascii")
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO test: hello\\nthere \\u20ac\n", line
    )


def test_full_pipe_drops_and_counts(pipe: tuple[int, int], handler_for: HandlerFor) -> None:
    handler = handler_for(pipe[1])
    before_s = time.monotonic()
    for _ in range(3000):
        say(handler, "x" * 100)
    assert time.monotonic() - before_s < 5
    assert handler.dropped_count > 0
    dropped_count = handler.dropped_count
    assert os.get_blocking(pipe[1])
    os.read(pipe[0], 1 << 20)
    say(handler, "room again")
    assert os.read(pipe[0], 1 << 20).endswith(
        f"room again lines_dropped={dropped_count}\n".encode()
    )
    assert handler.dropped_count == 0


def test_pipe_that_cannot_be_reopened_does_not_block_either(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch, handler_for: HandlerFor
) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "open", refuse)
    handler = handler_for(pipe[1])
    for _ in range(3000):
        say(handler, "x" * 100)
    assert handler.dropped_count > 0


def test_reader_that_went_away_is_no_error(handler_for: HandlerFor) -> None:
    reading, writing = os.pipe()
    handler = handler_for(writing)
    os.close(reading)
    say(handler, "to nobody")
    os.close(writing)
    assert handler.dropped_count == 1


def test_closed_descriptor_is_no_error(handler_for: HandlerFor) -> None:
    handler = handler_for(987654)
    say(handler, "to nobody")
    assert handler.dropped_count == 1


def test_full_disk_is_no_error(handler_for: HandlerFor) -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    handler = handler_for(fd)
    say(handler, "to nowhere")
    os.close(fd)
    assert handler.dropped_count == 1


def test_file_is_written_where_its_other_users_are(tmp_path: Path, handler_for: HandlerFor) -> None:
    with (tmp_path / "log").open("wb", buffering=0) as file:
        file.write(b"first\n")
        say(handler_for(file.fileno()), "second")
        file.write(b"third\n")
    first, second, third = (tmp_path / "log").read_bytes().splitlines()
    assert (first, third) == (b"first", b"third")
    assert second.endswith(b"second")


def test_full_socket_drops_and_counts(handler_for: HandlerFor) -> None:
    here, there = socket.socketpair()
    with here, there:
        handler = handler_for(here.fileno())
        for _ in range(10000):
            say(handler, "x" * 100)
        assert handler.dropped_count > 0
        assert here.getblocking()


def test_long_line_is_cut_to_what_a_pipe_takes_whole(
    pipe: tuple[int, int], handler_for: HandlerFor
) -> None:
    say(handler_for(pipe[1]), "x" * 10000)
    line = os.read(pipe[0], 1 << 16)
    assert len(line) <= LINE_BYTES_MAX
    assert line.endswith(b"x\n")


def test_verbose_shows_routine_events(pipe: tuple[int, int]) -> None:
    for verbose, expected in ((0, b""), (1, b"routine")):
        log.start(verbose, pipe[1])
        logging.getLogger("memcachepy.test").debug("routine")
        logging.getLogger("memcachepy.test").info("end")
        assert expected in os.read(pipe[0], 4096)
    for handler in logging.getLogger("memcachepy").handlers[:]:
        logging.getLogger("memcachepy").removeHandler(handler)
        handler.close()

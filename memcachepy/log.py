"""Log lines as facts with fields, on a stderr that may be full, stopped or closed.

A line is `<UTC time> <LEVEL> <who>: <event> <field>=<value> ...`, always ASCII, so neither the
locale nor a client's bytes can break it. A line that cannot be written at once is dropped and
counted; the next line that gets through says how many went missing.
"""

import json
import logging
import os
import re
import select
import socket
import stat
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

LINE_BYTES_MAX = select.PIPE_BUF
"""A pipe takes a line of this length whole or not at all."""

_PLAIN = re.compile(r"[!#-<>-~]+", re.ASCII)


def fact(event: str, **fields: object) -> str:
    """`worker exited pid=4121 status=SIGKILL`; a value with spaces, quotes or `=` is quoted."""
    return " ".join([event, *(f"{name}={_text(value)}" for name, value in fields.items())])


def _text(value: object) -> str:
    text = f"{value:.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def start(verbose: int, fd: int = 2, is_quiet: bool = False) -> None:
    """Send this package's log to a descriptor. Call it before privileges are given up.

    Args:
        verbose: 0 for the node's events, 1 or more for routine ones too.
        fd: stays open and is not changed.
        is_quiet: warnings and errors only, if `verbose` is 0.
    """
    log = logging.getLogger("memcachepy")
    for handler in log.handlers[:]:
        log.removeHandler(handler)
        handler.close()
    log.addHandler(NeverWaiting(fd))
    log.setLevel(logging.DEBUG if verbose else logging.WARNING if is_quiet else logging.INFO)
    log.propagate = False


def start_again(fd: int = 2) -> None:
    """In a forked child that has closed every descriptor but the standard ones.

    The numbers of those that the handlers use may be anybody's from now on. Call it before
    anything is opened: what a handler leaves behind closes its number once more.
    """
    log = logging.getLogger("memcachepy")
    log.handlers.clear()
    log.addHandler(NeverWaiting(fd))


def tell(text: str, fd: int = 2) -> None:
    """Write a plain line for a person, without waiting either."""
    with ExitStack() as own, suppress(OSError):
        _writer(fd, own)(text.encode("ascii", "backslashreplace") + b"\n")


class NeverWaiting(logging.Handler):
    """Writes lines to a descriptor and never waits for whoever reads them."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self.setFormatter(_Formatter())
        self.dropped_count = 0
        self._line_is_cut = False
        self._own = ExitStack()
        self._write = _writer(fd, self._own)

    def close(self) -> None:
        self._own.close()
        super().close()

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        if self.dropped_count:
            line += f" lines_dropped={self.dropped_count}"
        data = line.encode("ascii", "backslashreplace").replace(b"\n", b"\\n")
        data = b"\n" * self._line_is_cut + data[: LINE_BYTES_MAX - 2] + b"\n"
        try:
            written = self._write(data)
        except OSError:
            self.dropped_count += 1
        else:
            self.dropped_count = 0
            self._line_is_cut = written < len(data)


class _Formatter(logging.Formatter):
    converter = staticmethod(time.gmtime)
    default_msec_format = "%s.%03dZ"
    default_time_format = "%Y-%m-%dT%H:%M:%S"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(who)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        record.who = record.name.removeprefix("memcachepy.")
        return super().format(record)


def _writer(fd: int, own: ExitStack) -> Callable[[bytes], int]:
    """How to write to this kind of descriptor without waiting; raises OSError if it would."""
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return _refuse
    if stat.S_ISREG(mode):
        return lambda data: os.write(fd, data)
    if stat.S_ISSOCK(mode):
        peer = own.enter_context(socket.socket(fileno=os.dup(fd)))
        return lambda data: peer.send(data, socket.MSG_DONTWAIT)
    # O_NONBLOCK belongs to the open file, which others share: a second one is ours alone.
    with suppress(OSError):
        own_fd = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        own.callback(os.close, own_fd)
        return lambda data: os.write(own_fd, data)
    return lambda data: _write_if_ready(fd, data)


def _refuse(_data: bytes) -> int:
    raise OSError


def _write_if_ready(fd: int, data: bytes) -> int:
    """A pipe that polls writable takes PIPE_BUF bytes; only another writer can come between."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    if not any(events & select.POLLOUT for _, events in poll.poll(0)):
        raise BlockingIOError
    return os.write(fd, data)

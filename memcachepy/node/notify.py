"""Tells whoever started this process how it fares, in the words of sd_notify(3).

systemd (`Type=notify`), podman and others put the address of a datagram socket into NOTIFY_SOCKET.
Each message is one datagram of lines `NAME=value`. Without the variable nothing is said.
"""

import logging
import os
import socket
import time
from collections.abc import Callable, MutableMapping
from typing import Self

from memcachepy.log import fact

log = logging.getLogger("memcachepy.notify")

SOCKET_VARIABLE = "NOTIFY_SOCKET"
WATCHDOG_VARIABLE = "WATCHDOG_USEC"
WATCHDOG_PID_VARIABLE = "WATCHDOG_PID"
_VARIABLES = (SOCKET_VARIABLE, WATCHDOG_VARIABLE, WATCHDOG_PID_VARIABLE)

_PATIENCE_S = 2.0
"""How long a message that must arrive may wait for a receiver whose queue is full."""


class Notifier:
    """The sending side. Every method returns though nobody listens: that is logged once.

    Args:
        address: a path, or `@` and a name for a socket in no file system; None: say nothing.
        watchdog_s: seconds within which `alive` has to be called again and again; 0: it need not.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        address: str | None = None,
        watchdog_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = address
        self._alive_every_s = watchdog_s / 2
        self._alive_at_s = clock()
        self._clock = clock
        self._has_complained = False

    @classmethod
    def taken_from(cls, environ: MutableMapping[str, str]) -> Self:
        """As the environment says, which from now on no longer does: it is not for our children.

        Variables that make no sense count as absent, and are logged.
        """
        found = {name: environ.pop(name, "") for name in _VARIABLES}
        address = found[SOCKET_VARIABLE]
        if address and address[0] not in "/@":
            log.warning(fact("nobody is notified", socket=address, reason="no path and no @name"))
            address = ""
        watchdog_us = 0
        if found[WATCHDOG_PID_VARIABLE] in ("", str(os.getpid())):
            try:
                watchdog_us = int(found[WATCHDOG_VARIABLE] or 0)
            except ValueError:
                log.warning(fact("no watchdog", usec=found[WATCHDOG_VARIABLE]))
        return cls(address or None, max(0, watchdog_us) / 1e6)

    def ready(self, status: str) -> None:
        """It serves. The process that says so is the one to be watched: with -d not the first."""
        self._say(f"READY=1\nMAINPID={os.getpid()}\nSTATUS={_line(status)}", _PATIENCE_S)

    def stopping(self, status: str) -> None:
        self._say(f"STOPPING=1\nSTATUS={_line(status)}", _PATIENCE_S)

    def reloading(self, status: str) -> None:
        """Until the next `ready`."""
        # systemd compares the moment with that of the signal (Type=notify-reload).
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._say(f"RELOADING=1\nMONOTONIC_USEC={now_us}\nSTATUS={_line(status)}", _PATIENCE_S)

    def status(self, status: str) -> None:
        """One line for `systemctl status`; lost if the receiver is busy."""
        self._say(f"STATUS={_line(status)}", 0.0)

    def alive(self) -> None:
        """Call it at least once a second; it feeds the watchdog when half its time has passed."""
        if self._alive_every_s <= 0 or self._clock() < self._alive_at_s:
            return
        self._alive_at_s = self._clock() + self._alive_every_s
        self._say("WATCHDOG=1", 0.0)

    def _say(self, message: str, patience_s: float) -> None:
        if self._address is None:
            return
        name = self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
                sending.settimeout(patience_s)
                sending.connect("\0" + name[1:] if name[0] == "@" else name)
                sending.send(message.encode())
        except (OSError, ValueError) as error:
            if not self._has_complained:
                log.warning(fact("nobody is notified", socket=name, reason=str(error)))
            self._has_complained = True


def _line(text: str) -> str:
    return text.replace("\n", " ")

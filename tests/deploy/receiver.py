"""The end that listens to a notifier."""

import select
import socket


class Receiver:
    """What systemd is to a service: the end that listens."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(30.0)
        self._socket.bind("\0" + name[1:] if name[0] == "@" else name)

    def message(self) -> dict[str, str]:
        """The next one, by the names of its lines."""
        return dict(line.split("=", 1) for line in self._socket.recv(4096).decode().splitlines())

    def is_silent(self) -> bool:
        ready, _, _ = select.select([self._socket], [], [], 0)
        return not ready

    def close(self) -> None:
        self._socket.close()

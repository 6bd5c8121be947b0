"""Items to store, and what a server says of them afterwards."""

import json
import os
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from support.client import RawClient
from support.server import Server

ServerMaker = Callable[..., Server]


@dataclass(frozen=True)
class Item:
    """What a client stores."""

    key: bytes
    value: bytes
    client_flags: int = 0
    ttl_s: int = 0
    """0: never expires."""

    @property
    def is_text(self) -> bool:
        return not any(byte <= 32 or byte == 127 for byte in self.key)

    @property
    def name(self) -> bytes:
        """As meta commands take it."""
        return self.key if self.is_text else b64encode(self.key)

    @property
    def exptime(self) -> int:
        """More than thirty days is a moment."""
        return self.ttl_s if self.ttl_s <= 30 * 24 * 3600 else int(time.time()) + self.ttl_s

    @property
    def base64(self) -> bytes:
        return b"" if self.is_text else b" b"


SAMPLE = (
    Item(b"plain", b"value"),
    Item(b"empty", b""),
    Item(b"flags", b"x", client_flags=4294967295),
    Item(b"line\xc3\xa9nds", b"\r\nEND\r\nflush_all\r\n"),
    Item(b"ttl", b"soon gone", 3, 1000),
    Item(b"far", b"a moment", 0, 90 * 24 * 3600),
    Item(b"%25=key=", bytes(range(256))),
    Item(b"\xff\xfe\x80", b"high bytes"),
    Item(b"k" * 250, b"the longest key"),
    Item(b"with space\r\n\0and more", b"binary key", 9, 500),
    Item(b"\0" * 180, b"long binary key"),
    *(Item(b"size%d" % size, os.urandom(size)) for size in (100, 1000, 10_000, 100_000)),
    Item(b"large", os.urandom(1_000_000), 5, 2000),
)
"""Keys, values and numbers of all kinds, and of many slab classes."""


def store(server: Server, items: Iterable[Item]) -> None:
    with RawClient(server.address) as client:
        for item in items:
            head = b"ms %s %d F%d T%d%s\r\n" % (
                item.name,
                len(item.value),
                item.client_flags,
                item.exptime,
                item.base64,
            )
            client.ask(head + item.value + b"\r\n", b"HD\r\n")


def assert_stored(server: Server, item: Item, ttl_slack_s: int = 30) -> None:
    """The item is there, with its flags and about its time to live."""
    with RawClient(server.address) as client:
        client.send(b"mg %s f t v%s\r\n" % (item.name, item.base64))
        words = client.line().split()
        assert words[:2] == [b"VA", b"%d" % len(item.value)], item.key
        assert client.take(len(item.value) + 2) == item.value + b"\r\n"
    assert words[2] == b"f%d" % item.client_flags
    ttl_s = int(words[3][1:])
    if item.ttl_s == 0:
        assert ttl_s == -1
    else:
        assert item.ttl_s - ttl_slack_s <= ttl_s <= item.ttl_s + 1


def is_stored(server: Server, key: bytes) -> bool:
    with RawClient(server.address) as client:
        client.send(b"get %s\r\n" % key)
        return client.line().startswith(b"VALUE")


def address_of(server: Server) -> str:
    return f"127.0.0.1:{server.port}"


def memcachepy(*arguments: object, **how: Any) -> subprocess.CompletedProcess[str]:
    """Run the command without a terminal."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "memcachepy", *map(str, arguments)],
        **({"stdin": subprocess.DEVNULL} | how),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def json_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done.stdout)
    return found

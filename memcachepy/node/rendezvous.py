"""Where a node's control socket lies, and the form of what is said over it.

A message is a line of JSON, an object with `v`, the version of the protocol. README.md of this
folder lists the operations.
"""

import json
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

VERSION = 1
LINE_BYTES_MAX = 96 << 10
"""Of a configuration's 65,536 bytes in base64, and what stands around them."""
PATH_BYTES_MAX = 107
"""What `sun_path` holds, with a byte for the end; see unix(7)."""


def encode(message: Mapping[str, object]) -> bytes:
    return json.dumps({"v": VERSION, **message}, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """One line, without its end.

    Raises:
        ValueError: it is no message of this version; says why.
    """
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("a message is a line of JSON") from None
    if not isinstance(message, dict):
        raise ValueError("a message is a JSON object")
    if message.get("v") != VERSION:
        raise ValueError(f"version {message.get('v')!r} of the protocol is unknown here: {VERSION}")
    return message


def socket_directories(uid: int, environ: Mapping[str, str]) -> Iterator[Path]:
    """Where nodes of this user have their control sockets, the best place first."""
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/"):
        yield Path(runtime) / "memcachepy"
    yield Path("/run/memcachepy" if uid == 0 else f"/run/memcachepy-{uid}")
    yield Path(f"/tmp/memcachepy-{uid}")  # See is_private().


def socket_name(port: int) -> str:
    return f"{port}.sock"


def is_private(directory: Path, uid: int) -> bool:
    """Whether only this user, or root, can have put into the directory what is there."""
    try:
        found = directory.lstat()
    except OSError:
        return False
    return (
        stat.S_ISDIR(found.st_mode)
        and found.st_uid in (0, uid)
        and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    )

"""Packets of the binary protocol: built for requests, taken apart for replies.

The format: https://docs.memcached.org/protocols/binary/
"""

import struct
from dataclasses import dataclass, replace

HEADER = struct.Struct("!BBHBBHIIQ")
REQUEST = 0x80
REPLY = 0x81

OPCODES = {
    "get": 0x00,
    "set": 0x01,
    "add": 0x02,
    "replace": 0x03,
    "delete": 0x04,
    "incr": 0x05,
    "decr": 0x06,
    "quit": 0x07,
    "flush": 0x08,
    "getq": 0x09,
    "noop": 0x0A,
    "version": 0x0B,
    "getk": 0x0C,
    "getkq": 0x0D,
    "append": 0x0E,
    "prepend": 0x0F,
    "stat": 0x10,
    "setq": 0x11,
    "addq": 0x12,
    "replaceq": 0x13,
    "deleteq": 0x14,
    "incrq": 0x15,
    "decrq": 0x16,
    "quitq": 0x17,
    "flushq": 0x18,
    "appendq": 0x19,
    "prependq": 0x1A,
    "verbosity": 0x1B,
    "touch": 0x1C,
    "gat": 0x1D,
    "gatq": 0x1E,
    "sasl_list": 0x20,
    "sasl_auth": 0x21,
    "sasl_step": 0x22,
    "gatk": 0x23,
    "gatkq": 0x24,
}

NOT_FOUND = 0x01
EXISTS = 0x02
TOO_LARGE = 0x03
INVALID = 0x04
NOT_STORED = 0x05
NOT_A_NUMBER = 0x06
AUTH_ERROR = 0x20
UNKNOWN_COMMAND = 0x81
NO_MEMORY = 0x82
BUSY = 0x85

TEXTS = {
    NOT_FOUND: b"Not found",
    EXISTS: b"Data exists for key.",
    TOO_LARGE: b"Too large.",
    INVALID: b"Invalid arguments",
    NOT_STORED: b"Not stored.",
    NOT_A_NUMBER: b"Non-numeric server-side value for incr or decr",
    AUTH_ERROR: b"Auth failure.",
    UNKNOWN_COMMAND: b"Unknown command",
}

NO_CREATE = 0xFFFFFFFF
"""The expiration with which arithmetic does not create an item."""


def request(
    name: str | int,
    key: bytes = b"",
    *,
    extras: bytes = b"",
    value: bytes = b"",
    opaque: int = 0,
    cas: int = 0,
    magic: int = REQUEST,
    data_type: int = 0,
    vbucket: int = 0,
    key_len: int | None = None,
    extras_len: int | None = None,
    body_len: int | None = None,
) -> bytes:
    """A packet; the lengths are right unless they are given."""
    return (
        HEADER.pack(
            magic,
            OPCODES[name] if isinstance(name, str) else name,
            len(key) if key_len is None else key_len,
            len(extras) if extras_len is None else extras_len,
            data_type,
            vbucket,
            len(extras) + len(key) + len(value) if body_len is None else body_len,
            opaque,
            cas,
        )
        + extras
        + key
        + value
    )


def store(
    name: str,
    key: bytes,
    value: bytes,
    *,
    client_flags: int = 0,
    exptime: int = 0,
    opaque: int = 0,
    cas: int = 0,
) -> bytes:
    """`set`, `add`, `replace` and their quiet forms."""
    extras = struct.pack("!II", client_flags, exptime)
    return request(name, key, extras=extras, value=value, opaque=opaque, cas=cas)


def arith(
    name: str,
    key: bytes,
    delta: int,
    *,
    initial: int = 0,
    exptime: int = NO_CREATE,
    opaque: int = 0,
    cas: int = 0,
) -> bytes:
    """`incr`, `decr` and their quiet forms."""
    extras = struct.pack("!QQI", delta, initial, exptime)
    return request(name, key, extras=extras, opaque=opaque, cas=cas)


def touch(name: str, key: bytes, exptime: int, *, opaque: int = 0) -> bytes:
    """`touch`, `gat` and their other forms."""
    return request(name, key, extras=struct.pack("!I", exptime), opaque=opaque)


_SHOWN_BYTES = 60


@dataclass(frozen=True, repr=False)
class Reply:
    """What came back, or should."""

    name: str
    status: int = 0
    key: bytes = b""
    extras: bytes = b""
    value: bytes = b""
    opaque: int = 0
    cas: int = 0
    magic: int = REPLY
    data_type: int = 0

    def __repr__(self) -> str:
        words = [self.name, f"status={self.status:#x}", f"opaque={self.opaque:#x}"]
        words += [f"cas={self.cas}", f"key={self.key!r}", f"extras={self.extras.hex()}"]
        many = len(self.value) > _SHOWN_BYTES
        words.append(f"value={self.value[:_SHOWN_BYTES]!r}" + f" of {len(self.value)}" * many)
        if (self.magic, self.data_type) != (REPLY, 0):
            words.append(f"magic={self.magic:#x} data_type={self.data_type}")
        return f"<{' '.join(words)}>"

    def relative_to(self, cas: int) -> "Reply":
        """With the cas as the number of stores since then."""
        return replace(self, cas=self.cas - cas) if self.cas else self


def error(name: str, status: int, text: bytes | None = None, *, opaque: int = 0) -> Reply:
    """An error's reply."""
    return Reply(name, status, value=TEXTS[status] if text is None else text, opaque=opaque)


def hit(
    name: str, value: bytes, *, client_flags: int = 0, key: bytes = b"", cas: int, opaque: int = 0
) -> Reply:
    """The reply of any kind of get."""
    extras = struct.pack("!I", client_flags)
    return Reply(name, key=key, extras=extras, value=value, cas=cas, opaque=opaque)


def number(name: str, value: int, *, cas: int, opaque: int = 0) -> Reply:
    """The reply of arithmetic."""
    return Reply(name, value=struct.pack("!Q", value), cas=cas, opaque=opaque)


_NAMES = {number: name for name, number in OPCODES.items()}


def name_of(opcode: int) -> str:
    """As in OPCODES, or the number."""
    return _NAMES.get(opcode, hex(opcode))


def replies(data: bytes) -> tuple[list[Reply], bytes]:
    """All whole packets at the start of `data`, and what is left behind them."""
    found = []
    while len(data) >= HEADER.size:
        magic, opcode, key_len, extras_len, data_type, status, body_len, opaque, cas = (
            HEADER.unpack_from(data)
        )
        end = HEADER.size + body_len
        if len(data) < end:
            break
        key_at = HEADER.size + extras_len
        found.append(
            Reply(
                name_of(opcode),
                status,
                key=data[key_at : key_at + key_len],
                extras=data[HEADER.size : key_at],
                value=data[key_at + key_len : end],
                opaque=opaque,
                cas=cas,
                magic=magic,
                data_type=data_type,
            )
        )
        data = data[end:]
    return found, data

"""Values that say whose they are, and what is wrong with an answer whatever was scribbled over.

A value is a row of blocks of 16 bytes, each of which says whose it is in two ways: one word that
the scribbler changes cannot make it another key's.
"""

import re

BLOCK = re.compile(rb"\[([0-9a-f]{6})~([0-9a-f]{6})\]")
INVERSE = 0xFFFFFF

LENGTHS = (10, 60, 300, 1500, 7000, 40_000, 200_000)
KEY = re.compile(rb"(?:key|sum)(\d+)")


class Wrong(AssertionError):
    """An answer that no scribbling excuses."""


def key_of(number: int) -> bytes:
    return b"key%d" % number


def counter_of(number: int) -> bytes:
    """The key of a number, which is added to."""
    return b"sum%d" % number


def number_of(key: bytes) -> int:
    match = KEY.fullmatch(key)
    if not match:
        raise Wrong(f"an answer is about the key {key[:80]!r}, which nothing has stored")
    return int(match[1])


def value_of(number: int, length: int) -> bytes:
    block = b"[%06x~%06x]." % (number, number ^ INVERSE)
    return (block * (length // 16 + 1))[:length]


def strangers_in(value: bytes, number: int) -> set[int]:
    """Other keys whose blocks stand in the value."""
    found = {(int(a, 16), int(b, 16)) for a, b in BLOCK.findall(value)}
    return {a for a, b in found if b == a ^ INVERSE and a != number}


def check_value(number: int, value: bytes) -> None:
    """Raises:
    Wrong: it has a part of another key's value.
    """
    if strangers := strangers_in(value, number):
        raise Wrong(f"key{number} has {len(value)} bytes, some of keys {sorted(strangers)[:5]}")

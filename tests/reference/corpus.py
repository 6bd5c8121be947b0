"""Requests for the comparison: malformed ones written by hand, and streams from a grammar."""

import random
import re
from collections.abc import Iterable, Iterator

STORAGE = (b"set", b"add", b"replace", b"append", b"prepend", b"cas")
LONG_KEY = b"k" * 251
LONGEST_KEY = b"k" * 250

# In the name of a case, of each request.
NAME_LEN = 60

NUMBERS_BAD = (b"x", b"-", b"", b"1x", b"0x10", b"1.5", b"1e3", b"--1", b"1-", b"\xff", b"\xb2")
NUMBERS_EDGE = (
    b"0",
    b"00",
    b"01",
    b"-0",
    b"-1",
    b"2147483647",
    b"2147483648",
    b"4294967295",
    b"4294967296",
    b"9223372036854775807",
    b"9223372036854775808",
    b"18446744073709551615",
    b"18446744073709551616",
    b"99999999999999999999999",
)

# Of the malformed cases only the first ask for cas tokens: an excused difference may take one. In
# the streams everything does, and no mutation there lets one side store and the other not.

# The data behind a line that may be refused: if it is read as commands, it is one unknown command.
DATA = b"zz"


def malformed() -> Iterator[list[bytes]]:
    """Cases that start on whatever the cases before them left, all in keys of their own."""
    yield from _retrieval()
    yield from _lines()
    yield from _storage()
    yield from _others()
    yield from _data_blocks()


def named(cases: Iterable[list[bytes]]) -> dict[str, list[bytes]]:
    """The cases by what they send, shortened; the second of the same look is numbered."""
    found: dict[str, list[bytes]] = {}
    for requests in cases:
        text = " | ".join(_shown(request) for request in requests)
        name, count = text, 1
        while name in found:
            count += 1
            name = f"{text} ({count})"
        found[name] = requests
    return found


def _shown(request: bytes) -> str:
    text = repr(request.removesuffix(b"\r\n"))[2:-1]
    text = re.sub(r"(.+?)\1{9,}", lambda run: f"{run[1]}*{len(run[0]) // len(run[1])}", text)
    return text if len(text) <= NAME_LEN else f"{text[:NAME_LEN]}…"


def _lines() -> Iterator[list[bytes]]:
    for end in (b"\r\n", b"\n"):
        for text in (
            b"",
            b"x",
            b"xy",
            b"\r",
            b"\r\r",
            b"bogus",
            b"bogus noreply",
            b"bogus a noreply",
            b"noreply",
            b"GET a",
            b"Get a",
            b"gett a",
            b"ge a",
            b"get\ta",
            b"version\t",
            b"version\r",
            b"\tversion",
            b"\x80",
            b"\xff\xfe\xfd",
            b"a" * 100,
            b"a " * 100,
            b"set" + b" " * 500,
            b"verbosity",
            b"   ",
            b" x",
            b"  bogus",
            b"get",
            b"get ",
            b"get    ",
            b"{}",
            b"%s%n%s",
            b"../../etc/passwd",
            b"get ../../etc/passwd",
            b"EHLO localhost",
            b"PING",
            b"*1",
            b"$4",
            b"version version",
            b"quit1",
            b"statss",
        ):
            if text and text[0] == 0x80:
                continue  # The first byte of the binary protocol, which we do not speak.
            yield [text + end]


def _storage() -> Iterator[list[bytes]]:
    good = {b"flags": b"0", b"exptime": b"0", b"length": b"2", b"cas": b"1"}
    for command in STORAGE:
        names = [b"flags", b"exptime", b"length"] + ([b"cas"] if command == b"cas" else [])
        for present in range(len(names) + 1):
            words = [command, b"few"][: present + 1] + [b"0"] * max(0, present - 1)
            if present == 4:
                # cas without its token: a value of no bytes is swallowed.
                yield [b" ".join(words) + b"\r\n\r\n"]
                continue
            yield [b" ".join(words) + b"\r\n"]
            yield (
                [b" ".join(words) + b" noreply\r\n"] if present < 2 else [b" ".join(words) + b"\n"]
            )
        for name in names:
            for bad in (*NUMBERS_BAD, *NUMBERS_EDGE):
                if not bad and name != names[-1]:
                    continue  # The words behind it would move up.
                if name == b"length" and (not bad.isdigit() or int(bad) != 2):
                    fields = {**good, name: bad}
                    if _may_be_read_as_a_length(bad):
                        continue  # A value would be waited for.
                    yield [
                        _storage_line(
                            command, b"-".join((command, name, bad.hex().encode())), fields, names
                        )
                    ]
                    continue
                fields = {**good, name: bad}
                yield [
                    _storage_line(
                        command, b"-".join((command, name, bad.hex().encode())), fields, names
                    )
                    + DATA
                    + b"\r\n"
                ]
        yield [_storage_line(command, LONG_KEY, good, names) + DATA + b"\r\n"]
        yield [_storage_line(command, b"k" * 300, good, names) + DATA + b"\r\n"]
        yield [_storage_line(command, LONGEST_KEY[1:] + b"s", good, names) + DATA + b"\r\n"]
        for key in (b"a\tb", b"a\rb", b"\x01", b"\x7f", b"\xc3\xa9", b"noreply", b"0", b"-1", b"*"):
            yield [
                _storage_line(command, key, good, names) + DATA + b"\r\n",
                b"get " + key + b"\r\n",
            ]
        for tail in (b" ", b"   ", b" bogus", b" noreplyx", b" NOREPLY", b" 0", b" \t", b" \r"):
            line = _storage_line(command, b"tail", good, names)[:-2] + tail + b"\r\n"
            yield [line + DATA + b"\r\n", b"get tail\r\n"]


def _may_be_read_as_a_length(text: bytes) -> bool:
    """Whether 1.6.18, which knows signs and cuts to 32 bits, could take it for a small length."""
    if text == b"-0":
        return True
    return text.isdigit() and int(text) != 2 and (int(text) & 0xFFFFFFFF) < (1 << 31) - 2


def _storage_line(
    command: bytes, key: bytes, fields: dict[bytes, bytes], names: list[bytes]
) -> bytes:
    return b" ".join([command, key, *(fields[name] for name in names)]) + b"\r\n"


def _retrieval() -> Iterator[list[bytes]]:
    yield [b"set have 1 0 2\r\nhi\r\n"]
    for command in (b"get", b"gets"):
        yield [command + b"\r\n"]
        yield [command + b"  \r\n"]
        yield [command + b" " + LONG_KEY + b"\r\n"]
        yield [command + b" " + LONGEST_KEY + b"\r\n"]
        yield [command + b" have " + LONG_KEY + b"\r\n"]
        yield [command + b" " + LONG_KEY + b" have\r\n"]
        yield [command + b" have have none have noreply\r\n"]
        yield [command + b" have" * 30 + b"\r\n"]
        yield [command + b" have" * 24 + b" " + LONG_KEY + b"\r\n"]
        yield [command + b"   have   none   \r\n"]
        yield [command + b" have\r\r\n"]
        yield [command + b" have HTTP/1.1\r\n"]
        yield [command + b" none" * 3000 + b" have\r\n"]
    for command in (b"gat", b"gats"):
        yield [command + b"\r\n"]
        yield [command + b" 0\r\n"]
        yield [command + b" have\r\n"]
        yield [command + b" 0 " + LONG_KEY + b"\r\n"]
        yield [command + b" 0 have " + LONG_KEY + b"\r\n"]
        yield [command + b" 0 have" + b" none have" * 20 + b"\r\n"]
        yield [command + b"  0   have  \r\n"]
        for bad in NUMBERS_BAD:
            if bad:
                yield [command + b" " + bad + b" have\r\n"]
        for edge in NUMBERS_EDGE:
            yield [command + b" " + edge + b" none\r\n"]


def _others() -> Iterator[list[bytes]]:
    for command in (b"incr", b"decr"):
        yield [command + b"\r\n"]
        yield [command + b" n\r\n"]
        yield [command + b" n 1 2\r\n"]
        yield [command + b" " + LONG_KEY + b" 1\r\n"]
        yield [command + b" " + LONG_KEY + b" 1 noreply\r\n"]
        for number in (*NUMBERS_BAD, *NUMBERS_EDGE):
            if number:
                yield [command + b" none " + number + b"\r\n"]
                yield [b"set n 0 0 2\r\n10\r\n", command + b" n " + number + b"\r\n", b"get n\r\n"]
                yield [command + b" none " + number + b" noreply\r\n"]
        for value in (
            b"",
            b"5",
            b" 5",
            b"5 ",
            b"\t5",
            b"\n5",
            b"5\r\n",
            b"5x",
            b"x5",
            b"+5",
            b"-5",
            b"0005",
            b"0x5",
            b"5.0",
            b"5\0",
            b"5 6",
            b"5\x0b6",
            b"18446744073709551615",
            b"18446744073709551616",
            b"99999999999999999999",
            b"000000000000000000000000000001",
            b"1" * 22,
            b"1" * 100,
            b"1" + b" " * 50,
            b" " * 20 + b"1",
        ):
            store = b"set n 0 0 %d\r\n%s\r\n" % (len(value), value)
            yield [store, command + b" n 1\r\n", b"get n\r\n"]
            yield [store, command + b" n 18446744073709551615\r\n", b"get n\r\n"]
    for tail in (b"", b" " + LONG_KEY, b" none", b" none 0", b" none  0 ", b" none noreply"):
        yield [b"delete" + tail + b"\r\n"]
    yield [b"delete none 5\r\n"]
    yield [b"delete none 0 0\r\n"]
    yield [b"delete none x\r\n"]
    yield [b"delete none 0 noreply\r\n"]
    yield [b"delete " + LONG_KEY + b" noreply\r\n"]
    yield [b"touch\r\n"]
    yield [b"touch none\r\n"]
    yield [b"touch " + LONG_KEY + b" 0\r\n"]
    yield [b"touch none 0 0\r\n"]
    for number in (*NUMBERS_BAD, *NUMBERS_EDGE):
        if number:
            yield [b"touch none " + number + b"\r\n"]
            yield [b"touch none " + number + b" noreply\r\n"]
    for tail in (b"", b" 0", b" -1", b" -0", b" 00", b" x", b" 1x", b" noreply", b" 0 noreply"):
        yield [b"set f 0 0 1\r\n1\r\n", b"flush_all" + tail + b"\r\n", b"get f\r\n"]
    for tail in (b" x noreply", b" 0 0", b" -1 noreply"):
        yield [b"set f 0 0 1\r\n1\r\n", b"flush_all" + tail + b"\r\n", b"get f\r\n"]
    for tail in (
        b"",
        b" x",
        b" -1",
        b" 1x",
        b" 0",
        b" 1",
        b" 0 noreply",
        b" x noreply",
        b" noreply",
    ):
        yield [b"verbosity" + tail + b"\r\n"]
    yield [b"verbosity 0\r\n"]
    for tail in (b"", b" a", b" noreply", b" 1 2 3", b" "):
        yield [b"version" + tail + b"\r\n"]
    for tail in (b" foo", b" foo noreply", b" noreply", b" reset", b" 0", b" RESET"):
        yield [b"stats" + tail + b"\r\n"]
    for tail in (b"", b" graceful", b" x"):
        yield [b"shutdown" + tail + b"\r\n"]
    for tail in (b"", b" now", b" noreply"):
        yield [b"version\r\n", b"quit" + tail + b"\r\n"]
    for tail in (b"", b" x", b" 7", b" 7 noreply", b" noreply", b" -1", b" 1000000001"):
        yield [b"cache_memlimit" + tail + b"\r\n"]
    for tail in (b" 64", b" 64 noreply", b" 64 x", b" 64 a b", b" 64 a noreply"):
        yield [b"cache_memlimit" + tail + b"\r\n"]
    for line in (b"slabs", b"lru", b"lru_crawler", b"slabs x", b"watch x"):
        yield [line + b"\r\n"]
    for line in (
        b"mn",
        b"mg none v",
        b"md none",
        b"misbehave",
        b"config get cluster",
        b"debugtime p",
    ):
        yield [line + b"\r\n"]


def _data_blocks() -> Iterator[list[bytes]]:
    for command in STORAGE:
        cas = b" 1" if command == b"cas" else b""
        head = command + b" block 0 0 5" + cas
        for data in (
            b"12345\r\n",
            b"12345\n",
            b"12345\r\r\n",
            b"123456\r\n",
            b"1234567\r\n",
            b"12345zzzz\r\n",
            b"123\r\n\r\n",
            b"1234\r\n\n",
            b"\r\n\r\n\r\r\n",
            b"\0\0\0\0\0\r\n",
            b"12345  \r\n",
            b"12345\n\r\n",
        ):
            for noreply in (b"", b" noreply"):
                yield [
                    b"set block 0 0 3\r\nold\r\n",
                    head + noreply + b"\r\n" + data,
                    b"get block\r\n",
                ]
        for size in (1_048_517, 1_100_000):
            line = command + b" block 0 0 %d" % size + cas
            yield [
                b"set block 0 0 3\r\nold\r\n",
                line + b"\r\n" + b"x" * size + b"\r\n",
                line + b" noreply\r\n" + b"x" * size + b"\r\n",
                b"get block\r\n",
            ]


KEYS = (b"a", b"b", b"c", b"key:1", b"key:2", b"n", LONGEST_KEY, b"\x01\xff")
# None of white space alone: memcached looks for a number behind such a value.
VALUES = (b"", b"1", b"99", b"10", b"zz", b"hello", b"\r\n0", b"x" * 100, b"x" * 5000)
# What is counted keeps short values: beyond a kibibyte no value of ours is a number.
NUMBER_KEYS = (b"n", b"n", b"key:1")
NUMBER_VALUES = (b"", b"1", b"99", b"10", b"zz", b"100 ", b"18446744073709551615", b" 7")
DELTAS = (b"0", b"1", b"7", b"100", b"18446744073709551615", b"9999999999")
EXPTIMES = (b"0", b"1000", b"-1", b"0", b"100000")


def stream(rng: random.Random, length: int) -> list[bytes]:
    """Well-formed requests, some of them slightly wrong, over few keys."""
    requests = [_request(rng) for _ in range(length)]
    return [_mutated(rng, request) if rng.random() < 0.15 else request for request in requests]


def _request(rng: random.Random) -> bytes:
    key = rng.choice(KEYS)
    noreply = b" noreply" if rng.random() < 0.15 else b""
    kind = rng.choices(
        ("storage", "get", "gat", "delete", "arith", "touch", "flush", "other"),
        (40, 22, 6, 6, 14, 6, 3, 3),
    )[0]
    if kind == "storage":
        return _storage_request(rng, key, noreply)
    if kind == "get":
        keys = b" ".join(rng.choice(KEYS) for _ in range(rng.choice((1, 1, 1, 2, 3, 30))))
        return rng.choice((b"get ", b"gets ")) + keys + b"\r\n"
    if kind == "gat":
        keys = b" ".join(rng.choice(KEYS) for _ in range(rng.choice((1, 1, 2))))
        return rng.choice((b"gat ", b"gats ")) + rng.choice(EXPTIMES) + b" " + keys + b"\r\n"
    if kind == "delete":
        return b"delete " + key + noreply + b"\r\n"
    if kind == "arith":
        word = rng.choice((b"incr ", b"decr "))
        return word + rng.choice(NUMBER_KEYS) + b" " + rng.choice(DELTAS) + noreply + b"\r\n"
    if kind == "touch":
        return b"touch " + key + b" " + rng.choice(EXPTIMES) + noreply + b"\r\n"
    if kind == "flush":
        return b"flush_all" + noreply + b"\r\n"
    return rng.choice(
        (b"version\r\n", b"bogus\r\n", b"verbosity 0\r\n", b"verbosity 0 noreply\r\n")
    )


def _storage_request(rng: random.Random, key: bytes, noreply: bytes) -> bytes:
    command = rng.choice((b"set", *STORAGE))
    value = rng.choice((*VALUES, b"y" * rng.randrange(30000), b"%d" % rng.randrange(1000)))
    if key in NUMBER_KEYS:
        value = rng.choice(NUMBER_VALUES)
    elif rng.random() < 0.02:
        value = b"L" * rng.randrange(600_000)
    flags = rng.choice((b"0", b"0", b"5", b"4294967295"))
    exptime = rng.choice(EXPTIMES)
    cas = b" %d" % rng.randrange(40) if command == b"cas" else b""
    head = b"%s %s %s %s %d%s%s\r\n" % (command, key, flags, exptime, len(value), cas, noreply)
    return head + value + b"\r\n"


def _mutated(rng: random.Random, request: bytes) -> bytes:
    """One change in the line, none in a value that could then be read as commands.

    The length field is left alone: with another one both sides would agree to read the next
    requests as a value, and the rest of the stream would prove nothing.
    """
    line, end, data = request.partition(b"\r\n")
    words = line.split(b" ")
    storage = words[0] in STORAGE
    if storage:
        if words[-1] == b"noreply" or len(data) > 200:
            return request
        data = DATA + b"\r\n"
        words[4] = b"2"
    editable = [i for i in range(1, len(words)) if not (storage and i == 4)]
    if not editable:
        return b"bogus\r\n"
    at = rng.choice(editable)
    choice = rng.randrange(4)
    if choice == 0:
        words[at] = rng.choice((b"x", b"-1", b"1x", b"+", b"--"))
    elif choice == 1 and storage:
        words[1] = LONG_KEY
    elif choice == 2 and len(words[at]) < len(LONGEST_KEY):
        # (An over-long key in a get makes 1.6.18 drop the replies to earlier requests.)
        words[at] = words[at] + rng.choice((b"\x7f", b"\xff", b"'"))
    else:
        words.insert(at, b"")
    if words[0] == b"flush_all" or (words[0] == b"delete" and at > 1):
        return request
    return b" ".join(words) + end + data

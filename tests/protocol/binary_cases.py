"""What the binary protocol answers, as cases: a sentence, requests, and the replies to them.

Of every case `k` is what its keys begin with and `c` the cas that the last store before it was
given: the cases' own stores are c + 1, c + 2, … whoever plays them.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass

from support.binary import (
    EXISTS,
    INVALID,
    NO_CREATE,
    NOT_A_NUMBER,
    NOT_FOUND,
    NOT_STORED,
    TOO_LARGE,
    UNKNOWN_COMMAND,
    Reply,
    arith,
    error,
    hit,
    name_of,
    number,
    request,
    store,
    touch,
)

Exchange = tuple[bytes, list[Reply]]
NOOP: Exchange = (request("noop", opaque=0xDEADBEEF), [Reply("noop", opaque=0xDEADBEEF)])
MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Case:
    name: str
    play: Callable[[bytes, int], list[Exchange]]
    closes: bool = False
    """Behind the last reply."""
    ours_only: str = ""
    """Why memcached is not asked."""


CASES: list[Case] = []


def case(
    *, closes: bool = False, ours_only: str = ""
) -> Callable[[Callable[[bytes, int], list[Exchange]]], None]:
    def add(play: Callable[[bytes, int], list[Exchange]]) -> None:
        CASES.append(Case(play.__name__, play, closes, ours_only))

    return add


def big(size: int) -> bytes:
    return (b"0123456789abcdef" * (size // 16 + 1))[:size]


@case()
def every_get_answers_a_hit_in_its_own_form(k: bytes, c: int) -> list[Exchange]:
    value = {"value": b"hello", "client_flags": 0xDEADBEEF}
    return [
        (store("set", k, b"hello", client_flags=0xDEADBEEF), [Reply("set", cas=c + 1)]),
        (request("get", k, opaque=1), [hit("get", **value, cas=c + 1, opaque=1)]),
        (request("getq", k, opaque=2), [hit("getq", **value, cas=c + 1, opaque=2)]),
        (request("getk", k, opaque=3), [hit("getk", **value, key=k, cas=c + 1, opaque=3)]),
        (request("getkq", k, opaque=4), [hit("getkq", **value, key=k, cas=c + 1, opaque=4)]),
        (touch("gat", k, 100, opaque=5), [hit("gat", **value, cas=c + 1, opaque=5)]),
        (touch("gatq", k, 100, opaque=6), [hit("gatq", **value, cas=c + 1, opaque=6)]),
        (touch("gatk", k, 100, opaque=7), [hit("gatk", **value, key=k, cas=c + 1, opaque=7)]),
        (touch("gatkq", k, 100, opaque=8), [hit("gatkq", **value, key=k, cas=c + 1, opaque=8)]),
        NOOP,
    ]


@case()
def quiet_gets_do_not_tell_of_a_miss(k: bytes, _c: int) -> list[Exchange]:
    return [
        (request("get", k, opaque=1), [error("get", NOT_FOUND, opaque=1)]),
        (request("getq", k), []),
        (request("getk", k, opaque=2), [Reply("getk", NOT_FOUND, key=k, opaque=2)]),
        (request("getkq", k), []),
        (touch("gat", k, 0), [error("gat", NOT_FOUND)]),
        (touch("gatq", k, 0), []),
        (touch("gatk", k, 0), [Reply("gatk", NOT_FOUND, key=k)]),
        (touch("gatkq", k, 0), []),
        (touch("touch", k, 0), [error("touch", NOT_FOUND)]),
        NOOP,
    ]


@case()
def a_multi_get_is_quiet_gets_and_a_noop(k: bytes, c: int) -> list[Exchange]:
    return [
        *((store("setq", k + b"%d" % i, b"v%d" % i, client_flags=i), []) for i in range(0, 200, 2)),
        *(
            (
                request("getkq", k + b"%d" % i, opaque=i),
                [
                    hit(
                        "getkq",
                        b"v%d" % i,
                        client_flags=i,
                        key=k + b"%d" % i,
                        cas=c + 1 + i // 2,
                        opaque=i,
                    )
                ]
                if i % 2 == 0
                else [],
            )
            for i in range(200)
        ),
        NOOP,
    ]


@case()
def touch_answers_with_flags_and_cas(k: bytes, c: int) -> list[Exchange]:
    return [
        (store("set", k, b"v", client_flags=9), [Reply("set", cas=c + 1)]),
        (
            touch("touch", k, 100, opaque=3),
            [Reply("touch", extras=struct.pack("!I", 9), cas=c + 1, opaque=3)],
        ),
        (store("set", k, big(600_000), client_flags=8), [Reply("set", cas=c + 2)]),
        (touch("touch", k, 100), [Reply("touch", extras=struct.pack("!I", 8), cas=c + 2)]),
    ]


@case()
def an_exptime_in_the_past_expires_at_once(k: bytes, c: int) -> list[Exchange]:
    past = 30 * 86400 + 1
    return [
        (store("set", k, b"v", exptime=past), [Reply("set", cas=c + 1)]),
        (request("get", k), [error("get", NOT_FOUND)]),
        (store("set", k, b"v"), [Reply("set", cas=c + 2)]),
        (touch("gat", k, past), [hit("gat", b"v", cas=c + 2)]),
        (touch("gat", k, 0), [error("gat", NOT_FOUND)]),
        (store("set", k, b"v", exptime=0xFFFFFFFF), [Reply("set", cas=c + 3)]),
        (request("get", k), [hit("get", b"v", cas=c + 3)]),
    ]


@case()
def quiet_stores_tell_only_of_failures(k: bytes, c: int) -> list[Exchange]:
    return [
        (store("addq", k, b"1"), []),
        (store("addq", k, b"2", opaque=1), [error("addq", EXISTS, opaque=1)]),
        (store("setq", k, b"3"), []),
        (store("replaceq", k, b"4"), []),
        (store("replaceq", k + b"x", b"4"), [error("replaceq", NOT_FOUND)]),
        (request("appendq", k, value=b"5"), []),
        (request("appendq", k + b"x", value=b"5"), [error("appendq", NOT_STORED)]),
        (request("prependq", k, value=b"0"), []),
        (request("prependq", k + b"x", value=b"5"), [error("prependq", NOT_STORED)]),
        (request("get", k), [hit("get", b"045", cas=c + 5)]),
        (request("deleteq", k), []),
        (request("deleteq", k), [error("deleteq", NOT_FOUND)]),
        (arith("incrq", k, 1), [error("incrq", NOT_FOUND)]),
        (arith("incrq", k, 1, initial=7, exptime=0), []),
        (arith("decrq", k, 2), []),
        (request("get", k), [hit("get", b"5", cas=c + 7)]),
        NOOP,
    ]


@case()
def stores_answer_with_the_new_cas(k: bytes, c: int) -> list[Exchange]:
    return [
        (store("replace", k, b"v"), [error("replace", NOT_FOUND)]),
        (request("append", k, value=b"v"), [error("append", NOT_STORED)]),
        (request("prepend", k, value=b"v"), [error("prepend", NOT_STORED)]),
        (store("add", k, b"b", client_flags=4), [Reply("add", cas=c + 1)]),
        (store("add", k, b"v"), [error("add", EXISTS)]),
        (request("append", k, value=b"c"), [Reply("append", cas=c + 2)]),
        (request("prepend", k, value=b"a"), [Reply("prepend", cas=c + 3)]),
        (request("get", k), [hit("get", b"abc", client_flags=4, cas=c + 3)]),
        (store("replace", k, b"v"), [Reply("replace", cas=c + 4)]),
        (request("get", k), [hit("get", b"v", cas=c + 4)]),
    ]


@case()
def a_cas_is_a_condition_of_every_store(k: bytes, c: int) -> list[Exchange]:
    wrong = c + 1_000_000
    return [
        (store("set", k, b"v", cas=wrong), [error("set", NOT_FOUND)]),
        (store("add", k, b"v", cas=wrong), [error("add", NOT_FOUND)]),
        (store("replace", k, b"v", cas=wrong), [error("replace", NOT_FOUND)]),
        (request("append", k, value=b"v", cas=wrong), [error("append", NOT_STORED)]),
        (store("set", k, b"b"), [Reply("set", cas=c + 1)]),
        (store("set", k, b"v", cas=wrong), [error("set", EXISTS)]),
        (store("setq", k, b"v", cas=wrong), [error("setq", EXISTS)]),
        (store("add", k, b"v", cas=wrong), [error("add", EXISTS)]),
        (store("replace", k, b"v", cas=wrong), [error("replace", EXISTS)]),
        (request("append", k, value=b"v", cas=wrong), [error("append", EXISTS)]),
        (request("prependq", k, value=b"v", cas=wrong), [error("prependq", EXISTS)]),
        (request("append", k, value=b"c", cas=c + 1), [Reply("append", cas=c + 2)]),
        (request("prepend", k, value=b"a", cas=c + 2), [Reply("prepend", cas=c + 3)]),
        (request("get", k), [hit("get", b"abc", cas=c + 3)]),
        (store("set", k, b"d", cas=c + 3), [Reply("set", cas=c + 4)]),
        (store("replace", k, b"e", cas=c + 4), [Reply("replace", cas=c + 5)]),
        (store("add", k, b"f", cas=c + 5), [Reply("add", cas=c + 6)]),
        (request("get", k), [hit("get", b"f", cas=c + 6)]),
    ]


@case()
def a_cas_is_a_condition_of_large_stores_too(k: bytes, c: int) -> list[Exchange]:
    value = big(300_000)
    return [
        (store("set", k, value), [Reply("set", cas=c + 1)]),
        (store("set", k, value, cas=c), [error("set", EXISTS)]),
        (request("append", k, value=value, cas=c), [error("append", EXISTS)]),
        (request("append", k, value=b"x", cas=c), [error("append", EXISTS)]),
        (request("append", k, value=b"x", cas=c + 1), [Reply("append", cas=c + 2)]),
        (request("prepend", k, value=value, cas=c + 2), [Reply("prepend", cas=c + 3)]),
        (request("get", k), [hit("get", value + value + b"x", cas=c + 3)]),
        (store("set", k, b"small", cas=c + 3), [Reply("set", cas=c + 4)]),
        (request("prepend", k, value=value, cas=c + 3), [error("prepend", EXISTS)]),
    ]


@case()
def a_cas_is_a_condition_of_delete(k: bytes, c: int) -> list[Exchange]:
    return [
        (request("delete", k, cas=c + 1), [error("delete", NOT_FOUND)]),
        (store("set", k, b"v"), [Reply("set", cas=c + 1)]),
        (request("delete", k, cas=c), [error("delete", EXISTS)]),
        (request("deleteq", k, cas=c), [error("deleteq", EXISTS)]),
        (request("get", k), [hit("get", b"v", cas=c + 1)]),
        (request("delete", k, cas=c + 1, opaque=5), [Reply("delete", opaque=5)]),
        (request("get", k), [error("get", NOT_FOUND)]),
    ]


@case()
def arithmetic_creates_unless_told_not_to(k: bytes, c: int) -> list[Exchange]:
    return [
        (arith("incr", k, 5, initial=10), [error("incr", NOT_FOUND)]),
        (arith("decr", k, 5, initial=10, exptime=NO_CREATE), [error("decr", NOT_FOUND)]),
        (arith("incr", k, 5, initial=10, exptime=0), [number("incr", 10, cas=c + 1)]),
        (arith("incr", k, 5, initial=10, exptime=0), [number("incr", 15, cas=c + 2)]),
        (arith("decr", k, 100), [number("decr", 0, cas=c + 3)]),
        (request("get", k), [hit("get", b"0 ", cas=c + 3)]),
        (
            arith("decr", k + b"d", 5, initial=2**64 - 1, exptime=100),
            [number("decr", 2**64 - 1, cas=c + 4)],
        ),
        (arith("incr", k + b"d", 2), [number("incr", 1, cas=c + 5)]),
        (
            arith("incr", k + b"e", 1, initial=3, exptime=30 * 86400 + 1),
            [number("incr", 3, cas=c + 6)],
        ),
        (request("get", k + b"e"), [error("get", NOT_FOUND)]),
    ]


@case()
def arithmetic_has_conditions_and_wants_numbers(k: bytes, c: int) -> list[Exchange]:
    return [
        (arith("incr", k, 1, cas=c + 9), [error("incr", NOT_FOUND)]),
        (arith("incr", k, 1, initial=4, exptime=0, cas=c + 9), [number("incr", 4, cas=c + 1)]),
        (arith("incr", k, 1, cas=c), [error("incr", EXISTS)]),
        (arith("decrq", k, 1, cas=c), [error("decrq", EXISTS)]),
        (arith("incr", k, 1, cas=c + 1), [number("incr", 5, cas=c + 2)]),
        (store("set", k, b"abc"), [Reply("set", cas=c + 3)]),
        (arith("incr", k, 1), [error("incr", NOT_A_NUMBER)]),
        (arith("incrq", k, 1), [error("incrq", NOT_A_NUMBER)]),
        (arith("decr", k, 1, initial=1, exptime=0), [error("decr", NOT_A_NUMBER)]),
        (store("set", k, b"12345", client_flags=7), [Reply("set", cas=c + 4)]),
        (arith("decr", k, 12344), [number("decr", 1, cas=c + 5)]),
        (request("get", k), [hit("get", b"1    ", client_flags=7, cas=c + 5)]),
    ]


@case()
def values_of_any_length_and_content(k: bytes, c: int) -> list[Exchange]:
    exchanges: list[Exchange] = []
    sizes = [0, 1, 2, 23, 24, 4000, 16_000, 32_700, 33_000, 70_000, 500_000, 1_048_000]
    for i, size in enumerate(sizes):
        value = (bytes(range(256)) + b"\r\n")[i:] + big(size)
        value = value[:size]
        exchanges += [
            (store("set", k, value), [Reply("set", cas=c + 1 + i)]),
            (request("getk", k), [hit("getk", value, key=k, cas=c + 1 + i)]),
        ]
    return [*exchanges, NOOP]


@case()
def keys_are_any_bytes_up_to_250(k: bytes, c: int) -> list[Exchange]:
    odd = k + b" \0\r\n\xff"
    long = k + b"l" * (250 - len(k))
    return [
        (store("set", odd, b"1"), [Reply("set", cas=c + 1)]),
        (request("getk", odd), [hit("getk", b"1", key=odd, cas=c + 1)]),
        (request("delete", odd), [Reply("delete")]),
        (store("set", long, b"2"), [Reply("set", cas=c + 2)]),
        (request("getk", long), [hit("getk", b"2", key=long, cas=c + 2)]),
    ]


@case()
def a_value_that_is_too_large_is_refused_and_passed_over(k: bytes, c: int) -> list[Exchange]:
    value = big(33 * MEBIBYTE)
    return [
        (store("set", k, b"old"), [Reply("set", cas=c + 1)]),
        (store("add", k, value), [error("add", TOO_LARGE)]),
        (request("append", k, value=value), [error("append", TOO_LARGE)]),
        (request("get", k), [hit("get", b"old", cas=c + 1)]),
        (store("setq", k, value, opaque=6), [error("setq", TOO_LARGE, opaque=6)]),
        (request("get", k), [error("get", NOT_FOUND)]),
        NOOP,
    ]


@case()
def an_append_to_more_than_fits_is_not_stored(k: bytes, c: int) -> list[Exchange]:
    value = big(20 * MEBIBYTE)
    return [
        (store("set", k, value), [Reply("set", cas=c + 1)]),
        (request("append", k, value=value), [error("append", NOT_STORED)]),
        (request("prependq", k, value=value), [error("prependq", NOT_STORED)]),
        (touch("touch", k, 0), [Reply("touch", extras=bytes(4), cas=c + 1)]),
        (request("deleteq", k), []),
        NOOP,
    ]


@case()
def data_type_and_vbucket_are_not_looked_at(k: bytes, c: int) -> list[Exchange]:
    extras = bytes(8)
    return [
        (
            request("set", k, extras=extras, value=b"v", data_type=5, vbucket=7),
            [Reply("set", cas=c + 1)],
        ),
        (request("get", k, data_type=1, vbucket=0xFFFF), [hit("get", b"v", cas=c + 1)]),
    ]


@case(closes=True)
def quit_answers_and_closes(_k: bytes, _c: int) -> list[Exchange]:
    return [(request("quit", opaque=77), [Reply("quit", opaque=77)]), (NOOP[0], [])]


@case(closes=True)
def quiet_quit_closes(k: bytes, c: int) -> list[Exchange]:
    return [(store("set", k, b"v"), [Reply("set", cas=c + 1)]), NOOP, (request("quitq"), [])]


@case()
def without_sasl_its_commands_are_unknown(_k: bytes, _c: int) -> list[Exchange]:
    return [
        (request("sasl_list"), [error("sasl_list", UNKNOWN_COMMAND)]),
        (
            request("sasl_auth", b"PLAIN", value=b"\0user\0secret"),
            [error("sasl_auth", UNKNOWN_COMMAND)],
        ),
        (request("sasl_step", b"PLAIN", value=big(5000)), [error("sasl_step", UNKNOWN_COMMAND)]),
        NOOP,
    ]


@case()
def unknown_commands_are_passed_over(_k: bytes, _c: int) -> list[Exchange]:
    return [
        (request(0x50, opaque=4), [error("0x50", UNKNOWN_COMMAND, opaque=4)]),
        (request(0xFF, value=big(100_000)), [error("0xff", UNKNOWN_COMMAND)]),
        NOOP,
    ]


@case(ours_only="memcached passes over key and extras twice, and is lost")
def unknown_commands_are_passed_over_with_their_keys(k: bytes, _c: int) -> list[Exchange]:
    return [
        (request(0x50, b"cluster"), [error("0x50", UNKNOWN_COMMAND)]),
        (request("verbosity", extras=bytes(4)), [error("verbosity", UNKNOWN_COMMAND)]),
        (
            request(0x51, k, extras=b"12345678", value=big(300)),
            [error("0x51", UNKNOWN_COMMAND)],
        ),
        NOOP,
    ]


def malformed(name: str, packet: bytes, reply: Reply) -> None:
    """Answered, and closed."""

    def play(_k: bytes, _c: int) -> list[Exchange]:
        return [NOOP, (packet, [reply]), (NOOP[0] * 20, [])]

    CASES.append(Case(f"malformed: {name}", play, closes=True))


LONG = b"k" * 251
for _name, _packet in {
    "get without key": request("get"),
    "get with extras": request("get", b"k", extras=b"1234"),
    "get with a value": request("getkq", b"k", value=b"v"),
    "gat without exptime": request("gat", b"k"),
    "gat without key": touch("gatq", b"", 0),
    "touch with eight bytes of extras": request("touch", b"k", extras=bytes(8)),
    "set without extras": request("set", b"k", value=b"v" * 20),
    "set without key": store("setq", b"", b"v"),
    "add with four bytes of extras": request("add", b"k", extras=bytes(4), value=b"v"),
    "append with extras": request("append", b"k", extras=bytes(8), value=b"v"),
    "prepend without key": request("prepend", value=b"v"),
    "delete with extras": request("delete", b"k", extras=bytes(4)),
    "delete with a value": request("deleteq", b"k", value=b"v"),
    "incr without extras": request("incr", b"k"),
    "incr with a value": request("incr", b"k", extras=bytes(20), value=b"v"),
    "decr without key": request("decrq", extras=bytes(20)),
    "noop with a key": request("noop", b"k"),
    "noop with a value": request("noop", value=b"v"),
    "version with extras": request("version", extras=b"1"),
    "quit with a key": request("quit", b"k"),
    "flush with a key": request("flush", b"k"),
    "flush with three bytes of extras": request("flushq", extras=b"123"),
    "stat with extras": request("stat", extras=b"1"),
    "list of mechanisms with a key": request("sasl_list", b"k"),
    "authentication without mechanism": request("sasl_auth", value=b"v"),
    "get of a key of 251 bytes": request("getq", LONG),
    "set of a key of 251 bytes": store("set", LONG, b""),
    "unknown command with a key of 251 bytes": request(0x50, LONG),
}.items():
    malformed(_name, _packet, error(name_of(_packet[1]), INVALID))

for _name, _packet in {
    "key longer than the body": request("get", b"key", body_len=2),
    "key and extras longer than the body": request("set", b"key", extras=bytes(8), body_len=10),
    "unknown command with a key longer than the body": request(0x70, b"key", body_len=0),
}.items():
    malformed(_name, _packet, error(name_of(_packet[1]), UNKNOWN_COMMAND))


@case(closes=True)
def what_is_no_request_ends_the_connection(k: bytes, c: int) -> list[Exchange]:
    return [
        (store("set", k, b"v"), [Reply("set", cas=c + 1)]),
        NOOP,
        (request("noop", magic=0x81) + request("delete", k), []),
    ]


@case(closes=True)
def text_on_a_binary_connection_ends_it(_k: bytes, _c: int) -> list[Exchange]:
    return [NOOP, (b"get a_key_of_more_than_24_bytes\r\n", [])]


@case(closes=True)
def a_body_of_four_gibibytes_ends_the_connection(k: bytes, _c: int) -> list[Exchange]:
    return [
        NOOP,
        (request("set", k, extras=bytes(8), value=big(100), body_len=0xFFFFFFFF), []),
    ]

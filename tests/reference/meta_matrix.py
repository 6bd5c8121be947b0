"""Meta commands with every flag, right and wrong, for the comparison."""

from collections.abc import Iterator

LETTERS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
# Flags that take a token, and those that mean something to the key.
NUMBER_FLAGS = b"CDEFJNRT"
TOKENS = (
    b"",
    b"0",
    b"00",
    b"1",
    b"-1",
    b"+1",
    b"x",
    b"1x",
    b"1.5",
    b"0x1",
    b"2147483647",
    b"2147483648",
    b"4294967295",
    b"4294967296",
    b"9223372036854775808",
    b"18446744073709551615",
    b"18446744073709551616",
)
# Left to transcripts: what a reply shows of the time that goes by.
# Cas uniques drift apart where one side stores and the other does not.
VOLATILE = b"ltc"
# Before each case, whatever the cases before have left.
PREPARE = (
    b"".join(b"delete %s noreply\r\n" % key for key in (b"none", b"stored", b"key", b"key1"))
    + b"set have 1 0 2\r\nhi\r\nset number 0 0 2\r\n10\r\nset gone 0 0 2\r\nxx\r\n"
)
# A value in front of whose line something is wrong is swallowed; behind a bad length it is not.
DATA = b"zz\r\n"

COMMANDS: dict[str, tuple[bytes, ...]] = {
    "mg": (b"mg have", b"mg none"),
    "ms": (b"ms stored 2", b"ms have 2"),
    "md": (b"md gone", b"md none"),
    "ma": (b"ma number", b"ma none"),
}
LONG_KEYS = {"250 bytes": b"k" * 250, "251 bytes": b"k" * 251, "300 bytes": b"k" * 300}
BASE64 = {
    "base64": b"a2V5",
    "base64 without padding": b"a2V5MQ",
    "base64 with padding": b"a2V5MQ==",
    "base64 with a wrong byte": b"a2V*",
    "base64 of nothing": b"====",
    "base64 of three bytes' length": b"a2V",
    "base64 of high bytes": b"gP/+",
    "the longest base64": b"YWFh" * 62,
    "too long base64": b"YWFh" * 63,
}
SHAPES: dict[str, bytes] = {
    "no flag": b"",
    "a space behind": b" ",
    "spaces between": b"   q   k ",
    "a tab behind": b"\t",
    "a flag twice": b" q q",
    "a flag twice with others between": b" k q O1 k",
    "a flag with a token twice": b" T0 T0",
    "a NUL as flag": b" \0",
    "a control byte as flag": b" \x01",
    "a high byte as flag": b" \xff",
    "a digit as flag": b" 1",
    "a sign as flag": b" -",
    "an underscore as flag": b" _",
    "a bracket as flag": b" [",
    "noreply": b" noreply",
    "quiet noreply": b" q noreply",
    "opaque": b" O123",
    "empty opaque": b" O",
    "opaque of 31 bytes": b" O" + b"o" * 31,
    "opaque of 32 bytes": b" O" + b"o" * 32,
    "opaque of 33 bytes": b" O" + b"o" * 33,
    "opaque and key": b" O1 k",
    "key and opaque, quiet": b" k O1 q",
    "seventeen flags": b" " + b" ".join(bytes([letter]) for letter in b"bcfhkqsuvxIOPLMND"),
    "nineteen flags": b" " + b" ".join(bytes([letter]) for letter in b"cfhkqsuvxIOPLMNDEFJ"),
    "twenty-five flags": b" " + b" ".join(bytes([letter]) for letter in LETTERS[:25]),
    "a line of 2000 bytes": b" " * 1980,
}


def meta() -> Iterator[tuple[str, list[bytes]]]:
    """Names and requests."""
    yield from _bare()
    for name, lines in COMMANDS.items():
        data = DATA if name == "ms" else b""
        for line in lines:
            yield from _shapes(line, data)
            yield from _flags(line, data)
        yield from _keys(name, data)
    yield from _lengths()
    yield from _modes()


def _bare() -> Iterator[tuple[str, list[bytes]]]:
    for name in ("mg", "ms", "md", "ma", "mn", "me"):
        word = name.encode()
        for end in (b"\r\n", b"\n", b" \r\n", b"  \r\n", b"\t\r\n", b" noreply\r\n", b"\0\r\n"):
            yield f"{name} and {end!r}", [word + end]
        yield f"{name} in capitals", [word.upper() + b" none\r\n"]
        yield f"{name} and a letter", [word + b"x none\r\n"]
        yield f"a space before {name}", [b" " + word + b" none\r\n"]
    for line in (b"mn q", b"mn k v", b"mn " + b"k" * 300, b"mn noreply", b"mnx"):
        yield f"{line[:20].decode()!r}", [line + b"\r\n"]
    for line in (b"me none", b"me none b", b"me none x", b"me none b b", b"me " + b"k" * 251):
        yield f"{line[:20].decode()!r}", [line + b"\r\n"]
    yield "mn between", [b"mn\r\n", b"mg none\r\n", b"mn\r\n"]
    yield "quiet misses and mn", [b"mg none q\r\n", b"md none q\r\n", b"mg none k q\r\n", b"mn\r\n"]


def _shapes(line: bytes, data: bytes) -> Iterator[tuple[str, list[bytes]]]:
    for shape, flags in SHAPES.items():
        yield f"{line.decode()}, {shape}", [line + flags + b"\r\n" + data]
    yield f"{line.decode()}, line feed only", [line + b"\n" + data]
    yield f"{line.decode()}, two carriage returns", [line + b"\r\r\n" + data]


def _flags(line: bytes, data: bytes) -> Iterator[tuple[str, list[bytes]]]:
    for letter in LETTERS:
        flag = bytes([letter])
        if letter in VOLATILE:
            continue
        yield f"{line.decode()} {flag.decode()}", [line + b" " + flag + b"\r\n" + data]
        yield f"{line.decode()} {flag.decode()} q k", [line + b" " + flag + b" O9 k\r\n" + data]
        for token in TOKENS if letter in NUMBER_FLAGS else (b"1", b"x"):
            # What expires at once or gets a cas of its own is made anew by the next case.
            text = flag + token
            yield f"{line.decode()} {text.decode()}", [line + b" " + text + b"\r\n" + data]


def _keys(name: str, data: bytes) -> Iterator[tuple[str, list[bytes]]]:
    length = b" 2" if data else b""
    for kind, key in LONG_KEYS.items():
        line = name.encode() + b" " + key + length
        for flags in (b"", b" q", b" k", b" O1 k", b" b"):
            yield f"{name}, key of {kind}{flags.decode()}", [line + flags + b"\r\n" + data]
    for kind, key in BASE64.items():
        line = name.encode() + b" " + key + length
        for flags in (b" b", b" k b", b" b k O1", b" q b"):
            yield f"{name}, {kind}{flags.decode()}", [line + flags + b"\r\n" + data]
    for key in (b"a\tb", b"\x01", b"\xff\xfe", b"noreply", b"0", b"*"):
        line = name.encode() + b" " + key + length
        yield f"{name}, key {key!r}", [line + b" k\r\n" + data]


def _lengths() -> Iterator[tuple[str, list[bytes]]]:
    for length in (b"", b" x", b" -1", b" 2x", b" S2", b" q", b" 1.5", b" 2147483648"):
        yield f"ms, length {length.decode()!r}", [b"ms stored" + length + b"\r\n", DATA]
        yield f"ms, length {length.decode()!r} and q", [b"ms stored" + length + b" q\r\n", DATA]
    for data in (b"z\r\n\r\n", b"zzz\r\n", b"zz\n\r\n", b"zz\r\r\n", b"\r\n\r\n", b"\0\0\r\n"):
        for flags in (b"", b" q", b" O1 k"):
            yield (
                f"ms, data {data!r}{flags.decode()}",
                [
                    b"ms stored 2" + flags + b"\r\n" + data,
                    b"mg stored v\r\n",
                ],
            )
    for size in (1_048_517, 1_100_000):
        for flags in (b"", b" q", b" ME", b" MR k"):
            yield (
                f"ms, {size} bytes{flags.decode()}",
                [
                    b"ms have %d" % size + flags + b"\r\n" + b"x" * size + b"\r\n",
                    b"mg have v\r\n",
                ],
            )


def _modes() -> Iterator[tuple[str, list[bytes]]]:
    for mode in LETTERS + b"+-0":
        for key in (b"have", b"none"):
            text = b"M" + bytes([mode])
            yield (
                f"ms {key.decode()}, {text.decode()}",
                [
                    b"ms " + key + b" 2 " + text + b" k\r\n" + DATA,
                    b"mg " + key + b" v\r\n",
                ],
            )
        for key in (b"number", b"none"):
            yield f"ma {key.decode()}, {text.decode()}", [b"ma " + key + b" " + text + b" v\r\n"]
    for flags in (
        b"N0",
        b"N0 J5",
        b"N0 Jx",
        b"N0 J-1",
        b"N-1",
        b"Nx",
        b"J5",
        b"N0 J5 D2 MD",
        b"N30 q",
    ):
        yield f"ma none {flags.decode()} v", [b"ma none " + flags + b" v\r\n", b"mg none v\r\n"]
    for flags in (b"N30", b"N30 k", b"N0 v", b"N30 q", b"N-1", b"Nx", b"R30", b"R30 N30"):
        yield f"mg none {flags.decode()}", [b"mg none " + flags + b"\r\n", b"mg none\r\n"]
    for flags in (b"I", b"I T30", b"I q", b"T30", b"C1", b"C0", b"Cx", b"C1 I"):
        yield f"md have {flags.decode()}", [b"md have " + flags + b"\r\n", b"mg have v\r\n"]

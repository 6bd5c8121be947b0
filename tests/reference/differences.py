"""Where memcachepy may answer other bytes than Debian's memcached 1.6.18: all of it, with reasons.

An entry excuses one request whose bytes match `request`, if we answered `ours` and memcached
answered `theirs`. Whatever no entry excuses is a defect of one of the two, and fails.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

DRIFT = "1.6.40 and newer answer so; we speak the protocol of 1.6.45"
INTENDED = "intended: "

STORAGE = rb"(?:set|add|replace|append|prepend|cas)"
KNOWN = (
    rb"(?:get|gets|gat|gats|set|add|replace|append|prepend|cas|delete|incr|decr|touch|flush_all"
    rb"|version|verbosity|cache_memlimit|quit|shutdown|stats|mg|ms|md|ma|me)"
)
FORMAT = rb"CLIENT_ERROR bad command line format\r\n"
ERROR = rb"ERROR\r\n"
# A `stats` of old is the longest excused reply.
EXCUSED_LINES_MAX = 120
# Everything a meta command may answer but an error: a code with flags, and a value.
META_REPLY = rb"(?:(?:HD|EN|NF|NS|EX)[^\n]*\n|VA [^\n]*\n[^\n]*\n)"
META_ERROR = (
    rb"CLIENT_ERROR (?:invalid flag|duplicate flag|bad token in command line format"
    rb"|bad command line format|invalid numeric (?:delta|initial) value|error decoding key"
    rb"|invalid mode for m[as] M token|opaque token too long)\r\n"
)


@dataclass(frozen=True)
class Difference:
    """One excused difference; all three are regular expressions over bytes."""

    name: str
    reason: str
    request: bytes
    ours: bytes
    theirs: bytes


def _lines_of_many_words() -> bytes:
    """Storage commands with more words than 1.6.18 looks for, or 24 and more words of any."""
    return STORAGE + rb"(?: +[^ \r\n]+){6,} *\r?\n|" + KNOWN + rb"(?: +[^ \r\n]+){23,} *\r?\n"


DIFFERENCES = (
    Difference("version", DRIFT, rb"version", rb"VERSION 1\.6\.45\r\n", rb"VERSION 1\.6\.18\r\n"),
    Difference("too few or bad words of a known command", DRIFT, KNOWN + rb"\b", FORMAT, ERROR),
    Difference("a line of fewer than four bytes", DRIFT, rb"[^\n]{0,2}\n", FORMAT, ERROR),
    Difference(
        "the rest of a value that was too long is such a line",
        DRIFT,
        rb"(?:ms|" + STORAGE + rb")",
        rb"CLIENT_ERROR bad data chunk\r\n" + FORMAT,
        rb"CLIENT_ERROR bad data chunk\r\n" + ERROR,
    ),
    Difference(
        "the end of a value behind a bad line is such a line",
        DRIFT,
        STORAGE,
        FORMAT + FORMAT,
        rb"(?:" + FORMAT + rb"|ERROR\r\n)ERROR\r\n",
    ),
    Difference(
        "the value behind a bad storage line is swallowed, not read as a command",
        DRIFT,
        STORAGE + rb" ",
        FORMAT,
        FORMAT + rb"(?:ERROR\r\n)+",
    ),
    Difference(
        "the same under noreply",
        DRIFT,
        STORAGE + rb" [^\n]* noreply *\r?\n",
        rb"",
        rb"(?:ERROR\r\n)+",
    ),
    Difference(
        "a cas without its token swallows its value",
        DRIFT,
        rb"cas\b",
        FORMAT + rb"(?:" + FORMAT + rb"|ERROR\r\n)?|",
        rb"ERROR\r\n(?:ERROR\r\n)+",
    ),
    Difference(
        "a bad length is never silent",
        DRIFT,
        STORAGE + rb" [^\n]* noreply *\r?\n",
        FORMAT + rb"(?P<rest>(?:ERROR\r\n|" + FORMAT + rb")*)",
        rb"(?:ERROR\r\n)*",
    ),
    Difference(
        "more words than needed are ignored",
        DRIFT,
        _lines_of_many_words(),
        rb"(?:STORED|NOT_STORED|EXISTS|NOT_FOUND|DELETED|TOUCHED|OK|[0-9]+|)(?:\r\n)?"
        rb"|CLIENT_ERROR invalid exptime argument\r\n",
        rb"(?:ERROR\r\n)+",
    ),
    Difference(
        "touch, incr and decr ignore further words",
        DRIFT,
        rb"(?:touch|incr|decr) +[^ ]+ +[^ ]+ +[^ ]+",
        rb"(?:(?:NOT_FOUND|TOUCHED|[0-9]+|CLIENT_ERROR [^\n]*)\r\n)?",
        ERROR,
    ),
    Difference(
        "delete ignores further words",
        DRIFT,
        rb"delete +[^ ]+ +[^ ]+",
        rb"(?:(?:DELETED|NOT_FOUND)\r\n)?",
        rb"(?:CLIENT_ERROR bad command line format\.  Usage: delete <key> \[noreply\]\r\n"
        rb"|ERROR\r\n)?",
    ),
    Difference(
        "an unknown command under noreply is silent",
        DRIFT,
        rb"(?:[^\n]* )?noreply *\r?\n",
        rb"",
        ERROR,
    ),
    Difference(
        "a space before the command is an error",
        DRIFT,
        rb" ",
        rb"(?:ERROR\r\n)+",
        rb"[^\n]*\n|VALUE [^\n]*\n[^\n]*\nEND\r\n",
    ),
    Difference(
        "a NUL is a byte like any other",
        DRIFT,
        rb"[^\n]*\0",
        rb"(?:(?:STORED|NOT_STORED|EXISTS|NOT_FOUND|DELETED|TOUCHED|END|ERROR"
        rb"|CLIENT_ERROR [^\n]*)\r\n)*",
        rb"(?:(?:ERROR|NOT_FOUND|TOUCHED|OK|[0-9]+|VERSION 1.6.18|ERROR: [^\n]*)\r\n"
        rb"|(?:VALUE [^\n]*\n[^\n]*\n)?END\r\n)+",
    ),
    Difference(
        "a number has no sign, and ends with its digits",
        DRIFT,
        rb"(?:touch|flush_all|verbosity|cache_memlimit|incr|decr) "
        rb"(?:\+[0-9]+|[^\n]*[0-9][\t\r])\r\n",
        rb"(?:ERROR|CLIENT_ERROR [^\n]*)\r\n",
        rb"(?:TOUCHED|OK|NOT_FOUND|[0-9]+|MEMLIMIT_TOO_SMALL [^\n]*)\r\n",
    ),
    Difference(
        "noreply as the last word is no reply, also where it is the key",
        DRIFT,
        rb"delete noreply\r\n",
        rb"",
        rb"(?:NOT_FOUND|DELETED)\r\n",
    ),
    Difference(
        "flush_all and verbosity ignore further words",
        DRIFT,
        rb"(?:flush_all|verbosity) [^ ]+ [^ ]+ [^ ]+",
        rb"OK\r\n",
        ERROR,
    ),
    Difference(
        "a delta has no sign",
        DRIFT,
        rb"(?:incr|decr) +[^ ]+ +[^ ]*[^0-9 \r\n]",
        rb"CLIENT_ERROR invalid numeric delta argument\r\n",
        rb"(?:[0-9]+|NOT_FOUND)\r\n",
    ),
    Difference(
        "flags, lengths and tokens are digits, without a sign and without white space behind",
        DRIFT,
        STORAGE + rb" [^\n]*(?: -0\b|[0-9][\t\v\f\r] |[0-9][\t\r\0]\r\n)",
        FORMAT + rb"(?:ERROR\r\n)?",
        rb"(?:STORED|NOT_STORED|EXISTS|NOT_FOUND|CLIENT_ERROR bad data chunk)\r\n(?:ERROR\r\n)?",
    ),
    Difference(
        "gat without a key is an error",
        DRIFT,
        rb"gats? +[^ ]+ *\r?\n",
        FORMAT,
        rb"END\r\n|CLIENT_ERROR invalid exptime argument\r\n",
    ),
    Difference(
        "config is a command",
        INTENDED + "it is ElastiCache's, not memcached's",
        rb"config\b",
        rb"(?:END|NOT_FOUND|CLIENT_ERROR bad command line format)\r\n",
        ERROR,
    ),
    Difference(
        "shutdown without -A",
        DRIFT,
        rb"shutdown",
        rb"(?:SERVER_ERROR: shutdown not enabled\r\n)?",
        rb"ERROR: shutdown not enabled\r\n",
    ),
    Difference(
        "flags of 2^32 and more are an error",
        INTENDED + "memcached stores them truncated",
        STORAGE + rb" +[^ ]+ +\+?0*(?:[1-9][0-9]{10,}|[4-9][0-9]{9})",
        FORMAT + rb"|",
        rb"(?:(?:STORED|NOT_STORED|EXISTS|NOT_FOUND)\r\n)?",
    ),
    Difference(
        "exptimes of 2^31 to 2^32 - 1 are moments between 2038 and 2106",
        INTENDED + "memcached cuts them to 32 bits with a sign, or refuses them",
        rb"touch +[^ ]+ +[2-4][0-9]{9}\b|gats? +[2-4][0-9]{9} ",
        rb"(?:TOUCHED|NOT_FOUND|END)\r\n",
        rb"(?:CLIENT_ERROR invalid exptime argument|TOUCHED|NOT_FOUND|END)\r\n",
    ),
    Difference(
        "exptimes outside 32 bits are errors of touch and gat",
        DRIFT,
        rb"touch +[^ ]+ +-?[0-9]{10,}|gats? +-?[0-9]{10,} ",
        rb"CLIENT_ERROR invalid exptime argument\r\n",
        rb"(?:TOUCHED|NOT_FOUND|(?:VALUE [^\n]*\n[^\n]*\n)?END)\r\n",
    ),
    Difference(
        "exact names of parts of stats only",
        INTENDED + "a cut-short name must not reset the counters",
        rb"stats (?!reset\b|settings\b)[^\n]*\n",
        ERROR,
        rb"(?:RESET|(?:STAT [^\n]*\n)*END)\r\n|CLIENT_ERROR usage: [^\n]*\n"
        rb"|CLIENT_ERROR bad command line[^\n]*\n|OK\r\n|(?:STAT [^\n]*\n)*END\r\n|\r\n|ERROR\r\n",
    ),
    Difference(
        "what is wrong with a flag of md or ma is said as for mg and ms",
        INTENDED + "memcached's md did so until 1.6.39, its ma does so still",
        rb"m[da] ",
        META_ERROR,
        rb"CLIENT_ERROR invalid or duplicate flag\r\n",
    ),
    Difference(
        "what is wrong with a flag of mg or ms is said by its token",
        DRIFT,
        rb"m[gs] ",
        META_ERROR,
        rb"CLIENT_ERROR (?:invalid flag|duplicate flag|incorrect length for M token)\r\n",
    ),
    Difference(
        "a meta command knows the flags of the others",
        DRIFT,
        rb"m[gsda] [^\n]* [CDEFIJLMPx]",
        META_REPLY,
        rb"CLIENT_ERROR (?:invalid (?:or duplicate )?flag|incorrect length for M token)\r\n",
    ),
    Difference(
        "no meta command has a NUL in its name",
        DRIFT,
        rb"m[ne]\0",
        ERROR,
        rb"MN\r\n|" + FORMAT,
    ),
    Difference(
        "numbers of flags have no sign, fit, and end with their digits",
        DRIFT,
        rb"m[gsda] [^\n]* (?:[A-Z]\+?[0-9]*[\t\r]?|\0)",
        META_ERROR,
        META_REPLY,
    ),
    Difference(
        "too many flags are told in other words, and an ms swallows its value",
        DRIFT,
        rb"m[gsda] (?:[^ \n]+ ){16,}",
        rb"CLIENT_ERROR (?:options flags are too long|invalid numeric delta value)\r\n",
        rb"CLIENT_ERROR options flags too long\r\n(?:ERROR\r\n)?",
    ),
    Difference(
        "q silences the value of ma",
        DRIFT,
        rb"ma [^\n]* q\b[^\n]* v",
        rb"",
        rb"VA [^\n]*\n[^\n]*\n",
    ),
    Difference(
        "ms returns the size that was stored",
        DRIFT,
        rb"ms [^\n]* s",
        rb"HD s2(?P<rest>[^\n]*\n)",
        rb"HD[^\n]*\n",
    ),
    Difference(
        "the value behind a bad ms line is swallowed, not read as a command",
        DRIFT,
        rb"ms ",
        FORMAT,
        FORMAT + rb"(?:ERROR\r\n)+",
    ),
    Difference(
        "a length of ms is digits",
        DRIFT,
        rb"ms [^ ]+ [0-9]+[\t\r]",
        FORMAT + rb"ERROR\r\n",
        rb"HD\r\n",
    ),
    Difference(
        "mn with a line feed alone has fewer than four bytes",
        DRIFT,
        rb"mn\n",
        FORMAT,
        rb"MN\r\n",
    ),
    Difference(
        "commands of the builds with extstore and TLS",
        INTENDED + "neither is there",
        rb"extstore |refresh_certs\b",
        ERROR,
        rb"(?:Error TLS not enabled|CLIENT_ERROR [^\n]*|OK)\r\n",
    ),
    Difference(
        "the switch of sizes has gone from stats",
        DRIFT,
        rb"stats sizes_(?:enable|disable)\r\n",
        ERROR,
        rb"STAT sizes_status [^\n]*\n",
    ),
)


@lru_cache(maxsize=4096)
def applicable(request: bytes) -> tuple[Difference, ...]:
    """The differences that a request may show."""
    return tuple(d for d in DIFFERENCES if re.match(d.request, request))


def _line_ends(text: bytes, at: int) -> Iterator[int]:
    """Where an excused reply that starts here may end: at once, or behind one of the next lines."""
    yield at
    for _ in range(EXCUSED_LINES_MAX):
        at = text.find(b"\n", at) + 1
        if at == 0:
            return
        yield at


@dataclass(frozen=True)
class Exchange:
    """One request and what we answered to it."""

    request: bytes
    reply: bytes


def agree(exchanges: list[Exchange], theirs: bytes) -> tuple[bool, int]:
    """Whether their replies are ours or excused ones.

    Returns:
        The verdict, and how many exchanges could be followed.
    """
    furthest = 0
    seen: set[tuple[int, int]] = set()
    open_ends = [(0, 0)]
    while open_ends:
        index, at = open_ends.pop()
        furthest = max(furthest, index)
        if index == len(exchanges):
            if at == len(theirs):
                return True, index
            continue
        if (index, at) in seen:
            continue
        seen.add((index, at))
        exchange = exchanges[index]
        for difference in applicable(exchange.request):
            if not re.fullmatch(difference.ours, exchange.reply):
                continue
            pattern = re.compile(difference.theirs)
            for end in _line_ends(theirs, at):
                if pattern.fullmatch(theirs, at, end):
                    open_ends.append((index + 1, end))
        if theirs.startswith(exchange.reply, at):
            open_ends.append((index + 1, at + len(exchange.reply)))
    return False, furthest

"""Clients of a node whose memory is scribbled over.

Whatever they are answered is fine, as is a connection that is closed: but not silence, not another
key's value, and nothing that breaks the protocol.
"""

import random
import socket
import threading
import time
from collections.abc import Callable, Iterator

from support.binary import HEADER, OPCODES, request
from values import LENGTHS, Wrong, check_value, counter_of, key_of, number_of, value_of

ANSWER_S = 30.0
"""How long a request may take: waits for a lock end after a second, a worker that goes round in
circles is killed after three, and the machine may be slow."""

LINES_MAX = 1_000_000
"""Of one answer: more never ends."""

STATS = (
    b"",
    b" items",
    b" slabs",
    b" conns",
    b" sizes",
    b" settings",
    b" detail dump",
    b" cachedump",
)
WATCHED = b"watch fetchers mutations evictions deletions connevents sysevents\r\n"
REFUSALS = (b"SERVER_ERROR", b"CLIENT_ERROR", b"ERROR", b"BUSY", b"DENIED", b"BADCLASS", b"NOSPARE")


class Client:
    """Works with keys of its own range, one request at a time."""

    def __init__(self, port: int, seed: int, first: int, count: int) -> None:
        self._random = random.Random(seed)
        self._port = port
        self._keys = range(first, first + count)
        self._socket: socket.socket | None = None
        self._received = b""
        self._request = b""
        self.answers = 0
        self.hits = 0
        self.closed = 0

    def run(self, is_over: threading.Event) -> None:
        try:
            while not is_over.is_set():
                self.step()
        finally:
            self.hang_up()

    def step(self) -> None:
        draw = self._random
        try:
            self.operate(draw.choice(self._keys))
        except (ConnectionError, EOFError):
            self.closed += 1
            self.hang_up()
            time.sleep(0.002)

    def operate(self, number: int) -> None:
        draw = self._random
        match draw.randrange(8):
            case 0 | 1 | 2:
                self.set(number, draw.choice(LENGTHS))
            case 3:
                self.ask(b"delete %b\r\n" % key_of(number))
            case _:
                self.get(number)

    # ---- requests ---------------------------------------------------------------------------

    def set(self, number: int, length: int) -> bytes:
        value = value_of(number, length)
        return self.ask(b"set %b 0 0 %d\r\n%b\r\n" % (key_of(number), length, value))

    def get(self, number: int) -> bytes | None:
        """The value; None is a miss or an error.

        Raises:
            Wrong: it is another's, or took too long.
            ConnectionError, EOFError: the connection is closed.
        """
        return self.values(b"get %b\r\n" % key_of(number)).get(number)

    def values(self, line: bytes) -> dict[int, bytes]:
        """What a get of any kind has for the keys that it names."""
        found = {}
        asked = {number_of(word) for word in line.split()[1:] if word[:3] in (b"key", b"sum")}
        answer = self.ask(line)
        while answer.startswith(b"VALUE "):
            words = answer.split()
            number = number_of(words[1])
            if number not in asked:
                raise Wrong(f"asked {line[:80]!r} and got {answer!r}")
            found[number] = self.take_value(number, int(words[3]))
            answer = self._line()
        if answer != b"END" and not answer.startswith(REFUSALS):
            raise Wrong(f"in the answer to {line[:80]!r} stands {answer[:80]!r}")
        return found

    def take_value(self, number: int, length: int) -> bytes:
        value = self._take(length + 2)
        self.hits += 1
        check_value(number, value)
        if not value.endswith(b"\r\n"):
            raise Wrong(f"behind the {length} bytes of key{number} stands {value[-2:]!r}")
        return value[:-2]

    def ask(self, request: bytes) -> bytes:
        """The first line of the answer."""
        self.send(request)
        line = self._line()
        self.answers += 1
        return line

    def send(self, request: bytes) -> None:
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), ANSWER_S)
            self._socket.settimeout(ANSWER_S)
            self._received = b""
        self._request = request[:60]
        try:
            self._socket.sendall(request)
        except TimeoutError:
            raise Wrong(f"{self._request!r} was not taken within {ANSWER_S} s") from None

    # ---- answers ----------------------------------------------------------------------------

    def _line(self) -> bytes:
        while (end := self._received.find(b"\r\n")) < 0:
            self._receive()
        line, self._received = self._received[:end], self._received[end + 2 :]
        return line

    def _take(self, length: int) -> bytes:
        while len(self._received) < length:
            self._receive()
        taken, self._received = self._received[:length], self._received[length:]
        return taken

    def _receive(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(1 << 18)
        except TimeoutError:
            raise Wrong(f"no answer to {self._request!r} within {ANSWER_S} s") from None
        if not data:
            raise EOFError
        self._received += data

    def hang_up(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class BroadClient(Client):
    """Every kind of command that has to do with items, in both text protocols."""

    def operate(self, number: int) -> None:
        draw = self._random
        operations: tuple[Callable[[int], object], ...] = (
            super().operate,
            super().operate,
            self.get_many,
            self.get_and_touch,
            self.touch,
            self.append,
            self.add_up,
            self.get_by_meta,
            self.set_by_meta,
            self.change_by_meta,
        )
        draw.choice(operations)(number)

    def get_many(self, number: int) -> None:
        draw = self._random
        numbers = {number, *draw.sample(self._keys, draw.choice((2, 20, 60)))}
        verb = draw.choice((b"get", b"gets"))
        self.values(verb + b"".join(b" " + key_of(n) for n in numbers) + b"\r\n")

    def get_and_touch(self, number: int) -> None:
        draw = self._random
        verb = draw.choice((b"gat", b"gats"))
        time_s = draw.choice((0, 1, 1000))
        self.values(b"%b %d %b %b\r\n" % (verb, time_s, key_of(number), key_of(self._keys[0])))

    def touch(self, number: int) -> None:
        self.ask(b"touch %b %d\r\n" % (key_of(number), self._random.choice((0, 1, 1000))))

    def append(self, number: int) -> None:
        draw = self._random
        verb = draw.choice((b"append", b"prepend"))
        added = value_of(number, draw.choice(LENGTHS))
        self.ask(b"%b %b 0 0 %d\r\n%b\r\n" % (verb, key_of(number), len(added), added))

    def add_up(self, number: int) -> None:
        draw = self._random
        key = counter_of(number)
        match draw.randrange(4):
            case 0:
                self.ask(b"set %b 0 0 3\r\n998\r\n" % key)
            case 1:
                self.values(b"get %b\r\n" % key)
            case _:
                self.ask(b"%b %b 7\r\n" % (draw.choice((b"incr", b"decr")), key))

    def get_by_meta(self, number: int) -> None:
        flags = self._random.choice((b"v", b"v k f c s t l h", b"v T30 N20", b"v R100", b"k s t"))
        self._meta(b"mg %b %b\r\n" % (key_of(number), flags), number)

    def set_by_meta(self, number: int) -> None:
        draw = self._random
        value = value_of(number, draw.choice(LENGTHS))
        mode = draw.choice((b"S", b"E", b"A", b"P", b"R"))
        head = b"ms %b %d M%b T%d" % (key_of(number), len(value), mode, draw.choice((0, 2, 1000)))
        self._meta(head + b"\r\n" + value + b"\r\n", number)

    def change_by_meta(self, number: int) -> None:
        draw = self._random
        if draw.randrange(2):
            self._meta(b"md %b %b\r\n" % (key_of(number), draw.choice((b"", b"I", b"x"))), number)
        else:
            key = counter_of(number)
            self._meta(b"ma %b N0 J13 v %b\r\n" % (key, draw.choice((b"MI", b"MD"))), number)

    def _meta(self, line: bytes, number: int) -> None:
        answer = self.ask(line)
        words = answer.split()
        if words and words[0] == b"VA":
            self.take_value(number, int(words[1]))
        elif not answer.startswith((b"HD", b"EN", b"NS", b"EX", b"NF", *REFUSALS)):
            raise Wrong(f"the answer to {line[:60]!r} is {answer[:80]!r}")


class AskingClient(Client):
    """Asks for everything that a node tells of itself, and changes some of it."""

    SETTINGS = (
        b"verbosity 1",
        b"lru mode segmented",
        b"slabs automove 1",
        b"lru_crawler enable",
        b"stats detail on",
        b"lru_crawler crawl all",
        b"slabs reassign -1 0",
        b"config set list 0 5\r\nnodes",
        b"config get list",
        b"cache_memlimit 32",
    )

    def operate(self, number: int) -> None:
        draw = self._random
        match draw.randrange(6):
            case 0 | 1:
                self.lines(b"stats%b\r\n" % draw.choice(STATS))
            case 2:
                self.dump(b"lru_crawler %b all\r\n" % draw.choice((b"metadump", b"mgdump")))
            case 3:
                self.one(draw.choice(self.SETTINGS) + b"\r\n")
            case _:
                super().operate(number)
        time.sleep(0.005)  # What walks through everything is not to be all that is done.

    def lines(self, request: bytes) -> None:
        """An answer of many lines."""
        line = self.ask(request)
        for _ in range(LINES_MAX):
            if line == b"END" or line.startswith(REFUSALS):
                return
            line = self._line()
        raise Wrong(f"the answer to {request!r} has more than {LINES_MAX} lines")

    def dump(self, request: bytes) -> None:
        """Some dumps have lines that end with a line feed alone."""
        if self.ask(request) != b"OK":
            return
        for _ in range(LINES_MAX):
            last = self._line().rpartition(b"\n")[2]
            if last in (b"END", b"EN") or last.startswith(REFUSALS):
                return
        raise Wrong(f"the answer to {request!r} has more than {LINES_MAX} lines")

    def one(self, request: bytes) -> None:
        """An answer that ends with the connection's silence: what follows is not looked at."""
        self.ask(request)
        self.hang_up()


class WatchingClient(Client):
    """Watches the log for a while, again and again."""

    def operate(self, number: int) -> None:  # noqa: ARG002 - it watches all
        self.hang_up()
        if self.ask(WATCHED) == b"OK":
            assert self._socket is not None
            self._socket.settimeout(0.2)
            until_s = time.monotonic() + self._random.uniform(0.1, 1)
            while time.monotonic() < until_s:
                try:
                    data = self._socket.recv(1 << 18)
                except TimeoutError:
                    continue
                if not data:
                    raise EOFError
                self.hits += 1
        self.hang_up()


class BinaryClient(Client):
    """Gets, sets and touches in the binary protocol."""

    def operate(self, number: int) -> None:
        draw = self._random
        key = key_of(number)
        match draw.randrange(6):
            case 0:
                value = value_of(number, draw.choice(LENGTHS))
                self.exchange(request("set", key, value=value, extras=bytes(8)), number)
            case 1:
                self.exchange(request("gat", key, extras=bytes(4)), number)
            case 2:
                self.exchange(request("append", key, value=value_of(number, 160)), number)
            case _:
                self.exchange(request(draw.choice(("get", "getk")), key), number)

    def exchange(self, packet: bytes, number: int) -> None:
        self.send(packet)
        head = HEADER.unpack(self._take(HEADER.size))
        body = self._take(head[6])
        self.answers += 1
        if head[0] != 0x81 or head[1] not in OPCODES.values():
            raise Wrong(f"the answer to a packet of key{number} begins with {head}")
        if head[5] == 0:
            self.hits += 1
            check_value(number, body)


def keys_that_fail(client: Client, numbers: range) -> Iterator[tuple[int, bytes]]:
    """Those that cannot be set and read at this moment, and what was answered."""
    for number in numbers:
        length = LENGTHS[number % 5]
        try:
            answer = client.set(number, length)
            value = client.get(number)
        except (ConnectionError, EOFError) as error:
            client.hang_up()
            yield number, repr(error).encode()
            return  # The others are tried when there is a connection again.
        if answer != b"STORED" or value != value_of(number, length):
            yield number, answer + b", then " + (b"a miss" if value is None else value[:40])

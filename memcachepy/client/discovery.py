"""How a client learns who the nodes are, without sockets: whom to ask, what to say, and when."""

import random
import time
from collections.abc import Callable, Generator, Iterable, Sequence

from memcachepy.admin.client import Address
from memcachepy.client.breaker import Clock
from memcachepy.errors import ConfigError
from memcachepy.topology import Member, Topology

ANSWER_BYTES_MAX = 1 << 20
"""A longer answer is none of a cluster's; sixty nodes take 4 KiB."""
HASTE_PAUSE_S = 1.0
"""After an error the list is not asked for again sooner than this, the next time twice as long."""
_REQUESTS = (b"config get cluster\r\n", b"get AmazonElastiCache:cluster\r\n")
_REFUSALS = (b"ERROR", b"CLIENT_ERROR")

Endpoint = tuple[str, int]
"""Host and port."""


def endpoints_of(servers: "str | Endpoint | Iterable[str | Endpoint]") -> tuple[Endpoint, ...]:
    """The configuration endpoints that were given: `"host:port"`, `(host, port)`, or several.

    Raises:
        ConfigError: one is neither, or there are none.
    """
    if isinstance(servers, str) or (
        isinstance(servers, tuple) and len(servers) == 2 and isinstance(servers[1], int)
    ):
        servers = [servers]
    found: list[Endpoint] = []
    for server in servers:
        if isinstance(server, str):
            address = Address.parse(server)
            host, port = address.host, address.port
        elif len(server) == 2 and isinstance(server[1], int):
            host, port = server
        else:
            host, port = "", 0
        try:
            Member(host, port)  # For a plain server is one.
        except ConfigError:
            raise ConfigError("endpoint", server, "must be HOST:PORT") from None
        found.append((host, port))
    if not found:
        raise ConfigError("endpoint", servers, "must be at least one HOST:PORT")
    return tuple(dict.fromkeys(found))


def inquiry() -> Generator[bytes, bytes, Topology | None]:
    """One exchange with a server: yields what to send, b"" for nothing yet, and takes what came.

    Returns the list, or None for a server that knows of none: a plain memcached.

    Raises:
        ValueError: the answer is no list, or an empty one, or not whole (b"" was sent in: the
            server has hung up); says why.
    """
    for request in _REQUESTS:
        answer = yield from _exchange(request)
        if answer.startswith(_REFUSALS) or answer.rstrip() == b"END":
            continue
        return _list_in(answer)
    return None


def _exchange(request: bytes) -> Generator[bytes, bytes, bytes]:
    answer = b""
    to_send = request
    while True:
        received = yield to_send
        to_send = b""
        if not received:
            raise ValueError(f"the server has hung up after {answer[:80]!r}")
        answer += received
        # A line END is nowhere but at the end, so the length in the header is not needed; there
        # are servers that tell a wrong one.
        if answer.endswith((b"\nEND\r\n", b"\nEND\n")) or answer in (b"END\r\n", b"END\n"):
            return answer
        if b"\n" in answer and b"ERROR" in answer[: answer.index(b"\n")]:
            return answer
        if len(answer) > ANSWER_BYTES_MAX:
            raise ValueError(f"more than {ANSWER_BYTES_MAX} bytes are no list of nodes")


def _list_in(answer: bytes) -> Topology:
    header, _, rest = answer.partition(b"\n")
    words = header.split()
    if len(words) != 4 or words[0] not in (b"CONFIG", b"VALUE"):
        raise ValueError(f"this is no list of nodes: {answer[:80]!r}")
    topology = Topology.parse(rest[: rest.rindex(b"END")])
    if not topology.members:
        raise ValueError(f"the list of version {topology.version} has no nodes")
    return topology


def is_newer(answer: Topology, known: Topology | None) -> bool:
    """Versions are seconds, so the list of a cluster that was made anew is newer, too."""
    return known is None or answer.version > known.version


def plain_list(endpoints: Iterable[Endpoint]) -> Topology:
    """The list for servers without discovery: those that were named; older than any real one.

    Without addresses, which a name may change: nobody would tell.
    """
    return Topology(0, tuple(Member(*endpoint) for endpoint in endpoints))


def whom_to_ask(
    endpoints: Iterable[Endpoint], nodes: Iterable[Endpoint], rng: random.Random
) -> list[Endpoint]:
    """The configuration endpoints first, then the nodes last known, in any order."""
    others = list(nodes)
    rng.shuffle(others)
    return list(dict.fromkeys([*endpoints, *others]))


def survey(
    endpoints: Sequence[Endpoint],
    nodes: Iterable[Endpoint],
    known: Topology | None,
    rng: random.Random,
) -> Generator[Endpoint, Topology | None | Exception, Topology | None]:
    """Ask around until somebody knows a list that is no older than ours.

    Yields whom to ask, and takes what came of it: what `inquiry` returned, or an error. Returns
    the list; None: nobody knows one.
    """
    for endpoint in whom_to_ask(endpoints, nodes, rng):
        answer = yield endpoint
        if isinstance(answer, Exception):
            continue
        topology = answer
        if topology is None:
            if known is not None and known.version > 0:
                continue  # It has forgotten its cluster: others have not.
            topology = plain_list(endpoints)
        if known is None or topology.version >= known.version:
            return topology
    return None


class PollSchedule:
    """When to ask for the list next. Not for several threads at once.

    Every `poll_s` seconds, a tenth more or less at random; sooner after an error, but then less
    and less often as long as neither the list changes nor a poll comes without one.

    Args:
        poll_s: seconds.
        clock: monotonic seconds.
        jitter: factor of the next interval.
    """

    def __init__(
        self,
        poll_s: float,
        clock: Clock = time.monotonic,
        jitter: Callable[[], float] = lambda: random.uniform(0.9, 1.1),
    ) -> None:
        self._poll_s = poll_s
        self._clock = clock
        self._jitter = jitter
        self._pause_s = min(HASTE_PAUSE_S, poll_s)
        self._erred = False
        self._polled_at_s = clock()
        self._due_at_s = self._polled_at_s + poll_s * jitter()

    def due_in_s(self) -> float:
        """Seconds until the next poll; 0: now."""
        return max(0.0, self._due_at_s - self._clock())

    def hasten(self) -> bool:
        """After an error of a node, which the list may explain: whether the poll comes sooner."""
        self._erred = True
        due_at_s = max(self._clock(), self._polled_at_s + self._pause_s)
        if due_at_s >= self._due_at_s:
            return False
        self._due_at_s = due_at_s
        return True

    def polled(self, *, answered: bool, changed: bool = False) -> None:
        """The poll has been made: whether anybody answered, and whether the list was a new one."""
        self._polled_at_s = self._clock()
        if changed or (answered and not self._erred):
            self._pause_s = min(HASTE_PAUSE_S, self._poll_s)
        interval_s = self._poll_s if answered else self._pause_s
        self._due_at_s = self._polled_at_s + interval_s * self._jitter()
        if self._erred or not answered:
            self._pause_s = min(2 * self._pause_s, self._poll_s)
        self._erred = False

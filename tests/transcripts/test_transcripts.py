"""Every transcript, in every fragmentation, to the core, to nodes and to Debian's memcached."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack

import pytest
from support.peers import InProcessPeer, SocketPeer
from support.server import Server, memcached, memcached_version, node
from support.transcript import (
    FRAGMENTATIONS,
    REFERENCE_VERSION,
    Case,
    Clock,
    Player,
    read_all,
)

CASES = read_all()
COMPARED = [case for case in CASES if not case.ours_only]
# What moves the clock needs the core; there is no way to tell a running server another time.
TIMELESS = [case for case in CASES if not case.moves_clock]

# A cache of this size has pages of 64 KiB, smaller ones have 16 KiB.
LARGE_PAGES_MB = 256

# The longest a slow test waits for memcached's clock.
CLOCK_WAIT_S_MAX = 4


def _ids(cases: list[Case]) -> list[str]:
    return [case.id for case in cases]


@pytest.mark.parametrize("fragmentation", FRAGMENTATIONS)
@pytest.mark.parametrize("case", CASES, ids=_ids(CASES))
def test_the_core_answers_as_the_transcript_says(case: Case, fragmentation: str) -> None:
    peer = InProcessPeer(case.flags)
    Player(case, peer, fragmentation, reference=False).play()
    peer.close()


@pytest.mark.parametrize("case", CASES, ids=_ids(CASES))
def test_a_core_with_larger_pages_answers_the_same(case: Case) -> None:
    peer = InProcessPeer(case.flags, LARGE_PAGES_MB)
    Player(case, peer, "whole", reference=False).play()
    peer.close()


class Servers:
    """One running server for each command line that the transcripts name."""

    def __init__(
        self, stack: ExitStack, start: Callable[..., AbstractContextManager[Server]]
    ) -> None:
        self._stack = stack
        self._start = start
        self._running: dict[tuple[str, ...], Server] = {}

    def get(self, flags: tuple[str, ...]) -> Server:
        if flags not in self._running:
            self._running[flags] = self._stack.enter_context(self._start(*flags))
        return self._running[flags]

    def peer(self, case: Case, version: str) -> SocketPeer:
        return SocketPeer(self.get(case.flags), version, case.sent())


@pytest.fixture(scope="module")
def reference() -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(stack, memcached)


@pytest.fixture(scope="module", params=[1, 3], ids=["one worker", "three workers"])
def nodes(request: pytest.FixtureRequest) -> Iterator[Servers]:
    def start(*flags: str) -> AbstractContextManager[Server]:
        return node(*flags, workers=request.param)

    with ExitStack() as stack:
        yield Servers(stack, start)


# Both quick ways with either number of workers; the others are slow, and the core has had them all.
_NODE_FRAGMENTATIONS = [
    pytest.param(name, marks=() if name in ("whole", "pipelined") else pytest.mark.slow)
    for name in FRAGMENTATIONS
]


@pytest.mark.parametrize("fragmentation", _NODE_FRAGMENTATIONS)
@pytest.mark.parametrize("case", TIMELESS, ids=_ids(TIMELESS))
def test_a_node_answers_as_the_transcript_says(
    nodes: Servers, case: Case, fragmentation: str
) -> None:
    core = pytest.importorskip("memcachepy._core")
    peer = nodes.peer(case, core.PROTOCOL_VERSION)
    try:
        Player(case, peer, fragmentation, reference=False).play()
    finally:
        peer.abort()


_REFERENCE_FRAGMENTATIONS = [
    pytest.param(name, marks=() if name == "whole" else pytest.mark.slow)
    for name in ("whole", "pipelined", "cut in CRLF")
]


@pytest.mark.once
@pytest.mark.parametrize("fragmentation", _REFERENCE_FRAGMENTATIONS)
@pytest.mark.parametrize(
    "case",
    [case for case in COMPARED if not case.moves_clock],
    ids=lambda case: case.id,
)
def test_memcached_answers_as_the_transcript_says(
    reference: Servers, case: Case, fragmentation: str
) -> None:
    _need_reference_version()
    if fragmentation == "pipelined" and case.reference_alone:
        pytest.skip(case.reference_alone)
    peer = reference.peer(case, REFERENCE_VERSION)
    try:
        Player(case, peer, fragmentation, reference=True).play()
    finally:
        peer.abort()


def _seconds(case: Case) -> int:
    return sum(step.seconds for step in case.steps if isinstance(step, Clock))


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [c for c in COMPARED if c.moves_clock and _seconds(c) <= CLOCK_WAIT_S_MAX],
    ids=lambda case: case.id,
)
def test_memcached_keeps_time_as_the_transcript_says(reference: Servers, case: Case) -> None:
    _need_reference_version()

    class Patient(SocketPeer):
        def move_clock(self, action: str, seconds: int) -> None:
            # The only way to move memcached's clock; its ticks are whole seconds.
            assert action == "advance"
            time.sleep(seconds + 0.1)

    peer = Patient(reference.get(case.flags), REFERENCE_VERSION, case.sent())
    try:
        Player(case, peer, "whole", reference=True).play()
    finally:
        peer.abort()


def _need_reference_version() -> None:
    version = memcached_version()
    if version != REFERENCE_VERSION:
        pytest.skip(f"NOT COMPARED: memcached is {version}, transcripts say {REFERENCE_VERSION}")


def test_case_sentences_are_unique() -> None:
    seen: dict[str, str] = {}
    for case in CASES:
        key = f"{case.path.stem}: {case.sentence}"
        assert key not in seen, f"{case.id} and {seen[key]} prove the same: {case.sentence}"
        seen[key] = case.id

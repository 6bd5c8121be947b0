"""The binary protocol, in every fragmentation: to the core, to nodes and to memcached."""

import itertools
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from binary_cases import CASES, Case, Exchange
from support.binary import Reply, replies, request, store
from support.client import RawClient
from support.server import Server

pytestmark = pytest.mark.once

_core = pytest.importorskip("memcachepy._core", reason="memcachepy is not built")

# A case that is longer is cut at fewer places than everywhere.
_EVERY_BYTE_MAX = 20_000

_served: list[int] = [0]


def _prefix() -> bytes:
    """What nobody's keys began with so far."""
    _served[0] += 1
    return b"b%d:" % _served[0]


def _expected(exchanges: Sequence[Exchange]) -> list[Reply]:
    return [reply for _, expected in exchanges for reply in expected]


def _compare(received: bytes, expected: Sequence[Reply]) -> None:
    found, rest = replies(received)
    for i, (one, other) in enumerate(zip(found, expected, strict=False)):
        assert one == other, f"reply {i}"
    assert (found[len(expected) :], rest) == ([], b"")
    assert len(found) == len(expected), f"{len(found)} replies instead of {len(expected)}"


# ---- the core ------------------------------------------------------------------------------------


def _segment(**settings: object) -> Any:
    segment = _core.Segment(
        {"memory_limit_bytes": 256 << 20, "item_size_max_bytes": 32 << 20, **settings}
    )
    segment.claim_slot(_core.SLOT_WORKER_FIRST)
    return segment


@pytest.fixture(scope="module")
def segment() -> Iterator[Any]:
    segment = _segment()
    yield segment
    assert segment.check() == []
    segment.close()


def _last_cas(segment: Any) -> int:
    connection = _core.Connection(segment)
    found, _ = replies(connection.feed(store("set", b"probe", b"")))
    connection.close()
    return found[0].cas


def _pieces(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    at = [0, *sorted(set(cuts)), len(data)]
    return [data[start:stop] for start, stop in itertools.pairwise(at)]


def _fragments(case: Case, exchanges: Sequence[Exchange], how: str) -> list[bytes]:
    sent = [data for data, _ in exchanges]
    whole = b"".join(sent)
    if how == "request by request":
        return sent
    if how == "pipelined":
        return [whole]
    if how == "byte by byte" and len(whole) <= _EVERY_BYTE_MAX:
        return [whole[i : i + 1] for i in range(len(whole))]
    # Around every header, extras and key, and anywhere.
    dice = random.Random(case.name + how)
    cuts = []
    start = 0
    for data in sent:
        cuts += [start + at for at in (1, 23, 24, 25, 28, 32, 44, len(data) - 1) if at < len(data)]
        start += len(data)
    cuts += [dice.randrange(len(whole)) for _ in range(50)]
    return _pieces(whole, cuts if how == "byte by byte" else dice.sample(cuts, len(cuts) // 2))


@pytest.mark.parametrize("how", ["request by request", "pipelined", "cut", "byte by byte"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_core_answers(segment: Any, case: Case, how: str) -> None:
    exchanges = case.play(_prefix(), _last_cas(segment))
    connection = _core.Connection(segment)
    try:
        received = b"".join(
            connection.feed(part)
            for part in _fragments(case, exchanges, how)
            if not connection.closed
        )
        _compare(received, _expected(exchanges))
        assert connection.closed == case.closes
    finally:
        connection.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_core_answers_each_request_at_once(segment: Any, case: Case) -> None:
    connection = _core.Connection(segment)
    try:
        for data, expected in case.play(_prefix(), _last_cas(segment)):
            if not connection.closed:
                _compare(connection.feed(data), expected)
    finally:
        connection.close()


# ---- servers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["request by request", "pipelined"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_servers_answer(server: Server, case: Case, how: str) -> None:
    if case.ours_only and "memcached" in Path(server.process.args[0]).name:  # type: ignore[index]
        pytest.skip(case.ours_only)
    with RawClient(server.address) as client:
        client.send(store("set", b"probe", b""))
        cas = _next(client).cas
        exchanges = case.play(_prefix(), cas)
        if how == "pipelined":
            client.send(b"".join(data for data, _ in exchanges))
            received = _take(client, len(_expected(exchanges)))
            assert received == _expected(exchanges)
        else:
            for data, expected in exchanges:
                client.send(data)
                assert _take(client, len(expected)) == expected
        if case.closes:
            client.expect_close()
        else:
            client.send(request("noop", opaque=0x0A0B0C0D))
            assert _next(client) == Reply("noop", opaque=0x0A0B0C0D)


def _next(client: RawClient) -> Reply:
    def one() -> Reply | None:
        found, rest = replies(bytes(client.buffer))
        return found[0] if found else None

    while (reply := one()) is None:
        assert client.more(), f"a reply expected, {bytes(client.buffer[:100])!r} received"
    del client.buffer[: 24 + len(reply.key) + len(reply.extras) + len(reply.value)]
    return reply


def _take(client: RawClient, count: int) -> list[Reply]:
    return [_next(client) for _ in range(count)]

"""The same bytes to Debian's memcached and to us; replies differ only where the table says so."""

import random
from collections.abc import Iterator

import admin_matrix
import matrix
import meta_matrix
import pytest
from corpus import malformed, named, stream
from differences import DIFFERENCES, Exchange, agree
from pair import Pair

STREAM_REQUESTS = 60
STREAMS = 40
STREAMS_SLOW = 1500

MALFORMED = named(malformed())
CLASSIC = dict(matrix.classic())
META = dict(meta_matrix.meta())
ADMIN = dict(admin_matrix.admin())

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with Pair() as pair:
        yield pair


@pytest.fixture(scope="module")
def maintained_pair() -> Iterator[Pair]:
    """With the threads that some commands are about."""
    with Pair("-o", "lru_crawler,lru_maintainer") as pair:
        yield pair


def _compare(pair: Pair, *parts: list[bytes]) -> None:
    """Each part over a connection of its own."""
    try:
        for requests in parts:
            pair.compare(requests)
    except AssertionError:
        pair.restart()
        raise


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_input_gets_the_same_answer(pair: Pair, name: str) -> None:
    _compare(pair, MALFORMED[name])


@pytest.mark.parametrize("name", CLASSIC)
def test_every_command_in_every_shape(pair: Pair, name: str) -> None:
    _compare(pair, [matrix.PREPARE], CLASSIC[name])


@pytest.mark.parametrize("name", META)
def test_meta_commands_with_every_flag(pair: Pair, name: str) -> None:
    _compare(pair, [meta_matrix.PREPARE, *META[name]])


@pytest.mark.parametrize("name", ADMIN)
def test_administrative_commands(maintained_pair: Pair, name: str) -> None:
    _compare(maintained_pair, ADMIN[name])


def test_streams_of_requests_get_the_same_answers(rng: random.Random) -> None:
    with Pair() as pair:
        for _ in range(STREAMS):
            pair.compare(stream(rng, STREAM_REQUESTS))
            pair.restart()


@pytest.mark.slow
def test_many_streams_of_requests_get_the_same_answers(rng: random.Random) -> None:
    with Pair() as pair:
        for _ in range(STREAMS_SLOW):
            pair.compare(stream(rng, STREAM_REQUESTS))
            pair.restart()


def test_every_difference_has_its_own_name_and_reason() -> None:
    assert all(difference.reason for difference in DIFFERENCES)
    names = [(d.name, d.request) for d in DIFFERENCES]
    assert len(set(names)) == len(names)


def test_what_no_entry_excuses_is_a_failure() -> None:
    agreed, furthest = agree(
        [Exchange(b"get a\r\n", b"END\r\n"), Exchange(b"set a 0 0 1\r\n1\r\n", b"STORED\r\n")],
        b"END\r\nNOT_STORED\r\n",
    )
    assert not agreed
    assert furthest == 1


def test_an_excuse_holds_for_its_own_request_only() -> None:
    ours = Exchange(b"bogus\r\n", b"CLIENT_ERROR bad command line format\r\n")
    assert not agree([ours], b"ERROR\r\n")[0]
    ours = Exchange(b"get\r\n", b"CLIENT_ERROR bad command line format\r\n")
    assert agree([ours], b"ERROR\r\n")[0]

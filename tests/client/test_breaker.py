"""When a node is left alone, and when it is tried again: with a clock that the test moves."""

import threading

import pytest

from memcachepy.client.breaker import Breaker


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(failures_max=3, pause_s=1.0, pause_max_s=8.0, clock=clock)


def open_it(breaker: Breaker) -> None:
    for _ in range(3):
        assert breaker.allows()
        breaker.failed()


def test_it_opens_at_the_third_failure_in_a_row(breaker: Breaker) -> None:
    breaker.failed()
    breaker.failed()
    assert breaker.state == "closed"
    assert breaker.allows()
    breaker.failed()
    assert breaker.state == "open"
    assert not breaker.allows()
    assert (breaker.failed_count, breaker.opened_count, breaker.refused_count) == (3, 1, 1)


def test_a_success_between_failures_keeps_it_closed(breaker: Breaker) -> None:
    for _ in range(10):
        breaker.failed()
        breaker.failed()
        breaker.succeeded()
    assert breaker.allows()
    assert breaker.opened_count == 0


def test_after_the_pause_one_request_probes(breaker: Breaker, clock: Clock) -> None:
    open_it(breaker)
    clock.now_s += 0.99
    assert not breaker.allows()
    clock.now_s += 0.2
    assert breaker.state == "half-open"
    assert breaker.allows()
    assert not breaker.allows()
    assert breaker.state == "half-open"
    breaker.succeeded()
    assert breaker.state == "closed"
    assert breaker.allows()
    assert breaker.allows()


def test_pauses_double_up_to_the_longest(breaker: Breaker, clock: Clock) -> None:
    open_it(breaker)
    for pause_s in (1.0, 2.0, 4.0, 8.0, 8.0, 8.0):
        clock.now_s += pause_s * 0.99
        assert not breaker.allows()
        clock.now_s += pause_s * 0.12
        assert breaker.allows()
        breaker.failed()
    assert breaker.opened_count == 1
    clock.now_s += 10
    assert breaker.allows()
    breaker.succeeded()
    open_it(breaker)
    clock.now_s += 1.2
    assert breaker.allows()  # The first pause is short again.


def test_a_request_from_before_does_not_lengthen_the_pause(breaker: Breaker, clock: Clock) -> None:
    open_it(breaker)
    clock.now_s += 0.9
    breaker.failed()
    clock.now_s += 0.3
    assert breaker.allows()


def test_a_probe_that_is_given_up_leaves_room_for_another(breaker: Breaker, clock: Clock) -> None:
    open_it(breaker)
    clock.now_s += 1.2
    assert breaker.allows()
    breaker.abandoned()
    assert breaker.allows()


def test_a_change_of_the_list_ends_the_pause(breaker: Breaker, clock: Clock) -> None:
    open_it(breaker)
    for _ in range(3):
        clock.now_s += 100
        assert breaker.allows()
        breaker.failed()
    assert not breaker.allows()
    breaker.try_now()
    assert breaker.allows()
    assert not breaker.allows()
    breaker.failed()
    clock.now_s += 2.3
    assert breaker.allows()


def test_a_change_of_the_list_does_not_wait_for_a_probe(breaker: Breaker, clock: Clock) -> None:
    open_it(breaker)
    clock.now_s += 1.2
    assert breaker.allows()
    breaker.try_now()
    assert breaker.allows()


def test_of_many_threads_one_probes(breaker: Breaker, clock: Clock) -> None:
    open_it(breaker)
    clock.now_s += 1.2
    allowed = []
    start = threading.Barrier(8)

    def ask() -> None:
        start.wait(20)
        allowed.append(breaker.allows())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(allowed) == [False] * 7 + [True]


def test_one_failure_suffices_where_that_is_asked_for(clock: Clock) -> None:
    breaker = Breaker(failures_max=1, clock=clock)
    breaker.failed()
    assert not breaker.allows()

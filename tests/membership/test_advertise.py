"""The address of a node in the list, from what it listens on and what it was told."""

import ipaddress
import socket

import pytest

from memcachepy.errors import ConfigError
from memcachepy.kinds import Address
from memcachepy.node import advertise
from memcachepy.node.advertise import global_ipv4, own_member
from memcachepy.topology import Member

HOST = "10.1.2.3"


def member(places: list[tuple[str, int]], given: Address | None = None) -> Member | None:
    return own_member(given, places, "", lambda: HOST)


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([("127.0.0.1", 1)], Member("127.0.0.1", 1, "127.0.0.1")),
        ([("10.0.0.7", 1)], Member("10.0.0.7", 1, "10.0.0.7")),
        ([("0.0.0.0", 1), ("::", 1)], Member(HOST, 1, HOST)),
        ([("127.0.0.1", 1), ("10.0.0.7", 2)], Member("10.0.0.7", 2, "10.0.0.7")),
        ([("2001:db8::1", 1), ("10.0.0.7", 2)], Member("10.0.0.7", 2, "10.0.0.7")),
        ([("::1", 1), ("2001:db8::1", 2)], Member("2001:db8::1", 2, "2001:db8::1")),
        ([("::", 1)], Member("::1", 1, "::1")),
        ([("fe80::1%eth0", 1)], None),
        ([], None),
    ],
)
def test_default_is_what_most_others_reach(
    places: list[tuple[str, int]], expected: Member | None
) -> None:
    assert member(places) == expected


def test_a_machine_without_a_network_is_its_own_only_client() -> None:
    assert own_member(None, [("0.0.0.0", 1)], "", lambda: "") == Member("127.0.0.1", 1, "127.0.0.1")


def test_what_is_advertised_wins_and_may_leave_out_the_port() -> None:
    places = [("0.0.0.0", 5)]
    assert member(places, Address("192.0.2.9")) == Member("192.0.2.9", 5, "192.0.2.9")
    assert member(places, Address("192.0.2.9", 6)) == Member("192.0.2.9", 6, "192.0.2.9")
    assert member([], Address("192.0.2.9", 6)) == Member("192.0.2.9", 6, "192.0.2.9")


@pytest.mark.parametrize(
    ("found", "ip"),
    [("192.0.2.5", "192.0.2.5"), ("127.0.1.1", HOST), (None, HOST)],
)
def test_a_name_comes_with_an_address_that_others_can_use(
    found: str | None, ip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def getaddrinfo(_host: str, _port: None, family: int, _kind: int) -> list[tuple[object, ...]]:
        if found is None or family != socket.AF_INET:
            raise socket.gaierror
        return [(family, 1, 6, "", (found, 0))]

    monkeypatch.setattr(advertise.socket, "getaddrinfo", getaddrinfo)
    given = Address("n1.mc.cfg.test", 7)
    assert member([("0.0.0.0", 5)], given) == Member("n1.mc.cfg.test", 7, ip)


@pytest.mark.parametrize("given", [Address("theEND", 1), Address("a")])
def test_what_clients_cannot_use_is_refused(given: Address) -> None:
    with pytest.raises(ConfigError) as caught:
        member([], given)
    assert caught.value.name == "advertise"


def test_this_machine_has_an_address_or_none() -> None:
    found = global_ipv4()
    assert not found or not ipaddress.ip_address(found).is_loopback

"""The list of nodes as DNS has it: the addresses of a name, or its SRV records.

DNS has no version. Every node that sees another list than before asks the nodes of the new one, and
takes the largest version that one of them has for the same nodes; if none has, it makes its own.
It goes on asking until all say the same, so that the nodes agree a moment after their resolvers do.
"""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import dns.exception
import dns.message
import dns.name
import dns.rdatatype
import dns.resolver

from memcachepy.errors import MembershipError
from memcachepy.membership.membership import ReadOnly, is_same_list
from memcachepy.membership.peers import ask_nodes
from memcachepy.membership.url import DnsPlace
from memcachepy.topology import Member, Topology

PAUSE_S_MIN = 1.0
PAUSE_S_MAX = 5.0
"""Between the two, answers are asked for again when their TTL is over."""
ASK_WAIT_S = 1.0
"""How long the other nodes may take to say which list they have."""
ASKED_MAX = 32
"""Nodes asked in one round, by chance, until all say the same; then `ASKED_AFTERWARDS`."""
ASKED_AFTERWARDS = 3

Ask = Callable[[Iterable[Member], float], Mapping[Member, Topology]]


@dataclass(frozen=True, slots=True)
class Found:
    """What DNS says."""

    members: tuple[Member, ...]
    ttl_s: float


class DnsMembership(ReadOnly):
    """Asks DNS again and again.

    Args:
        place: the name, and whom to ask for it.
        now: Unix time in seconds.
        resolve: asks DNS once; raises MembershipError. For tests.
        ask: asks nodes for their lists. For tests.
    """

    place: DnsPlace

    def __init__(
        self,
        place: DnsPlace,
        now: Callable[[], float] = time.time,
        resolve: Callable[[DnsPlace, float], Found] | None = None,
        ask: Ask = ask_nodes,
    ) -> None:
        super().__init__(place, now)
        self._resolve = resolve or look_up
        self._ask = ask
        self._ttl_s = 0.0
        self._is_agreed = False

    @property
    def pause_s(self) -> float:
        pause_s = min(max(self._ttl_s, PAUSE_S_MIN), PAUSE_S_MAX)
        return pause_s if self._is_agreed else PAUSE_S_MIN

    def topology(self) -> Topology | None:
        members = self._resolve(self.place, self.WAIT_S).members
        versions = self._versions(Topology(0, members), len(members))
        return Topology(max(versions, default=0), members)

    def poll(self, last: Topology) -> Topology:
        try:
            found = self._resolve(self.place, self.WAIT_S)
        except MembershipError:
            self._ttl_s, self._is_agreed = 0.0, False
            raise
        self._ttl_s = found.ttl_s
        listed = Topology(0, found.members)
        is_known = last.version > 0 and is_same_list(listed, last)
        if not is_known:
            self._is_agreed = False
        versions = self._versions(listed, ASKED_AFTERWARDS if self._is_agreed else ASKED_MAX)
        largest = max(versions, default=0)
        if is_known:
            version = max(last.version, largest)
        elif largest > last.version:
            version = largest
        else:
            version = max(last.version + 1, int(self.now()))
        self._is_agreed = all(other == version for other in versions)
        return Topology(version, found.members)

    def _versions(self, listed: Topology, asked_max: int) -> list[int]:
        """The versions that others have; 0 of those that have another list."""
        others = [member for member in listed.members if not self._is_own(member)]
        asked = random.sample(others, min(asked_max, len(others)))
        answers = self._ask(asked, ASK_WAIT_S)
        return [
            answer.version if is_same_list(answer, listed) else 0 for answer in answers.values()
        ]

    def _is_own(self, member: Member) -> bool:
        own = self.member
        if own is None or member.port != own.port:
            return False
        return member.host == own.host or bool(own.ip and member.ip == own.ip)


def look_up(place: DnsPlace, timeout_s: float) -> Found:
    """Ask once.

    Raises:
        MembershipError: no answer, no such name, or no records: none of it is taken for a list.
    """
    try:
        lookup = _Lookup(place, timeout_s)
        found = lookup.service() if place.port == 0 else lookup.addresses_of_name()
    except dns.exception.DNSException as error:
        raise MembershipError(f"{place}: {error or type(error).__name__}") from None
    except OSError as error:
        raise MembershipError(f"{place}: {error.strerror or error}") from None
    if not found.members:
        raise MembershipError(f"{place}: there is no node")
    return found


class _Lookup:
    """The questions of one look-up, which all together may take so long."""

    def __init__(self, place: DnsPlace, timeout_s: float) -> None:
        self._place = place
        self._give_up_at_s = time.monotonic() + timeout_s
        self._ttl_s = float("inf")
        self._resolver = dns.resolver.Resolver(configure=place.nameserver is None)
        if place.nameserver is not None:
            self._resolver.nameservers = [place.nameserver[0]]
            self._resolver.port = place.nameserver[1]

    def addresses_of_name(self) -> Found:
        ips = self._addresses(self._place.name)
        members = tuple(Member(ip, self._place.port, ip) for ip in sorted(set(ips)))
        return Found(members, self._ttl_s)

    def service(self) -> Found:
        answer = self._resolve(self._place.name, dns.rdatatype.SRV)
        enclosed = dict(_enclosed_addresses(answer.response))
        members = {}
        for record in answer:
            if record.target == dns.name.root or not record.port:
                continue  # RFC 2782: the service is decidedly not available.
            host = record.target.to_text(omit_final_dot=True).lower()
            ip = enclosed.get(record.target) or self._first_address(record.target)
            if ip:
                members[host, record.port] = Member(host, record.port, ip)
        return Found(tuple(members.values()), self._ttl_s)

    def _first_address(self, target: dns.name.Name) -> str:
        """Empty: there is no such name, so nobody can reach the node. Any other failure counts."""
        try:
            return min(self._addresses(target))
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return ""

    def _addresses(self, name: str | dns.name.Name) -> list[str]:
        """IPv4 if there is any: a node with both is one node, and clients need the former."""
        try:
            answer = self._resolve(name, dns.rdatatype.A)
        except dns.resolver.NoAnswer:
            answer = self._resolve(name, dns.rdatatype.AAAA)
        return [record.address for record in answer]

    def _resolve(
        self, name: str | dns.name.Name, kind: dns.rdatatype.RdataType
    ) -> dns.resolver.Answer:
        left_s = max(0.01, self._give_up_at_s - time.monotonic())
        answer = self._resolver.resolve(name, kind, search=True, lifetime=left_s)
        if answer.rrset is not None:
            self._ttl_s = min(self._ttl_s, answer.rrset.ttl)
        return answer


def _enclosed_addresses(response: dns.message.Message) -> Iterator[tuple[dns.name.Name, str]]:
    """The smallest IPv4 address of each name that came along with the answer."""
    for rrset in response.additional:
        if rrset.rdtype == dns.rdatatype.A:
            yield rrset.name, min(record.address for record in rrset)

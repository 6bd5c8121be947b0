"""The address under which a node is in the list that clients ask for.

Clients take the host or the address behind it, as they please, and several of them need an IPv4
there. What a node listens on may be neither: `*` is no address, and a name may mean this machine
only when asked here.
"""

import fcntl
import ipaddress
import socket
import struct
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from memcachepy.errors import ConfigError
from memcachepy.kinds import Address
from memcachepy.node.listeners import Listener
from memcachepy.topology import Member

_SIOCGIFADDR = 0x8915
_IFREQ_BYTES = 40
_ADDRESS_OFFSET = 20
_ELSEWHERE = ("192.0.2.1", 9)
"""Reserved for documentation, RFC 5737: what the kernel would send from, were there something."""


def own_member(
    advertise: Address | None,
    places: Sequence[tuple[str, int]],
    node_id: str = "",
    find_global: Callable[[], str] | None = None,
) -> Member | None:
    """This node in the list; None if it can be reached over no network.

    Args:
        advertise: what was asked for, if anything; the port may be left out.
        places: address and port of each listening socket, as the kernel tells them.
        node_id: goes into the member.
        find_global: an IPv4 address of this machine that others reach, or ""; `global_ipv4`.

    Raises:
        ConfigError: clients cannot read what was asked for, or it needs a port.
    """
    default = _default(places, find_global or global_ipv4)
    if advertise is None:
        return default and Member(*default, default[0], node_id)
    port = advertise.port or (default[1] if default else 0)
    if not port:
        raise ConfigError("advertise", str(advertise), "must have a port: there is no TCP port")
    try:
        ip = _address_behind(advertise.host, default[0] if default else "")
        return Member(advertise.host, port, ip, node_id)
    except ConfigError as error:
        raise ConfigError("advertise", str(advertise), error.must) from None


def tcp_places(listeners: Iterable[Listener]) -> list[tuple[str, int]]:
    names = [listener.socket.getsockname() for listener in listeners if listener.port]
    return [(str(name[0]), int(name[1])) for name in names]


def global_ipv4() -> str:
    """The address from which this machine would speak to others; "" if it has none."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(_ELSEWHERE)  # Sends nothing.
        if _reach(address := str(probe.getsockname()[0])) == _ELSEWHERE_TOO:
            return address
    return next((ip for ip in _interface_addresses() if _reach(ip) == _ELSEWHERE_TOO), "")


def _interface_addresses() -> list[str]:
    found: list[str] = []
    try:
        names = socket.if_nameindex()
    except OSError:  # A sandbox without netlink sockets.
        return found
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in names:
            request = struct.pack(f"{_IFREQ_BYTES}s", name.encode()[:15])
            with suppress(OSError):  # It has none.
                answer = fcntl.ioctl(asking, _SIOCGIFADDR, request)
                found.append(socket.inet_ntoa(answer[_ADDRESS_OFFSET : _ADDRESS_OFFSET + 4]))
    return found


_ELSEWHERE_TOO, _ANYWHERE, _HERE_ONLY = range(3)
"""From where an address can be reached: `0.0.0.0` is no address, whoever has which."""


def _reach(host: str) -> int:
    address = ipaddress.ip_address(host)
    if address.is_unspecified:
        return _ANYWHERE
    return _HERE_ONLY if address.is_loopback or address.is_link_local else _ELSEWHERE_TOO


def _default(
    places: Sequence[tuple[str, int]], find_global: Callable[[], str]
) -> tuple[str, int] | None:
    """The most useful of what is listened on: reached by others, then with an IPv4."""
    ranked: list[tuple[int, str, int]] = []
    for host, port in places:
        if "%" in host:  # Means something on one link only.
            continue
        is_ipv6 = ":" in host
        reach = _reach(host)
        if reach == _ANYWHERE:
            host = "" if is_ipv6 else find_global()
            reach = _ELSEWHERE_TOO if host else _HERE_ONLY
            host = host or ("::1" if is_ipv6 else "127.0.0.1")
        ranked.append((2 * reach + is_ipv6, host, port))
    return min(ranked, key=lambda row: row[0])[1:] if ranked else None


def _address_behind(host: str, default: str) -> str:
    """Of a name, as far as this machine knows it; else the node's own."""
    with suppress(ValueError):
        return str(ipaddress.ip_address(host))
    found = ""
    for family in (socket.AF_INET, socket.AF_INET6):
        with suppress(socket.gaierror, UnicodeError):
            answers = socket.getaddrinfo(host, None, family, socket.SOCK_STREAM)
            found = str(answers[0][4][0]).partition("%")[0]
            break
    is_own = default and _reach(default) == _ELSEWHERE_TOO
    if is_own and (not found or _reach(found) != _ELSEWHERE_TOO):
        return default  # The hosts file of this machine calls it 127.0.1.1.
    return found or default

"""Where a list of nodes is kept, as a URL says it.

    file:PATH                         a file, watched
    dns+NAME:PORT                     the addresses of a name
    dnssrv+NAME                       the SRV records of a name
    zk://HOST[:PORT],HOST.../PATH     ZooKeeper

Options follow after `?`, with `&` between.
"""

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import parse_qsl, quote

from memcachepy.errors import ConfigError

ZOOKEEPER_PORT = 2181
DNS_PORT = 53
GRACE_S = 60.0
"""How long a node that is gone stays in the list."""
SESSION_S = 10.0
"""After so long without a sign of life ZooKeeper takes a node for gone."""
_NAME = re.compile(r"[0-9A-Za-z_]([0-9A-Za-z_.-]{0,251}[0-9A-Za-z_.])?")
_PATH = re.compile(r"(/[0-9A-Za-z_.-]{1,200}){1,16}")
_HOST = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::([0-9]{1,5}))?|([^\s:\[\]/,?]+)(?::([0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class FilePlace:
    """`file:PATH`."""

    path: Path

    @property
    def cluster(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return f"file:{self.path}"


@dataclass(frozen=True, slots=True)
class DnsPlace:
    """`dns+NAME:PORT`, or `dnssrv+NAME` with the port 0: each record has its own."""

    name: str
    port: int
    nameserver: tuple[str, int] | None = None
    """None: the system's."""

    @property
    def cluster(self) -> str:
        return f"{self.name}:{self.port}"

    def __str__(self) -> str:
        option = f"?nameserver={_joined(self.nameserver)}" if self.nameserver else ""
        return (f"dns+{self.name}:{self.port}" if self.port else f"dnssrv+{self.name}") + option


@dataclass(frozen=True, slots=True)
class ZookeeperPlace:
    """`zk://HOST:PORT,.../PATH`."""

    hosts: tuple[tuple[str, int], ...]
    path: str
    grace_s: float = GRACE_S
    session_s: float = SESSION_S
    auth_file: Path | None = None
    """Holds `user:password`; with it nobody else may change the znodes."""

    @property
    def cluster(self) -> str:
        """Which one it is: servers come and go."""
        return self.path

    @property
    def hosts_text(self) -> str:
        return ",".join(map(_joined, self.hosts))

    def __str__(self) -> str:
        options = []
        if self.grace_s != GRACE_S:
            options.append(f"grace={self.grace_s:g}")
        if self.session_s != SESSION_S:
            options.append(f"session={self.session_s:g}")
        if self.auth_file is not None:
            options.append(f"auth={quote(str(self.auth_file))}")
        return f"zk://{self.hosts_text}{self.path}" + "?" * bool(options) + "&".join(options)


Place: TypeAlias = FilePlace | DnsPlace | ZookeeperPlace

_FORMS = "file:PATH, dns+NAME:PORT, dnssrv+NAME or zk://HOST:PORT,.../PATH"


def parse_url(url: str, setting: str = "join") -> Place:
    """The place that a URL names.

    Raises:
        ConfigError: it names none; says what is wrong, with the name of the setting.
    """
    try:
        return _parse(url)
    except _Wrong as error:
        raise ConfigError(setting, url, str(error)) from None


class _Wrong(ValueError):
    """What the URL must be."""


def _parse(url: str) -> Place:
    if url.startswith("file:"):
        return FilePlace(_file_path(url.removeprefix("file:")))
    rest, _, query = url.partition("?")
    scheme, separator, rest = _split_scheme(rest)
    match scheme:
        case "dns" | "dnssrv" if separator == "+":
            return _parse_dns(scheme, rest, _options(query, ("nameserver",)))
        case "zk" if separator == "://":
            return _parse_zookeeper(rest, _options(query, ("grace", "session", "auth")))
    raise _Wrong(f"must be {_FORMS}")


def _split_scheme(text: str) -> tuple[str, str, str]:
    match = re.match(r"([a-z]+)(\+|://)", text)
    return (match[1], match[2], text[match.end() :]) if match else ("", "", text)


def _file_path(text: str) -> Path:
    if text.startswith("//"):
        text = "/" + text.lstrip("/") if text.startswith("///") else ""
    if not text or "\0" in text:
        raise _Wrong("must be file:PATH with the path of a file")
    return Path(text)


def _parse_dns(scheme: str, rest: str, options: dict[str, str]) -> DnsPlace:
    nameserver = None
    if "nameserver" in options:
        nameserver = _host_and_port(options["nameserver"], DNS_PORT)
        try:
            ipaddress.ip_address(nameserver[0])
        except ValueError:
            raise _Wrong("must have an IP address after nameserver=") from None
    name, port = rest, 0
    if scheme == "dns":
        name, _, digits = rest.rpartition(":")
        if not re.fullmatch("[0-9]{1,5}", digits) or not 1 <= int(digits) <= 65535:
            raise _Wrong("must be dns+NAME:PORT, with the port that every node listens on")
        port = int(digits)
    if not _NAME.fullmatch(name):
        raise _Wrong(f"must have a DNS name after {scheme}+, not {name!r}")
    return DnsPlace(name, port, nameserver)


def _parse_zookeeper(rest: str, options: dict[str, str]) -> ZookeeperPlace:
    hosts_text, slash, path = rest.partition("/")
    path = slash + path.rstrip("/")
    if not _PATH.fullmatch(path) or path.split("/")[1] == "zookeeper":
        raise _Wrong("must end with the path of the cluster, as in zk://HOST:2181/cache-a")
    if {".", ".."} & set(path.split("/")):
        raise _Wrong("must have a path without . and ..")
    hosts = tuple(_host_and_port(text, ZOOKEEPER_PORT) for text in hosts_text.split(","))
    grace_s = _seconds(options, "grace", GRACE_S, 0, 86400)
    session_s = _seconds(options, "session", SESSION_S, 1, 300)
    auth_file = None
    if "auth" in options:
        auth_file = Path(options["auth"])
        if not auth_file.is_absolute():
            raise _Wrong("must have the absolute path of a file after auth=")
    return ZookeeperPlace(hosts, path, grace_s, session_s, auth_file)


def _host_and_port(text: str, port: int) -> tuple[str, int]:
    match = _HOST.fullmatch(text)
    if match is None:
        raise _Wrong(f"must have HOST or HOST:PORT, not {text!r}")
    digits = match[2] or match[4]
    if digits and not 1 <= int(digits) <= 65535:
        raise _Wrong(f"must have a port from 1 to 65535, not {digits}")
    return match[1] or match[3], int(digits or port)


def _joined(place: tuple[str, int]) -> str:
    host, port = place
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _options(query: str, known: tuple[str, ...]) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name in options.keys() - set(known):
        raise _Wrong(f"must have no other option than {', '.join(known)}, not {name!r}")
    return options


def _seconds(
    options: dict[str, str], name: str, default: float, least: float, most: float
) -> float:
    text = options.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,3})?", text) or not least <= float(text) <= most:
        raise _Wrong(f"must have {name}={least:g} to {most:g} seconds, not {text!r}")
    return float(text)

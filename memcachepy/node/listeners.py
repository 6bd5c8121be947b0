"""The sockets a node listens on: opened by the supervisor before it forks, closed by it at the end.

Whatever the system refuses becomes a `ListenError` that names the setting to change.
"""

import errno
import logging
import os
import pwd
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from memcachepy.config import NodeConfig
from memcachepy.errors import ListenError
from memcachepy.kinds import Address
from memcachepy.log import fact
from memcachepy.node.limits import effective_user

log = logging.getLogger("memcachepy.node")

_PROBE_TIMEOUT_S = 1.0
_IPV6_OFF = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket, non-blocking, and its name as a person would write it."""

    socket: socket.socket
    name: str
    path: Path | None = None
    inode: tuple[int, int] | None = None
    """Device and inode of a UNIX socket's file: only this very file is removed at the end."""

    @property
    def port(self) -> int:
        return 0 if self.path else int(self.socket.getsockname()[1])

    def close(self) -> None:
        self.socket.close()
        if self.path:
            try:
                if _inode(self.path) == self.inode:
                    self.path.unlink()
            except FileNotFoundError:
                pass
            except OSError as error:
                log.warning(fact("socket file stays", path=self.path, reason=error.strerror))


@contextmanager
def open_listeners(config: NodeConfig) -> Iterator[list[Listener]]:
    """Every socket the config asks for; closed, and socket files removed, on leaving.

    Raises:
        ListenError: one of them cannot be had.
    """
    listeners: list[Listener] = []
    try:
        for address in config.listen:
            port = config.port if address.port is None else address.port
            if port:
                listeners += _open_tcp(address, max(port, 0), config.listen_backlog)
        if config.unix_socket:
            path, mask = Path(config.unix_socket), config.unix_mask
            listeners.append(open_unix_as(config.user, path, mask, config.listen_backlog, "-s"))
        yield listeners
    finally:
        for listener in listeners:
            listener.close()


def _open_tcp(address: Address, port: int, backlog: int) -> Iterator[Listener]:
    places = _resolve(address.host)
    for family, host in places:
        try:
            listener = _listen_tcp(family, host, port, backlog)
        except OSError as error:
            # `*` and names like localhost mean IPv6 too, where there is any.
            if len(places) > 1 and family == socket.AF_INET6 and error.errno in _IPV6_OFF:
                continue
            sentence = _tcp_sentence(error, family, host, port)
            raise ListenError(sentence, host, error.strerror or str(error)) from None
        port = listener.port
        yield listener


def _resolve(host: str) -> list[tuple[socket.AddressFamily, str]]:
    if host == "*":
        return [(socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")]
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError):
        sentence = f"-l: {host} is neither an address nor a name that resolves"
        raise ListenError(sentence, host, "Name or service not known") from None
    return list(dict.fromkeys((family, str(where[0])) for family, _, _, _, where in found))


def _listen_tcp(family: socket.AddressFamily, host: str, port: int, backlog: int) -> Listener:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit these two.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        where = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)[0][4]
        sock.bind(where)
        sock.listen(backlog)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return Listener(sock, str(Address(host, sock.getsockname()[1])))


def _tcp_sentence(error: OSError, family: int, host: str, port: int) -> str:
    where = str(Address(host, port))
    match error.errno:
        case errno.EADDRINUSE:
            return (
                f"{where} is already in use by another process: stop that one, "
                "or choose another port with -p"
            )
        case errno.EACCES:
            return (
                f"port {port} is privileged and may not be opened by this user: choose one "
                "above 1023 with -p, or start as root with -u, or grant CAP_NET_BIND_SERVICE"
            )
        case errno.EAFNOSUPPORT | errno.EADDRNOTAVAIL if family == socket.AF_INET6 and (
            error.errno == errno.EAFNOSUPPORT or host in ("::", "::1")
        ):
            return f"-l {Address(host)}: IPv6 is off on this machine: use an IPv4 address"
        case errno.EADDRNOTAVAIL:
            return f"-l {Address(host)}: no network interface of this machine has this address"
    return f"cannot listen on {where}: {error.strerror or error}"


def open_unix_as(user: str | None, path: Path, mask: int, backlog: int, option: str) -> Listener:
    """Made by the user that root will become, who can then also remove it; else by root.

    Raises:
        ListenError: neither can have it; names the option to change.
    """
    try:
        with effective_user(user):
            return open_unix(path, mask, backlog, option)
    except ListenError:
        if os.geteuid() != 0 or user is None:
            raise
    listener = open_unix(path, mask, backlog, option)
    try:
        found = pwd.getpwnam(user)
        os.chown(path, found.pw_uid, found.pw_gid)
    except OSError as error:
        listener.close()
        sentence = f"{option} {path}: cannot be given to {user}: {error.strerror}"
        raise ListenError(sentence, str(path), error.strerror or "") from None
    except KeyError:
        pass  # Refused later.
    return listener


def open_unix(path: Path, mask: int, backlog: int, option: str) -> Listener:
    """A socket in a file with this access mask, in the place of one that nobody answers any more.

    Raises:
        ListenError: it cannot be had; names the option to change.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path, option)
        umask = os.umask(~mask & 0o777)
        try:
            sock.bind(str(path))
        finally:
            os.umask(umask)
        inode = _inode(path)
        sock.listen(backlog)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        reason = str(error) if error.strerror is None else error.strerror
        sentence = f"{option} {path}: cannot make the UNIX socket: {reason}"
        raise ListenError(sentence, str(path), reason) from None
    except BaseException:
        sock.close()
        raise
    return Listener(sock, str(path), path, inode)


def _remove_stale(path: Path, option: str) -> None:
    """Remove a socket that nobody answers; refuse a live one and any other file."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ListenError(
            f"{option} {path}: is there already and is not a socket: choose another path",
            str(path),
            "File exists",
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_TIMEOUT_S)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except TimeoutError:
            pass
    raise ListenError(
        f"{option} {path}: is already in use by another process: "
        "stop that one, or choose another path",
        str(path),
        "Address already in use",
    )


def _inode(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino

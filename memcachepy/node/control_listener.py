"""Opens the control socket before privileges are given up: its place, its mode, its owner."""

import grp
import logging
import os
import pwd
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from memcachepy.config import CONTROL_OFF, NodeConfig
from memcachepy.errors import BootError, ConfigError
from memcachepy.log import fact
from memcachepy.node.limits import effective_user
from memcachepy.node.listeners import Listener, open_unix_as
from memcachepy.node.rendezvous import (
    PATH_BYTES_MAX,
    is_private,
    socket_directories,
    socket_name,
)

log = logging.getLogger("memcachepy.control")

_BACKLOG = 64
_OWNER_ONLY = 0o600
_WITH_GROUP = 0o660


class ControlListener(NamedTuple):
    """A listening socket, and the group whose members may connect to it."""

    listener: Listener
    gid: int | None


def open_control_listener(
    config: NodeConfig, listeners: Sequence[Listener], environ: Mapping[str, str]
) -> ControlListener | None:
    """Where the config says; else, if it says nothing, where there is a private place for it.

    A place that nobody has asked for may be impossible: then the node goes without, and says so.

    Args:
        config: the node's settings.
        listeners: name the socket, if the config does not.
        environ: all of the environment.

    Raises:
        BootError: the place that was asked for cannot be had.
        ConfigError: there is no such group.
    """
    gid = _gid(config.control_group)
    if config.control_socket == CONTROL_OFF:
        return None
    if config.control_socket:
        return ControlListener(_open(Path(config.control_socket), config, gid), gid)
    reason = "no directory for it"
    for path in _places(config, listeners, environ, gid):
        try:
            return ControlListener(_open(path, config, gid), gid)
        except BootError as error:
            reason = str(error)
    log.warning(fact("no control socket", reason=reason, remedy="--control-socket"))
    return None


def _gid(name: str | None) -> int | None:
    if name is None:
        return None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError("control_group", name, "there is no such group") from None


def _uid(config: NodeConfig) -> int:
    """The user that the node will have; an unknown one is refused later."""
    if config.user and os.geteuid() == 0:
        with suppress(KeyError):
            return pwd.getpwnam(config.user).pw_uid
    return os.geteuid()


def _places(
    config: NodeConfig, listeners: Sequence[Listener], environ: Mapping[str, str], gid: int | None
) -> list[Path]:
    """Beside the node's UNIX socket if that is all it listens on, else by its first port."""
    ports = [listener.port for listener in listeners if listener.port]
    if not ports:
        return [Path(f"{config.unix_socket}.control")]
    uid = _uid(config)
    if uid != os.geteuid():
        environ = {}  # Whose runtime directory this is.
    return [
        directory / socket_name(ports[0])
        for directory in socket_directories(uid, environ)
        if _make_private(directory, config, gid)
    ]


def _make_private(directory: Path, config: NodeConfig, gid: int | None) -> bool:
    """A directory of the user's that nobody else writes to; a control group may pass through."""
    uid = _uid(config)
    with suppress(OSError):
        _make_for(directory, config.user, uid)
    if not is_private(directory, uid):
        return False
    with suppress(OSError):
        if gid is not None and directory.stat().st_mode & 0o001 == 0:
            directory.chmod(0o711)
    with effective_user(config.user):
        may = os.access(directory, os.W_OK | os.X_OK, effective_ids=True)
    return may or os.access(directory, os.W_OK | os.X_OK)


def _make_for(directory: Path, user: str | None, uid: int) -> None:
    """By the user itself where it may; root may lack the right to give files away."""
    try:
        with effective_user(user):
            directory.mkdir(mode=0o700)
    except PermissionError:
        directory.mkdir(mode=0o700)
        try:
            os.chown(directory, uid, -1)
        except OSError:
            directory.rmdir()
            raise


def _open(path: Path, config: NodeConfig, gid: int | None) -> Listener:
    if len(os.fsencode(path)) > PATH_BYTES_MAX:
        raise BootError(f"--control-socket {path}: is longer than {PATH_BYTES_MAX} bytes")
    mode = _OWNER_ONLY if gid is None else _WITH_GROUP
    listener = open_unix_as(config.user, path, mode, _BACKLOG, "--control-socket")
    try:
        if gid is not None:
            _give_to_group(path, gid, config.user)
    except OSError as error:
        listener.close()
        raise BootError(
            f"--control-group {config.control_group}: the control socket cannot be given to it: "
            f"{error.strerror}: start as one of its members, or as root"
        ) from None
    return listener


def _give_to_group(path: Path, gid: int, user: str | None) -> None:
    """Root may lack the right; the user may do it where it is one of the group."""
    try:
        os.chown(path, -1, gid)
    except PermissionError:
        with effective_user(user):
            os.chown(path, -1, gid)

"""What the supervisor asks of the system before it forks: descriptors, standard files, a user."""

import os
import pwd
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from memcachepy.config import NodeConfig
from memcachepy.errors import BootError, ConfigError, UnknownUser

_RESERVED_FDS = 64
"""For what is neither a connection nor counted below: standard files, epoll, pipes, the segment."""
_FDS_PER_WORKER = 4
"""Both ends of a channel, an eventfd, and one to spare."""


def open_standard_files() -> None:
    """Put /dev/null where 0, 1 or 2 is closed, so that no socket or segment gets that number."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


def raise_descriptor_limit(config: NodeConfig, listener_count: int) -> None:
    """Make room for every connection in one process: after kills a single worker may hold all.

    Raises:
        BootError: the hard limit is lower, and may not be raised.
    """
    needed = config.conn_limit + _RESERVED_FDS + _FDS_PER_WORKER * config.threads + listener_count
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY:
        hard = max(hard, needed)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    except (OSError, ValueError):
        available = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        most = available - (needed - config.conn_limit)
        advice = f"lower -c to at most {most}, or " if most > 0 else ""
        raise BootError(
            f"conn_limit is {config.conn_limit} (-c): that needs {needed} file descriptors and "
            f"{available} are allowed: {advice}raise the limit "
            "(ulimit -Hn, LimitNOFILE= of systemd, --ulimit nofile= of docker)"
        ) from None


def raise_core_limit() -> None:
    """As large core files as this process may allow itself.

    Raises:
        BootError: none at all.
    """
    most = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    try:
        resource.setrlimit(resource.RLIMIT_CORE, most)
    except (OSError, ValueError):
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    if resource.getrlimit(resource.RLIMIT_CORE)[0] == 0:
        raise BootError(
            "enable_coredumps (-r): the limit of core files is 0 and may not be raised "
            "(ulimit -Hc, LimitCORE= of systemd)"
        )


def raise_locked_memory_limit() -> None:
    """As much as this process may allow itself; who lacks the right finds out when it locks."""
    with suppress(OSError, ValueError):
        most = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.setrlimit(resource.RLIMIT_MEMLOCK, most)


@contextmanager
def effective_user(name: str | None) -> Iterator[None]:
    """Do something as the user that root will become; an unknown one is refused later."""
    try:
        user = pwd.getpwnam(name) if name and os.geteuid() == 0 else None
    except KeyError:
        user = None
    if user is None or user.pw_uid == 0:
        yield
        return
    gid, groups = os.getegid(), os.getgroups()
    os.initgroups(user.pw_name, user.pw_gid)
    os.setegid(user.pw_gid)
    os.seteuid(user.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)


def become_user(name: str | None) -> None:
    """Give up root for good.

    Raises:
        UnknownUser: there is no such user.
        ConfigError: this process is not root and so cannot change.
        BootError: it lacks a capability.
    """
    if name is None:
        return
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        raise UnknownUser(f"user is {name!r} (-u): there is no such user") from None
    if os.geteuid() != 0:
        if os.geteuid() == user.pw_uid:
            return
        raise ConfigError("user", name, "can only be changed by root: leave -u out", "-u")
    try:
        os.initgroups(name, user.pw_gid)
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
    except OSError as error:
        raise BootError(
            f"user is {name!r} (-u): cannot become it: {error.strerror}: "
            "that takes the capabilities SETUID and SETGID"
        ) from None

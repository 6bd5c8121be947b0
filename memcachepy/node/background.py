"""`-d`: a process of its own session, whose parent stays until it is known whether it serves."""

import os
import pickle
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from memcachepy.config import CONTROL_OFF, STATE_OFF, NodeConfig
from memcachepy.errors import BootError, MemcachepyError
from memcachepy.membership.url import FilePlace, parse_url

_SERVING = b"serving"
_STATUS_FAILED = 70


def in_background(run: Callable[[Callable[[], None]], int], keep_output: bool, folder: str) -> int:
    """Fork twice and run there; 0 as soon as it says that it serves.

    Args:
        run: called in the new process with what it has to call when it serves; its result is the
            exit status of that process.
        keep_output: whether stdout and stderr stay what they are.
        folder: the new process's working directory.

    Raises:
        MemcachepyError: what `run` raised before it served.
    """
    reading, writing = os.pipe()
    first = os.fork()
    if first == 0:
        os.close(reading)
        _detach(run, writing, keep_output, folder)
    os.close(writing)
    os.waitpid(first, 0)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    if said == _SERVING:
        return 0
    if not said:
        raise BootError("the node was killed before it served")
    error = pickle.loads(said)
    assert isinstance(error, MemcachepyError)
    raise error


def _detach(
    run: Callable[[Callable[[], None]], int], writing: int, keep_output: bool, folder: str
) -> NoReturn:
    """The rest of the first child's and all of the second's life."""
    status = _STATUS_FAILED
    pipe = os.fdopen(writing, "wb", buffering=0)

    def say(words: bytes) -> None:
        """Once; later nobody waits any more."""
        with pipe, suppress(OSError):
            pipe.write(words)

    try:
        os.setsid()
        if os.fork():  # No session leader: no terminal can become ours.
            os._exit(0)
        os.chdir(folder)
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0,) if keep_output else (0, 1, 2):
            os.dup2(null, fd)
        os.close(null)
        status = run(lambda: say(_SERVING))
    except MemcachepyError as error:
        status = error.exit_status
        if not pipe.closed:
            say(pickle.dumps(error))
    except BaseException as error:
        if not pipe.closed:
            say(pickle.dumps(BootError(f"{type(error).__name__}: {error}")))
    finally:
        os._exit(status)


def with_absolute_paths(config: NodeConfig) -> NodeConfig:
    """The same settings from any working directory."""

    def absolute(path: str | None) -> str | None:
        is_off = path in (None, CONTROL_OFF, STATE_OFF)
        return path if is_off else str(Path(path or "").absolute())

    join = config.join
    if join and isinstance(place := parse_url(join), FilePlace):
        join = f"file:{place.path.absolute()}"
    return replace(
        config,
        unix_socket=absolute(config.unix_socket),
        pidfile=absolute(config.pidfile),
        control_socket=absolute(config.control_socket),
        discovery_state=absolute(config.discovery_state),
        join=join,
    )

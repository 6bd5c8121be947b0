"""What the control socket answers about settings: those that a running node takes other values of.

The names are those of the configuration. What memcached has commands for (`cache_memlimit`, `slabs
automove`, `lru_crawler`) is changed with these.
"""

from collections.abc import Callable, Mapping
from typing import Any

from memcachepy import _core
from memcachepy.config import SETTINGS
from memcachepy.errors import ConfigError


def _unless(name: str) -> Callable[[Any], dict[str, object]]:
    return lambda is_disabled: {name: not is_disabled}


def _same(name: str) -> Callable[[Any], dict[str, object]]:
    return lambda value: {name: value}


CHANGEABLE: Mapping[str, Callable[[Any], dict[str, object]]] = {
    "disable_dumping": _unless("dump_enabled"),
    "disable_flush_all": _unless("flush_enabled"),
    "disable_watch": _unless("watch_enabled"),
    "enable_shutdown": _same("shutdown_enabled"),
    "max_reqs_per_event": _same("requests_per_event"),
}
"""What each means in the core's words. Who watches already goes on when watching is disabled."""


def settings_change(segment: _core.Segment, request: Mapping[str, object]) -> dict[str, object]:
    """All that the request names, or nothing.

    Raises:
        ValueError: a setting is unknown here, or has a value that it cannot have.
    """
    wanted = request.get("settings")
    if not isinstance(wanted, dict):
        raise ValueError("settings are missing, as an object")
    changes: dict[str, object] = {}
    for name, value in wanted.items():
        if name not in CHANGEABLE:
            raise ValueError(f"{name} cannot be changed here: {', '.join(CHANGEABLE)} can")
        try:
            changes |= CHANGEABLE[name](SETTINGS[name].read(value))
        except ConfigError as error:
            raise ValueError(str(error)) from None
    segment.change_settings(changes)
    return {}

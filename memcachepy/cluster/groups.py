"""Parameter groups: named sets of values, files of TOML beside the clusters of a state folder.

    ROOT/.parameters/NAME.toml     family, description, [parameters]

The groups `default.memcached1.4`, `1.5` and `1.6` are there without a file, empty, and cannot be
changed. A file is replaced whole, and changes wait for each other, so nobody's is lost.
"""

import fcntl
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from memcachepy.atomic_file import replace_file
from memcachepy.cluster.parameters import FAMILIES, FAMILY_DEFAULT, parameter, read_values
from memcachepy.cluster.spec import toml_text
from memcachepy.config import did_you_mean
from memcachepy.errors import ClusterError, ConfigError

GROUPS_MAX = 300
"""ElastiCache's quota."""
DEFAULT_PREFIX = "default."
GROUP_DEFAULT = DEFAULT_PREFIX + FAMILY_DEFAULT
_NAME = re.compile(r"[A-Za-z](?:-?[0-9A-Za-z_])*")
_NAME_LEN_MAX = 128
_DESCRIPTION_LEN_MAX = 255


@dataclass(frozen=True, slots=True)
class Group:
    """One group; its values by the names of parameters, as `read_values` returns them."""

    name: str
    family: str = FAMILY_DEFAULT
    description: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_default(self) -> bool:
        return self.name.startswith(DEFAULT_PREFIX)

    def as_dict(self) -> dict[str, object]:
        return {
            "name": self.name,
            "family": self.family,
            "description": self.description,
            "is_default": self.is_default,
            "values": dict(self.values),
        }


_DEFAULTS = {
    DEFAULT_PREFIX + family: Group(DEFAULT_PREFIX + family, family, "memcachepy's own defaults")
    for family in FAMILIES
}


class Groups:
    """All groups of a state folder.

    Args:
        root: where the clusters' folders are.

    Raises:
        ClusterError: in every method, when there is no such group, or a file cannot be had.
    """

    def __init__(self, root: Path) -> None:
        self._folder = root / ".parameters"

    def names(self) -> list[str]:
        """In the order of the alphabet, the default ones first."""
        try:
            own = sorted(path.stem for path in self._folder.glob("*.toml") if path.name[0] != ".")
        except OSError as error:
            raise ClusterError(f"{self._folder} cannot be read: {error.strerror}") from None
        return [*_DEFAULTS, *own]

    def read(self, name: str) -> Group:
        """Raises ConfigError, too: the file has a value that cannot be had."""
        if name in _DEFAULTS:
            return _DEFAULTS[name]
        path = self._path(name)
        try:
            raw = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            known = did_you_mean(name, self.names())
            raise ClusterError(f"there is no parameter group {name}{known}") from None
        except OSError as error:
            raise ClusterError(f"{path} cannot be read: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ClusterError(f"{path} is not TOML: {error}") from None
        family = str(raw.get("family", FAMILY_DEFAULT))
        table = raw.get("parameters", {})
        if not isinstance(table, dict) or family not in FAMILIES:
            raise ClusterError(f"{path} is no parameter group")
        values = read_values(table, family, str(path))
        return Group(name, family, str(raw.get("description", "")), values)

    def create(
        self,
        name: str,
        family: str = FAMILY_DEFAULT,
        description: str = "",
        values: Mapping[str, Any] | None = None,
    ) -> Group:
        """Raises ConfigError, too: the name or a value cannot be had."""
        if not _is_name(name):
            must = f"must be at most {_NAME_LEN_MAX} letters, digits, _ and single hyphens, and "
            raise ConfigError("group", name, must + "begin with a letter")
        if family not in FAMILIES:
            must = f"must be one of {', '.join(FAMILIES)}"
            raise ConfigError("family", family, must)
        if len(description) > _DESCRIPTION_LEN_MAX:
            must = f"must be at most {_DESCRIPTION_LEN_MAX} characters"
            raise ConfigError("description", description, must)
        group = Group(name, family, description, read_values(values or {}, family))
        with self._locked():
            if name in self.names():
                raise ClusterError(f"there is a parameter group {name} already")
            if len(self.names()) - len(_DEFAULTS) >= GROUPS_MAX:
                raise ClusterError(f"there are {GROUPS_MAX} parameter groups already")
            self._write(group)
        return group

    def set(self, name: str, values: Mapping[str, object]) -> Group:
        """Change some values. Raises ConfigError, too: one cannot be had."""

        def change(group: Group) -> dict[str, Any]:
            said = read_values(values, group.family)
            return read_values({**group.values, **said}, group.family)

        return self._change(name, change)

    def reset(self, name: str, parameters: Iterable[str] | None = None) -> Group:
        """Forget values: those of these names, or all. Raises ConfigError: a name is unknown."""
        gone = None if parameters is None else {parameter(text).name for text in parameters}

        def change(group: Group) -> dict[str, Any]:
            left = () if gone is None else group.values.keys() - gone
            return {key: value for key, value in group.values.items() if key in left}

        return self._change(name, change)

    def delete(self, name: str) -> None:
        """A cluster to which it was applied keeps its values."""
        self._check_own(name)
        with self._locked():
            self.read(name)
            try:
                self._path(name).unlink()
            except OSError as error:
                raise ClusterError(f"{self._path(name)} cannot go: {error.strerror}") from None

    def _change(self, name: str, change: Callable[[Group], dict[str, Any]]) -> Group:
        self._check_own(name)
        with self._locked():
            group = self.read(name)
            group = replace(group, values=change(group))
            self._write(group)
        return group

    def _check_own(self, name: str) -> None:
        if name in _DEFAULTS:
            raise ClusterError(
                f"{name} cannot be changed: `memcachepy cluster parameters create NAME` makes a "
                "group that can"
            )

    def _path(self, name: str) -> Path:
        if not _is_name(name):
            raise ClusterError(f"there is no parameter group {name}")
        return self._folder / f"{name}.toml"

    def _write(self, group: Group) -> None:
        head = toml_text({"family": group.family, "description": group.description})
        text = f"{head}\n[parameters]\n{toml_text(group.values)}"
        replace_file(self._path(group.name), text.encode(), ClusterError)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """The kernel lets go of it when the process ends in whatever way."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock_fd = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ClusterError(f"{self._folder} cannot be had: {error.strerror}") from None
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock_fd)


def _is_name(text: str) -> bool:
    return len(text) <= _NAME_LEN_MAX and _NAME.fullmatch(text) is not None

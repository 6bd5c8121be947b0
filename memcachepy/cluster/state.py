"""The folder of a cluster: what it is to be, its list, its nodes' files, and who looks after it.

    ROOT/NAME/lock             held by the cluster's supervisor as long as it lives
              cluster.json     the nodes that there are to be, with their settings (spec.py)
              topology.json    the list that clients are told (membership/file.py)
              control.sock     where commands ask (control.py)
              events.jsonl     what happened
              log              the supervisor's, when it is detached
              nodes/ID/settings.toml   what the node is started with
              nodes/ID/log             what it says
              nodes/ID/discovery.json  the last list that it knew

Files are replaced whole: whoever is killed at any moment leaves the old one or the new one. There
is no file with process ids to go stale: a node is its user's process whose command line names its
settings.toml, and the kernel lets go of the lock when the supervisor ends in whatever way.
"""

import fcntl
import json
import os
import pwd
import signal
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from memcachepy.atomic_file import replace_file
from memcachepy.cluster.spec import ClusterSpec, check_name
from memcachepy.errors import ClusterError

LOG_BYTES_MAX = 4 << 20
"""A log that is longer when its writer starts makes room: one older one is kept."""
_LOCK_TRIES = 10
_LOCK_PAUSE_S = 0.01


def default_root(environ: Mapping[str, str], uid: int) -> Path:
    """Where this user's clusters are."""
    if environ.get("XDG_STATE_HOME", "").startswith("/"):
        return Path(environ["XDG_STATE_HOME"]) / "memcachepy"
    if uid == 0:
        return Path("/var/lib/memcachepy")
    return Path(environ.get("HOME") or "~").expanduser() / ".local" / "state" / "memcachepy"


class DamagedSpec(ClusterError):
    """What the cluster is to be cannot be read."""


class StateFolder:
    """The places in it; makes nothing until it is asked to.

    Raises:
        ConfigError: the name cannot be a cluster's.
        ClusterError: in every method, when the system does not let a file be read or written.
    """

    def __init__(self, root: Path, name: str) -> None:
        self.name = check_name(name)
        self.path = root.absolute() / name
        self.spec_path = self.path / "cluster.json"
        self.topology_path = self.path / "topology.json"
        self.socket_path = self.path / "control.sock"
        self.events_path = self.path / "events.jsonl"
        self.log_path = self.path / "log"
        self._lock_path = self.path / "lock"

    def node_folder(self, node_id: str) -> Path:
        return self.path / "nodes" / node_id

    def settings_path(self, node_id: str) -> Path:
        return self.node_folder(node_id) / "settings.toml"

    def node_log_path(self, node_id: str) -> Path:
        return self.node_folder(node_id) / "log"

    def last_known_path(self, node_id: str) -> Path:
        """The node's own note of the list."""
        return self.node_folder(node_id) / "discovery.json"

    def make(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ClusterError(
                f"{self.path} cannot be made: {error.strerror}: give another place with --state-dir"
            ) from None

    def read_spec(self) -> ClusterSpec | None:
        """None if there is no such cluster.

        Raises:
            DamagedSpec: it is not what was written.
        """
        try:
            return ClusterSpec.from_dict(json.loads(self.spec_path.read_bytes()))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise ClusterError(f"{self.spec_path} cannot be read: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise DamagedSpec(
                f"{self.spec_path} is damaged: {error}: put it right, or end the cluster with "
                f"`memcachepy cluster down --name {self.name}`, which forgets it"
            ) from None

    def write_spec(self, spec: ClusterSpec) -> None:
        text = json.dumps(spec.as_dict(), indent=1)
        replace_file(self.spec_path, text.encode() + b"\n", ClusterError)

    def forget_spec(self) -> None:
        """The cluster is over; its list's version and its events stay."""
        with suppress(FileNotFoundError):
            self.spec_path.unlink()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Be the only one who looks after the cluster.

        The lock is not inherited by programs that are started meanwhile; a process that is forked
        shares it.

        Raises:
            ClusterError: somebody else does.
        """
        self.make()
        try:
            lock_fd = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ClusterError(f"{self._lock_path} cannot be had: {error.strerror}") from None
        try:
            if not _locked(lock_fd):
                raise ClusterError(
                    f"cluster {self.name} runs already, under process {self._noted_pid() or '?'}: "
                    "`memcachepy cluster status` shows it"
                )
            os.ftruncate(lock_fd, 0)
            yield
        finally:
            os.close(lock_fd)

    def note_pid(self) -> None:
        """Say which process looks after the cluster, once it holds the lock."""
        self._lock_path.write_text(f"{os.getpid()}\n")

    def supervisor_pid(self) -> int:
        """Of the process that looks after the cluster, 0 if there is none."""
        try:
            lock_fd = os.open(self._lock_path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return 0
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return self._noted_pid()
        finally:
            os.close(lock_fd)
        return 0

    def _noted_pid(self) -> int:
        try:
            text = self._lock_path.read_text().strip()
        except OSError:
            return 0
        return int(text) if text.isdecimal() else 0

    def running_nodes(self) -> dict[str, int]:
        """Processes that are nodes of this cluster, by id, whoever started them.

        Anybody can give a process any command line: a node also belongs to us, to whom the folder
        belongs, or to its own `user`, and leads a session, which its acceptor and workers do not.
        """
        prefix, suffix = os.fsencode(self.path / "nodes") + b"/", b"/settings.toml"
        found: dict[str, int] = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal():
                continue
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                for word in words if b"serve" in words else ():
                    if word.startswith(prefix) and word.endswith(suffix):
                        node_id = os.fsdecode(word[len(prefix) : -len(suffix)])
                        if _leads_session(entry) and self._may_be_node(node_id, _uid_of(entry)):
                            found[node_id] = int(entry.name)
            except (OSError, ValueError):
                continue  # It is gone.
        return found

    def _may_be_node(self, node_id: str, uid: int) -> bool:
        """Whether a process of this user can be the node."""
        if uid == os.geteuid() or uid == self.path.stat().st_uid:
            return True
        with suppress(OSError, ValueError, KeyError):
            settings = tomllib.loads(self.settings_path(node_id).read_text(encoding="utf-8"))
            return pwd.getpwnam(str(settings["user"])).pw_uid == uid
        return False


def cluster_names(root: Path) -> list[str]:
    """The clusters that have a folder here."""
    try:
        return sorted(path.parent.name for path in root.glob("*/cluster.json"))
    except OSError:
        return []


def _locked(lock_fd: int) -> bool:
    """Whether it could be had: who only looks whether it is held has it for a moment."""
    for _ in range(_LOCK_TRIES):
        with suppress(OSError):
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(_LOCK_PAUSE_S)
    return False


def _leads_session(entry: Path) -> bool:
    """See proc(5): the name in brackets may hold anything."""
    return (entry / "stat").read_bytes().rpartition(b")")[2].split()[3] == os.fsencode(entry.name)


def _uid_of(entry: Path) -> int:
    """The effective one; a process that changed its user has files of root's in /proc."""
    for line in (entry / "status").read_bytes().splitlines():
        if line.startswith(b"Uid:"):
            return int(line.split()[2])
    raise ValueError("no user")


def open_log(path: Path) -> int:
    """A descriptor that appends; the caller closes it."""
    try:
        with suppress(FileNotFoundError):
            if path.stat().st_size > LOG_BYTES_MAX:
                path.replace(path.with_name("log.1"))
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ClusterError(f"{path} cannot be written: {error.strerror}") from None


def log_end(path: Path, bytes_max: int = 1 << 16) -> str:
    """The last lines of a log; empty if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - bytes_max))
            return file.read().decode("utf-8", "backslashreplace")
    except OSError:
        return ""


def send_to_node(folder: StateFolder, node_id: str, pid: int, number: int) -> None:
    """A signal to a node's process, or SIGKILL to all of the node.

    Raises:
        ClusterError: it may not be sent.
    """
    try:
        pidfd = os.pidfd_open(pid)
        try:
            # Only now the number means the same process for sure.
            if folder.running_nodes().get(node_id) == pid:
                if number == signal.SIGKILL:
                    os.killpg(pid, number)
                signal.pidfd_send_signal(pidfd, number)
        finally:
            os.close(pidfd)
    except ProcessLookupError:
        pass
    except OSError as error:
        raise ClusterError(
            f"node {node_id}, process {pid}, cannot be ended: {error.strerror}"
        ) from None

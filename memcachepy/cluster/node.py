"""One node of a launched cluster: its settings, its process, and whether it serves.

Lives in the loop of the cluster's supervisor, which decides what happens to it.
"""

import asyncio
import os
import pwd
import re
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from memcachepy.atomic_file import replace_file
from memcachepy.cluster.process import NodeProcess, node_environ, serve_words
from memcachepy.cluster.spec import NodeSpec, toml_text
from memcachepy.cluster.state import StateFolder, log_end, open_log
from memcachepy.config import SETTINGS, NodeConfig
from memcachepy.errors import ClusterError, ConfigError
from memcachepy.node.advertise import own_member
from memcachepy.node.rendezvous import is_private, socket_directories, socket_name
from memcachepy.topology import VERSION_MAX, Member, Topology

START_TIMEOUT_S = 60.0
"""A loaded machine may take so long to start a Python process."""
_LOOK_FIRST_S = 0.15
_LOOK_S = 0.05
_ASK_TIMEOUT_S = 2.0


class State(StrEnum):
    """What a node does."""

    STARTING = "starting"
    SERVING = "serving"
    STOPPING = "stopping"
    DOWN = "down"
    """It has died and is about to be started again, or is not there any more."""


class Node:
    """A node and its process.

    Args:
        folder: of the cluster.
        spec: its own settings.
        settings: all that it is started with, by name.
        config: the same, checked.
        on_death: called when its process ends without having been asked to.
    """

    def __init__(
        self,
        folder: StateFolder,
        spec: NodeSpec,
        settings: Mapping[str, object],
        config: NodeConfig,
        on_death: Callable[["Node"], None],
    ) -> None:
        self._folder = folder
        self._on_death = on_death
        self.process: NodeProcess | None = None
        self.state = State.DOWN
        self.since_s = time.time()
        self.restarts = 0
        self.trouble = ""
        """Why it does not serve, as far as is known."""
        self.configure(spec, settings, config)

    def configure(self, spec: NodeSpec, settings: Mapping[str, object], config: NodeConfig) -> None:
        """What it is started with next."""
        self.spec = spec
        self.config = config
        self.member = member_of(config, spec.node_id)
        self._settings = dict(settings)

    @property
    def node_id(self) -> str:
        return self.spec.node_id

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.node_id} ({self.member.address})"

    @property
    def is_serving(self) -> bool:
        return self.state is State.SERVING

    @property
    def is_alive(self) -> bool:
        return self.process is not None and self.process.is_alive

    @property
    def probe_address(self) -> tuple[str, int]:
        """Where this machine reaches it."""
        return probe_address_of(self.config)

    @property
    def control_socket(self) -> str | int:
        """Where a process of this user or root attaches to it; its port if that says it."""
        if self.config.control_socket:
            return self.config.control_socket
        port = self.probe_address[1]
        if self.config.user is not None and os.geteuid() == 0:
            with suppress(KeyError):
                uid = pwd.getpwnam(self.config.user).pw_uid
                for directory in socket_directories(uid, {}):
                    if (directory / socket_name(port)).exists() and is_private(directory, uid):
                        return str(directory / socket_name(port))
        return port

    def adopt(self, pid: int) -> bool:
        """Take a process for this node's; false if it is gone."""

        def is_still(number: int) -> bool:
            return self._folder.running_nodes().get(self.node_id) == number

        self.process = NodeProcess.adopt(pid, is_still)
        if self.process is None:
            return False
        self.process.ended.add_done_callback(lambda _: self._on_end())
        self._enter(State.STARTING)
        return True

    async def start(self, environ: Mapping[str, str]) -> None:
        """Start it if it does not run, and wait until it serves.

        Raises:
            ClusterError: it ends instead, or does not serve in time; then it is stopped.
        """
        if not self.is_alive:
            self.launch(environ)
        try:
            await self.served(START_TIMEOUT_S)
        except ClusterError:
            await self.stop(gently=False)
            raise

    async def served(self, timeout_s: float) -> None:
        """Wait until its process serves.

        Raises:
            ClusterError: it has ended, or does not serve in time.
        """
        process = self.process
        if process is None:
            raise ClusterError(f"node {self.name} has no process")
        try:
            await asyncio.wait_for(self._served_by(process), timeout_s)
        except TimeoutError:
            raise ClusterError(
                f"node {self.name} does not serve within {timeout_s:g} s: {self._last_words}"
            ) from None
        self.on_healthy()

    def on_healthy(self) -> None:
        """It has been seen to serve."""
        if self.is_alive and self.state in (State.STARTING, State.DOWN):
            self.trouble = ""
            self._enter(State.SERVING)

    def launch(self, environ: Mapping[str, str]) -> None:
        """Give it a process, which is going to serve.

        Raises:
            ClusterError: the system does not start one.
        """
        folder = self._folder.node_folder(self.node_id)
        settings = {**self._settings, "port": self.spec.port}
        for name, value in (
            ("join", f"file:{self._folder.topology_path}"),
            ("node_id", self.node_id),
            ("discovery_state", str(self._folder.last_known_path(self.node_id))),
        ):
            if name in SETTINGS:
                settings[name] = value
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if self.config.user is not None and os.geteuid() == 0:
                user = pwd.getpwnam(self.config.user)
                os.chown(folder, user.pw_uid, user.pw_gid)  # It keeps its last known list here.
        except (OSError, KeyError) as error:
            raise ClusterError(f"{folder} cannot be made: {error}") from None
        path = self._folder.settings_path(self.node_id)
        replace_file(path, toml_text(settings).encode(), ClusterError)
        log_fd = open_log(self._folder.node_log_path(self.node_id))
        try:
            self.process = NodeProcess.start(
                serve_words(path), log_fd, node_environ(environ), folder
            )
        finally:
            os.close(log_fd)
        self.process.ended.add_done_callback(lambda _: self._on_end())
        self._enter(State.STARTING)

    async def _served_by(self, process: NodeProcess) -> None:
        """Return when this very process answers: somebody else may have the port."""
        pause_s = _LOOK_FIRST_S
        while process.is_alive:
            await asyncio.wait([process.ended], timeout=pause_s)
            pause_s = _LOOK_S
            if self._speaks_text:
                stats = await self.stats()
                if stats.get("pid") == str(process.pid):
                    return
            elif self._says_that_it_serves(process.pid):
                return
        raise ClusterError(f"node {self.name} could not start: {self._last_words}")

    @property
    def _speaks_text(self) -> bool:
        return speaks_text(self.config)

    def _says_that_it_serves(self, pid: int) -> bool:
        """In its log."""
        said = re.compile(rf" node: serving .*\bpid={pid}$", re.MULTILINE)
        text = log_end(self._folder.node_log_path(self.node_id))
        return said.search(text) is not None

    @property
    def _last_words(self) -> str:
        text = log_end(self._folder.node_log_path(self.node_id)).strip()
        line = text.rpartition("\n")[2]
        return line.removeprefix("memcachepy: ") or "it said nothing"

    async def stop(self, *, gently: bool) -> None:
        """End its process, and wait until it has ended."""
        if self.process is not None and self.process.is_alive:
            self._enter(State.STOPPING)
            await self.process.stop(gently=gently)
        self.process = None
        self._enter(State.DOWN)

    def close(self) -> None:
        """Look after it no longer; it lives on."""
        if self.process is not None and self.process.is_alive:
            self.process.close()

    def _enter(self, state: State) -> None:
        if state is not self.state:
            self.state = state
            self.since_s = time.time()

    def _on_end(self) -> None:
        if self.state is not State.STOPPING and self.process is not None:
            how = f"ended ({self.process.exit_text})"
            self.trouble = f"it {how}" if self.is_serving else f"it {how}: {self._last_words}"
            self._enter(State.DOWN)
            self._on_death(self)

    @property
    def is_stopped(self) -> bool:
        """A signal or a debugger has stopped its process; see proc(5)."""
        if self.process is None or not self.process.is_alive:
            return False
        try:
            stat = Path(f"/proc/{self.process.pid}/stat").read_bytes()
        except OSError:
            return False
        return stat.rpartition(b")")[2].split()[0] in (b"T", b"t")

    async def stats(self) -> dict[str, str]:
        """What it answers to `stats`; empty if it does not."""
        text = await self._ask(b"stats\r\n", b"END\r\n")
        rows = (line.split(" ", 2) for line in text.decode("utf-8", "replace").splitlines())
        return {row[1]: row[2] for row in rows if len(row) == 3 and row[0] == "STAT"}

    async def list_version(self) -> int:
        """Of the list that it serves; -1 if it serves none, `VERSION_MAX` if it cannot be asked."""
        if not self._speaks_text:
            return VERSION_MAX
        answer = await self._ask(b"config get cluster\r\n", b"END\r\n")
        with suppress(ValueError):
            return Topology.parse(answer.partition(b"\n")[2]).version
        return -1

    async def _ask(self, request: bytes, end: bytes) -> bytes:
        """The text of an answer that ends so; empty if none comes."""
        try:
            async with asyncio.timeout(_ASK_TIMEOUT_S):
                reader, writer = await asyncio.open_connection(*self.probe_address)
                try:
                    writer.write(request)
                    answer = b""
                    while not answer.endswith((end, b"ERROR\r\n")):
                        data = await reader.read(1 << 16)
                        if not data:
                            return b""
                        answer += data
                    return answer
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return b""

    def as_dict(self) -> dict[str, object]:
        """For `status`."""
        process = self.process
        return {
            "node_id": self.node_id,
            "address": self.member.address,
            "probe_address": list(self.probe_address),
            "speaks_text": self._speaks_text,
            "state": str(self.state),
            "since_s": round(self.since_s, 3),
            "pid": process.pid if process is not None and process.is_alive else 0,
            "restarts": self.restarts,
            "trouble": self.trouble,
            "uptime_s": round(process.uptime_s, 3) if process is not None else 0,
            "log": str(self._folder.node_log_path(self.node_id)),
        }


def probe_address_of(config: NodeConfig) -> tuple[str, int]:
    """Where this machine reaches a node, whatever it tells clients."""
    address = config.listen[0]
    host = {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)
    return host, address.port or config.port


def speaks_text(config: NodeConfig) -> bool:
    return config.binding_protocol != "binary"


def member_of(config: NodeConfig, node_id: str) -> Member:
    """The node as clients see it.

    Raises:
        ConfigError: it cannot be in a list.
    """
    places = []
    for address in config.listen:
        host = "0.0.0.0" if address.host == "*" else address.host
        port = address.port or config.port
        with suppress(OSError):
            places.append((str(socket.getaddrinfo(host, port)[0][4][0]), port))
    member = own_member(config.advertise, places, node_id)
    if member is None:
        must = f"must be a place where node {node_id} can be reached over TCP"
        raise ConfigError("listen", ",".join(map(str, config.listen)), must)
    return member

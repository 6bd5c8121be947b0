"""What the units' sandbox allows is enough: a node's system calls, watched over its whole life."""

import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from nodes import SERVE, Start, is_alive, name_of
from support.waiting import wait_until
from unit_files import CLUSTER, NODE, values

from memcachepy import Cache

pytestmark = pytest.mark.once

_FAMILIES = re.compile(r"(?:socket|socketpair)\((AF_\w+)")
_CALL = re.compile(r"^\d+ +(?:<\.\.\. )?(\w+)(?:\(| resumed)")
_BOTH = re.compile(r"PROT_WRITE\|PROT_EXEC")


def _groups() -> dict[str, list[str]]:
    """The groups of system calls that systemd knows, each with calls and other groups."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze (Debian: apt-get install systemd)")
    said = subprocess.run(
        [program, "syscall-filter", "--no-pager"], capture_output=True, text=True, timeout=60
    ).stdout
    groups: dict[str, list[str]] = {}
    for line in said.splitlines():
        if line.startswith("@"):
            groups[line] = members = []
        elif line.startswith(" ") and not line.strip().startswith("#"):
            members.append(line.strip())
    return groups


def allowed(unit: Path) -> set[str]:
    groups = _groups()

    def expanded(name: str) -> set[str]:
        if not name.startswith("@"):
            return {name}
        return set().union(*map(expanded, groups[name]))

    found = expanded("@default")
    for line in values(unit, "SystemCallFilter"):
        for name in line.removeprefix("~").split():
            found = found - expanded(name) if line.startswith("~") else found | expanded(name)
    return found


@pytest.fixture
def calls(launch: Start, tmp_path: Path) -> Iterator[list[str]]:
    """One line for each system call of a node that did all that nodes do."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("no strace (Debian: apt-get install strace)")
    tried = subprocess.run([strace, "-o", "/dev/null", "true"], capture_output=True, timeout=60)
    if tried.returncode:
        pytest.skip(f"processes cannot be traced here: {tried.stderr.decode().strip()}")
    trace = tmp_path / "calls"
    control, joined = tmp_path / "control", tmp_path / "topology.json"
    joined.write_text('{"version": 1, "members": []}')
    flags = ["-p", "-1", "-m", "16", "-t", "2", "-k", "-l", "*", "--join", f"file:{joined}"]
    flags += ["--control-socket", str(control), "--discovery-state", str(tmp_path / "state")]
    tracer = launch(*flags, command=[strace, "-f", "-qq", "-o", str(trace), *SERVE])
    tracer.wait_until_serving()
    (supervisor,) = psutil.Process(tracer.pid).children()
    try:
        client = tracer.client()
        client.ask(b"set a 0 0 1\r\n1\r\n", b"STORED\r\n")
        client.send(b"stats\r\n")
        client.take_until(b"END\r\n")
        with Cache.attach(control) as cache:
            assert cache.get("a") == b"1"
        first = _child_of(supervisor, "worker")
        first.kill()
        wait_until(lambda: _child_of(supervisor, "worker").pid != first.pid, "another", 30.0)
        client.close()
    finally:
        supervisor.send_signal(signal.SIGTERM)
    tracer.wait(60.0)
    return trace.read_text(errors="replace").splitlines()


def _child_of(supervisor: psutil.Process, name: str) -> psutil.Process:
    def found() -> list[psutil.Process]:
        return [each for each in supervisor.children() if is_alive(each) and name in name_of(each)]

    return wait_until(found, name, 30.0)[0]


def test_a_node_calls_nothing_that_its_sandbox_forbids(calls: list[str]) -> None:
    made = {match[1] for line in calls if (match := _CALL.match(line))}
    assert {"memfd_create", "epoll_wait", "sendmsg", "execve"} <= made  # It was watched.
    for unit in (NODE, CLUSTER):
        may = allowed(unit)
        assert "reboot" not in may
        assert made <= may, made - may
        families = {match[1] for line in calls if (match := _FAMILIES.search(line))}
        assert families <= set(values(unit, "RestrictAddressFamilies")[0].split())
    assert not [line for line in calls if _BOTH.search(line)]

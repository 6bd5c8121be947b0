"""The image: what its entry point runs, and a node in the surroundings that a container has."""

import fnmatch
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from nodes import Start, is_alive
from support.waiting import wait_until

from memcachepy.cli import _COMMANDS
from memcachepy.config import SETTINGS

TOP = Path(__file__).parents[2]
FOLDER = TOP / "scripts" / "deploy" / "docker"
ENTRY = FOLDER / "entrypoint.sh"
UID = 11211
"""Of the image's user."""


@pytest.fixture
def programs(tmp_path: Path) -> dict[str, str]:
    """An environment in which every program only says how it was called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("memcachepy", "memcached", "other"):
        program = folder / name
        program.write_text('#!/bin/sh\necho "${0##*/}" "$$"\nprintf "<%s>" "$@"\n')
        program.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def enter(environ: dict[str, str], *words: str) -> tuple[int, str, str]:
    """The entry point's pid, the program that it became, and that one's arguments in brackets."""
    with subprocess.Popen([ENTRY, *words], env=environ, stdout=subprocess.PIPE, text=True) as run:
        said, _ = run.communicate(timeout=60)
    first, _, arguments = said.partition("\n")
    program, pid = first.split()
    assert int(pid) == run.pid, "it did not become the program, so signals would not reach that"
    return run.returncode, program, arguments.replace("<>", "")


@pytest.mark.parametrize(
    ("words", "becomes"),
    [
        ("", "memcachepy <serve>"),
        ("-m 256 -t 4", "memcachepy <serve><-m><256><-t><4>"),
        ("--memory-limit=256", "memcachepy <serve><--memory-limit=256>"),
        ("serve -m 256", "memcachepy <serve><-m><256>"),
        ("-h", "memcachepy <serve><-h>"),
        ("memcachepy tool cache:1", "memcachepy <tool><cache:1>"),
        ("memcached -m 256 -u nobody", "memcached <-m><256><-u><nobody>"),
        ("other 'one word'", "other <one word>"),
    ],
)
def test_bare_flags_run_a_node_and_words_a_program(
    words: str, becomes: str, programs: dict[str, str]
) -> None:
    status, program, arguments = enter(programs, *shlex.split(words))
    assert (status, f"{program} {arguments}") == (0, becomes)


@pytest.mark.parametrize("command", _COMMANDS)
def test_every_command_can_be_run(command: str, programs: dict[str, str]) -> None:
    assert enter(programs, command, "--x") == (0, "memcachepy", f"<{command}><--x>")


def test_a_program_that_is_absent_is_an_error(programs: dict[str, str]) -> None:
    result = subprocess.run([ENTRY, "absent"], env=programs, capture_output=True, timeout=60)
    assert result.returncode == 127


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's, with continued lines joined."""
    text = re.sub(r"^#.*\n", "", (FOLDER / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def ignored(path: str) -> bool:
    """By .dockerignore: the last pattern that matches the path or a folder of it."""
    is_ignored = False
    for line in (TOP / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        parts = path.split("/")
        places = ["/".join(parts[: count + 1]) for count in range(len(parts))]
        if line.removeprefix("!").startswith("**/"):
            places += parts
        if any(fnmatch.fnmatch(place, pattern) for place in places):
            is_ignored = not line.startswith("!")
    return is_ignored


@pytest.mark.once
def test_what_is_copied_into_the_image_is_there() -> None:
    copies = [words.split() for name, words in instructions() if name == "COPY"]
    sources = [
        source
        for words in copies
        if not any(word.startswith("--from") for word in words)
        for source in words[:-1]
        if not source.startswith("--")
    ]
    assert "memcachepy" in sources
    for source in sources:
        assert (TOP / source).exists()
        assert not ignored(source)
    assert ignored("tests")
    assert ignored(".git/config")
    assert ignored("memcachepy/_core.cpython-313-x86_64-linux-gnu.so")
    assert not ignored("memcachepy/core/README.md")  # The build depends on it.


@pytest.mark.once
def test_the_image_names_what_there_is() -> None:
    told = dict(instructions())
    everything = (FOLDER / "Dockerfile").read_text()
    extras = re.findall(r"\"\.\[([\w,]+)\]\"", everything)[0].split(",")
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    assert set(extras) <= set(project["optional-dependencies"])
    settings = {setting.variable for setting in SETTINGS.values()}
    assert set(re.findall(r"(MEMCACHEPY_\w+)=", told["ENV"])) <= settings
    assert told["USER"] == f"{UID}:{UID}"
    assert f"--uid {UID}" in everything
    command = re.findall(r'"([^"]+)"', told["HEALTHCHECK"])
    assert command[:2] == ["memcachepy", "health"]
    assert "health" in _COMMANDS


@contextmanager
def room(tmp_path: Path) -> Iterator[Path]:
    """A script that runs its arguments as the image would: another user without any right, and
    nothing that can be written; `memcachepy` is this checkout's.

    Everything that is mounted is in a mount namespace of the script's own.
    """
    unshare, setpriv = shutil.which("unshare"), shutil.which("setpriv")
    if os.geteuid() != 0 or not unshare or not setpriv:
        pytest.skip("needs root, unshare and setpriv (Debian: apt-get install util-linux)")
    probe = [unshare, "--mount", "--propagation", "private", "mount", "-t", "tmpfs", "x", "/mnt"]
    tried = subprocess.run(probe, capture_output=True, text=True, timeout=60, check=False)
    if tried.returncode:
        pytest.skip(f"no mount namespaces here: {tried.stderr.strip()}")
    script = tmp_path / "room"
    purelib = sysconfig.get_path("purelib")
    script.write_text(
        f"""#!/bin/sh
set -eu
mount -t tmpfs room /mnt
cd /mnt
mkdir bin python site checkout
mount --bind {shlex.quote(sys.base_prefix)} python
mount --bind {shlex.quote(purelib)} site
mount --bind {shlex.quote(str(TOP))} checkout
cat >bin/memcachepy <<'END'
#!/bin/sh
export PYTHONHOME=/mnt/python PYTHONPATH=/mnt/checkout:/mnt/site LD_LIBRARY_PATH=/mnt/python/lib
exec /mnt/python/bin/python{sys.version_info[0]}.{sys.version_info[1]} -m memcachepy "$@"
END
chmod 755 bin/memcachepy
mount -o remount,ro /mnt
for place in python site checkout; do
    mount -o remount,bind,ro $place
done
mount -o remount,bind,ro /
mount -t tmpfs -o ro tmp /tmp
mount -t tmpfs -o ro run /run
export PATH=/mnt/bin:$PATH PYTHONDONTWRITEBYTECODE=1
exec {setpriv} --reuid {UID} --regid {UID} --clear-groups --no-new-privs --bounding-set=-all \\
    --inh-caps=-all -- "$@"
"""
    )
    script.chmod(0o755)
    yield script


@pytest.mark.once
def test_a_node_serves_without_any_place_to_write(launch: Start, tmp_path: Path) -> None:
    with room(tmp_path) as script:
        inside = ["unshare", "--mount", "--propagation", "private", str(script)]
        entry = "/mnt/checkout/scripts/deploy/docker/entrypoint.sh"
        environ = {"XDG_RUNTIME_DIR": "/run", "XDG_STATE_HOME": "/var/lib"}
        node = launch("-p", "-1", "-m", "16", "-t", "1", command=[*inside, entry], env=environ)
        node.wait_until_serving()
        family = node.children()
        assert {uid for child in family for uid in child.uids()} == {UID}
        assert "no control socket" in node.log()
        host, port = node.address
        probe = [*inside, entry, "health", f"{host}:{port}"]
        found = subprocess.run(probe, capture_output=True, text=True, timeout=60, check=False)
        assert found.stdout == f"{host}:{port} is healthy: stores and returns\n", found.stderr
        refused = subprocess.run([*inside, "touch", "/tmp/x", "/run/x", "/mnt/x", "/var/tmp/x"])
        assert refused.returncode
        worker = node.worker()
        worker.kill()
        node.wait_for_log("child exited name=worker-0", timeout_s=30.0)
        assert node.stop(signal.SIGTERM) == 0
        wait_until(lambda: not any(map(is_alive, family)), "all to end", 30.0)

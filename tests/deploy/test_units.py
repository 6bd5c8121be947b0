"""The systemd units, by systemd's own tools and against the settings that they name."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from unit_files import FOLDER, PROGRAM, UNITS, values

from memcachepy.config import SETTINGS

pytestmark = pytest.mark.once

EXPOSURE_MAX = 2.0
"""Of ten, as `systemd-analyze security` counts; what it misses is left out on purpose."""


@pytest.fixture(params=UNITS)
def unit(request: pytest.FixtureRequest) -> Path:
    return FOLDER / str(request.param)


@pytest.fixture
def instance(unit: Path, tmp_path: Path) -> Path:
    """The unit as it would be on a machine where this checkout is installed."""
    program = tmp_path / "memcachepy"
    program.write_text(f"#!{sys.executable}\n")
    program.chmod(0o755)
    named = tmp_path / unit.name.replace("@", f"@{UNITS[unit.name]}")
    text = unit.read_text()
    assert PROGRAM in text
    named.write_text(text.replace(PROGRAM, str(program)))
    return named


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze (Debian: apt-get install systemd)")
    return subprocess.run(
        [program, *words], capture_output=True, text=True, timeout=120, check=False
    )


def test_systemd_finds_nothing_wrong(instance: Path) -> None:
    result = analyze("verify", "--man=no", "--generators=no", str(instance))
    assert (result.returncode, result.stderr, result.stdout) == (0, "", "")


def test_a_mistake_would_be_found(instance: Path) -> None:
    instance.write_text(instance.read_text().replace("KillMode=", "KilMode="))
    result = analyze("verify", "--man=no", "--generators=no", str(instance))
    assert "KilMode" in result.stderr


def test_services_are_sandboxed(instance: Path) -> None:
    result = analyze("security", "--offline=true", "--no-pager", str(instance))
    match = re.search(r"exposure level for \S+: ([\d.]+)", result.stdout)
    assert match, result.stdout + result.stderr
    assert float(match[1]) <= EXPOSURE_MAX, result.stdout


def test_attached_processes_are_not_hidden_from_the_node(unit: Path) -> None:
    """Else a living one could lose its slot to another: see `Control._may_use_segment`."""
    for name in ("ProtectProc", "PrivateUsers", "PrivatePIDs", "ProcSubset"):
        assert not values(unit, name)


def test_settings_in_the_units_exist(unit: Path) -> None:
    known = {setting.variable for setting in SETTINGS.values()}
    given = re.findall(r"(MEMCACHEPY_\w+)=", "\n".join(values(unit, "Environment")))
    assert given
    assert set(given) <= known


def test_what_is_wrong_for_good_is_not_tried_again(unit: Path) -> None:
    command = [sys.executable, "-m", "memcachepy", "serve", "-p", "70000"]
    wrong = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert str(wrong.returncode) in values(unit, "RestartPreventExitStatus")[0].split()


def test_the_user_of_the_units_is_made(unit: Path, tmp_path: Path) -> None:
    program = shutil.which("systemd-sysusers")
    if program is None:
        pytest.skip("no systemd-sysusers (Debian: apt-get install systemd)")
    (tmp_path / "etc").mkdir()
    command = [program, f"--root={tmp_path}", "-", str(FOLDER / "memcachepy.sysusers")]
    command.remove("-")
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    users = (tmp_path / "etc" / "passwd").read_text()
    assert [f"{user}:" for user in values(unit, "User") if f"{user}:" in users]
    groups = (tmp_path / "etc" / "group").read_text()
    assert [f"{group}:" for group in values(unit, "Group") if f"{group}:" in groups]

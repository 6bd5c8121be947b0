"""sdist and wheel: each is whole, and what is installed from it runs."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def run(*words: object, cwd: Path) -> str:
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy without leftovers of other builds, which would go along."""
    folder = tmp_path_factory.mktemp("sdist")
    source = folder / "source"
    leftovers = shutil.ignore_patterns(".*", "*.so", "*.egg-info", "build", "dist", "__pycache__")
    shutil.copytree(TOP, source, ignore=leftovers)
    build = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    run(sys.executable, "-c", build, folder, cwd=source)
    (found,) = folder.glob("*.tar.gz")
    return found


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    run(*pip, "--wheel-dir", sdist.parent, sdist, cwd=sdist.parent)
    (found,) = sdist.parent.glob("*.whl")
    return found


def test_sdist_has_every_source(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for path in (TOP / "memcachepy").rglob("*"):
        if path.suffix in {".c", ".h", ".py", ".pyi", ".typed"}:
            assert str(path.relative_to(TOP)) in names
    assert {"LICENSE", "README.md", "memcachepy/core/README.md"} <= names


def test_wheel_has_no_sources(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert not [name for name in names if name.endswith((".c", ".h"))]
    assert "memcachepy/py.typed" in names
    assert sum(name.endswith(".so") for name in names) == 2


def test_installed_wheel_runs(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    bin_folder = tmp_path / "venv" / "bin"
    run(bin_folder / "pip", "install", "-q", wheel, cwd=tmp_path)
    installed = run(bin_folder / "pip", "list", "--format=freeze", cwd=tmp_path).lower()
    extra = {line.split("==")[0] for line in installed.splitlines()}
    assert extra <= {"memcachepy", "click", "pip", "setuptools"}
    assert run(bin_folder / "memcachepy", "--version", cwd=tmp_path).startswith("memcachepy ")
    assert "--memory-limit" in run(bin_folder / "memcachepy", "serve", "-h", cwd=tmp_path)

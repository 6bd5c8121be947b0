"""The rules of the tree that a reader would otherwise have to remember. Five at most."""

import ast
import importlib
import re
import tomllib
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
CORE = TOP / "memcachepy" / "core"
LAYERS = ["base", "mem", "store", "proto", "net", "py"]
"""Each includes from itself and from those before it."""
MAY_INCLUDE = {layer: {*LAYERS[: index + 1]} for index, layer in enumerate(LAYERS)}
MAY_INCLUDE["load"] = {"base", "load"}
MAY_INCLUDE["py"] |= {"load"}
SOURCES = sorted(path for path in CORE.rglob("*.[ch]"))


def includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s+[<"]([^>"]+)[>"]', path.read_text(), re.MULTILINE)


def test_includes_point_down() -> None:
    wrong = []
    for path in SOURCES:
        layer = path.relative_to(CORE).parts[0]
        for name in includes(path):
            included = CORE / name if (CORE / name).exists() else path.parent / name
            if included.exists():
                target = included.resolve().relative_to(CORE).parts[0]
                if target not in MAY_INCLUDE[layer]:
                    wrong.append(f"{path.relative_to(TOP)} includes {name}")
    assert not wrong


def test_python_is_included_in_py_only() -> None:
    assert {path.parent.name for path in SOURCES if "Python.h" in includes(path)} <= {"py"}


@pytest.mark.parametrize("name", ["_core", "_load"])
def test_stub_names_what_the_module_has(name: str) -> None:
    stub = ast.parse((TOP / "memcachepy" / f"{name}.pyi").read_text())
    declared: dict[str, set[str]] = {"": set()}
    for node in stub.body:
        if isinstance(node, ast.ClassDef):
            declared[node.name] = {
                member.name for member in node.body if isinstance(member, ast.FunctionDef)
            }
        for found in (node, *(node.targets if isinstance(node, ast.Assign) else ())):
            if isinstance(found, ast.ClassDef | ast.FunctionDef):
                declared[""].add(found.name)
            elif isinstance(found, ast.AnnAssign) and isinstance(found.target, ast.Name):
                declared[""].add(found.target.id)
    module = importlib.import_module(f"memcachepy.{name}")
    assert {found for found in vars(module) if not found.startswith("__")} == declared.pop("")
    for class_name, methods in declared.items():
        members = vars(getattr(module, class_name))
        public = {found for found in members if not found.startswith("__")}
        assert public == {found for found in methods if not found.startswith("__")}


def test_build_lists_agree_with_the_folders() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())
    modules = {row["name"]: row for row in project["tool"]["setuptools"]["ext-modules"]}
    for name, folders in {
        "memcachepy._core": LAYERS[:-1],
        "memcachepy._load": ["base", "load"],
    }.items():
        found = [path for path in SOURCES if path.parent.name in folders]
        found += [
            path
            for path in (CORE / "py").glob("*.[ch]")
            if (path.name == "load_module.c") == (name == "memcachepy._load")
        ]
        for key, suffix in (("sources", ".c"), ("depends", ".h")):
            expected = [str(path.relative_to(TOP)) for path in found if path.suffix == suffix]
            if (name, key) == ("memcachepy._core", "depends"):
                expected.append("memcachepy/core/README.md")  # The sdist carries it.
            assert modules[name][key] == sorted(expected), f"pyproject.toml: {key} of {name}"

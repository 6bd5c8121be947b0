"""Fixtures that start real nodes in real processes, with whatever surroundings a test wants."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nodes import SERVE, Node, Start


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Start]:
    """Start a node and return at once; it may be one that will refuse."""
    pytest.importorskip("memcachepy._core", reason="memcachepy is not built")
    nodes: list[Node] = []
    runtime = tempfile.mkdtemp(prefix="memcachepy-")

    def launch(
        *flags: str, command: list[str] | None = None, env: dict[str, str] | None = None, **how: Any
    ) -> Node:
        log = tmp_path / f"log{len(nodes)}"
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MEMCACHEPY_")}
        clean["XDG_RUNTIME_DIR"] = runtime  # A killed node leaves its control socket there.
        with log.open("wb") as sink:
            how = {"stdin": subprocess.DEVNULL, "stdout": sink, "stderr": sink, **how}
            process = subprocess.Popen(
                [*(command or SERVE), *flags], env={**clean, **(env or {})}, **how
            )
        nodes.append(Node(process, log))
        return nodes[-1]

    yield launch
    for node in nodes:
        if node.process.returncode is None:
            print(f"--- log of node {node.pid} ---\n{node.log()}")
        node.end()
    shutil.rmtree(runtime)


@pytest.fixture
def start(launch: Start) -> Start:
    """Start a node on a loopback port of its own choice and wait until it serves."""

    def start(*flags: str, **how: Any) -> Node:
        where = [] if {"-p", "-s"} & set(flags) else ["-p", "-1"]
        node = launch(*where, "-m", "16", *flags, **how)
        node.wait_until_serving()
        return node

    return start

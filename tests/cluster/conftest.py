"""Clusters of real nodes."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clusters import Cluster

pytest.importorskip("memcachepy._core", reason="memcachepy is not built")


@pytest.fixture
def make_cluster(tmp_path: Path) -> Iterator[Callable[[str], Cluster]]:
    """Clusters by name, in one state folder; nothing runs yet."""
    made: dict[str, Cluster] = {}
    runtime = tempfile.mkdtemp(prefix="memcachepy-")
    environ = {k: v for k, v in os.environ.items() if not k.startswith("MEMCACHEPY_")}
    environ["XDG_RUNTIME_DIR"] = runtime

    def make(name: str = "main") -> Cluster:
        return made.setdefault(name, Cluster(tmp_path, name, environ))

    yield make
    for cluster in made.values():
        cluster.end()
        print(cluster.log())
    shutil.rmtree(runtime)


@pytest.fixture
def cluster(make_cluster: Callable[..., Cluster]) -> Cluster:
    return make_cluster()

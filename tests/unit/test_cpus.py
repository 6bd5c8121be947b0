"""Counting cores under quotas, in trees of files like those of the kernel."""

from pathlib import Path

import pytest

from memcachepy.node.cpus import usable_cores

MOUNT = "30 23 0:26 {root} {point} rw,nosuid - {kind} cgroup rw,{options}\n"


def make(root: Path, memberships: str, mounts: str, files: dict[str, str]) -> Path:
    for name, text in {
        "proc/self/cgroup": memberships,
        "proc/self/mountinfo": mounts,
        **{f"sys/fs/cgroup/{name}": text for name, text in files.items()},
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def v2(point: str = "/sys/fs/cgroup", root: str = "/") -> str:
    return MOUNT.format(kind="cgroup2", root=root, point=point, options="nsdelegate")


def v1(root: str = "/") -> str:
    return MOUNT.format(
        kind="cgroup", root=root, point="/sys/fs/cgroup/cpu,cpuacct", options="cpu,cpuacct"
    )


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 2), ("1000 100000", 1), ("?", 8)],
)
def test_v2_quota_is_rounded_up(quota: str, cores: int, tmp_path: Path) -> None:
    root = make(tmp_path, "0::/a\n", v2(), {"a/cpu.max": quota})
    assert usable_cores(root, affinity=8) == cores


def test_quota_of_any_ancestor_counts(tmp_path: Path) -> None:
    files = {"a/b/c/cpu.max": "max 100000", "a/b/cpu.max": "500000 100000"}
    files |= {"a/cpu.max": "300000 100000"}
    assert usable_cores(make(tmp_path, "0::/a/b/c\n", v2(), files), affinity=8) == 3


def test_v2_in_a_container_stands_at_the_mount_itself(tmp_path: Path) -> None:
    files = {"cpu.max": "200000 100000"}
    root = make(tmp_path, "0::/docker/abc\n", v2(root="/docker/abc"), files)
    assert usable_cores(root, affinity=8) == 2


def test_v2_above_its_namespace_ends(tmp_path: Path) -> None:
    assert usable_cores(make(tmp_path, "0::/../../x\n", v2(), {}), affinity=8) == 8


@pytest.mark.parametrize(("quota", "cores"), [("200000", 2), ("-1", 8)])
def test_v1_quota(quota: str, cores: int, tmp_path: Path) -> None:
    folder = "cpu,cpuacct/docker/abc"
    files = {f"{folder}/cpu.cfs_quota_us": quota, f"{folder}/cpu.cfs_period_us": "100000"}
    memberships = "4:memory:/m\n2:cpu,cpuacct:/docker/abc\n0::/\n"
    assert usable_cores(make(tmp_path, memberships, v1(), files), affinity=8) == cores


def test_v1_in_a_container_stands_at_the_mount_itself(tmp_path: Path) -> None:
    files = {"cpu,cpuacct/cpu.cfs_quota_us": "300000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}
    root = make(tmp_path, "2:cpu,cpuacct:/docker/abc\n", v1(root="/docker/abc"), files)
    assert usable_cores(root, affinity=8) == 3


def test_affinity_is_the_limit_without_cgroups(tmp_path: Path) -> None:
    assert usable_cores(tmp_path, affinity=5) == 5


def test_this_machine_has_a_core() -> None:
    assert usable_cores() >= 1

"""How many cores this process may really use.

Format of the files: cgroups(7), proc_pid_mountinfo(5), and the kernel's cgroup-v2.rst (`cpu.max`
is "<quota or max> <period>", in microseconds).
"""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath


def usable_cores(root: Path = Path("/"), affinity: int | None = None) -> int:
    """Cores by affinity, and by the quota of every cgroup above this process; at least 1.

    Args:
        root: what stands for `/`; for tests.
        affinity: cores the scheduler may choose from; asked of the system if None.
    """
    cores = len(os.sched_getaffinity(0)) if affinity is None else affinity
    quotas = [math.ceil(quota) for folder in _cgroups(root) if (quota := _quota(folder))]
    return max(1, min([cores, *quotas]))


def _cgroups(root: Path) -> Iterator[Path]:
    """Folders of the cgroups that limit this process's CPU time, each with its ancestors."""
    try:
        memberships = (root / "proc/self/cgroup").read_text().splitlines()
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return
    for membership in memberships:
        _, controllers, path = membership.split(":", 2)
        for mount in mounts:
            before, _, after = mount.partition(" - ")
            mount_root, mount_point = before.split()[3:5]
            kind, _, options = after.split()[:3]
            is_v2 = kind == "cgroup2" and not controllers
            is_v1 = kind == "cgroup" and "cpu" in controllers.split(",")
            if not is_v2 and not (is_v1 and "cpu" in options.split(",")):
                continue
            inside = PurePosixPath(path)
            # A container sees its own part of the tree; what is above it cannot be read.
            with suppress(ValueError):
                inside = PurePosixPath("/") / inside.relative_to(mount_root)
            top = root / mount_point.lstrip("/")
            folder = top / str(inside).lstrip("/")
            yield folder
            while folder != top:
                folder = folder.parent
                yield folder


def _quota(folder: Path) -> float | None:
    """Cores a cgroup may use at once; None if it has no limit."""
    with suppress(OSError, ValueError):
        quota_us, period_us = (folder / "cpu.max").read_text().split()
        return None if quota_us == "max" else int(quota_us) / int(period_us)
    with suppress(OSError, ValueError):
        v1_quota_us = int((folder / "cpu.cfs_quota_us").read_text())
        v1_period_us = int((folder / "cpu.cfs_period_us").read_text())
        return v1_quota_us / v1_period_us if v1_quota_us > 0 else None
    return None

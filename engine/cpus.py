"""How many processors this process may use: affinity and cgroup quota, not what the host has."""

from __future__ import annotations

import math
import os
from pathlib import Path

_V2 = Path("/sys/fs/cgroup")


def allowed_cpus(affinity: int | None = None, quota: float | None = None, override: str | None = None) -> int:
    """The smaller of affinity and quota, at least one (faults.md §5).

    :param affinity: processors that the scheduler may use; None asks the kernel.
    :param quota: processors that the cgroup grants, as a fraction; None reads the cgroup's files.
    :param override: the value of ``PYTHON_CPU_COUNT``, if it is set.
    """
    if override is not None and override.isdigit() and int(override) > 0:
        return int(override)
    if affinity is None:
        affinity = len(os.sched_getaffinity(0))
    if quota is None:
        quota = cgroup_quota(Path("/proc/self/cgroup"))
    return max(1, affinity if quota is None else min(affinity, math.ceil(quota)))


def cgroup_quota(membership: Path, root: Path = _V2) -> float | None:
    """Processors that the cgroup (version 2 or 1) grants; None for no limit."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return None
    limits = []
    for line in lines:
        _, controllers, path = (line.split(":", 2) + ["", "", ""])[:3]
        if not path:
            continue  # not a line of this file as the kernel writes it
        if not controllers:
            limits += _v2_limits(root, path)
        elif "cpu" in controllers.split(","):
            limits += _v1_limits(root / "cpu", path)
    return min(limits, default=None)


def _v2_limits(root: Path, path: str) -> list[float]:
    """The limits of the group and of every group above it."""
    limits = []
    for folder in _upwards(root, path):
        try:
            quota, period = (folder / "cpu.max").read_text().split()[:2]
            if quota != "max":
                limits.append(int(quota) / int(period))
        except (OSError, ValueError, ZeroDivisionError):
            continue  # the root group has no such file
    return limits


def _v1_limits(root: Path, path: str) -> list[float]:
    limits = []
    for folder in _upwards(root, path):
        try:
            quota = int((folder / "cpu.cfs_quota_us").read_text())
            period = int((folder / "cpu.cfs_period_us").read_text())
        except (OSError, ValueError):
            continue  # not mounted here, or not visible in this namespace
        if quota > 0 and period > 0:
            limits.append(quota / period)
    return limits


def _upwards(root: Path, path: str) -> list[Path]:
    folder = root / path.lstrip("/")
    folders = [folder]
    while folder != root and root in folder.parents:
        folder = folder.parent
        folders.append(folder)
    if root not in folders:
        folders.append(root)
    return folders

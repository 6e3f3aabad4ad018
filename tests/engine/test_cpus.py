"""How many processors a worker believes it has."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine.cpus import allowed_cpus, cgroup_quota


def tree(root: Path, **files: str) -> Path:
    """Write the files of a cgroup tree; double underscores stand for slashes, dashes for dots."""
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def membership(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "membership"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("limit", "expected"), [("max 100000\n", None), ("150000 100000\n", 1.5), ("50000 100000", 0.5)]
)
def test_a_group_of_version_2_may_have_a_quota(tmp_path: Path, limit: str, expected: float | None) -> None:
    root = tree(tmp_path / "fs", job__cpu_DOT_max=limit)
    assert cgroup_quota(membership(tmp_path, "0::/job\n"), root) == expected


def test_a_group_above_may_be_tighter(tmp_path: Path) -> None:
    root = tree(
        tmp_path / "fs",
        pod__cpu_DOT_max="200000 100000",
        pod__job__cpu_DOT_max="400000 100000",
        pod__job__inner__cpu_DOT_max="max 100000",
    )
    assert cgroup_quota(membership(tmp_path, "0::/pod/job/inner\n"), root) == 2.0


def test_a_container_sees_its_group_as_the_root(tmp_path: Path) -> None:
    root = tree(tmp_path / "fs", cpu_DOT_max="100000 100000")
    assert cgroup_quota(membership(tmp_path, "0::/\n"), root) == 1.0
    assert cgroup_quota(membership(tmp_path, "0::/not/visible/here\n"), root) == 1.0


@pytest.mark.parametrize(("quota", "expected"), [("-1", None), ("250000", 2.5), ("0", None)])
def test_a_group_of_version_1_may_have_a_quota(tmp_path: Path, quota: str, expected: float | None) -> None:
    root = tree(
        tmp_path / "fs",
        cpu__job__cpu_DOT_cfs_quota_us=quota,
        cpu__job__cpu_DOT_cfs_period_us="100000",
    )
    lines = "5:memory:/job\n4:cpu,cpuacct:/job\n3:cpuset:/other\n"
    assert cgroup_quota(membership(tmp_path, lines), root) == expected


@pytest.mark.parametrize("limit", ["", "1", "many 100000", "100000 0", "max"])
def test_a_damaged_limit_is_no_limit(tmp_path: Path, limit: str) -> None:
    root = tree(tmp_path / "fs", cpu_DOT_max=limit)
    assert cgroup_quota(membership(tmp_path, "0::/\n"), root) is None


def test_no_cgroups_are_no_limit(tmp_path: Path) -> None:
    assert cgroup_quota(tmp_path / "nothing", tmp_path) is None
    assert cgroup_quota(membership(tmp_path, "nonsense\n\n0:\n"), tmp_path) is None


@pytest.mark.parametrize(
    ("affinity", "quota", "override", "expected"),
    [(8, None, None, 8), (8, 2.5, None, 3), (2, 8.0, None, 2), (4, 0.2, None, 1), (4, 0.2, "6", 6)],
)
def test_the_tightest_bound_counts_and_an_override_wins(
    affinity: int, quota: float | None, override: str | None, expected: int
) -> None:
    if quota is None:
        quota = 1e9
    assert allowed_cpus(affinity, quota, override) == expected


@pytest.mark.parametrize("override", ["", "0", "-2", "two", "default"])
def test_an_override_that_is_no_number_is_none(override: str) -> None:
    assert allowed_cpus(3, 1e9, override) == 3


@given(affinity=st.integers(1, 4096), quota=st.floats(0, 1e6))
def test_there_is_at_least_one_and_never_more_than_the_scheduler_grants(affinity: int, quota: float) -> None:
    assert 1 <= allowed_cpus(affinity, quota) <= affinity


def test_the_kernel_is_asked_when_nothing_is_given() -> None:
    assert allowed_cpus() >= 1

"""The number of usable cores: the affinity mask, limited by the quota of a control group or of one around it."""

import os
from pathlib import Path

import pytest

from poolservice_server.cpu_count import usable_cpus

AFFINITY = len(os.sched_getaffinity(0))


def version_1(folder: Path, quota: str) -> None:
    """Write the files of a control group of version 1."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (folder / "cpu.cfs_period_us").write_text("100000\n")


@pytest.fixture
def membership(tmp_path: Path) -> Path:
    """Return the file that names the groups of this process. Of both versions, one is mounted."""
    path = tmp_path / "membership"
    path.write_text("3:cpuset:/elsewhere\n2:cpu,cpuacct:/slice/unit\n0::/slice/unit\n")
    return path


@pytest.mark.parametrize(
    ("quota", "cpus"),
    [("max 100000", AFFINITY), ("100000 100000", 1), ("50000 100000", 1), ("6400000 100000", min(64, AFFINITY))],
)
def test_a_quota_of_control_groups_version_2_limits_the_cores(
    tmp_path: Path, membership: Path, quota: str, cpus: int
) -> None:
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert usable_cpus(tmp_path, membership) == cpus


@pytest.mark.parametrize(("quota", "cpus"), [("-1", AFFINITY), ("100000", 1)])
def test_a_quota_of_control_groups_version_1_limits_the_cores(
    tmp_path: Path, membership: Path, quota: str, cpus: int
) -> None:
    version_1(tmp_path / "cpu", quota)
    assert usable_cpus(tmp_path, membership) == cpus


@pytest.mark.parametrize("group", ["slice", "slice/unit"])
@pytest.mark.parametrize("version", [1, 2])
def test_the_quota_of_each_group_around_the_process_counts(
    tmp_path: Path, membership: Path, group: str, version: int
) -> None:
    if version == 1:
        version_1(tmp_path / "cpu", "-1")
        version_1(tmp_path / "cpu/slice/unit", "-1")
        version_1(tmp_path / "cpu" / group, "100000")
    else:
        (tmp_path / "slice/unit").mkdir(parents=True)
        (tmp_path / "slice/cpu.max").write_text("max 100000\n")
        (tmp_path / "slice/unit/cpu.max").write_text("max 100000\n")
        (tmp_path / group / "cpu.max").write_text("100000 100000\n")
    assert usable_cpus(tmp_path, membership) == 1


def test_the_quota_of_another_group_does_not_count(tmp_path: Path, membership: Path) -> None:
    (tmp_path / "slice/other").mkdir(parents=True)
    (tmp_path / "slice/other/cpu.max").write_text("100000 100000\n")
    assert usable_cpus(tmp_path, membership) == AFFINITY


def test_without_control_groups_the_affinity_mask_counts(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path, tmp_path / "missing") == AFFINITY

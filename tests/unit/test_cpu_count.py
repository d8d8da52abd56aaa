"""The number of usable cores: the affinity mask, limited by a container's quota."""

import os
from pathlib import Path

import pytest

from poolservice_server.cpu_count import usable_cpus

AFFINITY = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("quota", "cpus"),
    [("max 100000", AFFINITY), ("100000 100000", 1), ("50000 100000", 1), ("6400000 100000", min(64, AFFINITY))],
)
def test_a_quota_of_control_groups_version_2_limits_the_cores(tmp_path: Path, quota: str, cpus: int) -> None:
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert usable_cpus(tmp_path) == cpus


@pytest.mark.parametrize(("quota", "cpus"), [("-1", AFFINITY), ("100000", 1)])
def test_a_quota_of_control_groups_version_1_limits_the_cores(tmp_path: Path, quota: str, cpus: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert usable_cpus(tmp_path) == cpus


def test_without_control_groups_the_affinity_mask_counts(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path) == AFFINITY

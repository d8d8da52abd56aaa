import os
from pathlib import Path

import pytest

from poolservice_server.cpu_count import usable_cores

ALL = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", ALL), ("100000 100000", 1), ("50000 100000", 1), ("6400000 100000", min(64, ALL))],
)
def test_a_containers_quota_bounds_the_cores(tmp_path: Path, quota: str, cores: int) -> None:
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert usable_cores(tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", ALL), ("100000", 1)])
def test_so_does_one_of_the_older_kind(tmp_path: Path, quota: str, cores: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert usable_cores(tmp_path) == cores


def test_without_control_groups_the_scheduler_says(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == ALL

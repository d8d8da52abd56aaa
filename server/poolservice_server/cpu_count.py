"""How many cores this process may use."""

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def usable_cores(cgroup: Path = _CGROUP) -> int:
    """The cores that the scheduler gives this process, and no more than its container's quota pays for; at least 1.

    Args:
        cgroup: where the control groups are mounted, version 2 or 1.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroup)
    return cores if quota is None else max(1, min(cores, round(quota)))


def _quota(cgroup: Path) -> float | None:
    try:
        allowed, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            allowed = (cgroup / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    # "max" in version 2, -1 in version 1: no quota.
    return int(allowed) / int(period) if allowed.isdecimal() else None

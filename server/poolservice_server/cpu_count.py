"""The number of CPU cores that this process may use."""

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def usable_cpus(cgroup: Path = _CGROUP) -> int:
    """Return the number of cores in this process's affinity mask, limited by the container's CPU quota; at least 1.

    Args:
        cgroup: the mount point of the control groups, version 2 or 1.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(cgroup)
    return cpus if quota is None else max(1, min(cpus, round(quota)))


def cpu_quota(cgroup: Path = _CGROUP) -> float | None:
    """Return the container's CPU quota in cores, or None without one."""
    try:
        allowed, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            allowed = (cgroup / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    # Without a quota, version 2 says "max" and version 1 says -1.
    return int(allowed) / int(period) if allowed.isdecimal() else None

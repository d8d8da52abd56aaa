"""The number of CPU cores that this process may use."""

import os
from collections.abc import Iterator
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


def usable_cpus(cgroup: Path = _CGROUP, membership: Path = _MEMBERSHIP) -> int:
    """Return the number of cores in this process's affinity mask, limited by its CPU quota; at least 1.

    The quota is that of its control group or of a group around it, such as a container's, a pod's or a systemd slice's.

    Args:
        cgroup: the mount point of the control groups, version 2 or 1.
        membership: the file that names the groups of this process.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(cgroup, membership)
    return cpus if quota is None else max(1, min(cpus, round(quota)))


def cpu_quota(cgroup: Path = _CGROUP, membership: Path = _MEMBERSHIP) -> float | None:
    """Return the smallest CPU quota of the groups of this process in cores, or None without one."""
    quotas = [quota for folder in _groups(cgroup, membership) if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def _groups(cgroup: Path, membership: Path) -> Iterator[Path]:
    """Yield the folders of the groups of this process that may have a CPU quota, each with those around it."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        lines = []
    # A line is ID:CONTROLLERS:PATH; version 2 has no controllers there.
    paths = {controllers: path for _, controllers, path in (line.split(":", 2) for line in lines)}
    version_1 = next((path for controllers, path in paths.items() if "cpu" in controllers.split(",")), "/")
    for mount, path in ((cgroup, paths.get("", "/")), (cgroup / "cpu", version_1)):
        # In a container, the mount point may be the container's group, whose path is that on the host and does not
        # exist here. The mount point itself is the last folder then, too.
        folder = mount / path.lstrip("/")
        yield folder
        while folder != mount and folder.parent != folder:
            folder = folder.parent
            yield folder


def _quota(group: Path) -> float | None:
    """Return the CPU quota of a group in cores, or None without one."""
    try:
        allowed, period = (group / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            allowed = (group / "cpu.cfs_quota_us").read_text().strip()
            period = (group / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    # Without a quota, version 2 says "max" and version 1 says -1.
    return int(allowed) / int(period) if allowed.isdecimal() else None

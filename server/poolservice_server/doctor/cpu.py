"""The cores that the server may use, and whether the kernel stops it to keep it within a quota."""

from collections.abc import Iterator

from poolservice_server.doctor.finding import Finding, ok, warning
from poolservice_server.doctor.machine import Machine
from poolservice_server.settings import Settings

# A quota that stops a process in fewer of its periods than this does little harm.
_HARMLESS_SHARE = 0.05
# Fewer periods than this say nothing about a server.
_LEAST_PERIODS = 100


def check_cpu(settings: Settings, machine: Machine) -> Iterator[Finding]:
    """Compare the cores, the quota of the control group, and the settings that divide them."""
    cores, quota = machine.cores(), machine.cpu_quota()
    healthy = True
    if quota is not None and abs(quota - round(quota)) > 0.01:
        healthy = False
        better = f"{max(1, int(quota))} or {int(quota) + 1}"
        yield warning(
            "cpu",
            f"the container may use {quota:g} cores, and the server uses {cores}: the kernel stops it for a part of "
            f"each period, during which calls wait; give it a whole number of cores, {better}",
        )
    statistics = machine.table(f"{machine.cgroup_folders()[0]}/cpu.stat") or machine.table("sys/fs/cgroup/cpu/cpu.stat")
    periods, throttled = statistics.get("nr_periods", 0), statistics.get("nr_throttled", 0)
    if periods >= _LEAST_PERIODS and throttled > _HARMLESS_SHARE * periods:
        healthy = False
        yield warning(
            "cpu",
            f"the kernel stopped this container in {throttled} of {periods} periods because of its CPU limit; raise "
            "the limit, or lower --workers, --threads and --decode-threads",
        )
    if settings.workers > cores:
        healthy = False
        yield warning(
            "cpu",
            f"{settings.workers} workers share {_cores(cores)}, so they only interrupt each other; use at most "
            f"--workers {cores}",
        )
    share = max(1, cores // settings.workers)
    for name in ("threads", "decode_threads"):
        if (count := getattr(settings, name)) > 4 * share:
            healthy = False
            yield warning(
                "cpu",
                f"--{name.replace('_', '-')} {count} is more than four times the cores of a worker ({share}): "
                "threads that wait for a core only add latency; leave it at 0",
            )
    if healthy:
        yield ok("cpu", f"the server may use {_cores(cores)}")


def _cores(count: int) -> str:
    return "1 core" if count == 1 else f"{count} cores"

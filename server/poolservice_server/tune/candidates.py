"""The settings that are tried, in order, and the values of each that may be better than the one in use."""

from collections.abc import Sequence
from typing import NamedTuple

from poolservice_server.settings import Settings
from poolservice_server.tune.job import Job
from poolservice_server.tune.tuned_server import Changes

#: The settings that are tuned, in the order in which they are tried: those that may gain most are first.
TUNED = (
    "workers",
    "threads",
    "decode_threads",
    "backbone_threads",
    "max_batch_size",
    "max_batch_bytes",
    "max_batch_delay",
)

_MEBIBYTE = 2**20


def number_text(value: float) -> str:
    """Return the value of a setting as a settings file has it."""
    return str(value) if isinstance(value, int) else f"{value:g}"


class Situation(NamedTuple):
    """What the choice of values depends on.

    Attributes:
        jobs: the jobs.
        cores: the number of usable cores.
        on_cpu: True if the server computes on the CPU.
    """

    jobs: Sequence[Job]
    cores: int
    on_cpu: bool


def values_to_try(name: str, settings: Settings, chosen: Changes, situation: Situation) -> list[float]:
    """Return the values of a setting that may be better than its value in use, without that one.

    Args:
        name: the setting.
        settings: the user's settings.
        chosen: the changes that were found better so far.
        situation: what the choice depends on.
    """
    jobs, cores, on_cpu = situation
    current = chosen.get(name, getattr(settings, name))
    workers = chosen.get("workers", settings.workers)
    share = max(1, cores // int(workers))
    in_flight = max(job.concurrency * job.requests for job in jobs)
    may_batch = in_flight > 1 and (not on_cpu or any(not job.is_image for job in jobs))
    values: set[float] = set()
    if name == "workers" and on_cpu and not settings.address.startswith("unix:") and not settings.require_gpu:
        values = {1, 2, max(1, cores // 2), cores} if cores > 1 else set()
    elif name == "threads":
        values = {max(1, share // 2), 2 * share, 4 * share} if on_cpu else {2, 4, 6}
    elif name == "decode_threads" and any(job.is_image for job in jobs):
        values = {max(1, share // 2), 2 * share, 4 * share}
    elif name == "backbone_threads" and on_cpu and any(job.has_backbone for job in jobs):
        values = {1, max(1, share // 2), share}
    elif name == "max_batch_size" and may_batch:
        values = {size for size in (8, 16, 64, 256) if size // 4 < in_flight}
    elif name == "max_batch_bytes" and may_batch:
        total = max(job.concurrency * len(job.message) for job in jobs)
        values = {size * _MEBIBYTE for size in (4, 16, 64, 256) if size * _MEBIBYTE // 4 < total}
    elif name == "max_batch_delay" and may_batch:
        values = {0.0, 0.001, 0.004}
    same = {current}
    if not current and name in ("threads", "decode_threads"):
        # 0 means the share of the cores, and the threads of a GPU are 3.
        same = {0, share if on_cpu or name == "decode_threads" else 3}
    return sorted(values - same)

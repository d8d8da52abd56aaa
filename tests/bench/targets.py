"""What poolservice sets out to reach, as ratios of calls a second within one round."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

CONCURRENCIES = (1, 8, 32)


class Target(NamedTuple):
    """At least this many times the rival's calls a second."""

    rival: str
    times: float


def _every(rival: str, times: float) -> dict[int, Target]:
    return {concurrency: Target(rival, times) for concurrency in CONCURRENCIES}


def _busy(rival: str, times: float) -> dict[int, Target]:
    return {concurrency: Target(rival, times) for concurrency in CONCURRENCIES if concurrency > 1}


_BY_JOB: dict[str, tuple[dict[int, Target], ...]] = {
    "J1": (_every("echo", 1.4), _every("plain", 2.2)),
    "J2": (_every("plain", 2.5),),
    "J3": (_busy("echo", 1.3), _busy("plain", 1.6)),
    "J4": ({1: Target("echo", 0.8), 8: Target("echo", 1.0), 32: Target("echo", 1.3)}, _busy("plain", 1.4)),
}

#: By job, concurrency and rival.
TARGETS: Mapping[tuple[str, int, str], float] = MappingProxyType(
    {
        (job, concurrency, target.rival): target.times
        for job, sets in _BY_JOB.items()
        for targets in sets
        for concurrency, target in targets.items()
    }
)

"""The performance targets: throughput of poolservice over that of a baseline server, within one round."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

CONCURRENCIES = (1, 8, 32)


class Target(NamedTuple):
    """The least acceptable ratio of throughput over that of a baseline server."""

    baseline: str
    ratio: float


def _at_every_concurrency(baseline: str, ratio: float) -> dict[int, Target]:
    return {concurrency: Target(baseline, ratio) for concurrency in CONCURRENCIES}


def _above_one_call(baseline: str, ratio: float) -> dict[int, Target]:
    return {concurrency: Target(baseline, ratio) for concurrency in CONCURRENCIES if concurrency > 1}


_BY_JOB: dict[str, tuple[dict[int, Target], ...]] = {
    "J1": (_at_every_concurrency("echo", 1.4), _at_every_concurrency("plain", 2.2)),
    "J2": (_at_every_concurrency("plain", 2.5),),
    "J3": (_above_one_call("echo", 1.3), _above_one_call("plain", 1.6)),
    "J4": ({1: Target("echo", 0.8), 8: Target("echo", 1.0), 32: Target("echo", 1.3)}, _above_one_call("plain", 1.4)),
}

#: The least ratio by job, concurrency and baseline.
TARGETS: Mapping[tuple[str, int, str], float] = MappingProxyType(
    {
        (job, concurrency, target.baseline): target.ratio
        for job, groups in _BY_JOB.items()
        for targets in groups
        for concurrency, target in targets.items()
    }
)

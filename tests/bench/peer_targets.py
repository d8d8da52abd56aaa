"""The targets of `make bench-peers`: throughput of one contestant over that of another one, within one round."""

from typing import NamedTuple

from contestants import COALESCED, COALESCED_THREADS, MOSEC, PLAIN, RAW, SDK, SDK_THREADS, TUNED


class Target(NamedTuple):
    """The least acceptable ratio of throughput."""

    job: str
    concurrency: int
    contestant: str
    baseline: str
    ratio: float


#: A single caller may take this much longer with coalescing than without.
_SINGLE_CALLER = 1 / 1.05

_PAIRS = ((COALESCED, SDK), (COALESCED_THREADS, SDK_THREADS))

TARGETS = (
    *(Target("J1", level, RAW, PLAIN, 2.2) for level in (8, 32)),
    *(Target("J1", level, RAW, TUNED, 0.8) for level in (8, 32)),
    *(Target("J2", level, RAW, PLAIN, 2.5) for level in (8, 32)),
    *(Target("J3", 8, coalesced, MOSEC, 1.4) for coalesced, _ in _PAIRS),
    *(Target("J3", 32, coalesced, MOSEC, 2.0) for coalesced, _ in _PAIRS),
    *(Target("J3", 32, coalesced, without, 1.8) for coalesced, without in _PAIRS),
    *(Target("128x7x7", 32, coalesced, without, 3.0) for coalesced, without in _PAIRS),
    *(Target("J4", level, coalesced, without, 1.0) for level in (8, 32) for coalesced, without in _PAIRS),
    *(
        Target(job, 1, coalesced, without, _SINGLE_CALLER)
        for job in ("J3", "J4", "128x7x7")
        for coalesced, without in _PAIRS
    ),
)

"""The targets of `make bench-backbone`, within one round."""

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from backbone_contestants import ASYNC, LIMIT, MOSEC, PLAIN, THREADS
from load import Measurement

#: One measurement per round, by network, concurrency and contestant.
Measurements = Mapping[tuple[str, int, str], Sequence[Measurement]]


class Target(NamedTuple):
    """The least throughput over that of a baseline, or the most latency above it.

    Attributes:
        concurrency: concurrent calls.
        contestant: who must reach it.
        baseline: whom it is compared with.
        ratio: the least ratio of throughput; None for a target of latency.
        milliseconds: the most milliseconds of p50 above the baseline's; None for a target of throughput.
    """

    concurrency: int
    contestant: str
    baseline: str
    ratio: float | None = None
    milliseconds: float | None = None

    @property
    def text(self) -> str:
        """What must be reached."""
        return f"{self.ratio:.2f}" if self.milliseconds is None else f"{self.milliseconds:.2f} ms"

    def measured(self, network: str, measurements: Measurements) -> float | None:
        """Return the median over the rounds of what is compared; None if one of the two was not measured."""
        pairs = list(
            zip(
                measurements.get((network, self.concurrency, self.contestant), ()),
                measurements.get((network, self.concurrency, self.baseline), ()),
                strict=True,
            )
            if (network, self.concurrency, self.baseline) in measurements
            else ()
        )
        if not pairs:
            return None
        if self.milliseconds is not None:
            return statistics.median(one.p50_ms - other.p50_ms for one, other in pairs)
        return statistics.median(one.rate / other.rate for one, other in pairs)

    def is_met(self, measured: float) -> bool:
        """Return True if this is enough."""
        return measured <= self.milliseconds if self.milliseconds is not None else measured >= (self.ratio or 0.0)


_CLIENTS = (ASYNC, THREADS)

TARGETS = (
    *(Target(1, client, LIMIT, milliseconds=1.5) for client in _CLIENTS),
    *(Target(level, client, LIMIT, ratio=0.95) for level in (8, 32) for client in _CLIENTS),
    *(Target(level, client, PLAIN, ratio=1.4) for level in (8, 32) for client in _CLIENTS),
    *(Target(level, client, MOSEC, ratio=1.4) for level in (8, 32) for client in _CLIENTS),
)

"""The knee of a server's load: up to which rate it keeps up, and the rates at which a sweep looks for it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from poolservice_client._cli.bench_measurement import Measurement, OpenLoop, rate_text

#: The callers of the closed loop with which a sweep measures the server's capacity.
CAPACITY_CONCURRENCY = 32
#: The rates of a sweep, as fractions of that capacity. They are closest where latencies begin to rise.
SWEEP = (0.1, 0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.2)
# Without a target, a p99 latency of this many times the median at the lowest rate counts as too long: a server that
# keeps up is far below, and waiting grows without bound in one that does not.
_SLOWDOWN = 10.0
# Failed, refused and not started calls, as a fraction of all.
_MAX_LOST = 0.01


@dataclass(frozen=True)
class Knee:
    """The highest measured rate below the first one at which the server did not keep up.

    Attributes:
        rate: calls per second; None if the server did not keep up at the lowest rate.
        p99_limit: the milliseconds that the p99 latency may have.
        is_target: whether the user gave this limit.
        is_bounded: whether the server did not keep up at some rate, so that the knee is not above `rate`.
        later: the highest rate at which it kept up although it did not at a lower one; None if there is none.
    """

    rate: float | None
    p99_limit: float
    is_target: bool
    is_bounded: bool = True
    later: float | None = None

    def __str__(self) -> str:
        origin = "" if self.is_target else f" ({_SLOWDOWN:g} times the p50 at the lowest rate)"
        limits = f"at most {_MAX_LOST:.0%} of calls lost and a p99 latency of at most {self.p99_limit:.3g} ms{origin}"
        if not self.is_bounded and self.rate is not None:
            return f"Knee: at or above {rate_text(self.rate)} calls/s. Every measured rate met the limits, {limits}."
        if self.rate is not None:
            text = (
                f"Knee: {rate_text(self.rate)} calls/s, the highest rate below the first one that missed the limits, "
                f"{limits}."
            )
        elif self.later is None:
            return f"Knee: below the lowest rate. No rate met the limits, {limits}."
        else:
            text = f"Knee: below the lowest rate, which missed the limits, {limits}."
        if self.later is not None:
            text += (
                f" {rate_text(self.later)} calls/s met them although a lower rate did not: the measurements vary, so "
                "measure longer (--duration)."
            )
        return text


def sweep_rates(capacity: float) -> list[float]:
    """Return the rates of a sweep, in ascending order.

    Args:
        capacity: the calls per second of the closed loop.
    """
    return [float(f"{capacity * fraction:.2g}") for fraction in SWEEP]


def find_knee(rows: Sequence[Measurement], p99_target: float | None) -> Knee | None:
    """Return the knee; None if there are fewer than two rates, or if nothing can be compared.

    Args:
        rows: measurements of open loops; those of closed loops are ignored.
        p99_target: the milliseconds that the p99 latency may have; None for ten times the p50 at the lowest rate.
    """
    measured = sorted(
        ((row.load.rate, row) for row in rows if isinstance(row.load, OpenLoop)), key=lambda rated: rated[0]
    )
    if len(measured) < 2:
        return None
    lowest = measured[0][1].percentiles()
    if p99_target is None and not lowest:
        return None
    limit = _SLOWDOWN * lowest["p50"] if p99_target is None else p99_target
    # Two rows of one rate count as one rate, at which the server keeps up only if it does in both.
    missed = [rate for rate, row in measured if not _keeps_up(row, limit)]
    first_missed = min(missed, default=math.inf)
    kept_up = {rate for rate, _ in measured} - set(missed)
    return Knee(
        max((rate for rate in kept_up if rate < first_missed), default=None),
        limit,
        p99_target is not None,
        bool(missed),
        max((rate for rate in kept_up if rate > first_missed), default=None),
    )


def _keeps_up(row: Measurement, limit: float) -> bool:
    lost = row.errors.total() + row.not_started
    return bool(row.latencies) and lost <= _MAX_LOST * row.calls and row.percentiles()["p99"] <= limit

"""The knee of a server's load: up to which rate it keeps up, and the rates at which a sweep looks for it."""

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
    """The highest measured rate at which the server kept up.

    Attributes:
        rate: calls per second; None if the server did not keep up at any rate.
        p99_limit: the milliseconds that the p99 latency may have.
        is_target: whether the user gave this limit.
    """

    rate: float | None
    p99_limit: float
    is_target: bool

    def __str__(self) -> str:
        origin = "" if self.is_target else f" ({_SLOWDOWN:g} times the p50 at the lowest rate)"
        rule = f"at most {_MAX_LOST:.0%} of calls lost and a p99 latency of at most {self.p99_limit:.3g} ms{origin}"
        if self.rate is None:
            return f"Knee: below the lowest rate. No measured rate has {rule}."
        return f"Knee: {rate_text(self.rate)} calls/s, the highest measured rate with {rule}."


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
    kept_up = [rate for rate, row in measured if _keeps_up(row, limit)]
    return Knee(max(kept_up, default=None), limit, p99_target is not None)


def _keeps_up(row: Measurement, limit: float) -> bool:
    lost = row.errors.total() + row.not_started
    return bool(row.latencies) and lost <= _MAX_LOST * row.calls and row.percentiles()["p99"] <= limit

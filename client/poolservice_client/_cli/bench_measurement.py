"""What `poolservice bench` measures: a load, and the statistics of the calls that were made under it."""

from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from poolservice_client import Execution, Overloaded, PoolError
from poolservice_client._cli import sdk_errors

#: The percentiles that the reports show, besides the maximum.
PERCENTILES = (50, 90, 99)
#: When the calls of an open loop start: at random, as those of many independent callers, or at equal intervals.
Arrivals = Literal["poisson", "constant"]


@dataclass(frozen=True)
class ClosedLoop:
    """A fixed number of calls in flight: each caller starts its next call as soon as its previous one returns.

    Attributes:
        concurrency: the number of callers.
    """

    concurrency: int

    def __str__(self) -> str:
        return f"{self.concurrency} concurrent calls"


@dataclass(frozen=True)
class OpenLoop:
    """Calls that start on a schedule, whether or not earlier ones have returned.

    Attributes:
        rate: the mean number of calls per second.
        arrivals: how the schedule is made.
        max_outstanding: the largest number of calls in flight. A call that is due while so many are in flight is not
            started, but counted.
    """

    rate: float
    arrivals: Arrivals
    max_outstanding: int

    def __str__(self) -> str:
        return f"{rate_text(self.rate)} calls per second"


Load = ClosedLoop | OpenLoop


def rate_text(rate: float) -> str:
    """Return a rate as text with at least two significant digits and never an exponent."""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def _numbers() -> "array[float]":
    return array("d")


@dataclass
class Measurement:
    """The statistics of one run of the load generator.

    Attributes:
        load: the load.
        seconds: the duration of the run, until its last response.
        busy_cores: this process's CPU time per second.
        latencies: the latency of each successful call, in milliseconds: in a closed loop from its start, in an open
            loop from the time at which it was due.
        start_delays: in an open loop, the milliseconds by which each successful call started late.
        decode, queue, compute: the milliseconds in each response's Execution; decode includes the preprocessing for a
            backbone.
        batch_sizes: the batch size in each response's Execution.
        devices: the number of responses that each device computed.
        errors: the number of failed calls by the error's class.
        first_errors: the message of the first error of each class.
        not_started: the calls of an open loop that were not started, because too many were in flight.
    """

    load: Load
    seconds: float = 0.0
    busy_cores: float = 0.0
    latencies: "array[float]" = field(default_factory=_numbers)
    start_delays: "array[float]" = field(default_factory=_numbers)
    decode: "array[float]" = field(default_factory=_numbers)
    queue: "array[float]" = field(default_factory=_numbers)
    compute: "array[float]" = field(default_factory=_numbers)
    batch_sizes: "array[float]" = field(default_factory=_numbers)
    devices: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    first_errors: dict[str, str] = field(default_factory=dict)
    not_started: int = 0

    @property
    def rate(self) -> float:
        """Responses per second."""
        return self.per_second(len(self.latencies))

    @property
    def calls(self) -> int:
        """The number of calls that ended or were not started."""
        return len(self.latencies) + self.errors.total() + self.not_started

    @property
    def refused(self) -> int:
        """The number of calls that the server refused because of a full queue or a limit."""
        return self.errors[Overloaded.__name__]

    @property
    def failed(self) -> int:
        """The number of calls that failed for another reason."""
        return self.errors.total() - self.refused

    def per_second(self, count: float) -> float:
        """Return a count of this run per second."""
        return count / self.seconds if self.seconds else 0.0

    def percentiles(self) -> dict[str, float]:
        """Return the latency percentiles p50, p90 and p99 and the maximum; empty if no call succeeded."""
        return _percentiles(self.latencies)

    def start_delay_percentiles(self) -> dict[str, float]:
        """Return the same of the start delays."""
        return _percentiles(self.start_delays)

    def mean_parts(self) -> dict[str, float]:
        """Return the parts of the mean latency: the server's phases, and the rest (network, gRPC, client)."""
        if not self.latencies:
            return {}
        parts = {name: float(np.mean(getattr(self, name))) for name in ("decode", "queue", "compute")}
        return {**parts, "rest": max(float(np.mean(self.latencies)) - sum(parts.values()), 0.0)}

    def mean_batch_size(self) -> float | None:
        """Return the mean batch size; None if no call succeeded."""
        return float(np.mean(self.batch_sizes)) if self.batch_sizes else None

    def record_success(self, milliseconds: float, execution: Execution) -> None:
        """Record a successful call."""
        self.latencies.append(milliseconds)
        self.decode.append((execution.decode_microseconds + execution.preprocess_microseconds) / 1e3)
        self.queue.append(execution.queue_microseconds / 1e3)
        self.compute.append(execution.compute_microseconds / 1e3)
        self.batch_sizes.append(execution.batch_size)
        self.devices[execution.device] += 1

    def record_error(self, error: PoolError) -> None:
        """Record a failed call."""
        name = type(error).__name__
        self.errors[name] += 1
        if name not in self.first_errors:
            self.first_errors[name] = sdk_errors.describe(error)


def _percentiles(numbers: "array[float]") -> dict[str, float]:
    if not numbers:
        return {}
    values = np.percentile(np.asarray(numbers), (*PERCENTILES, 100))
    return dict(zip((*(f"p{one}" for one in PERCENTILES), "max"), map(float, values), strict=True))

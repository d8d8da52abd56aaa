"""Interleaved rounds against several servers, and whether one of them is better than another by more than the noise."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from poolservice_server.tune.job import Job
from poolservice_server.tune.load import Load, LoadFailed, Measured
from poolservice_server.tune.tuned_server import TunedServer

# A gain below this is not worth a setting of one's own.
LEAST_GAIN = 0.03
# Nor is more throughput worth a 99th percentile that is this much longer.
MOST_P99 = 1.5
# After this many rounds, a server whose throughput is below this share of the reference is measured no more.
_ROUNDS_BEFORE_DROPPING = 2
_HOPELESS = 0.85
# After so many rounds, more of them are measured only while it is open whether a server is better.
LEAST_ROUNDS = 7
_MOST_ROUNDS = 40
# A gain must be this many times the noise. In a simulation with a noise of 5 to 30 % per round, whose distribution has
# long tails, a value that changes nothing was then chosen in 2 to 3 of 100 cases, after 5 rounds and with twice the
# noise in 8 to 12.
_NOISE_FACTOR = 3

# The standard deviation of a normal distribution over its median absolute deviation, and the standard error of its
# median over that of its mean.
_MAD_FACTOR = 1.4826
_MEDIAN_FACTOR = 1.2533


@dataclass
class Measurements:
    """The rounds of one server.

    Attributes:
        rounds: for each round, what each job measured.
        memory: the largest memory of the server's processes in bytes.
        failure: why it was measured no more; empty if no call failed.
    """

    rounds: list[list[Measured]] = field(default_factory=list)
    memory: int = 0
    failure: str = ""

    def median(self, job: int) -> Measured:
        """Return the median of the rounds of a job."""
        return Measured(*map(statistics.median, zip(*(one[job] for one in self.rounds), strict=True)))


class Gain:
    """The throughput of a server over that of another one, in the rounds that both ran.

    Args:
        reference, other: what both measured, in the same rounds.
        weights: the weight of each job.

    Attributes:
        ratio: the median over the rounds of the weighted geometric mean of the jobs' ratios.
        noise: the standard error of the ratio, as a share of it, from its median absolute deviation.
        p99: for each job, the median ratio of the 99th percentiles.
    """

    def __init__(self, reference: Measurements, other: Measurements, weights: Sequence[float]) -> None:
        pairs = list(zip(reference.rounds, other.rounds, strict=False))
        self._logarithms = [
            math.fsum(
                weight * math.log(mine.rate / its.rate) for weight, mine, its in zip(weights, ours, theirs, strict=True)
            )
            / math.fsum(weights)
            for theirs, ours in pairs
        ]
        median = statistics.median(self._logarithms)
        spread = statistics.median(abs(one - median) for one in self._logarithms)
        self.ratio = math.exp(median)
        self.noise = _MEDIAN_FACTOR * _MAD_FACTOR * spread / math.sqrt(len(pairs))
        self.p99 = [
            statistics.median(ours[job].p99 / theirs[job].p99 for theirs, ours in pairs) for job in range(len(weights))
        ]

    @property
    def exceeds_noise(self) -> bool:
        """Return True if the gain is worth a setting, is three times the noise, and shows in four of five rounds."""
        rounds = len(self._logarithms)
        better = sum(one > 0 for one in self._logarithms)
        return (
            self.ratio > 1 + LEAST_GAIN
            and math.log(self.ratio) > _NOISE_FACTOR * self.noise
            and better >= max(2, math.ceil(0.8 * rounds))
        )

    @property
    def is_hopeless(self) -> bool:
        """Return True if more rounds will not show a gain."""
        return len(self._logarithms) >= _ROUNDS_BEFORE_DROPPING and self.ratio < _HOPELESS

    @property
    def is_settled(self) -> bool:
        """Return True if it is clear that there is a gain, or that there is none that is worth a setting."""
        return self.exceeds_noise or math.log(self.ratio) + 2 * self.noise < math.log(1 + LEAST_GAIN)


def measure_rounds(
    load: Load,
    jobs: Sequence[Job],
    servers: Sequence[TunedServer],
    *,
    seconds: float,
    is_over: Callable[[], bool],
) -> list[Measurements]:
    """Measure each job on each server in turn, and begin each round with another server.

    The rounds end when it is settled whether each server is better than the reference, or when the time is over.

    Args:
        load: the load generator.
        jobs: the jobs.
        servers: the servers; the first one is the reference, which is measured in each round.
        seconds: the duration of one measurement.
        is_over: returns True if no further round may begin. The first two always run.

    Raises:
        LoadFailed: a call to the reference failed.
    """
    found = [Measurements() for _ in servers]
    active = list(range(len(servers)))
    weights = [job.weight for job in jobs]
    for number in range(_MOST_ROUNDS):
        if number >= _ROUNDS_BEFORE_DROPPING and is_over():
            break
        gains = [Gain(found[0], found[which], weights) for which in active[1:]] if number >= LEAST_ROUNDS else []
        if number >= LEAST_ROUNDS and all(gain.is_settled for gain in gains):
            break
        turn = number % len(active)
        for which in active[turn:] + active[:turn]:
            _measure_once(load, jobs, servers[which], found[which], seconds, is_reference=which == 0)
        active = [
            which
            for which in active
            if which == 0 or not (found[which].failure or Gain(found[0], found[which], weights).is_hopeless)
        ]
    return found


def _measure_once(
    load: Load, jobs: Sequence[Job], server: TunedServer, found: Measurements, seconds: float, *, is_reference: bool
) -> None:
    measured = []
    for number, job in enumerate(jobs):
        try:
            measured.append(load.measure(server.address, number, seconds))
        except LoadFailed as failed:
            failure = f"the job {job.name!r} failed: {failed}"
            if is_reference:
                raise LoadFailed(failure) from None
            found.failure = failure
            return
        found.memory = max(found.memory, server.memory_bytes())
    found.rounds.append(measured)

"""The search for better settings.

The method is coordinate descent. One setting after the other is tried, in the order of `TUNED`. For each, a server is
started for each promising value, beside the one with the settings found so far, the reference. All of them are measured
in short, interleaved rounds, seven or more, so that whatever else the machine does slows all of them down. In each
round the throughput of a server is divided by that of the reference; the weighted geometric mean over the jobs is its
ratio, and the median over the rounds decides.

A value replaces the one in use only if the median gain is at least 3 % and three times the noise (the standard error of
the median), if four of five rounds show it, and if no job's 99th percentile is more than half longer. The best such
value of a setting is the reference for the next one. Since the best of many noisy values looks better than it is, the
final settings are measured against the user's own once more, in fresh rounds; unless they are better there too, the
user's own settings stay.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import NamedTuple

from poolservice_server.settings import Settings
from poolservice_server.tune.candidates import TUNED, Situation, number_text, values_to_try
from poolservice_server.tune.comparison import LEAST_ROUNDS, MOST_P99, Gain, Measurements, measure_rounds
from poolservice_server.tune.job import Job
from poolservice_server.tune.load import Load
from poolservice_server.tune.tuned_server import CannotStart, Changes, TunedServer

# The seconds of one measurement. Many short rounds show a gain better than few long ones.
_SHORTEST, _LONGEST = 0.08, 0.25
# What a measurement takes longer than that: the load generator warms up.
_OVERHEAD = 1.25
# The share of the budget that the last comparison may take.
_LAST_SHARE = 0.2


class Trial(NamedTuple):
    """One value of a setting, compared with the value in use.

    Attributes:
        setting: the name of the setting.
        value: the value.
        gain: its throughput over that of the reference; None if no round was complete.
        measurements: what it measured; None if the server did not start.
        decision: what follows, in a few words: chosen, or why not.
    """

    setting: str
    value: float
    gain: Gain | None
    measurements: Measurements | None
    decision: str


@dataclass
class Outcome:
    """What is known so far.

    Attributes:
        device: the line with which the first server said that it serves.
        before: what the user's own settings measured, most recently.
        chosen: the changes that are better.
        after: what the settings with these changes measured in the last comparison.
        confirmed: the gain in the last comparison; None if there was none.
        trials: all values that were tried.
        not_tried: the settings for which the time was too short.
    """

    device: str = ""
    before: Measurements | None = None
    chosen: dict[str, float] = field(default_factory=dict)
    after: Measurements | None = None
    confirmed: Gain | None = None
    trials: list[Trial] = field(default_factory=list)
    not_tried: list[str] = field(default_factory=list)


class Search:
    """A search, whose `outcome` is complete at any time, also after an exception.

    Args:
        flags: the user's flags.
        settings: the settings that they make.
        jobs: the jobs.
        cores: the number of usable cores.
        seconds: the budget.
        report: called with a line about each step.
    """

    def __init__(
        self,
        flags: Sequence[str],
        settings: Settings,
        jobs: Sequence[Job],
        *,
        cores: int,
        seconds: float,
        report: Callable[[str], None],
    ) -> None:
        self.outcome = Outcome()
        self._flags = flags
        self._settings = settings
        self._jobs = jobs
        self._weights = [job.weight for job in jobs]
        self._cores = cores
        self._seconds = seconds
        self._end = time.monotonic() + seconds
        self._report = report
        self._start_seconds = 0.0
        self._servers: dict[tuple[tuple[str, float], ...], TunedServer] = {}
        self._stack = ExitStack()

    def run(self) -> Outcome:
        """Search until all settings have been tried or the time is over.

        Raises:
            CannotStart: the server does not start with the user's own settings.
            LoadFailed: a job fails with the settings in use.
        """
        with self._stack, Load(self._jobs, self._cores) as load:
            self._load = load
            own = self._server({})
            self.outcome.device = own.ready_line
            self._report(own.ready_line)
            # The first calls of a server also show whether each job can be measured at all.
            self.outcome.before = self._measure([own], 0.0)[0]
            situation = Situation(self._jobs, self._cores, own.runs_on_cpu)
            for number, name in enumerate(TUNED):
                values, *others = (self._values(one, situation) for one in TUNED[number:])
                if values and not self._has_time(len(values)):
                    self.outcome.not_tried += [name]
                elif values:
                    self._try(name, values, [one for one in others if one])
            self._confirm()
        return self.outcome

    def compare(self, before: Changes) -> Outcome:
        """Measure the user's settings against those with some changes, and choose nothing.

        Args:
            before: the changes, such as those that make the settings the defaults.
        """
        with self._stack, Load(self._jobs, self._cores) as load:
            self._load = load
            reference = self._server(before)
            self.outcome.device = reference.ready_line
            self._report(reference.ready_line)
            self._last_comparison(reference, self._server({}))
        return self.outcome

    def _values(self, name: str, situation: Situation) -> list[float]:
        return values_to_try(name, self._settings, self.outcome.chosen, situation)

    def _try(self, name: str, values: Sequence[float], later: Sequence[Sequence[float]]) -> None:
        """Try some values of a setting, and choose the best one if it is better than the one in use.

        Args:
            name: the setting.
            values: the values.
            later: the values of the settings that will be tried after it, and need their share of the time.
        """
        chosen = self.outcome.chosen
        reference = self._server(chosen)
        started: list[tuple[float, TunedServer]] = []
        for value in values:
            try:
                started.append((value, self._server({**chosen, name: value})))
            except CannotStart as error:
                self._add(Trial(name, value, None, None, f"does not start: {error}"))
        starts = self._start_seconds * sum(map(len, later))
        left = ((1 - _LAST_SHARE) * (self._end - time.monotonic()) - starts) / (1 + len(later))
        own, *others = self._measure([reference, *(server for _, server in started)], left)
        if not chosen:
            self.outcome.before = own
        trials = [self._judge(name, value, own, other) for (value, _), other in zip(started, others, strict=True)]
        better = [trial for trial in trials if trial.gain is not None and not trial.decision]
        best = max(better, key=lambda trial: trial.gain.ratio if trial.gain else 0.0, default=None)
        for trial in trials:
            words = "chosen" if trial is best else trial.decision or "good, but another value is better"
            self._add(trial._replace(decision=words))
        if best is not None:
            self.outcome.chosen = {**chosen, name: best.value}
        keep = {_key({}), _key(self.outcome.chosen)}
        for key in [key for key in self._servers if key not in keep]:
            self._stop(key)

    def _judge(self, name: str, value: float, reference: Measurements, other: Measurements) -> Trial:
        """Return the trial of a value, with no decision if it is better than the reference."""
        gain = Gain(reference, other, self._weights) if other.rounds else None
        if other.failure or gain is None:
            return Trial(name, value, gain, other, other.failure)
        slower = [
            f"the 99th percentile of {job.name} is {ratio:.1f} times as long"
            for job, ratio in zip(self._jobs, gain.p99, strict=True)
            if ratio > MOST_P99
        ]
        if gain.exceeds_noise:
            return Trial(name, value, gain, other, "; ".join(slower))
        if not gain.is_settled:
            return Trial(name, value, gain, other, "the noise is too large to say")
        return Trial(name, value, gain, other, "slower" if gain.ratio < 1 - gain.noise else "no more than the noise")

    def _confirm(self) -> None:
        """Measure the final settings against the user's own, and return to these if they are as good."""
        if not self.outcome.chosen:
            return
        gain = self._last_comparison(self._server({}), self._server(self.outcome.chosen))
        if not gain.exceeds_noise:
            self._report("the last comparison does not confirm the gain, so your own settings stay")
            self.outcome.chosen = {}

    def _last_comparison(self, before: TunedServer, after: TunedServer) -> Gain:
        left = self._end - time.monotonic()
        self.outcome.before, self.outcome.after = self._measure([before, after], left)
        gain = self.outcome.confirmed = Gain(self.outcome.before, self.outcome.after, self._weights)
        self._report(f"the last comparison: {gain.ratio:.2f} times the throughput, noise {gain.noise:.1%}")
        return gain

    def _measure(self, servers: Sequence[TunedServer], left: float) -> list[Measurements]:
        """Measure servers in rounds that fit the time that is left, at least in two."""
        each = left / (LEAST_ROUNDS * len(servers) * len(self._jobs) * _OVERHEAD)
        end = time.monotonic() + left
        return measure_rounds(
            self._load,
            self._jobs,
            servers,
            seconds=min(_LONGEST, max(_SHORTEST, each)),
            is_over=lambda: time.monotonic() > end,
        )

    def _has_time(self, count: int) -> bool:
        """Return True if so many servers can be started and measured before the last comparison has to begin."""
        rounds = LEAST_ROUNDS * (count + 1) * len(self._jobs) * _SHORTEST * _OVERHEAD
        last = _LAST_SHARE * self._seconds
        return time.monotonic() + count * self._start_seconds + rounds + last <= self._end

    def _server(self, changes: Changes) -> TunedServer:
        key = _key(changes)
        if key not in self._servers:
            began = time.monotonic()
            self._servers[key] = self._stack.enter_context(TunedServer(self._flags, changes))
            self._start_seconds = max(self._start_seconds, time.monotonic() - began)
        return self._servers[key]

    def _stop(self, key: tuple[tuple[str, float], ...]) -> None:
        server = self._servers.pop(key)
        self._load.forget(server.address)
        server.stop()

    def _add(self, trial: Trial) -> None:
        self.outcome.trials.append(trial)
        throughput = "" if trial.gain is None else f"{trial.gain.ratio:.2f} times the throughput, "
        self._report(f"{trial.setting} = {number_text(trial.value)}: {throughput}{trial.decision}")


def _key(changes: Changes) -> tuple[tuple[str, float], ...]:
    return tuple(sorted(changes.items()))

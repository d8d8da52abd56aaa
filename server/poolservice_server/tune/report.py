"""The report of a search: for people as tables, for programs as JSON."""

import statistics
from collections.abc import Iterator, Sequence

from poolservice_server.doctor.machine import size_text
from poolservice_server.settings import Settings
from poolservice_server.tune.candidates import TUNED, number_text
from poolservice_server.tune.comparison import Gain, Measurements
from poolservice_server.tune.job import Job
from poolservice_server.tune.search import Outcome, Trial

# More noise than this hides gains that are worth a setting.
_MUCH_NOISE = 0.05

# The columns of numbers.
_NUMBERS = ("requests/s", "p50 ms", "p99 ms", "memory")


def as_json(outcome: Outcome, settings: Settings, jobs: Sequence[Job]) -> dict[str, object]:
    """Return the report as an object of JSON. Latencies are in milliseconds, memory in bytes."""
    return {
        "server": outcome.device,
        "settings": {name: outcome.chosen.get(name, getattr(settings, name)) for name in TUNED},
        "changed": outcome.chosen,
        "confirmed": _gain(outcome.confirmed),
        "before": _measurements(outcome.before, jobs),
        "after": _measurements(outcome.after, jobs),
        "trials": [
            {
                "setting": trial.setting,
                "value": trial.value,
                "decision": trial.decision,
                "gain": _gain(trial.gain),
                "jobs": _measurements(trial.measurements, jobs),
            }
            for trial in outcome.trials
        ],
        "not_tried": outcome.not_tried,
    }


def as_text(outcome: Outcome, settings: Settings, jobs: Sequence[Job]) -> str:
    """Return the report for people: the evidence, and then the settings to use."""
    return "\n".join((*_evidence(outcome, jobs), "", *_settings(outcome, settings)))


def check_as_text(outcome: Outcome, jobs: Sequence[Job]) -> str:
    """Return the report of a comparison of the user's settings with the defaults."""
    rows = [*_rows("defaults", outcome.before, None, jobs), *_rows("your settings", outcome.after, None, jobs)]
    lines = _table(rows)
    if outcome.confirmed is not None:
        lines += ["", f"your settings give {_gain_text(outcome.confirmed)} of the defaults"]
    return "\n".join(lines)


def _evidence(outcome: Outcome, jobs: Sequence[Job]) -> Iterator[str]:
    rows = _rows("your settings", outcome.before, None, jobs)
    for trial in outcome.trials:
        rows += _trial_rows(trial, jobs)
    if outcome.after is not None:
        rows += _rows("all changes together", outcome.after, outcome.confirmed, jobs)
    yield from _table(rows)


def _settings(outcome: Outcome, settings: Settings) -> Iterator[str]:
    if outcome.not_tried:
        yield f"not tried, because the time was too short (--seconds): {', '.join(outcome.not_tried)}"
    noises = [trial.gain.noise for trial in outcome.trials if trial.gain is not None]
    if noises and (noise := statistics.median(noises)) > _MUCH_NOISE:
        yield f"the measurements vary much (noise {noise:.0%}): stop other programs on this machine, and repeat them"
    if not outcome.chosen:
        yield "use your own settings: nothing that was tried is better by more than the noise"
    elif outcome.confirmed is None:
        yield "use these settings, though no last comparison confirmed that they are better together:"
    else:
        yield f"use these settings, with {_gain_text(outcome.confirmed)} of your own:"
    for name in TUNED:
        own = getattr(settings, name)
        if name in outcome.chosen:
            yield f"  {name} = {number_text(outcome.chosen[name])}  (yours: {number_text(own)})"
        else:
            yield f"  {name} = {number_text(own)}"


def _rows(what: str, found: Measurements | None, gain: Gain | None, jobs: Sequence[Job]) -> list[tuple[str, ...]]:
    if found is None or not found.rounds:
        return []
    rows: list[tuple[str, ...]] = []
    for number, job in enumerate(jobs):
        rate, p50, p99 = found.median(number)
        ratio = f"{gain.ratio:.2f} ±{gain.noise:.2f}" if gain and not number else ""
        memory = size_text(found.memory) if not number else ""
        rows.append(
            (what if not number else "", job.name, f"{rate:,.0f}", f"{p50:.2f}", f"{p99:.2f}", memory, ratio, "")
        )
    return rows


def _trial_rows(trial: Trial, jobs: Sequence[Job]) -> list[tuple[str, ...]]:
    what = f"{trial.setting} = {number_text(trial.value)}"
    rows = _rows(what, trial.measurements, trial.gain, jobs) or [(what, "", "", "", "", "", "", "")]
    return [(*rows[0][:-1], trial.decision), *rows[1:]]


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return the lines of a table, without the columns that are empty in every row."""
    headings = ("setting", "job", "requests/s", "p50 ms", "p99 ms", "memory", "ratio", "decision")
    columns = []
    for heading, *cells in zip(headings, *rows, strict=True):
        if any(cells) or not rows:
            width = max(map(len, (heading, *cells)))
            # Numbers are aligned at their right end.
            align = str.rjust if heading in _NUMBERS else str.ljust
            columns.append([align(cell, width) for cell in (heading, *cells)])
    return ["  ".join(line).rstrip() for line in zip(*columns, strict=True)]


def _gain_text(gain: Gain) -> str:
    return f"{gain.ratio:.2f} times the throughput (noise {gain.noise:.1%})"


def _gain(gain: Gain | None) -> dict[str, object] | None:
    return None if gain is None else {"ratio": gain.ratio, "noise": gain.noise, "p99_ratios": gain.p99}


def _measurements(found: Measurements | None, jobs: Sequence[Job]) -> list[dict[str, object]]:
    if found is None or not found.rounds:
        return []
    medians = [found.median(number) for number in range(len(jobs))]
    return [
        {
            "job": job.name,
            "requests_per_second": median.rate,
            "p50_milliseconds": median.p50,
            "p99_milliseconds": median.p99,
            "memory_bytes": found.memory,
            "rounds": len(found.rounds),
        }
        for job, median in zip(jobs, medians, strict=True)
    ]

"""The command that compares estimates of costs with measured times and peaks of memory.

A child process runs the cases. Time is the least CPU time of three runs. Memory is how far a run raises the peak of the
process's resident memory above what it used before, the input of the case included. An estimate of the time is wrong if
it is off by more than a factor of 4 (above a millisecond), one of the memory by more than 1.5 (above 8 MB). Each such
case is measured again, and the least measurement counts, because other programs on the machine can only add to a
measurement. Linux only.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from poolservice_server.stage_cost import calibrate

_MAX_TIME_FACTOR, _MAX_MEMORY_FACTOR = 4.0, 1.5
_LEAST_SECONDS, _LEAST_BYTES = 1e-3, 8e6
_RUNS = 3
# How often a case is measured while its estimates are out of bounds.
_MEASUREMENTS = 4


class Estimate(NamedTuple):
    """A case and its estimate.

    Attributes:
        name: what the table calls it.
        run: what the estimate is for.
        steps: the estimated time, in steps.
        nbytes: the estimated peak of the memory.
        input_bytes: the part of it that is there before the run.
    """

    name: str
    run: Callable[[], object]
    steps: float
    nbytes: int
    input_bytes: int = 0


class Row(NamedTuple):
    """The measurement and the estimate of one case, in seconds and bytes."""

    name: str
    seconds: float
    nbytes: float
    estimated_seconds: float
    estimated_bytes: float

    @property
    def time_factor(self) -> float | None:
        """Estimated over measured time; None if both are too short to compare."""
        is_long = max(self.seconds, self.estimated_seconds) > _LEAST_SECONDS
        return self.estimated_seconds / self.seconds if is_long else None

    @property
    def memory_factor(self) -> float | None:
        """Estimated over measured memory; None if both are too small to compare."""
        is_large = max(self.nbytes, self.estimated_bytes) > _LEAST_BYTES
        return self.estimated_bytes / max(self.nbytes, 1.0) if is_large else None

    @property
    def is_wrong(self) -> bool:
        """True if an estimate is out of bounds."""
        return any(
            factor is not None and not 1 / bound <= factor <= bound
            for factor, bound in ((self.time_factor, _MAX_TIME_FACTOR), (self.memory_factor, _MAX_MEMORY_FACTOR))
        )

    def __str__(self) -> str:
        """Return the row in one line."""
        return (
            f"{'WRONG' if self.is_wrong else '     '} {self.seconds * 1e3:8.1f} ms x {_text(self.time_factor)} "
            f"{self.nbytes / 1e6:7.1f} MB x {_text(self.memory_factor)}  {self.name}"
        )


def compare(script: str, description: str, cases: Callable[[int], Iterator[Estimate]], count: int) -> int:
    """Parse the command line, measure the cases, and print each estimate that is far off.

    Args:
        script: the path of the command.
        description: what `--help` says about it.
        cases: returns the cases of a seed.
        count: how many to measure by default.

    Returns:
        The exit status: 1 if an estimate is wrong or a case is missing.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--cases", type=int, default=count, help="how many random images to measure (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="equal seeds give equal images (default: %(default)s)")
    parser.add_argument("--all", action="store_true", help="print all images, not only the wrong estimates")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        _measure_all(islice(cases(options.seed), options.cases))
        return 0
    rows = []
    for row in _rows(script, options.seed, options.cases):
        rows.append(row)
        if row.is_wrong or options.all:
            print(row, flush=True)
    for quantity, factors in (
        ("time", [row.time_factor for row in rows if row.time_factor is not None]),
        ("memory", [row.memory_factor for row in rows if row.memory_factor is not None]),
    ):
        if factors:
            print(f"{quantity}: estimate / measured {min(factors):.2f} to {max(factors):.2f} in {len(factors)} cases")
    wrong = sum(row.is_wrong for row in rows)
    print(f"{len(rows)} images, {wrong} wrong")
    return int(wrong > 0 or len(rows) < options.cases)


def _rows(script: str, seed: int, count: int) -> Iterator[Row]:
    # Freed memory returns to the system, so that a later case does not reuse it.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    command = [sys.executable, script, "--measure", "--seed", str(seed), "--cases", str(count)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            yield Row(*json.loads(line))


def _measure_all(cases: Iterator[Estimate]) -> None:
    """Print one row per line."""
    seconds_per_step = calibrate()
    for case in cases:
        # The first run loads code.
        case.run()
        row = Row(case.name, float("inf"), float("inf"), 0.0, case.nbytes)
        for measurement in range(_MEASUREMENTS):
            if measurement:
                seconds_per_step = min(seconds_per_step, calibrate())
            row = row._replace(
                nbytes=min(row.nbytes, _peak_bytes(case)),
                seconds=min(row.seconds, *(_seconds(case) for _ in range(_RUNS))),
                estimated_seconds=case.steps * seconds_per_step,
            )
            if not row.is_wrong:
                break
        print(json.dumps(row), flush=True)


def _seconds(case: Estimate) -> float:
    start = time.thread_time()
    case.run()
    return time.thread_time() - start


def _peak_bytes(case: Estimate) -> int:
    # Writing 5 resets VmHWM, the peak of the resident memory.
    Path("/proc/self/clear_refs").write_text("5")
    before = _status_bytes("VmRSS") - case.input_bytes
    case.run()
    return _status_bytes("VmHWM") - before


def _status_bytes(name: str) -> int:
    return int(Path("/proc/self/status").read_text().partition(f"{name}:")[2].split()[0]) * 1024


def _text(factor: float | None) -> str:
    return "    -" if factor is None else f"{factor:5.2f}"

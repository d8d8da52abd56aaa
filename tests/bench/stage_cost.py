"""Compare the estimates of `stage_cost` with measured times and peaks of memory, over random stages.

    python tests/bench/stage_cost.py [--cases N] [--seed S] [--only time|memory] [--groups] [--factor F] [--json FILE]

Each case is measured in a child process on the CPU, on one thread: the time as the least CPU time of several runs, the
peak as the growth of the process's resident memory during a run. Ratios are measured over estimated. The command fails
if a time of more than a millisecond is more than a factor of 4 from its estimate, or a peak of more than 16 MB more
than a factor of 1.5. It measures each such case again, alone, and the least measurement counts, because other
programs on the machine can only add to a measurement. With --groups it prints the median ratio of each algorithm and
type: the factor by which to change the coefficients in `stage_cost` to fit them to another machine.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from poolservice_server import allocator
from poolservice_server.pooling import run_on_arrays
from poolservice_server.stage_cost import calibrate, stage_cost
from poolservice_server.stage_cost.spec_estimates import spec_estimate
from random_stages import Case, random_cases

TIME, MEMORY = "time", "memory"
_FACTORS = {TIME: 4.0, MEMORY: 1.5}
# Below these, fixed costs dominate: a second, and bytes.
_LEAST = {TIME: 1e-3, MEMORY: 16 * 2**20}
_MAX_ESTIMATED_SECONDS = 1.0
_MAX_RUNS = 5
_ENOUGH_SECONDS = 0.05
#: How often cases that are out of bounds are measured again.
_REPETITIONS = 3


class Row(NamedTuple):
    """The estimate and the measurement of one case, in seconds or bytes."""

    case: Case
    estimated: float
    measured: float

    @property
    def ratio(self) -> float:
        """Measured over estimated."""
        return self.measured / self.estimated

    def is_within(self, factor: float) -> bool:
        """Return True if estimate and measurement differ by at most a factor."""
        return 1 / factor <= self.ratio <= factor


def main() -> int:
    """Measure and print; return 1 if an estimate is too far off."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=1000, help="how many random cases to measure")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=(TIME, MEMORY))
    parser.add_argument("--groups", action="store_true", help="print the median ratio of each algorithm and type")
    parser.add_argument("--factor", type=float, help="the allowed ratio instead of 4 for times and 1.5 for memory")
    parser.add_argument("--json", type=Path, help="write every case, estimate and measurement to this file")
    parser.add_argument("--measure", choices=(TIME, MEMORY), help=argparse.SUPPRESS)
    parser.add_argument("--numbers", type=int, nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        _measure(options.measure, options.seed, options.cases, options.numbers)
        return 0
    failed = False
    everything = {}
    for quantity in (TIME, MEMORY) if options.only is None else (options.only,):
        factor = options.factor or _FACTORS[quantity]
        rows = _rows(quantity, options.seed, options.cases, factor)
        everything[quantity] = [(str(row.case), row.estimated, row.measured) for row in rows]
        failed |= _report(quantity, rows, factor, groups=options.groups)
    if options.json:
        options.json.write_text(json.dumps(everything, indent=1))
    return int(failed)


def _cases(seed: int, count: int) -> list[Case]:
    """Return cases that take at most about a second each."""
    return list(
        islice(
            (
                case
                for case in random_cases(seed)
                if stage_cost(case.stage, case.shape, case.dtype)[0] < _MAX_ESTIMATED_SECONDS * 1e9
            ),
            count,
        )
    )


def _rows(quantity: str, seed: int, count: int, factor: float) -> list[Row]:
    """Measure the cases and compare them with their estimates."""
    numbers: list[int] | range = range(count)
    least = [float("inf")] * count
    seconds_per_step = float("inf")
    rows: list[Row] = []
    for _ in range(1 + _REPETITIONS):
        step, *measured = _measure_in_child(quantity, seed, count, [] if len(numbers) == count else numbers)
        seconds_per_step = min(seconds_per_step, step)
        for number, value in zip(numbers, measured, strict=True):
            least[number] = min(least[number], value)
        rows = []
        for case, value in zip(_cases(seed, count), least, strict=True):
            steps, peak = stage_cost(case.stage, case.shape, case.dtype)
            rows.append(Row(case, steps * seconds_per_step if quantity == TIME else peak, value))
        numbers = [n for n, row in enumerate(rows) if _is_compared(quantity, row) and not row.is_within(factor)]
        if not numbers:
            break
    return rows


def _is_compared(quantity: str, row: Row) -> bool:
    # The memory of images is estimated for planes; interleaved ones need less.
    return max(row.estimated, row.measured) > _LEAST[quantity] and not (quantity == MEMORY and row.case.interleaved)


def _measure_in_child(quantity: str, seed: int, count: int, numbers: Iterable[int]) -> list[float]:
    """Return the seconds per step, then the measurement of each case with one of these numbers, or of all."""
    # glibc then returns freed arrays to the system at once, so that the resident memory is the memory in use.
    environment = os.environ | ({"MALLOC_MMAP_THRESHOLD_": "65536"} if quantity == MEMORY else {})
    arguments = [sys.executable, __file__, "--measure", quantity, "--seed", str(seed), "--cases", str(count)]
    arguments += ["--numbers", *map(str, numbers)]
    done = subprocess.run(arguments, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return list(map(float, done.stdout.split()))


def _measure(quantity: str, seed: int, count: int, numbers: list[int]) -> None:
    """Print the seconds per step, then one measurement per line."""
    torch.set_num_threads(1)
    if quantity == TIME:
        allocator.keep_large_messages()
        _fill_heap()
    measure = _seconds if quantity == TIME else _peak_bytes
    print(calibrate())
    for number, case in enumerate(_cases(seed, count)):
        if not numbers or number in numbers:
            print(measure(case, case.planes(np.random.default_rng(number))), flush=True)


def _fill_heap() -> None:
    """Map the memory that the stages need, as in a server that has run for a while."""
    blocks = [np.ones(2**24, np.uint8) for _ in range(16)]
    blocks.clear()


def _seconds(case: Case, planes: np.ndarray) -> float:
    times: list[float] = []
    while len(times) < 2 or (len(times) < _MAX_RUNS and sum(times) < _ENOUGH_SECONDS):
        start = time.thread_time()
        run_on_arrays(case.stage, planes)
        times.append(time.thread_time() - start)
    return min(times)


def _peak_bytes(case: Case, planes: np.ndarray) -> int:
    run_on_arrays(case.stage, planes)  # loads code and fills caches
    # Writing 5 resets VmHWM, the peak of the resident memory.
    Path("/proc/self/clear_refs").write_text("5")
    before = _status_bytes("VmRSS")
    run_on_arrays(case.stage, planes)
    return max(0, _status_bytes("VmHWM") - before)


def _status_bytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


def _report(quantity: str, rows: list[Row], factor: float, *, groups: bool) -> bool:
    """Print the ratios; return True if some are out of bounds."""
    compared = sorted((row for row in rows if _is_compared(quantity, row)), key=lambda row: row.ratio)
    wrong = [row for row in compared if not row.is_within(factor)]
    print(f"{quantity}: {len(compared)} of {len(rows)} cases compared, {len(wrong)} beyond a factor of {factor}")
    if not compared:
        return False
    ratios = [row.ratio for row in compared]
    quantiles = (0, 0.01, 0.1, 0.5, 0.9, 0.99, 1)
    values = (ratios[round(quantile * (len(ratios) - 1))] for quantile in quantiles)
    print("  measured / estimated:", *(f"{q:.0%} {value:.2f}" for q, value in zip(quantiles, values, strict=True)))
    unit, scale = ("ms", 1e3) if quantity == TIME else ("MB", 1e-6)
    for row in (*compared[:5], *compared[-5:]):
        print(
            f"  {row.ratio:7.2f}  {row.measured * scale:9.2f} {unit} / {row.estimated * scale:9.2f} {unit}  {row.case}"
        )
    if groups:
        _report_groups(compared)
    return bool(wrong)


def _report_groups(rows: list[Row]) -> None:
    grouped: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if len(row.case.stage.specs) == 1:
            spec = row.case.stage.specs[0]
            stage = row.case.stage
            estimate = spec_estimate(
                spec, row.case.shape, row.case.dtype, channels=stage.channels, unit_scale=stage.unit_scale
            )
            grouped[f"{estimate.algorithm}, {row.case.dtype}"].append(row.ratio)
    for name, ratios in sorted(grouped.items()):
        print(f"    {name:40} {len(ratios):4} {min(ratios):6.2f} {statistics.median(ratios):6.2f} {max(ratios):6.2f}")


if __name__ == "__main__":
    sys.exit(main())

"""Compare the estimates of `preprocessing_cost` with the measured time and peak memory of random images and backbones.

    python tests/bench/preprocessing_cost.py [--cases N] [--seed S] [--all]

A child process preprocesses the images. Time is the least CPU time of three runs. Memory is how far a run raises the
peak of the process's resident memory above what it used before. The command exits with 1 if an estimate of the time is
wrong by more than a factor of 4 (above a millisecond), or an estimate of the memory by more than 1.5 (above 8 MB). It
measures each such case again, and the least measurement counts, because other programs on the machine can only add to
a measurement. Linux only.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from decode_cost import Row
from poolservice.errors import InvalidRequest
from poolservice_server.backbones.manifest import Input, Preprocessing
from poolservice_server.backbones.preprocessing import check_size, preprocessing_cost, to_samples
from poolservice_server.stage_cost import calibrate

_RUNS = 3
# How often a case is measured while its estimates are out of bounds.
_MEASUREMENTS = 4
_MAX_PIXELS = 16_000_000


class PreprocessingCase(NamedTuple):
    """An image, and the backbone that it is preprocessed for."""

    name: str
    planes: np.ndarray
    input: Input
    preprocessing: Preprocessing


def random_cases(seed: int) -> Iterator[PreprocessingCase]:
    """Yield random images of all shapes, the same ones for a seed."""
    choose = random.Random(seed)
    noise = np.random.default_rng(seed).integers(0, 256, 3 * _MAX_PIXELS, np.uint8)
    while True:
        width, height = (choose.choice([choose.randint(1, 300), choose.randint(1, 6000)]) for _ in range(2))
        if choose.random() < 0.1:
            width, height = choose.sample([choose.randint(1, 30), choose.randint(10_000, 400_000)], 2)
        side = choose.choice([112, 224, 384, 512, 1024])
        backbone_input = Input(height=side, width=side, color_mode=choose.choice(["RGB", "RGB", "GRAY"]))
        preprocessing = _random_preprocessing(choose, side)
        try:
            check_size(width, height, backbone_input, preprocessing)
        except InvalidRequest:
            continue
        if width * height > _MAX_PIXELS:
            continue
        channels = 3 if backbone_input.color_mode == "RGB" else 1
        planes = noise[: channels * width * height]
        is_planar = choose.random() < 0.5
        if is_planar:
            planes = planes.reshape(channels, height, width)
        else:
            planes = np.moveaxis(planes.reshape(height, width, channels), -1, 0)
        name = (
            f"{'planar' if is_planar else 'interleaved'} {backbone_input.color_mode} {width} x {height}, "
            f"{preprocessing.resize} {preprocessing.filter} to {side}, antialias {preprocessing.antialias}"
        )
        yield PreprocessingCase(name, planes, backbone_input, preprocessing)


def _random_preprocessing(choose: random.Random, side: int) -> Preprocessing:
    resize: Any = choose.choice(["shortest", "squash", "longest"])
    antialias = choose.random() < 0.85
    filters = ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"] if antialias else ["bilinear", "bicubic"]
    resized = choose.choice([side, side * 8 // 7])
    size: Any = (resized, resized) if resize == "squash" else resized
    chosen: Any = choose.choice(filters)
    return Preprocessing(resize=resize, size=size, filter=chosen, antialias=antialias)


def main() -> int:
    """Measure all cases and print each estimate that is far off."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=300, help="how many random images to measure (default: 300)")
    parser.add_argument("--seed", type=int, default=1, help="equal seeds give equal images (default: 1)")
    parser.add_argument("--all", action="store_true", help="print all images, not only the wrong estimates")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        _measure_all(options.seed, options.cases)
        return 0
    rows = []
    for row in _rows(options.seed, options.cases):
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


def _rows(seed: int, count: int) -> Iterator[Row]:
    # Freed memory returns to the system, so that a later case does not reuse it.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    command = [sys.executable, __file__, "--measure", "--seed", str(seed), "--cases", str(count)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            yield Row(*json.loads(line))


def _measure_all(seed: int, count: int) -> None:
    """Print one row per line."""
    seconds_per_step = calibrate()
    for case in islice(random_cases(seed), count):
        _, height, width = case.planes.shape
        steps, peak = preprocessing_cost(width, height, case.input, case.preprocessing)
        # The first run loads code.
        _seconds(case)
        row = Row(case.name, float("inf"), float("inf"), 0.0, peak)
        for measurement in range(_MEASUREMENTS):
            if measurement:
                seconds_per_step = min(seconds_per_step, calibrate())
            row = row._replace(
                nbytes=min(row.nbytes, _peak_bytes(case)),
                seconds=min(row.seconds, *(_seconds(case) for _ in range(_RUNS))),
                estimated_seconds=steps * seconds_per_step,
            )
            if not row.is_wrong:
                break
        print(json.dumps(row), flush=True)


def _seconds(case: PreprocessingCase) -> float:
    start = time.thread_time()
    to_samples(case.planes, case.input, case.preprocessing)
    return time.thread_time() - start


def _peak_bytes(case: PreprocessingCase) -> int:
    # Writing 5 resets VmHWM, the peak of the resident memory.
    Path("/proc/self/clear_refs").write_text("5")
    before = _status_bytes("VmRSS")
    to_samples(case.planes, case.input, case.preprocessing)
    return _status_bytes("VmHWM") - before


def _status_bytes(name: str) -> int:
    return int(Path("/proc/self/status").read_text().partition(f"{name}:")[2].split()[0]) * 1024


if __name__ == "__main__":
    sys.exit(main())

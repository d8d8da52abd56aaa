"""Compare the service's pooling on one CPU thread with torch.nn.functional and with copying the input.

    python tests/bench/kernels.py [--json FILE] [--only WORD] [--rounds N]

Each row is one operator, shape and dtype. A round measures all that the CPU device does with a payload (ours), torch,
and the copy, each round in another order; the table shows the median of the rounds. Times are CPU times of the thread,
so that a busy machine disturbs less. If torch's kernel lacks the dtype, or torch lacks the operator, its column
measures what a user would write instead: convert to a wider dtype, pool, convert back.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle, islice, permutations
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from poolservice.specs import (
    AdaptiveAvgPool2d,
    AdaptiveMaxPool2d,
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    GlobalAvgPool1d,
    GlobalAvgPool2d,
    GlobalMaxPool2d,
    GlobalMinPool2d,
    LPPool2d,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    MinPool2d,
    MixedPool2d,
    PoolSpec,
)
from poolservice_server import allocator
from poolservice_server.pool_stage import PoolStage
from poolservice_server.pooling import run_on_arrays
from poolservice_server.pooling.interop import to_array

WINDOWS: tuple[PoolSpec, ...] = (
    MaxPool2d(2),
    MaxPool2d(3, 2, 1),
    MaxPool2d(3, 1, 1),
    MaxPool2d(3),
    MaxPool2d(2, 1),
    MaxPool2d(2, return_indices=True),
    MaxPool2d(5, 1, 2),
    MinPool2d(2),
    MinPool2d(3, 2, 1),
    AvgPool2d(2),
    AvgPool2d(3, 2, 1),
    AvgPool2d(3, 1, 1),
    AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
    MixedPool2d(2),
    LPPool2d(2, 2),
)
PLANES_AND_TILES: tuple[PoolSpec, ...] = (
    AdaptiveAvgPool2d(10),
    AdaptiveMaxPool2d(10),
    GlobalAvgPool2d(),
    GlobalMaxPool2d(),
    GlobalMinPool2d(),
)
SMALL: tuple[PoolSpec, ...] = (
    GlobalAvgPool2d(),
    GlobalMaxPool2d(),
    MaxPool2d(2),
    MaxPool2d(3, 2, 1),
    AvgPool2d(2),
    AvgPool2d(3, 1, 1),
    MinPool2d(2),
    MixedPool2d(2),
    AdaptiveAvgPool2d(2),
    AdaptiveMaxPool2d(2),
)
DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
)


@dataclass(frozen=True)
class Case:
    """One row: a spec, a shape and a dtype. With `image`, the values are the bytes of an image and stand for 0 to 1."""

    spec: PoolSpec
    shape: tuple[int, ...]
    dtype: torch.dtype
    image: bool = False


@dataclass(frozen=True)
class Row:
    """The median times of one case in microseconds."""

    operator: str
    shape: tuple[int, ...]
    dtype: str
    ours: float
    torch: float
    copy: float


def cases() -> Iterator[Case]:
    """Yield every row, in the order of the table."""
    for spec in (*WINDOWS, *PLANES_AND_TILES):
        yield Case(spec, (3, 224, 224), torch.float32)
    for dtype in DTYPES[1:]:
        for spec in (
            MaxPool2d(2),
            MaxPool2d(3, 2, 1),
            MinPool2d(2),
            AvgPool2d(2),
            AvgPool2d(3, 1, 1),
            *PLANES_AND_TILES,
        ):
            yield Case(spec, (3, 224, 224), dtype)
    for shape in ((8, 8, 8), (512, 7, 7), (64, 28, 28), (64, 56, 56), (1, 64, 64), (1, 32, 32)):
        for spec in SMALL:
            yield Case(spec, shape, torch.float32)
    for spec in (MaxPool2d(2), MaxPool2d(3, 2, 1), AvgPool2d(2), GlobalAvgPool2d(), GlobalMaxPool2d()):
        yield Case(spec, (8, 8, 8), torch.uint8)
        yield Case(spec, (64 * 3, 224, 224), torch.float32)
    for spec in (MaxPool1d(2), MaxPool1d(3, 2, 1), AvgPool1d(2), AvgPool1d(3, 1, 1), GlobalAvgPool1d()):
        yield Case(spec, (64, 1000), torch.float32)
        yield Case(spec, (1, 100_000), torch.float32)
    for spec in (MaxPool3d(2), MaxPool3d(3, 2, 1), AvgPool3d(2), AvgPool3d(3, 1, 1)):
        yield Case(spec, (8, 16, 32, 32), torch.float32)
        yield Case(spec, (64, 8, 14, 14), torch.float32)
    for spec in (*WINDOWS, *PLANES_AND_TILES):
        yield Case(spec, (3, 480, 640), torch.uint8, image=True)
    yield from _near_thresholds()


def _near_thresholds() -> Iterator[Case]:
    """Yield rows on both sides of those thresholds in kernel_thresholds.py that no other row is near."""
    spec: PoolSpec
    for spec in (MaxPool2d(100, 1), MaxPool2d(100, 1, return_indices=True), AvgPool2d(100, 1), MixedPool2d(100, 1)):
        yield Case(spec, (1, 300, 300), torch.float32)
        yield Case(spec, (1, 300, 300), torch.uint8)
    for spec in (MaxPool2d(5, 1), MaxPool2d(6, 1)):
        yield Case(spec, (8, 8, 8), torch.float32)
        yield Case(spec, (64, 8, 8), torch.float32)
    for spec in (MaxPool2d(32, 1), MaxPool2d(33, 1), AvgPool2d(7, 1), AvgPool2d(8, 1)):
        yield Case(spec, (3, 64, 64), torch.float32)
    for spec in (AdaptiveAvgPool2d(32), AdaptiveAvgPool2d(33), AdaptiveMaxPool2d(32), AdaptiveMaxPool2d(33)):
        yield Case(spec, (3, 224, 224), torch.float32)
    for dtype in (torch.float32, torch.uint8):
        for spec in (
            MaxPool2d(33, 1),
            MaxPool2d(8, 1, dilation=2),
            MaxPool2d(33, 1, return_indices=True),
            MaxPool2d(3, 1, return_indices=True),
            AvgPool2d(33, 1),
            LPPool2d(1.5, 33, 1),
        ):
            yield Case(spec, (3, 112, 112), dtype)
    for dtype in (torch.float16, torch.bfloat16):
        yield Case(MaxPool2d(2), (3, 32, 32), dtype)
        yield Case(MaxPool2d(2), (4, 32, 32), dtype)


def functional(spec: PoolSpec) -> Callable[[torch.Tensor], Any]:
    """Return what a user of torch.nn.functional would write for floats."""
    dims, parameters = spec.spatial_dims, dict(vars(spec))
    parameters.pop("absolute", None)
    max_pool = getattr(F, f"max_pool{dims}d")
    if spec.operator == "min_pool":
        return lambda x: -max_pool(-x, **parameters)
    if spec.operator == "mixed_pool":
        alpha, mean = parameters.pop("alpha"), getattr(F, f"avg_pool{dims}d")
        return lambda x: alpha * max_pool(x, **parameters) + (1 - alpha) * mean(x, **parameters)
    if spec.operator.startswith("global"):
        statistic = "avg" if "avg" in spec.operator else "max"
        adaptive_pool = getattr(F, f"adaptive_{statistic}_pool{dims}d")
        return (lambda x: -adaptive_pool(-x, 1)) if "min" in spec.operator else (lambda x: adaptive_pool(x, 1))
    function = getattr(F, f"{spec.operator}{dims}d")
    return lambda x: function(x, **parameters)


def reference(case: Case, planes: torch.Tensor) -> Callable[[], object]:
    """Return what a user of torch would write for the case."""
    direct = functional(case.spec)
    if case.image:
        return lambda: direct(planes.contiguous().to(torch.float32).div(255))
    integers = not planes.is_floating_point()
    if integers and case.spec.operator != "max_pool":
        wide = torch.float64 if planes.dtype in (torch.int32, torch.int64) else torch.float32
        narrow = planes.dtype if "max" in case.spec.operator or "min" in case.spec.operator else torch.float32
        return lambda: direct(planes.to(wide)).to(narrow)
    return lambda: direct(planes)


def measure(case: Case, rounds: int) -> Row:
    """Measure our pooling, torch and the copy, interleaved."""
    generator = torch.Generator().manual_seed(0)
    planes = (torch.rand(case.shape, generator=generator) * 100).to(case.dtype)
    if case.image:
        planes = planes.movedim(0, -1).contiguous().movedim(-1, 0)
    stage, array = PoolStage((case.spec,), unit_scale=case.image), to_array(planes)
    functions: tuple[Callable[[], object], ...] = (
        partial(run_on_arrays, stage, array),
        reference(case, planes),
        planes.clone,
    )
    name = repr(case.spec) + (" of an image" if case.image else "")
    return Row(name, case.shape, str(case.dtype).removeprefix("torch."), *medians(functions, rounds))


def medians(functions: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Return the median time of each function in microseconds of CPU time, measured in turn."""
    times: list[list[float]] = [[] for _ in functions]
    repeats = [_repeats(function) for function in functions]
    # Every order is used in turn, because a function that runs after the copy does not find its input in the caches.
    for order in islice(cycle(permutations(zip(functions, repeats, times, strict=True))), rounds):
        for function, repeat, taken in order:
            start = time.thread_time_ns()
            for _ in range(repeat):
                function()
            taken.append((time.thread_time_ns() - start) / repeat / 1000)
    return [round(statistics.median(taken), 2) for taken in times]


def _repeats(function: Callable[[], object]) -> int:
    """Return how often to call the function per round: for about a millisecond."""
    function()
    start = time.thread_time_ns()
    function()
    return max(1, min(200, 1_000_000 // max(time.thread_time_ns() - start, 1)))


def main() -> None:
    """Print the table, and write it to a file if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to this file")
    parser.add_argument("--only", default="", metavar="WORD", help="run only the rows whose label contains this word")
    parser.add_argument("--rounds", type=int, default=18, metavar="N", help="the number of rounds")
    options = parser.parse_args()
    # The server does the same. Otherwise the page faults of each call would cost several times as much as pooling.
    allocator.keep_large_messages()
    torch.set_num_threads(1)
    rows = []
    print(f"torch {torch.__version__}, one thread; microseconds")
    print(f"{'':76}{'ours':>10}{'torch':>11}{'copy':>9}{'ours/torch':>12}{'ours/copy':>11}")
    for case in cases():
        label = f"{case.spec!r} {'image ' * case.image}{'x'.join(map(str, case.shape))} {case.dtype}"
        if options.only not in label:
            continue
        row = measure(case, options.rounds)
        rows.append(row)
        ratios = f"{row.ours / row.torch:12.2f}{row.ours / row.copy:11.1f}"
        print(f"{label:76}{row.ours:10.1f}{row.torch:11.1f}{row.copy:9.1f}{ratios}", flush=True)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()

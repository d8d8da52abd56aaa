"""How long pooling takes on one thread of the processor, beside torch.nn.functional and beside copying the input.

    python tests/bench/kernels.py [--json FILE] [--only WORD] [--rounds N]

Each row is one operator, shape and type. Ours, which is all that the CPU device does with an item, torch's and the
copy take turns in every round, each time in another order, and the median of the rounds counts. Time is the thread's
own processor time, so that a busy machine disturbs less. Where torch's kernel lacks the type, or torch lacks the
operator, its column is what a user would write: widen, pool, narrow.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
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
from poolservice_server.pooling import run_on_arrays
from poolservice_server.pooling.interop import to_array
from poolservice_server.stages import PoolStage

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
TILES: tuple[PoolSpec, ...] = (
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
TYPES = (
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
    """One row: what is pooled, and whether it is a picture's bytes, read as 0 to 1 and lying interleaved."""

    spec: PoolSpec
    shape: tuple[int, ...]
    dtype: torch.dtype
    picture: bool = False


@dataclass(frozen=True)
class Row:
    """Microseconds of one case."""

    operator: str
    shape: tuple[int, ...]
    dtype: str
    ours: float
    torch: float
    copy: float


def cases() -> Iterator[Case]:
    """Every row, in the order of the table."""
    for spec in (*WINDOWS, *TILES):
        yield Case(spec, (3, 224, 224), torch.float32)
    for dtype in TYPES[1:]:
        for spec in (MaxPool2d(2), MaxPool2d(3, 2, 1), MinPool2d(2), AvgPool2d(2), AvgPool2d(3, 1, 1), *TILES):
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
    for spec in (*WINDOWS, *TILES):
        yield Case(spec, (3, 480, 640), torch.uint8, picture=True)


def functional(spec: PoolSpec) -> Callable[[torch.Tensor], Any]:
    """What a user of torch.nn.functional would write for a float."""
    dims, given = spec.spatial_dims, dict(vars(spec))
    largest = getattr(F, f"max_pool{dims}d")
    if spec.operator == "min_pool":
        return lambda x: -largest(-x, **given)
    if spec.operator == "mixed_pool":
        alpha, mean = given.pop("alpha"), getattr(F, f"avg_pool{dims}d")
        return lambda x: alpha * largest(x, **given) + (1 - alpha) * mean(x, **given)
    if spec.operator.startswith("global"):
        kind = "avg" if "avg" in spec.operator else "max"
        tiles = getattr(F, f"adaptive_{kind}_pool{dims}d")
        return (lambda x: -tiles(-x, 1)) if "min" in spec.operator else (lambda x: tiles(x, 1))
    function = getattr(F, f"{spec.operator}{dims}d")
    return lambda x: function(x, **given)


def reference(case: Case, planes: torch.Tensor) -> Callable[[], object]:
    """torch's kernel_for to the same answer."""
    direct = functional(case.spec)
    if case.picture:
        return lambda: direct(planes.contiguous().to(torch.float32).div(255))
    whole = not planes.is_floating_point()
    if whole and case.spec.operator != "max_pool":
        wide = torch.float64 if planes.dtype in (torch.int32, torch.int64) else torch.float32
        narrow = planes.dtype if "max" in case.spec.operator or "min" in case.spec.operator else torch.float32
        return lambda: direct(planes.to(wide)).to(narrow)
    return lambda: direct(planes)


def measure(case: Case, rounds: int) -> Row:
    """Time the three in turn."""
    generator = torch.Generator().manual_seed(0)
    planes = (torch.rand(case.shape, generator=generator) * 100).to(case.dtype)
    if case.picture:
        planes = planes.movedim(0, -1).contiguous().movedim(-1, 0)
    stage, array = PoolStage((case.spec,), unit_scale=case.picture), to_array(planes)
    contenders: tuple[Callable[[], object], ...] = (
        partial(run_on_arrays, stage, array),
        reference(case, planes),
        planes.clone,
    )
    times: list[list[float]] = [[], [], []]
    repeats = [_repeats(contender) for contender in contenders]
    # In every order in turn: whoever comes after the copy finds its input out of the caches.
    for turns in islice(cycle(permutations(zip(contenders, repeats, times, strict=True))), rounds):
        for contender, repeat, taken in turns:
            start = time.thread_time_ns()
            for _ in range(repeat):
                contender()
            taken.append((time.thread_time_ns() - start) / repeat / 1000)
    name = repr(case.spec) + (" of a picture" if case.picture else "")
    medians = [round(statistics.median(taken), 2) for taken in times]
    return Row(name, case.shape, str(case.dtype).removeprefix("torch."), *medians)


def _repeats(contender: Callable[[], object]) -> int:
    contender()
    start = time.thread_time_ns()
    contender()
    # About a millisecond a turn.
    return max(1, min(200, 1_000_000 // max(time.thread_time_ns() - start, 1)))


def main() -> None:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here too")
    parser.add_argument("--only", default="", metavar="WORD", help="only rows that hold this word")
    parser.add_argument("--rounds", type=int, default=18, metavar="N", help="how often each takes its turn")
    options = parser.parse_args()
    # As the server does: memory that each call faults in anew would cost several times what pooling does.
    allocator.keep_large_messages()
    torch.set_num_threads(1)
    rows = []
    print(f"torch {torch.__version__}, one thread; microseconds")
    print(f"{'':76}{'ours':>10}{'torch':>11}{'copy':>9}{'ours/torch':>12}{'ours/copy':>11}")
    for case in cases():
        label = f"{case.spec!r} {'picture ' * case.picture}{'x'.join(map(str, case.shape))} {case.dtype}"
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

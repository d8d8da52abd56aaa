"""Compare each layer on one CPU thread with a copy of its input, with torch, and with its estimate.

    python tests/bench/layers.py [--json FILE] [--only WORD] [--rounds N]

Each row is one operator and shape, in float32. A round measures all that the CPU device does with a sample (ours), what
a user of torch would write instead, and a copy of the sample, each round in another order; the table shows the median
of the rounds, as CPU time of the thread. The last column is the estimate of `stage_cost` over the measured time. The
command fails if one of these is off by more than a factor of 4 where either is more than 0.2 ms.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save

from kernels import medians
from layer_cases import Case, cases
from poolservice.specs import PoolHead2d
from poolservice_server import allocator
from poolservice_server.pool_heads.folder import read_head
from poolservice_server.pool_heads.head import PoolHeads
from poolservice_server.pool_stage import PoolStage
from poolservice_server.pooling import run_on_arrays
from poolservice_server.pooling.interop import to_array
from poolservice_server.stage_cost import calibrate, stage_cost

SHAPES = ((64, 56, 56), (256, 14, 14))
_FACTOR = 4.0
# Below this, fixed costs dominate.
_LEAST_MICROSECONDS = 200.0


@dataclass(frozen=True)
class Row:
    """One case: the median times in microseconds, and the estimate. `torch` is None if there is no expression."""

    operator: str
    label: str
    shape: tuple[int, ...]
    ours: float
    copy: float
    torch: float | None
    estimate: float

    @property
    def is_well_estimated(self) -> bool:
        """Return True if the estimate is near enough to the measured time, or both are small."""
        return (
            1 / _FACTOR <= self.estimate / self.ours <= _FACTOR or max(self.estimate, self.ours) < _LEAST_MICROSECONDS
        )


def _netvlad(channels: int) -> Case:
    """Return a pool head: NetVLAD of 16 clusters with random weights."""
    generator = np.random.default_rng(0)
    weights = {
        "conv.weight": generator.standard_normal((16, channels, 1, 1)).astype(np.float32),
        "centroids": generator.standard_normal((16, channels)).astype(np.float32),
    }
    content = save(weights)
    manifest = f"""schema = 1
kind = "netvlad"
licence = "MIT"
source = "random numbers"
sha256 = "{hashlib.sha256(content).hexdigest()}"
"""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "head.safetensors").write_bytes(content)
        (folder / "head.toml").write_text(manifest)
        head = read_head(folder, "netvlad")
    convolution, centroids = (torch.from_numpy(weight) for weight in weights.values())

    def expression(x: torch.Tensor) -> torch.Tensor:
        x = F.normalize(x)
        shares = F.conv2d(x, convolution).flatten(2).softmax(1)
        sums = shares @ x.flatten(2).mT - shares.sum(2)[..., None] * centroids
        return F.normalize(F.normalize(sums, dim=2).flatten(1))

    return Case("netvlad", PoolHeads({"netvlad": head}).resolve(PoolHead2d("netvlad")), expression)


def measure(case: Case, shape: tuple[int, int, int], rounds: int, step: float) -> Row:
    """Measure one sample of the shape; a step takes `step` microseconds."""
    sample = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    array, samples = to_array(sample), sample[None]
    stage = PoolStage.of((case.spec,), shape[0])
    functions: list[Callable[[], object]] = [partial(run_on_arrays, stage, array), sample.clone]
    if case.expression is not None:
        functions.append(partial(case.expression, samples))
    ours, copy, *theirs = medians(functions, rounds)
    estimate = round(stage_cost(stage, shape, array.dtype)[0] * step, 2)
    return Row(case.spec.operator, case.label, shape, ours, copy, theirs[0] if theirs else None, estimate)


def _cases() -> Iterator[tuple[Case, tuple[int, int, int]]]:
    for channels, *spatial in SHAPES:
        shape = channels, spatial[0], spatial[1]
        for case in (*cases(channels, shape[1:]), _netvlad(channels)):
            yield case, shape


def main() -> int:
    """Print the table, and write it to a file if asked to; return 1 if an estimate is too far off."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to this file")
    parser.add_argument("--only", default="", metavar="WORD", help="run only the rows whose label contains this word")
    parser.add_argument("--rounds", type=int, default=12, metavar="N", help="the number of rounds")
    options = parser.parse_args()
    # The server does the same. Otherwise the page faults of each call would cost several times as much as pooling.
    allocator.keep_large_messages()
    torch.set_num_threads(1)
    step = calibrate() * 1e6
    rows = []
    print(f"torch {torch.__version__}, one thread, float32; microseconds")
    print(f"{'':50}{'ours':>10}{'torch':>10}{'copy':>8}{'ours/torch':>12}{'ours/copy':>11}{'estimate/ours':>15}")
    for case, shape in _cases():
        label = f"{case.spec.operator} {case.label + ' ' if case.label else ''}1x{'x'.join(map(str, shape))}"
        if options.only not in label:
            continue
        row = measure(case, shape, options.rounds, step)
        rows.append(row)
        times = f"{row.ours:10.1f}{_number(row.torch, 10, 1)}{row.copy:8.1f}"
        ratios = f"{_number(row.torch and row.ours / row.torch, 12, 2)}{row.ours / row.copy:11.1f}"
        mark = "" if row.is_well_estimated else "  wrong"
        print(f"{label:50}{times}{ratios}{row.estimate / row.ours:15.2f}{mark}", flush=True)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    wrong = sum(not row.is_well_estimated for row in rows)
    print(f"{wrong} of {len(rows)} estimates are off by more than a factor of {_FACTOR:g}")
    return int(wrong > 0)


def _number(value: float | None, width: int, digits: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:{width}.{digits}f}"


if __name__ == "__main__":
    sys.exit(main())

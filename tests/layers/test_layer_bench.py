"""The second command of `make bench-kernels` measures layers, and knows an expression and an estimate for each."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from layer_cases import Case, cases
from poolservice.specs import (
    AdaptiveAvgMaxPool1d,
    CroW2d,
    MaskedAvgPool2d,
    MaskedGeMPool2d,
    MaskedMaxPool2d,
    PoolSpec,
    SPoC2d,
)
from poolservice.specs.messages import OPERATORS
from poolservice_server.operator_shapes import output_shape
from poolservice_server.pool_stage import PoolStage
from poolservice_server.pooling import run_on_arrays
from poolservice_server.stage_cost import stage_cost

COMMAND = Path(__file__).parents[1] / "bench" / "layers.py"
LAYERS_PAGE = Path(__file__).parents[2] / "server" / "LAYERS.md"
SHAPE = (4, 8, 8)
CASES = list(cases(SHAPE[0], SHAPE[1:]))
# Random numbers decide what these operators return, and torch draws others.
RANDOM = {"s3_pool", "fractional_max_pool"}
COMPARED = [case for case in CASES if case.expression is not None and case.spec.operator not in RANDOM]


def test_a_short_run_measures_what_is_asked_for(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    flags = ["--rounds", "1", "--only", "soft_pool", "--json", str(results)]
    done = subprocess.run([sys.executable, COMMAND, *flags], capture_output=True, check=False, text=True)
    # 1 says that an estimate is off, which depends on what else the machine does.
    assert done.returncode in (0, 1), done.stderr
    assert not done.stderr
    rows = json.loads(results.read_text())
    assert [(row["operator"], row["label"], row["shape"]) for row in rows] == [
        ("soft_pool", label, shape) for shape in ([64, 56, 56], [256, 14, 14]) for label in ("2x2", "plane")
    ]
    assert all(row[name] > 0 for row in rows for name in ("ours", "copy", "torch", "estimate"))
    assert f"of {len(rows)} estimates" in done.stdout


def test_every_operator_is_measured() -> None:
    # The command makes the pool head itself.
    assert {case.spec.operator for case in CASES} | {"pool_head"} == set(OPERATORS)


@pytest.mark.parametrize("case", COMPARED, ids=[f"{case.spec.operator} {case.label}" for case in COMPARED])
def test_the_expression_of_torch_computes_what_the_layer_does(case: Case) -> None:
    sample = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
    values = run_on_arrays(PoolStage.of((case.spec,), SHAPE[0]), sample.numpy())[0].values
    assert case.expression is not None
    expected = np.asarray(case.expression(sample[None]))
    if case.spec.operator == "spectral_pool":
        # The shortest expression keeps one of the two Nyquist frequencies, whole.
        assert expected.size == values.size
    else:
        np.testing.assert_allclose(values.reshape(-1), expected.reshape(-1), 1e-3, 1e-5)


def documented_costs() -> dict[tuple[str, str], float]:
    """Return the costs in copies of LAYERS.md by layer, without the number of dimensions, and by label."""
    costs = {}
    rows = re.findall(r"^\| `(\w+?)(?:\dd/?)+` \|[^|\n]*\|[^|\n]*\| ([^|\n]*) \|", LAYERS_PAGE.read_text(), re.M)
    for layer, cost in rows:
        for copies, label in re.findall(r"(\d+)(?: \(([^)]*)\))?", cost):
            costs[layer, label] = float(copies)
    return costs


def test_the_estimate_of_every_layer_is_near_its_documented_cost() -> None:
    costs, shape, copy = documented_costs(), (64, 56, 56), 20_000
    for case in cases(shape[0], shape[1:]):
        layer = type(case.spec).__name__.removesuffix("2d")
        documented = costs.get((layer, case.label)) or costs[layer, ""]
        steps, _ = stage_cost(PoolStage.of((case.spec,), shape[0]), shape, np.dtype(np.float32))
        # The cost is a guide to the order of magnitude, and is rounded to whole copies.
        assert (documented - 2) / 5 <= steps / copy <= (documented + 2) * 5, f"{layer} {case.label}"


# The covariances of more channels than positions are larger than the sample.
@pytest.mark.parametrize(("shape", "most"), [((64, 56, 56), 6), ((256, 14, 14), 8)])
def test_no_layer_needs_more_memory_than_a_few_samples_with_their_results(
    shape: tuple[int, int, int], most: int
) -> None:
    for case in cases(shape[0], shape[1:]):
        _, nbytes = stage_cost(PoolStage.of((case.spec,), shape[0]), shape, np.dtype(np.float32))
        values = math.prod(shape) + math.prod(output_shape(case.spec, shape))
        assert nbytes <= most * 4 * values, case.spec


@pytest.mark.parametrize(
    ("spec", "measured"),
    [
        (SPoC2d(center_prior=True), 3),
        (CroW2d(), 6),
        (MaskedAvgPool2d(np.ones((1000, 1000), np.float32)), 4),
        (MaskedMaxPool2d(np.ones((1000, 1000), np.float32)), 7),
        (MaskedGeMPool2d(np.ones((1000, 1000), np.float32)), 6),
    ],
    ids=lambda value: value.operator if isinstance(value, PoolSpec) else str(value),
)
def test_the_estimate_of_a_single_channel_counts_its_positions(spec: PoolSpec, measured: float) -> None:
    shape = (1, 1000, 1000)
    steps, _ = stage_cost(PoolStage.of((spec,), 1), shape, np.dtype(np.float32))
    # Nanoseconds for each position, on a 2-core x86-64.
    assert measured / 4 <= steps / 1e6 <= measured * 4


def test_the_estimate_of_long_tiles_counts_their_number() -> None:
    shape = (1, 2_200_000)
    steps, _ = stage_cost(PoolStage.of((AdaptiveAvgMaxPool1d(4000),), 1), shape, np.dtype(np.float32))
    # Nanoseconds on a 2-core x86-64.
    assert 32e6 / 4 <= steps <= 32e6 * 4

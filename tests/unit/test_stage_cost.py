"""The estimates of a stage's time and memory."""

import math
import runpy
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from poolservice.specs import OPERATORS as CONTRACT_OPERATORS
from poolservice.specs import (
    AdaptiveAvgPool2d,
    AvgPool2d,
    GlobalAvgPool2d,
    LPPool1d,
    MaxPool1d,
    MaxPool2d,
    Sequential,
    SoftPool2d,
    SpatialPyramidPool2d,
)
from poolservice_server.operator_shapes import output_shape, result_dtype
from poolservice_server.operators import OPERATORS, Operator
from poolservice_server.pool_stage import PoolStage
from poolservice_server.stage_cost import calibrate, coefficients, spec_estimates, stage_cost
from poolservice_server.stage_cost.spec_estimates import ESTIMATES

COMMAND = Path(__file__).parents[1] / "bench" / "stage_cost.py"

random_cases = runpy.run_path(str(COMMAND.with_name("random_stages.py")))["random_cases"]

UINT8, FLOAT32 = np.dtype(np.uint8), np.dtype(np.float32)


def test_estimating_imports_no_torch() -> None:
    code = "import sys, poolservice_server.stage_cost; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_stage_has_a_finite_positive_estimate() -> None:
    for case in islice(random_cases(5), 5000):
        steps, peak = stage_cost(case.stage, case.shape, case.dtype)
        assert math.isfinite(steps), case
        assert steps > 0, case
        results = 0
        for spec in case.stage.specs:
            dtype = FLOAT32 if case.stage.unit_scale else result_dtype(spec, case.dtype)
            indices = 8 if getattr(spec, "return_indices", False) else 0
            results += math.prod(output_shape(spec, case.shape)) * (dtype.itemsize + indices)
        assert results <= peak < 2**30, case


def test_every_operator_of_the_contract_has_an_estimate() -> None:
    costs = {name for name, operator in OPERATORS.items() if operator.cost is not None}
    assert set(ESTIMATES) | costs | {"sequential"} == set(CONTRACT_OPERATORS)
    # The norm of lp_pool has another function than torch's operator.
    assert set(ESTIMATES) & costs == {"lp_pool"}


def test_an_operator_without_a_cost_is_an_internal_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec_estimates, "OPERATORS", {"soft_pool": Operator()})
    with pytest.raises(LookupError, match="the operator soft_pool has no cost"):
        stage_cost(PoolStage.of((SoftPool2d(3),), 3), (3, 40, 40), FLOAT32)


def test_many_tiny_samples_cost_the_calls_for_each_of_them() -> None:
    specs = (SoftPool2d(2), SpatialPyramidPool2d((1, 2)), Sequential([SoftPool2d(2)]))
    for spec in specs:
        steps, _ = stage_cost(PoolStage.of((spec,), 1), (10_000, 2, 2), FLOAT32)
        # A step is about a nanosecond, and a sample takes at least 50 microseconds.
        assert steps > 10_000 * 50_000


def test_a_sequence_costs_the_sum_of_its_layers() -> None:
    first, second = MaxPool2d(3, 1, 1), SoftPool2d(3)
    parts = [stage_cost(PoolStage.of((spec,), 3), (6, 400, 400), FLOAT32)[0] for spec in (first, second)]
    steps, peak = stage_cost(PoolStage.of((Sequential([first, second]),), 3), (6, 400, 400), FLOAT32)
    assert steps == pytest.approx(sum(parts))
    # The result of the first layer.
    assert peak >= 6 * 400 * 400 * 4


def test_empty_planes_cost_one_call() -> None:
    steps, peak = stage_cost(PoolStage((GlobalAvgPool2d(),)), (0, 4, 4), FLOAT32)
    assert (steps, peak) == (coefficients.CALL, 0)


def test_a_batch_without_samples_has_an_estimate() -> None:
    for case in islice(random_cases(6), 500):
        steps, peak = stage_cost(case.stage, (0, *case.shape[1:]), case.dtype)
        assert 0 < steps < math.inf, case
        assert peak >= 0, case


def test_a_stage_costs_the_sum_of_its_specs() -> None:
    specs = (MaxPool2d(3), AvgPool2d(2), MaxPool2d(3))
    parts = [stage_cost(PoolStage((spec,)), (3, 500, 500), FLOAT32) for spec in specs]
    steps, peak = stage_cost(PoolStage(specs), (3, 500, 500), FLOAT32)
    assert steps == pytest.approx(sum(steps for steps, _ in parts))
    assert max(peak for _, peak in parts) <= peak <= sum(peak for _, peak in parts)


@pytest.mark.parametrize(
    ("spec", "shape", "least_steps", "least_bytes"),
    [
        (MaxPool1d(62_000, 1), (1, 65_536), 1e4, 3_000),
        (AvgPool2d(15, 2), (1, 4000, 4000), 1e7, 4 * 1990**2),
        (AdaptiveAvgPool2d(7600), (1, 4, 4), 1e7, 4 * 7600**2),
        (LPPool1d(1.5, 2), (1, 62_000_000), 1e8, 4 * 31_000_000),
    ],
    ids=str,
)
def test_expensive_requests_are_seen(
    spec: MaxPool1d, shape: tuple[int, ...], least_steps: float, least_bytes: int
) -> None:
    steps, peak = stage_cost(PoolStage((spec,)), shape, UINT8)
    assert steps > least_steps
    assert peak >= least_bytes


def test_a_step_takes_about_a_nanosecond() -> None:
    # A wide bound: any machine that can run the service, busy or not.
    assert 1e-11 < calibrate() < 1e-6


@pytest.mark.parametrize("quantity", ["memory", "time"])
def test_estimates_are_near_the_measurements(quantity: str) -> None:
    """Run the command that compares them; a busy machine may be 25 times too slow, but not need more memory."""
    flags = () if quantity == "memory" else ("--factor", "100")
    done = subprocess.run(
        [sys.executable, COMMAND, "--only", quantity, "--cases", "400", "--seed", "6", *flags],
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 of " not in done.stdout

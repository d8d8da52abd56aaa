"""The memory that pooling on the CPU keeps in caches, and the memory that it uses meanwhile."""

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from poolservice.specs import (
    AdaptiveAvgPool2d,
    AdaptiveMaxPool2d,
    AvgPool2d,
    GlobalAvgPool2d,
    LPPool2d,
    MaxPool1d,
    MaxPool2d,
    MixedPool2d,
    PoolSpec,
)
from poolservice_server.pool_stage import PoolStage
from poolservice_server.pooling import run_on_arrays


def memory_of(function: Callable[[], object]) -> tuple[int, int]:
    """Return the bytes that are still allocated after a call of `function`, and the peak during it."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "spec",
    [
        AvgPool2d(3, 1, 1, count_include_pad=False),
        AvgPool2d(3, 2, ceil_mode=True),
        MixedPool2d(3, 2, 1, alpha=0.5),
        AdaptiveAvgPool2d(200),
        AdaptiveMaxPool2d(200),
    ],
    ids=str,
)
def test_the_caches_stay_small_after_images_of_many_sizes(spec: PoolSpec) -> None:
    stage = PoolStage((spec,))

    def pool_sizes(sides: range) -> None:
        for side in sides:
            run_on_arrays(stage, np.zeros((1, side, side), np.float32))

    # Allocations that happen once are not counted.
    pool_sizes(range(300, 302))
    cached, _ = memory_of(lambda: pool_sizes(range(400, 430)))
    # A plane of the smallest result takes 160 kB.
    assert cached < 30 * 40_000


@pytest.mark.parametrize(
    ("spec", "planes"),
    [
        (MaxPool1d(128, 1), np.zeros((4000, 255), np.int8)),
        (MaxPool2d((128, 1), 1), np.zeros((2000, 255, 1), np.float32)),
        (MaxPool2d(8, 1, dilation=2), np.zeros((1000, 23, 23), np.float32)),
    ],
    ids=lambda value: str(value) if isinstance(value, PoolSpec) else "",
)
def test_large_windows_use_no_more_memory_than_a_few_copies_of_the_planes(spec: PoolSpec, planes: np.ndarray) -> None:
    stage = PoolStage((spec,))
    _, peak = memory_of(lambda: run_on_arrays(stage, planes))
    assert peak < 8 * planes.nbytes


@pytest.mark.parametrize(
    "spec",
    [
        LPPool2d(1.5, 2),
        LPPool2d(2, 3),
        AvgPool2d(2),
        AvgPool2d(3, 1, 1, count_include_pad=False),
        MixedPool2d(2),
        GlobalAvgPool2d(),
        AdaptiveAvgPool2d(10),
        AvgPool2d(200, 5),
        MaxPool2d(200, 5),
        MaxPool2d(20, 20, return_indices=True),
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(20, 512, 512), (1, 2400, 2400)], ids=str)
def test_pooling_bytes_widens_only_a_few_of_them_at_a_time(spec: PoolSpec, shape: tuple[int, ...]) -> None:
    planes = np.zeros(shape, np.uint8)
    results: list[int] = []

    def pool() -> None:
        ((values, indices),) = run_on_arrays(PoolStage((spec,)), planes)
        results.append(values.nbytes + (0 if indices is None else indices.nbytes))

    _, peak = memory_of(pool)
    assert peak <= results[0] + 2 * planes.nbytes + 2**24

"""Every cache of the server is bounded by bytes, whatever callers send."""

import gc
import itertools
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tests.backbones.core.fake_network import backbone, backbones

from poolservice.dtypes import wire_dtype
from poolservice.errors import InvalidRequest
from poolservice.specs import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AvgPool1d,
    AvgPool2d,
    MaxPool1d,
    MaxPool2d,
    MixedPool2d,
    PoolSpec,
    to_message,
)
from poolservice.v1 import pool_pb2
from poolservice_server import cache
from poolservice_server.cache import Cache, cached, caches, clear_caches, size_of
from poolservice_server.core.backbone_head import BackboneHead
from poolservice_server.core.backbone_plan import BackbonePlans
from poolservice_server.core.output_options import OutputOptions
from poolservice_server.core.plan import Head, plan_image, read_head
from poolservice_server.pool_stage import PoolStage
from poolservice_server.pooling import run_on_arrays

# What the interpreter and the tables of the dictionaries may take besides.
OVERHEAD = 2**18
SMALL_BOUND = 2**17


@pytest.fixture(autouse=True)
def small_caches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give every cache a bound that a test can exceed quickly."""
    clear_caches()
    for registered in cache._caches:
        monkeypatch.setattr(registered, "max_bytes", SMALL_BOUND)
    yield
    clear_caches()


def long_rows() -> Iterator[None]:
    row = np.zeros((1, 30_000), np.uint8)
    for size in itertools.count(2):
        specs: tuple[PoolSpec, ...] = (AdaptiveMaxPool1d(size), AdaptiveAvgPool1d(size))
        run_on_arrays(PoolStage(specs), row)
        run_on_arrays(PoolStage(specs), row[:, :16_000])
        yield


def small_planes() -> Iterator[None]:
    for side in itertools.count(9):
        planes = np.ones((1, 5 + side % 150, 8 + side // 150), np.float32)
        specs = (
            MaxPool2d(5, 1),
            AvgPool2d(5, 1, 1, count_include_pad=False),
            AvgPool2d(3, 2, ceil_mode=True),
            MixedPool2d(3, 2, alpha=0.5),
            AdaptiveMaxPool2d(5),
            AdaptiveAvgPool2d(5),
            MaxPool2d(4, 1, dilation=2, return_indices=True),
        )
        for spec in specs:
            try:
                run_on_arrays(PoolStage((spec,)), planes)
            except InvalidRequest:
                continue
        yield


def rows_of_indices() -> Iterator[None]:
    for length in itertools.count(40):
        run_on_arrays(
            PoolStage((MaxPool1d(9, 1, return_indices=True), AvgPool1d(40, 1))), np.zeros((1, length), np.int16)
        )
        run_on_arrays(PoolStage((MaxPool1d(9, 1),)), np.zeros((1, length), np.uint8))
        yield


def heads() -> Iterator[None]:
    for size in itertools.count(1):
        specs = [to_message(MaxPool2d(k, size)) for k in range(1, 17)]
        tensor = pool_pb2.Tensor(dtype=wire_dtype(np.dtype(np.uint8)), shape=[1, 99, size + 99])
        read_head(pool_pb2.PoolRequest(specs=specs, tensor=tensor).SerializeToString())
        yield


def images() -> Iterator[None]:
    for side in itertools.count(50):
        plan_image(
            (MaxPool2d(2), AvgPool2d(2)), OutputOptions("tensor", False, False), 3, side, side, np.dtype(np.uint8)
        )
        yield


def tensors_for_a_backbone() -> Iterator[None]:
    plans = BackbonePlans(backbones(backbone()), 1e-9)
    specs = (MaxPool2d(2), AvgPool2d(2))
    for samples in itertools.count(1):
        wanted = BackboneHead("net", "", None, (samples, 3, 8, 8), np.dtype(np.float32))
        plans.plan(Head(specs, OutputOptions("tensor", False, False), None, backbone=wanted), wanted)
        yield


@pytest.mark.parametrize("hostile", [long_rows, small_planes, rows_of_indices, heads, images, tensors_for_a_backbone])
def test_caches_stay_within_their_bytes_for_keys_that_never_repeat(hostile: Callable[[], Iterator[None]]) -> None:
    calls = hostile()
    # What is allocated once is not counted.
    next(calls)
    clear_caches()
    gc.collect()
    tracemalloc.start()
    try:
        for _ in range(250):
            next(calls)
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    sizes = caches()
    assert sum(size.nbytes for size in sizes) > SMALL_BOUND // 4
    for size in sizes:
        assert size.nbytes <= SMALL_BOUND
    assert kept <= sum(size.nbytes for size in sizes) + OVERHEAD


def test_every_cache_has_a_bound_and_the_sum_of_all_bounds_is_small() -> None:
    assert {size.name for size in caches()} >= set(cache.MAX_BYTES)
    assert sum(cache.MAX_BYTES.values()) <= 23 * 2**20


def test_a_result_is_computed_once_while_it_is_used() -> None:
    computed: list[int] = []

    def square(number: int) -> np.ndarray:
        computed.append(number)
        return np.full(1000, number * number)

    squares = Cache("windows", square)
    squares.max_bytes = 100_000
    for number in range(500):
        squares(number)
        assert squares(7)[0] == 49
    assert computed.count(7) == 1
    assert squares.size().nbytes <= 100_000
    assert squares(0)[0] == 0
    assert computed.count(0) == 2


def test_a_result_that_is_too_large_is_returned_but_not_kept() -> None:
    tables = Cache("windows", np.zeros)
    tables.max_bytes = 10_000
    assert tables(10_000).size == 10_000
    assert tables.size().entries == 0


def test_an_error_is_not_cached() -> None:
    parse = Cache("windows", int)
    with pytest.raises(ValueError, match="invalid literal"):
        parse("x")
    assert parse.size().entries == 0


def test_threads_share_a_cache_without_exceeding_it() -> None:
    tables = Cache("windows", lambda number: np.full(500, number))
    tables.max_bytes = 50_000

    def look_up(start: int) -> None:
        for number in range(2000):
            assert tables((start + number) % 97)[0] == (start + number) % 97

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(look_up, range(4)))
    assert tables.size().nbytes <= 50_000


def test_the_size_of_a_function_includes_the_arrays_that_it_holds() -> None:
    array = np.zeros(10_000)
    half = array[5000:]

    def kernel() -> np.ndarray:
        return half

    assert 80_000 < size_of((kernel, kernel, array)) < 82_000
    assert size_of(np.maximum) == 0


def test_a_decorated_function_is_listed() -> None:
    before = len(caches())

    @cached("windows")
    def double(number: int) -> int:
        return 2 * number

    assert double(4) == 8
    assert caches()[before].entries == 1
    cache._caches.pop()


def test_the_size_counts_each_entry_once_whichever_were_used_again() -> None:
    values = Cache("windows", lambda number: bytes(1000))
    values(10_000)
    one = values.size().nbytes
    for number in range(10_001, 15_000):
        values(number)
        # An entry of the old generation that is used becomes young again.
        values(10_000 + number // 7 % 100)
        found = values.size()
        assert found.nbytes == one * found.entries
    assert 1 < values.size().entries < 5_000
    values.clear()
    assert values.size().nbytes == 0

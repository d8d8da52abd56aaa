"""client.map of both clients: exactly one result per input, in the requested order and form."""

import asyncio
import io
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from PIL import Image

from poolservice_client import (
    AsyncPoolClient,
    AvgPool1d,
    GlobalAvgPool2d,
    InvalidRequest,
    MaxPool2d,
    MinPool2d,
    PoolClient,
)

#: Maps with one of the two clients and returns all results.
Collect = Callable[..., list[Any]]


@pytest.fixture(params=["blocking", "asyncio"])
def collect(request: pytest.FixtureRequest, server_address: str) -> Collect:
    def blocking(xs: Iterable[Any], specs: Any, **options: Any) -> list[Any]:
        with PoolClient(server_address) as client:
            return list(client.map(xs, specs, **options))

    async def gather(xs: Iterable[Any], specs: Any, **options: Any) -> list[Any]:
        async with AsyncPoolClient(server_address) as client:
            return [y async for y in client.map(xs, specs, **options)]

    return blocking if request.param == "blocking" else lambda *given, **options: asyncio.run(gather(*given, **options))


def small(count: int) -> Iterator[NDArray[np.float32]]:
    """Tensors whose values are their index."""
    return (np.full((8, 8, 8), number, np.float32) for number in range(count))


def test_small_tensors_are_complete_and_in_order(collect: Collect) -> None:
    results = collect(small(3000), GlobalAvgPool2d(), output="features")
    np.testing.assert_array_equal(results, np.repeat(np.arange(3000, dtype=np.float32), 8).reshape(3000, 8))


def test_unordered_results_come_once_each_with_their_index(collect: Collect) -> None:
    items = collect(small(3000), GlobalAvgPool2d(), ordered=False, items=True)
    assert Counter(item.index for item in items) == Counter(range(3000))
    assert all((item.result == item.index).all() for item in items)


def test_results_equal_those_of_pool(collect: Collect, client: PoolClient) -> None:
    random = np.random.default_rng(5)
    xs = [random.standard_normal((3, 12, 10)).astype(np.float32) for _ in range(40)]
    specs = [MaxPool2d(2, return_indices=True), MinPool2d(3), GlobalAvgPool2d()]
    for x, ((maxima, indices), minima, mean) in zip(xs, collect(xs, specs), strict=True):
        (expected_maxima, expected_indices), expected_minima, expected_mean = client.pool(x, specs)
        np.testing.assert_array_equal(maxima, expected_maxima, strict=True)
        np.testing.assert_array_equal(indices, expected_indices, strict=True)
        np.testing.assert_array_equal(minima, expected_minima, strict=True)
        np.testing.assert_array_equal(mean, expected_mean, strict=True)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16, np.uint8, np.int64])
def test_every_dtype_is_kept_or_narrowed(collect: Collect, client: PoolClient, dtype: Any) -> None:
    xs = [np.arange(48, dtype=dtype).reshape(3, 4, 4) + number for number in range(20)]
    for x, y in zip(xs, collect(xs, MaxPool2d(2)), strict=True):
        np.testing.assert_array_equal(y, client.pool(x, MaxPool2d(2)), strict=True)
    for x, y in zip(xs, collect(xs, GlobalAvgPool2d(), dtype="float16"), strict=True):
        np.testing.assert_array_equal(y, client.pool(x, GlobalAvgPool2d(), dtype="float16"), strict=True)


def test_shapes_ranks_and_sizes_may_be_mixed(collect: Collect, client: PoolClient) -> None:
    random = np.random.default_rng(7)
    shapes = [(3, 8, 8), (2, 3, 8, 8), (1, 9, 7), (0, 3, 8, 8), (5, 3, 8, 8), (8, 200, 200), (3, 8, 8)]
    xs = [random.standard_normal(shape).astype(np.float32) for shape in shapes * 8]
    option_sets: list[dict[str, Any]] = [{}, {"output": "features", "normalize": True}]
    for options in option_sets:
        for x, y in zip(xs, collect(xs, MaxPool2d(2), **options), strict=True):
            np.testing.assert_array_equal(y, client.pool(x, MaxPool2d(2), **options), strict=True)


def test_lists_of_numbers_and_1d_layers(collect: Collect) -> None:
    xs = [[[1.0, 2.0, 3.0, 6.0]], [[5.0, 7.0, 1.0, 1.0]]]
    for y, expected in zip(collect(xs, AvgPool1d(2)), ([[1.5, 4.5]], [[6.0, 1.0]]), strict=True):
        np.testing.assert_array_equal(y, expected)


def test_images_of_every_input_type(collect: Collect, client: PoolClient, photograph: Path) -> None:
    image = Image.open(photograph)
    thumbnail = io.BytesIO()
    image.resize((40, 30)).save(thumbnail, "PNG")
    inputs: list[Any] = [photograph, str(photograph), photograph.read_bytes(), image, thumbnail.getvalue()]
    expected = [client.pool(x, GlobalAvgPool2d(), color_mode="GRAY") for x in inputs]
    for y, expected_y in zip(collect(inputs * 4, GlobalAvgPool2d(), color_mode="GRAY"), expected * 4, strict=True):
        np.testing.assert_array_equal(y, expected_y, strict=True)


def test_results_own_their_memory(collect: Collect) -> None:
    for y in collect(small(50), MaxPool2d(2)):
        assert y.flags.owndata
        assert y.flags.writeable


def test_an_array_may_be_reused_once_it_was_read(collect: Collect) -> None:
    for shape in ((8, 8, 8), (8, 128, 128)):
        x = np.empty(shape, np.float32)

        def reused(x: NDArray[np.float32] = x) -> Iterator[NDArray[np.float32]]:
            for number in range(60):
                x[:] = number
                yield x

        assert [y.flat[0] for y in collect(reused(), GlobalAvgPool2d())] == list(range(60))


def test_no_input_yields_no_result(collect: Collect) -> None:
    assert collect([], MaxPool2d(2)) == []
    assert collect([], MaxPool2d(2), items=True) == []


@pytest.mark.parametrize(
    ("xs", "options", "message"),
    [
        ([], {"on_error": "ignore"}, r'on_error: must be "raise" or "skip" \(or pass items=True .*; got \'ignore\''),
        ([], {"on_error": "return"}, "on_error: .*items=True"),
        ([], {"on_error": "raise", "items": True}, "on_error: items=True yields the error .*; leave on_error out"),
        ([], {"on_error": "skip", "items": True}, "on_error: items=True yields the error .*; leave on_error out"),
        ([], {"in_flight": 0}, "in_flight: must be 1 or more items"),
        ([], {"in_flight": 2.5}, "in_flight"),
        ([], {"timeout": -1}, "timeout"),
        ([], {"output": "thumbnail"}, "output"),
        ("cat.jpg", {}, "map takes an iterable of tensors or images; got one str"),
        (b"GIF89a", {}, "got one bytes"),
        (3, {}, "got one int"),
    ],
)
def test_invalid_arguments_are_refused_immediately(
    server_address: str, xs: Any, options: dict[str, Any], message: str
) -> None:
    for client in (PoolClient(server_address), AsyncPoolClient(server_address)):
        with pytest.raises(InvalidRequest, match=message):
            client.map(xs, MaxPool2d(2), **options)


@pytest.mark.parametrize("in_flight", [1, 3, 64])
def test_no_more_is_read_than_may_be_in_flight(client: PoolClient, in_flight: int) -> None:
    read = 0

    def counted() -> Iterator[NDArray[np.float32]]:
        nonlocal read
        for x in small(10**9):
            read += 1
            yield x

    results = client.map(counted(), GlobalAvgPool2d(), in_flight=in_flight)
    assert read == 0
    for yielded, y in enumerate(itertools.islice(results, 200)):
        assert (y == yielded).all()
        assert read <= yielded + 1 + in_flight
    results.close()


def test_reading_ahead_is_bounded_by_bytes(client: PoolClient) -> None:
    read = 0

    def large() -> Iterator[NDArray[np.float32]]:
        nonlocal read
        x = np.zeros((16, 512, 512), np.float32)
        while True:
            read += 1
            yield x

    results = client.map(large(), GlobalAvgPool2d())
    for yielded in range(1, 20):
        next(results)
        # The items being sent, those that wait to be sent, and the one that was yielded.
        assert read <= yielded + 8
    results.close()


async def test_no_more_of_an_asynchronous_iterable_is_read_than_may_be_in_flight(server_address: str) -> None:
    read = 0

    async def counted() -> AsyncIterator[NDArray[np.float32]]:
        nonlocal read
        for x in small(10**9):
            read += 1
            yield x

    async with AsyncPoolClient(server_address) as client:
        results = client.map(counted(), GlobalAvgPool2d(), in_flight=10)
        for yielded in range(200):
            assert (await anext(results) == yielded).all()
            assert read <= yielded + 1 + 10
        await results.aclose()


async def test_a_result_is_yielded_while_the_source_waits(server_address: str) -> None:
    received = asyncio.Event()

    async def waits_for_each_result() -> AsyncIterator[NDArray[np.float32]]:
        for x in small(3):
            yield x
            await received.wait()
            received.clear()

    async with AsyncPoolClient(server_address) as client:
        count = 0
        async for y in client.map(waits_for_each_result(), GlobalAvgPool2d()):
            assert (y == count).all()
            count += 1
            received.set()
    assert count == 3


def test_memory_stays_constant_over_fifty_thousand_items(client: PoolClient) -> None:
    process = psutil.Process()
    results = client.map(small(50_000), GlobalAvgPool2d())
    for _ in itertools.islice(results, 5_000):
        pass
    before = process.memory_info().rss
    most = before
    for number, y in enumerate(results, 5_000):
        assert (y == number).all()
        if number % 1000 == 0:
            most = max(most, process.memory_info().rss)
    assert number == 49_999
    assert most - before < 50e6


def test_progress_is_shown_on_standard_error(client: PoolClient, capsys: pytest.CaptureFixture[str]) -> None:
    xs: list[Any] = [*small(20), object()]
    assert len(list(client.map(xs, GlobalAvgPool2d(), progress=True, items=True))) == 21
    shown = capsys.readouterr()
    assert "21/21" in shown.err
    assert "1 failed" in shown.err
    assert "/s" in shown.err
    assert shown.out == ""
    list(client.map(iter(xs), GlobalAvgPool2d(), progress=True, on_error="skip"))
    assert "21/?" in capsys.readouterr().err

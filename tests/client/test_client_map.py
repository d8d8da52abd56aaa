"""client.map and its twin: every item answered once, in the order and the form that was asked for."""

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
    Execution,
    GlobalAvgPool2d,
    InvalidRequest,
    MaxPool2d,
    MinPool2d,
    PoolClient,
)

#: Maps with one of the two clients and gives all that came.
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
    """Tensors that say which they are."""
    return (np.full((8, 8, 8), number, np.float32) for number in range(count))


def test_small_tensors_come_back_in_order_and_complete(collect: Collect) -> None:
    results = collect(small(3000), GlobalAvgPool2d(), output="features")
    np.testing.assert_array_equal(results, np.repeat(np.arange(3000, dtype=np.float32), 8).reshape(3000, 8))


def test_as_they_complete_each_is_there_once_with_its_index(collect: Collect) -> None:
    pairs = collect(small(3000), GlobalAvgPool2d(), ordered=False, indexed=True)
    assert Counter(index for index, _ in pairs) == Counter(range(3000))
    assert all((result == index).all() for index, result in pairs)


def test_answers_are_those_of_pool(collect: Collect, client: PoolClient) -> None:
    random = np.random.default_rng(5)
    xs = [random.standard_normal((3, 12, 10)).astype(np.float32) for _ in range(40)]
    specs = [MaxPool2d(2, return_indices=True), MinPool2d(3), GlobalAvgPool2d()]
    for x, ((high, where), low, mean) in zip(xs, collect(xs, specs), strict=True):
        (expected_high, expected_where), expected_low, expected_mean = client.pool(x, specs)
        np.testing.assert_array_equal(high, expected_high, strict=True)
        np.testing.assert_array_equal(where, expected_where, strict=True)
        np.testing.assert_array_equal(low, expected_low, strict=True)
        np.testing.assert_array_equal(mean, expected_mean, strict=True)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16, np.uint8, np.int64])
def test_every_type_is_kept_or_narrowed(collect: Collect, client: PoolClient, dtype: Any) -> None:
    xs = [np.arange(48, dtype=dtype).reshape(3, 4, 4) + number for number in range(20)]
    for x, y in zip(xs, collect(xs, MaxPool2d(2)), strict=True):
        np.testing.assert_array_equal(y, client.pool(x, MaxPool2d(2)), strict=True)
    for x, y in zip(xs, collect(xs, GlobalAvgPool2d(), dtype="float16"), strict=True):
        np.testing.assert_array_equal(y, client.pool(x, GlobalAvgPool2d(), dtype="float16"), strict=True)


def test_shapes_ranks_and_sizes_may_be_mixed(collect: Collect, client: PoolClient) -> None:
    random = np.random.default_rng(7)
    shapes = [(3, 8, 8), (2, 3, 8, 8), (1, 9, 7), (0, 3, 8, 8), (5, 3, 8, 8), (8, 200, 200), (3, 8, 8)]
    xs = [random.standard_normal(shape).astype(np.float32) for shape in shapes * 8]
    every: list[dict[str, Any]] = [{}, {"output": "features", "normalize": True}]
    for options in every:
        for x, y in zip(xs, collect(xs, MaxPool2d(2), **options), strict=True):
            np.testing.assert_array_equal(y, client.pool(x, MaxPool2d(2), **options), strict=True)


def test_lists_and_other_ranks(collect: Collect) -> None:
    xs = [[[1.0, 2.0, 3.0, 6.0]], [[5.0, 7.0, 1.0, 1.0]]]
    for y, expected in zip(collect(xs, AvgPool1d(2)), ([[1.5, 4.5]], [[6.0, 1.0]]), strict=True):
        np.testing.assert_array_equal(y, expected)


def test_pictures_of_every_kind(collect: Collect, client: PoolClient, photograph: Path) -> None:
    image = Image.open(photograph)
    thumbnail = io.BytesIO()
    image.resize((40, 30)).save(thumbnail, "PNG")
    kinds: list[Any] = [photograph, str(photograph), photograph.read_bytes(), image, thumbnail.getvalue()]
    expected = [client.pool(x, GlobalAvgPool2d(), color_mode="GRAY") for x in kinds]
    for y, its in zip(collect(kinds * 4, GlobalAvgPool2d(), color_mode="GRAY"), expected * 4, strict=True):
        np.testing.assert_array_equal(y, its, strict=True)


def test_executions_come_where_they_are_asked_for(collect: Collect) -> None:
    for index, (result, execution) in collect(small(10), MaxPool2d(2), execution=True, indexed=True):
        assert (result == index).all()
        assert isinstance(execution, Execution)
        assert execution.device == "cpu"


def test_results_own_their_memory(collect: Collect) -> None:
    for y in collect(small(50), MaxPool2d(2)):
        assert y.flags.owndata
        assert y.flags.writeable


def test_an_array_may_be_used_again_once_it_was_read(collect: Collect) -> None:
    for shape in ((8, 8, 8), (8, 128, 128)):
        x = np.empty(shape, np.float32)

        def reused(x: NDArray[np.float32] = x) -> Iterator[NDArray[np.float32]]:
            for number in range(60):
                x[:] = number
                yield x

        assert [y.flat[0] for y in collect(reused(), GlobalAvgPool2d())] == list(range(60))


def test_nothing_gives_nothing(collect: Collect) -> None:
    assert collect([], MaxPool2d(2)) == []


@pytest.mark.parametrize(
    ("xs", "options", "message"),
    [
        ([], {"on_error": "ignore"}, r'on_error: must be "raise", "return" or "skip"; got \'ignore\''),
        ([], {"in_flight": 0}, "in_flight: must be 1 or more items"),
        ([], {"in_flight": 2.5}, "in_flight"),
        ([], {"timeout": -1}, "timeout"),
        ([], {"output": "picture"}, "output"),
        ("cat.jpg", {}, "map takes an iterable of tensors or pictures; got one str"),
        (b"GIF89a", {}, "got one bytes"),
        (3, {}, "got one int"),
    ],
)
def test_wrong_arguments_are_refused_at_once(
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
    for given, y in enumerate(itertools.islice(results, 200)):
        assert (y == given).all()
        assert read <= given + 1 + in_flight
    results.close()


def test_reading_ahead_is_bounded_by_bytes_too(client: PoolClient) -> None:
    read = 0

    def large() -> Iterator[NDArray[np.float32]]:
        nonlocal read
        x = np.zeros((16, 512, 512), np.float32)
        while True:
            read += 1
            yield x

    results = client.map(large(), GlobalAvgPool2d())
    for given in range(1, 20):
        next(results)
        # What is under way, what waits to be sent, and the one that is given.
        assert read <= given + 8
    results.close()


async def test_the_twin_reads_no_more_either_and_takes_what_is_asynchronous(server_address: str) -> None:
    read = 0

    async def counted() -> AsyncIterator[NDArray[np.float32]]:
        nonlocal read
        for x in small(10**9):
            read += 1
            yield x

    async with AsyncPoolClient(server_address) as client:
        results = client.map(counted(), GlobalAvgPool2d(), in_flight=10)
        for given in range(200):
            assert (await anext(results) == given).all()
            assert read <= given + 1 + 10
        await results.aclose()


async def test_a_result_is_given_while_the_source_waits(server_address: str) -> None:
    given = asyncio.Event()

    async def slow() -> AsyncIterator[NDArray[np.float32]]:
        for x in small(3):
            yield x
            await given.wait()
            given.clear()

    async with AsyncPoolClient(server_address) as client:
        count = 0
        async for y in client.map(slow(), GlobalAvgPool2d()):
            assert (y == count).all()
            count += 1
            given.set()
    assert count == 3


def test_memory_stays_flat_over_fifty_thousand(client: PoolClient) -> None:
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
    assert len(list(client.map(xs, GlobalAvgPool2d(), progress=True, on_error="return"))) == 21
    shown = capsys.readouterr()
    assert "21/21" in shown.err
    assert "1 failed" in shown.err
    assert "/s" in shown.err
    assert shown.out == ""
    list(client.map(iter(xs), GlobalAvgPool2d(), progress=True, on_error="skip"))
    assert "21/?" in capsys.readouterr().err

"""What fails in a map is that item's failure, in the form that was asked for; the rest goes on."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from poolservice_client import (
    AsyncPoolClient,
    DeadlineExceeded,
    GlobalAvgPool2d,
    InvalidRequest,
    MaxPool2d,
    Overloaded,
    PoolClient,
    PoolError,
    Unavailable,
)
from poolservice_server.testing import Service

#: Maps with one of the two clients and gives what came, and what it raised in the end.
Collect = Callable[..., tuple[list[Any], Exception | None]]
StartServer = Callable[..., Service]

GOOD = np.ones((3, 8, 8), np.float32)


@pytest.fixture(params=["blocking", "asyncio"])
def collect(request: pytest.FixtureRequest) -> Collect:
    def blocking(address: str, xs: Iterable[Any], specs: Any, **options: Any) -> tuple[list[Any], Exception | None]:
        given = []
        with PoolClient(address) as client:
            try:
                for y in client.map(xs, specs, **options):
                    given.append(y)  # noqa: PERF402 - what came before an error counts
            except Exception as error:  # noqa: BLE001 - it is what is looked at
                return given, error
        return given, None

    async def gather(address: str, xs: Any, specs: Any, **options: Any) -> tuple[list[Any], Exception | None]:
        given = []
        async with AsyncPoolClient(address) as client:
            try:
                async for y in client.map(xs, specs, **options):
                    given.append(y)  # noqa: PERF401 - as above
            except Exception as error:  # noqa: BLE001 - as above
                return given, error
        return given, None

    return blocking if request.param == "blocking" else lambda *given, **options: asyncio.run(gather(*given, **options))


def mixed(folder: Path) -> dict[int, tuple[Any, str]]:
    """Bad items of every kind by the place that they take, and what is said of each."""
    return {
        3: (object(), "object cannot be pooled"),
        7: (np.ones((3, 1, 1), np.float32), "no window fits"),
        11: (b"no picture", "^x: these 10 bytes are not a JPEG"),
        12: (folder / "missing.jpg", "^x: .*missing.jpg: No such file or directory$"),
        20: (np.ones((3, 8, 8), np.complex64), "complex64 cannot be pooled"),
        21: (np.float32(3), "scalar"),
        30: (np.ones((3, 400, 1), np.float32), "no window fits"),
        31: (b"\xff\xd8\xff" + bytes(60_000), "^x: the JPEG file ends inside its header"),
    }


def with_bad_ones(folder: Path, count: int = 40) -> list[Any]:
    bad = mixed(folder)
    return [bad[number][0] if number in bad else GOOD * number for number in range(count)]


def test_failed_items_are_returned_in_their_places(collect: Collect, server_address: str, tmp_path: Path) -> None:
    xs = with_bad_ones(tmp_path)
    given, error = collect(server_address, xs, MaxPool2d(2), on_error="return")
    assert error is None
    assert len(given) == len(xs)
    bad = mixed(tmp_path)
    for number, y in enumerate(given):
        if number in bad:
            with pytest.raises(InvalidRequest, match=bad[number][1]):
                raise y
        else:
            np.testing.assert_array_equal(y, np.full((3, 4, 4), number, np.float32), strict=True)


def test_failed_items_are_left_out(collect: Collect, server_address: str, tmp_path: Path) -> None:
    given, error = collect(server_address, with_bad_ones(tmp_path), MaxPool2d(2), on_error="skip", indexed=True)
    assert error is None
    assert [index for index, _ in given] == [number for number in range(40) if number not in mixed(tmp_path)]
    assert all((y == index).all() for index, y in given)


def test_the_first_failed_item_is_raised_in_its_place(collect: Collect, server_address: str, tmp_path: Path) -> None:
    given, error = collect(server_address, with_bad_ones(tmp_path), MaxPool2d(2))
    assert [y.flat[0] for y in given] == [0, 1, 2]
    assert isinstance(error, InvalidRequest)
    assert error.__notes__ == ["It is what came of item 3 of the map, counted from 0."]


def test_one_that_the_server_refuses_does_not_harm_those_that_travel_with_it(
    collect: Collect, server_address: str
) -> None:
    # Each by itself is refused in words for its own shape, though they are sent as one tensor.
    bad = [np.ones((3, 1, 1), np.float32)] * 20
    given, error = collect(server_address, [*bad, GOOD], MaxPool2d(2), on_error="return")
    assert error is None
    with PoolClient(server_address) as client, pytest.raises(InvalidRequest) as alone:
        client.pool(bad[0], MaxPool2d(2))
    assert [str(y) for y in given[:20]] == [str(alone.value)] * 20
    assert (given[20] == 1).all()


def test_an_unreadable_file_keeps_its_cause(collect: Collect, server_address: str, tmp_path: Path) -> None:
    (failed,), error = collect(server_address, [tmp_path / "missing.jpg"], MaxPool2d(2), on_error="return")
    assert error is None
    assert isinstance(failed, InvalidRequest)
    assert isinstance(failed.__cause__, FileNotFoundError)


def test_the_iterables_own_error_comes_after_all_that_was_read_before(collect: Collect, server_address: str) -> None:
    def fails() -> Iterator[NDArray[np.float32]]:
        for number in range(700):
            yield GOOD * number
        raise LookupError("the shelf is empty")

    for options in ({}, {"on_error": "skip"}):
        given, error = collect(server_address, fails(), GlobalAvgPool2d(), **options)
        assert [y.flat[0] for y in given] == list(range(700))
        assert isinstance(error, LookupError)


async def test_so_does_that_of_an_asynchronous_one(server_address: str) -> None:
    async def fails() -> AsyncIterator[NDArray[np.float32]]:
        for number in range(50):
            yield GOOD * number
        raise LookupError("the shelf is empty")

    async with AsyncPoolClient(server_address) as client:
        results = client.map(fails(), GlobalAvgPool2d())
        assert [(await anext(results)).flat[0] for _ in range(50)] == list(range(50))
        with pytest.raises(LookupError, match="the shelf is empty"):
            await anext(results)


def test_nobody_listening_is_told_once_for_all(collect: Collect, start_server: StartServer) -> None:
    server = start_server()
    server.stop()
    given, error = collect(server.address, (GOOD for _ in range(10**9)), GlobalAvgPool2d(), timeout=60)
    assert given == []
    assert isinstance(error, Unavailable)


def test_a_full_queue_is_waited_for(collect: Collect, start_server: StartServer) -> None:
    server = start_server("--max-queue-items", "8")
    # Each item of a batch takes a place of its own in the queue: most of every 32 are refused at first.
    xs = [np.full((3, 8, 4 + number % 7), number, np.float32) for number in range(500)]
    given, error = collect(server.address, xs, GlobalAvgPool2d(), output="features")
    assert error is None
    assert [y[0] for y in given] == list(range(500))


def test_but_no_longer_than_the_items_timeout(collect: Collect, start_server: StartServer) -> None:
    # The first waits for company that does not come, and fills the queue.
    server = start_server("--max-queue-items", "1", "--max-batch-delay", "5")
    xs = [GOOD, np.ones((3, 9, 9), np.float32), np.ones((3, 10, 10), np.float32)]
    given, error = collect(server.address, xs, GlobalAvgPool2d(), timeout=0.5, on_error="return", ordered=False)
    assert error is None
    assert len(given) == 3
    assert all(isinstance(y, DeadlineExceeded | Overloaded) for y in given)


def test_each_item_has_the_whole_timeout(collect: Collect, start_server: StartServer) -> None:
    # One at a time, each 0.3 s: together far over what each may take.
    server = start_server("--max-batch-delay", "0.3")
    given, error = collect(server.address, [GOOD] * 8, GlobalAvgPool2d(), timeout=1.5, in_flight=1)
    assert error is None
    assert len(given) == 8


def test_a_client_that_is_closed_ends_the_map_whatever_is_done_about_errors(server_address: str) -> None:
    client = PoolClient(server_address)
    results = client.map((GOOD for _ in range(10**9)), GlobalAvgPool2d(), on_error="skip")
    next(results)
    client.close()
    with pytest.raises(PoolError, match="closed"):
        for _ in results:
            pass


async def test_so_does_its_twin(server_address: str) -> None:
    client = AsyncPoolClient(server_address)
    results = client.map((GOOD for _ in range(10**9)), GlobalAvgPool2d(), on_error="skip")
    await anext(results)
    await client.close()
    with pytest.raises(PoolError, match="closed"):
        async for _ in results:
            pass

"""Failures within client.map: each is the failure of one item, and the other items succeed."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from poolservice_client import (
    AsyncPoolClient,
    DeadlineExceeded,
    GlobalAvgPool2d,
    InvalidRequest,
    MaxPool2d,
    Overloaded,
    PoolClient,
    PoolError,
    RetryPolicy,
    Unavailable,
)
from poolservice_server.testing import Service

#: Maps with one of the two clients; returns the results, and the exception that ended the map.
Collect = Callable[..., tuple[list[Any], Exception | None]]
StartServer = Callable[..., Service]

GOOD = np.ones((3, 8, 8), np.float32)
DEFAULT = RetryPolicy()


@pytest.fixture(params=["blocking", "asyncio"])
def collect(request: pytest.FixtureRequest) -> Collect:
    def blocking(
        address: str, xs: Iterable[Any], specs: Any, retries: RetryPolicy | None = DEFAULT, **options: Any
    ) -> tuple[list[Any], Exception | None]:
        results = []
        with PoolClient(address, retries=retries) as client:
            try:
                for y in client.map(xs, specs, **options):
                    results.append(y)  # noqa: PERF402 - the results before an error are needed
            except Exception as error:  # noqa: BLE001 - the tests examine it
                return results, error
        return results, None

    async def gather(
        address: str, xs: Any, specs: Any, retries: RetryPolicy | None = DEFAULT, **options: Any
    ) -> tuple[list[Any], Exception | None]:
        results = []
        async with AsyncPoolClient(address, retries=retries) as client:
            try:
                async for y in client.map(xs, specs, **options):
                    results.append(y)  # noqa: PERF401 - as above
            except Exception as error:  # noqa: BLE001 - as above
                return results, error
        return results, None

    return blocking if request.param == "blocking" else lambda *given, **options: asyncio.run(gather(*given, **options))


def bad_inputs(folder: Path) -> dict[int, tuple[Any, str]]:
    """Bad inputs of every sort by their index, each with the message that its error must match."""
    return {
        3: (object(), "object cannot be pooled"),
        7: (np.ones((3, 1, 1), np.float32), "no window fits"),
        11: (b"not a jpeg", "^x: these 10 bytes are not a JPEG"),
        12: (folder / "missing.jpg", "^x: .*missing.jpg: No such file or directory$"),
        20: (np.ones((3, 8, 8), np.complex64), "complex64 cannot be pooled"),
        21: (np.float32(3), "scalar"),
        30: (np.ones((3, 400, 1), np.float32), "no window fits"),
        31: (b"\xff\xd8\xff" + bytes(60_000), "^x: the JPEG file ends inside its header"),
    }


def with_bad_inputs(folder: Path, count: int = 40) -> list[Any]:
    bad = bad_inputs(folder)
    return [bad[number][0] if number in bad else GOOD * number for number in range(count)]


def test_failed_items_are_yielded_in_their_places(collect: Collect, server_address: str, tmp_path: Path) -> None:
    xs = with_bad_inputs(tmp_path)
    results, error = collect(server_address, xs, MaxPool2d(2), items=True)
    assert error is None
    assert [item.index for item in results] == list(range(len(xs)))
    bad = bad_inputs(tmp_path)
    for item in results:
        if item.index in bad:
            with pytest.raises(InvalidRequest, match=bad[item.index][1]):
                raise item.error
        else:
            np.testing.assert_array_equal(item.result, np.full((3, 4, 4), item.index, np.float32), strict=True)


def test_failed_items_are_skipped(collect: Collect, server_address: str, tmp_path: Path) -> None:
    results, error = collect(server_address, with_bad_inputs(tmp_path), MaxPool2d(2), on_error="skip")
    assert error is None
    assert [y.flat[0] for y in results] == [number for number in range(40) if number not in bad_inputs(tmp_path)]


def test_the_first_failed_item_is_raised_in_its_place(collect: Collect, server_address: str, tmp_path: Path) -> None:
    results, error = collect(server_address, with_bad_inputs(tmp_path), MaxPool2d(2))
    assert [y.flat[0] for y in results] == [0, 1, 2]
    assert isinstance(error, InvalidRequest)
    assert error.__notes__ == ["This is the error of item 3 of the map (counted from 0)."]


def test_a_rejected_item_does_not_affect_others_in_its_message(collect: Collect, server_address: str) -> None:
    # The bad ones are sent as one tensor, but the error of each must name its own shape.
    bad = [np.ones((3, 1, 1), np.float32)] * 20
    results, error = collect(server_address, [*bad, GOOD], MaxPool2d(2), items=True)
    assert error is None
    with PoolClient(server_address) as client, pytest.raises(InvalidRequest) as of_pool:
        client.pool(bad[0], MaxPool2d(2))
    assert [str(item.error) for item in results[:20]] == [str(of_pool.value)] * 20
    assert (results[20].result == 1).all()


class Raises:
    """An input that raises when it is converted."""

    def __init__(self, protocol: str) -> None:
        self._protocol = protocol

    def __array__(self) -> NDArray[np.float32]:
        if self._protocol == "__array__":
            raise LookupError("no array here")
        return GOOD

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        if self._protocol == "__class__":
            raise LookupError("an unbound proxy")
        return Raises


class RaisesPath:
    """A path that raises when it is read."""

    def __fspath__(self) -> str:
        raise LookupError("no path here")


def closed_image() -> Image.Image:
    image = Image.new("RGB", (8, 8))
    image.close()
    return image


def nested_tensor() -> Any:
    return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])


UNREADABLE: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "a path with NUL": (lambda: "a\0b.jpg", ValueError, r"a\0b.jpg: no file can have this name"),
    "a path with a lone surrogate": (
        lambda: "a\ud800.jpg",
        UnicodeEncodeError,
        r"'a\ud800.jpg': no file can have this name",
    ),
    "a path that raises": (RaisesPath, LookupError, "x: cannot be read: LookupError: no path here"),
    "a closed PIL image": (closed_image, ValueError, "x: cannot be read: ValueError: Operation on closed image"),
    "__array__ raises": (lambda: Raises("__array__"), LookupError, "LookupError: no array here"),
    "isinstance raises": (lambda: Raises("__class__"), LookupError, "LookupError: an unbound proxy"),
    "a nested tensor": (nested_tensor, RuntimeError, "x: cannot be read: RuntimeError"),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("name", UNREADABLE)
def test_whatever_an_input_raises_is_the_error_of_its_item(collect: Collect, server_address: str, name: str) -> None:
    make, cause, message = UNREADABLE[name]
    xs = [GOOD, make(), GOOD * 2]
    (first, failed, last), error = collect(server_address, xs, MaxPool2d(2), items=True)
    assert error is None
    assert (first.result == 1).all()
    assert (last.result == 2).all()
    assert isinstance(failed.error, InvalidRequest)
    assert isinstance(failed.error.__cause__, cause)
    assert message in str(failed.error)
    # The message can be printed.
    str(failed.error).encode()
    results, error = collect(server_address, xs, MaxPool2d(2), on_error="skip")
    assert error is None
    assert [y.flat[0] for y in results] == [1, 2]


def test_an_unreadable_file_keeps_its_cause(collect: Collect, server_address: str, tmp_path: Path) -> None:
    (failed,), error = collect(server_address, [tmp_path / "missing.jpg"], MaxPool2d(2), items=True)
    assert error is None
    assert isinstance(failed.error, InvalidRequest)
    assert isinstance(failed.error.__cause__, FileNotFoundError)


@pytest.mark.parametrize("options", [{}, {"on_error": "skip"}, {"items": True}], ids=str)
def test_an_error_of_the_iterable_follows_everything_read_before(
    collect: Collect, server_address: str, options: dict[str, Any]
) -> None:
    def fails() -> Iterator[NDArray[np.float32]]:
        for number in range(700):
            yield GOOD * number
        raise LookupError("the iterable failed")

    results, error = collect(server_address, fails(), GlobalAvgPool2d(), **options)
    assert [(y.result if "items" in options else y).flat[0] for y in results] == list(range(700))
    assert isinstance(error, LookupError)


async def test_an_error_of_an_asynchronous_iterable_follows_everything_read_before(server_address: str) -> None:
    async def fails() -> AsyncIterator[NDArray[np.float32]]:
        for number in range(50):
            yield GOOD * number
        raise LookupError("the iterable failed")

    async with AsyncPoolClient(server_address) as client:
        results = client.map(fails(), GlobalAvgPool2d())
        assert [(await anext(results)).flat[0] for _ in range(50)] == list(range(50))
        with pytest.raises(LookupError, match="the iterable failed"):
            await anext(results)


def test_the_map_does_not_wait_for_a_server_that_never_responded(collect: Collect, start_server: StartServer) -> None:
    server = start_server()
    server.stop()
    results, error = collect(server.address, (GOOD for _ in range(10**9)), GlobalAvgPool2d(), timeout=60)
    assert results == []
    assert isinstance(error, Unavailable)


def test_items_that_a_full_queue_refuses_are_sent_again(collect: Collect, start_server: StartServer) -> None:
    server = start_server("--max-queue-items", "8")
    # Each item of a batch takes one of the 8 places in the queue: most of every 32 are refused at first.
    xs = [np.full((3, 8, 4 + number % 7), number, np.float32) for number in range(500)]
    patient = RetryPolicy(max_attempts=20, burst=1000)
    results, error = collect(server.address, xs, GlobalAvgPool2d(), output="features", retries=patient)
    assert error is None
    assert [y[0] for y in results] == list(range(500))


def test_no_item_waits_longer_than_its_timeout(collect: Collect, start_server: StartServer) -> None:
    # The first request waits for batch-mates that never arrive, and fills the queue.
    server = start_server("--max-queue-items", "1", "--max-batch-delay", "5")
    xs = [GOOD, np.ones((3, 9, 9), np.float32), np.ones((3, 10, 10), np.float32)]
    results, error = collect(server.address, xs, GlobalAvgPool2d(), timeout=0.5, items=True, ordered=False)
    assert error is None
    assert len(results) == 3
    assert all(isinstance(item.error, DeadlineExceeded | Overloaded) for item in results)


def test_each_item_has_the_whole_timeout(collect: Collect, start_server: StartServer) -> None:
    # The items run one after the other, 0.6 s each: together they take longer than the timeout, one takes far less.
    server = start_server("--max-batch-delay", "0.6")
    results, error = collect(server.address, [GOOD] * 8, GlobalAvgPool2d(), timeout=4, in_flight=1)
    assert error is None
    assert len(results) == 8


def test_closing_the_client_ends_the_map_even_if_errors_are_skipped(server_address: str) -> None:
    client = PoolClient(server_address)
    results = client.map((GOOD for _ in range(10**9)), GlobalAvgPool2d(), on_error="skip")
    next(results)
    client.close()
    with pytest.raises(PoolError, match="closed"):
        for _ in results:
            pass


async def test_closing_the_asyncio_client_ends_the_map_even_if_errors_are_skipped(server_address: str) -> None:
    client = AsyncPoolClient(server_address)
    results = client.map((GOOD for _ in range(10**9)), GlobalAvgPool2d(), on_error="skip")
    await anext(results)
    await client.close()
    with pytest.raises(PoolError, match="closed"):
        async for _ in results:
            pass

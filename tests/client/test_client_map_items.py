"""client.map(..., items=True): each input's MapItem."""

import gc
import itertools
import weakref
from collections.abc import AsyncIterator, Iterator
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from poolservice_client import (
    AsyncPoolClient,
    Execution,
    GlobalAvgPool2d,
    InvalidRequest,
    MapItem,
    MaxPool2d,
    PoolClient,
    PoolError,
)


def tensors(count: int, shape: tuple[int, ...] = (8, 8, 8)) -> list[NDArray[np.float32]]:
    return [np.full(shape, number, np.float32) for number in range(count)]


@pytest.mark.parametrize("shape", [(8, 8, 8), (3, 200, 200)], ids=["small", "large"])
def test_an_item_has_its_index_input_result_and_execution(client: PoolClient, shape: tuple[int, ...]) -> None:
    xs = tensors(20, shape)
    for number, item in enumerate(client.map(xs, MaxPool2d(2), items=True)):
        assert item.index == number
        assert item.input is xs[number]
        assert item.result is not None
        assert (item.result == number).all()
        assert item.error is None
        assert isinstance(item.execution, Execution)
        assert item.execution.device == "cpu"
    assert number == 19


async def test_an_item_of_an_asyncio_map_has_its_index_input_and_result(server_address: str) -> None:
    xs = tensors(20)

    async def source() -> AsyncIterator[NDArray[np.float32]]:
        for x in xs:
            yield x

    async with AsyncPoolClient(server_address) as client:
        items = [item async for item in client.map(source(), MaxPool2d(2), items=True)]
    assert [item.index for item in items] == list(range(20))
    assert all(item.input is x for item, x in zip(items, xs, strict=True))
    assert all(item.result is not None and (item.result == item.index).all() for item in items)


def test_a_failed_item_has_its_error_only(client: PoolClient) -> None:
    bad = object()
    xs: list[Any] = [*tensors(2), bad]
    *_, failed = client.map(xs, MaxPool2d(2), items=True)
    assert failed.index == 2
    assert failed.input is bad
    assert failed.result is None
    assert isinstance(failed.error, InvalidRequest)
    assert failed.execution is None


def test_results_are_converted_to_torch(client: PoolClient) -> None:
    xs: list[Any] = [*tensors(1), object()]
    specs = [MaxPool2d(2, return_indices=True)]
    good, failed = client.map(xs, specs, items=True, returns="torch")
    assert good.result is not None
    ((values, indices),) = good.result
    assert isinstance(values, torch.Tensor)
    assert isinstance(indices, torch.Tensor)
    assert failed.result is None


def test_an_item_is_immutable_and_shows_itself_without_its_input(client: PoolClient) -> None:
    (item,) = client.map([bytearray(b"not an image")], MaxPool2d(2), items=True)
    assert isinstance(item, MapItem)
    assert "index=0, result=None, error=InvalidRequest" in repr(item)
    assert "not an image" not in repr(item)
    with pytest.raises(FrozenInstanceError):
        item.index = 3  # type: ignore[misc]


def test_inputs_are_held_only_until_their_items_are_yielded(client: PoolClient) -> None:
    class Input:
        def __array__(self) -> NDArray[np.float32]:
            return np.ones((8, 8, 8), np.float32)

    alive: weakref.WeakSet[Input] = weakref.WeakSet()

    def source() -> Iterator[Input]:
        for _ in range(200):
            x = Input()
            alive.add(x)
            yield x

    for items in (False, True):
        for _ in client.map(source(), GlobalAvgPool2d(), items=items, in_flight=10):
            # The items in flight, and one on each side of the generator.
            assert len(alive) <= 12
        gc.collect()
        assert len(alive) <= 2


def test_held_inputs_count_as_memory(client: PoolClient) -> None:
    read = 0

    def large() -> Iterator[NDArray[np.float32]]:
        nonlocal read
        for _ in range(200):
            read += 1
            yield np.zeros((4, 512, 512), np.float32)

    results = client.map(large(), GlobalAvgPool2d(), items=True)
    for yielded, _ in enumerate(itertools.islice(results, 40), 1):
        # 64 MiB are 16 inputs of 4 MiB.
        assert read <= yielded + 17
    results.close()


def test_closing_the_client_ends_a_map_of_items(server_address: str) -> None:
    client = PoolClient(server_address)
    results = client.map(itertools.repeat(np.ones((3, 8, 8), np.float32)), GlobalAvgPool2d(), items=True)
    next(results)
    client.close()
    with pytest.raises(PoolError, match="closed"):
        for _ in results:
            pass

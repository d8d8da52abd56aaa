"""What an editor and mypy know of what comes back. mypy checks the first test; the second runs it."""

import inspect
from pathlib import Path
from typing import Any, assert_type

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray

from poolservice_client import (
    AsyncPoolClient,
    AvgPool2d,
    Execution,
    GlobalAvgPool2d,
    Health,
    MaxPool2d,
    PoolClient,
    PoolReply,
    ServerInfo,
)

X = np.ones((3, 8, 8), np.float32)


def test_the_blocking_client(client: PoolClient, photograph: Path) -> None:
    assert_type(client.pool(X, AvgPool2d(2)), NDArray[Any])
    assert_type(client.pool(photograph, GlobalAvgPool2d(), color_mode="GRAY"), NDArray[Any])
    assert_type(client.pool(X, [AvgPool2d(2), GlobalAvgPool2d()], output="features"), list[NDArray[Any]])
    assert_type(client.pool(X, (AvgPool2d(2),)), list[NDArray[Any]])
    reply = client.pool(X, AvgPool2d(2), execution=True)
    assert_type(reply, PoolReply[NDArray[Any]])
    assert_type(reply.execution, Execution)
    # A layer that may have return_indices gives an array, or a pair to unpack.
    assert_type(client.pool(X, MaxPool2d(2)), NDArray[Any] | Any)
    values, indices = client.pool(X, MaxPool2d(2, return_indices=True))
    assert values.shape == indices.shape
    assert_type(client.pool(X, [MaxPool2d(2), AvgPool2d(2)]), list[NDArray[Any] | Any])
    assert_type(client.pool_image(photograph, MaxPool2d(2)), PIL.Image.Image)
    assert_type(client.pool_image(photograph, [MaxPool2d(2)]), list[PIL.Image.Image])
    assert_type(client.server_info(), ServerInfo)
    assert_type(client.health(), Health)


async def test_the_asyncio_client(server_address: str, photograph: Path) -> None:
    async with AsyncPoolClient(server_address) as client:
        assert_type(await client.pool(X, AvgPool2d(2)), NDArray[Any])
        assert_type(await client.pool(X, [AvgPool2d(2)]), list[NDArray[Any]])
        assert_type(await client.pool(X, AvgPool2d(2), execution=True), PoolReply[NDArray[Any]])
        assert_type(await client.pool_image(photograph, MaxPool2d(2)), PIL.Image.Image)
        assert_type(await client.health(), Health)


def test_maps(client: PoolClient) -> None:
    xs = [X] * 3
    assert_type(next(client.map(xs, AvgPool2d(2))), NDArray[Any])
    assert_type(next(client.map(xs, MaxPool2d(2), ordered=False, on_error="skip")), NDArray[Any] | Any)
    assert_type(next(client.map(xs, [AvgPool2d(2), GlobalAvgPool2d()], output="features")), list[NDArray[Any]])
    assert_type(next(client.map(xs, [AvgPool2d(2), MaxPool2d(2)])), list[NDArray[Any] | Any])
    assert_type(next(client.map(xs, AvgPool2d(2), indexed=True, in_flight=2)), tuple[int, NDArray[Any]])
    assert_type(next(client.map(xs, AvgPool2d(2), returns="torch")), torch.Tensor)
    assert_type(next(client.map(xs, [AvgPool2d(2)], returns="torch")), list[torch.Tensor])
    # In the rarer forms it is for the caller to say what comes.
    assert isinstance(next(client.map(xs, AvgPool2d(2), execution=True, on_error="return")), PoolReply)


async def test_maps_of_the_twin(server_address: str) -> None:
    xs = [X] * 3
    async with AsyncPoolClient(server_address) as client:
        async for a in client.map(xs, AvgPool2d(2)):
            assert_type(a, NDArray[Any])
        async for pair in client.map(xs, [AvgPool2d(2)], indexed=True):
            assert_type(pair, tuple[int, list[NDArray[Any]]])
        async for b in client.map(xs, AvgPool2d(2), returns="torch"):
            assert_type(b, torch.Tensor)


def test_tensors_of_torch(client: PoolClient) -> None:
    assert_type(client.pool(X, AvgPool2d(2), returns="torch"), torch.Tensor)
    assert_type(client.pool(X, [AvgPool2d(2)], returns="torch"), list[torch.Tensor])
    assert_type(client.pool(X, MaxPool2d(2), returns="torch"), torch.Tensor | Any)
    assert_type(client.pool(X, AvgPool2d(2), returns="torch", execution=True), PoolReply[torch.Tensor])


def test_the_twins_take_the_same_arguments_and_say_the_same() -> None:
    public = {name for name in dir(PoolClient) if not name.startswith("_") and callable(getattr(PoolClient, name))}
    assert public == {"pool", "map", "pool_image", "server_info", "health", "stats", "close"}
    # What differs in map is how it is gone through.
    assert list(inspect.signature(PoolClient.map).parameters) == list(inspect.signature(AsyncPoolClient.map).parameters)
    for name in public - {"map"}:
        blocking, awaited = getattr(PoolClient, name), getattr(AsyncPoolClient, name)
        assert inspect.signature(blocking) == inspect.signature(awaited)
        assert inspect.getdoc(blocking) == inspect.getdoc(awaited)
        assert inspect.iscoroutinefunction(awaited) == (name != "stats")
        assert not inspect.iscoroutinefunction(blocking)

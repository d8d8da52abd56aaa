"""The static types of results. mypy checks each assert_type, and running the tests shows that the types are true."""

import inspect
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any, TypeAlias, assert_type

import numpy as np
import PIL.Image
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from poolservice_client import (
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AdaptiveMaxPool3d,
    AsyncPoolClient,
    AvgPool2d,
    Execution,
    GlobalAvgPool2d,
    Health,
    MapItem,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    MinPool1d,
    MinPool2d,
    MinPool3d,
    PoolClient,
    PoolError,
    PoolResponse,
    PoolSpec,
    ServerInfo,
)
from poolservice_client._clients.base import awaited

Array: TypeAlias = NDArray[Any]
ArrayPair: TypeAlias = tuple[Array, Array]
TensorPair: TypeAlias = tuple[Tensor, Tensor]

X = np.ones((3, 8, 8), np.float32)
XS = [X] * 2
AVG = AvgPool2d(2)
PAIR = MaxPool2d(2, return_indices=True)
MIXED: list[PoolSpec] = [AVG, PAIR]


def test_one_spec(client: PoolClient, photograph: Path) -> None:
    assert_type(client.pool(X, AVG), Array)
    assert_type(client.pool(photograph, GlobalAvgPool2d(), color_mode="GRAY"), Array)
    assert_type(client.pool(X, MaxPool2d(2)), Array)
    assert_type(client.pool(X, PAIR), ArrayPair)
    assert_type(client.pool(X, AVG, returns="numpy", execution=False), Array)
    assert_type(client.pool(X, AVG, returns="torch"), Tensor)
    assert_type(client.pool(X, PAIR, returns="torch"), TensorPair)
    assert_type(client.pool(X, AVG, execution=True), PoolResponse[Array])
    assert_type(client.pool(X, PAIR, execution=True), PoolResponse[ArrayPair])
    assert_type(client.pool(X, AVG, execution=True).execution, Execution)
    assert_type(client.pool(X, AVG, returns="torch", execution=True), PoolResponse[Tensor])
    assert_type(client.pool(X, PAIR, returns="torch", execution=True), PoolResponse[TensorPair])


def test_several_specs(client: PoolClient) -> None:
    assert_type(client.pool(X, [AVG, MaxPool2d(2), GlobalAvgPool2d()], output="features"), list[Array])
    assert_type(client.pool(X, (AVG, MaxPool2d(2))), list[Array])
    assert_type(client.pool(X, [PAIR, MinPool2d(2, return_indices=True)]), list[ArrayPair])
    assert_type(client.pool(X, [AVG], execution=True), PoolResponse[list[Array]])
    assert_type(client.pool(X, [AVG], returns="torch"), list[Tensor])
    assert_type(client.pool(X, [PAIR], returns="torch"), list[TensorPair])
    assert_type(client.pool(X, [AVG], returns="torch", execution=True), PoolResponse[list[Tensor]])
    # For specs with different result types, the caller must check each result.
    assert_type(client.pool(X, MIXED), list[Array | Any])
    assert_type(client.pool(X, MIXED, returns="torch"), list[Tensor | Any])
    for mixed in (client.pool(X, [AVG, PAIR]), client.pool(X, (AVG, PAIR))):
        mean, both = mixed
        assert isinstance(both, tuple)
        assert not isinstance(mean, tuple)
        assert mean.shape == both[0].shape


def test_layers_with_return_indices(client: PoolClient) -> None:
    line, volume = X[:, 0], X[None].repeat(3, 0)
    assert_type(client.pool(line, MaxPool1d(2)), Array)
    assert_type(client.pool(line, MinPool1d(2)), Array)
    assert_type(client.pool(line, AdaptiveMaxPool1d(2)), Array)
    assert_type(client.pool(X, MinPool2d(2)), Array)
    assert_type(client.pool(X, AdaptiveMaxPool2d(2)), Array)
    assert_type(client.pool(volume, MaxPool3d(2)), Array)
    assert_type(client.pool(volume, MinPool3d(2)), Array)
    assert_type(client.pool(volume, AdaptiveMaxPool3d(2)), Array)
    assert_type(client.pool(line, MaxPool1d(2, return_indices=True)), ArrayPair)
    assert_type(client.pool(line, MinPool1d(2, return_indices=True)), ArrayPair)
    assert_type(client.pool(line, AdaptiveMaxPool1d(2, return_indices=True)), ArrayPair)
    assert_type(client.pool(X, MinPool2d(2, return_indices=True)), ArrayPair)
    assert_type(client.pool(X, AdaptiveMaxPool2d(2, return_indices=True)), ArrayPair)
    assert_type(client.pool(volume, MaxPool3d(2, return_indices=True)), ArrayPair)
    assert_type(client.pool(volume, MinPool3d(2, return_indices=True)), ArrayPair)
    assert_type(client.pool(volume, AdaptiveMaxPool3d(2, return_indices=True)), ArrayPair)
    # The parameters by position, in torch's order.
    assert_type(client.pool(X, MaxPool2d(2, None, 0, 1, True)), ArrayPair)
    assert_type(client.pool(X, MinPool2d(2, 2, 0, 1, False, True)), Array)
    assert_type(client.pool(X, AdaptiveMaxPool2d((2, None), True)), ArrayPair)


@pytest.mark.parametrize("flag", [False, True])
def test_arguments_known_only_at_run_time(client: PoolClient, flag: bool) -> None:
    assert_type(client.pool(X, MaxPool2d(2, return_indices=flag)), Array | Any)
    assert_type(client.pool(X, AdaptiveMaxPool2d(2, flag), returns="torch"), Tensor | Any)
    assert_type(client.pool(X, AVG, execution=flag), Any)
    # A layer's class or PoolSpec as an annotation leaves the result type open.
    layers: dict[str, MaxPool2d] = {"values": MaxPool2d(2), "both": PAIR}
    specs: list[PoolSpec] = [AVG, PAIR]
    assert_type(client.pool(X, layers["values"]), Array | Any)
    assert_type(client.pool(X, specs[0]), Array | Any)
    assert_type(client.pool(X, specs), list[Array | Any])


def test_images_server_info_and_health(client: PoolClient, photograph: Path) -> None:
    assert_type(client.pool_image(photograph, MaxPool2d(2)), PIL.Image.Image)
    assert_type(client.pool_image(photograph, [MaxPool2d(2)]), list[PIL.Image.Image])
    assert_type(client.server_info(), ServerInfo)
    assert_type(client.health(), Health)


async def test_the_asyncio_client(server_address: str, photograph: Path) -> None:
    async with AsyncPoolClient(server_address) as client:
        assert_type(await client.pool(X, MaxPool2d(2)), Array)
        assert_type(await client.pool(X, PAIR), ArrayPair)
        assert_type(await client.pool(X, AVG, returns="torch"), Tensor)
        assert_type(await client.pool(X, PAIR, execution=True), PoolResponse[ArrayPair])
        assert_type(await client.pool(X, PAIR, returns="torch", execution=True), PoolResponse[TensorPair])
        assert_type(await client.pool(X, [AVG, MaxPool2d(2)]), list[Array])
        assert_type(await client.pool(X, [AVG], returns="torch"), list[Tensor])
        assert_type(await client.pool(X, [PAIR], execution=True), PoolResponse[list[ArrayPair]])
        assert_type(await client.pool(X, [AVG], returns="torch", execution=True), PoolResponse[list[Tensor]])
        assert_type(await client.pool(X, MIXED), list[Array | Any])
        assert_type(await client.pool_image(photograph, MaxPool2d(2)), PIL.Image.Image)
        assert_type(await client.health(), Health)


def test_maps(client: PoolClient) -> None:
    assert_type(client.map(XS, AVG), Generator[Array, None, None])
    assert_type(next(client.map(XS, MaxPool2d(2), ordered=False, on_error="skip")), Array)
    assert_type(next(client.map(XS, PAIR, items=False, in_flight=2)), ArrayPair)
    assert_type(next(client.map(XS, [AVG, MaxPool2d(2)], output="features")), list[Array])
    assert_type(next(client.map(XS, (PAIR,), on_error="raise")), list[ArrayPair])
    assert_type(next(client.map(XS, MIXED)), list[Array | Any])


def test_maps_of_items(client: PoolClient) -> None:
    assert_type(client.map(XS, AVG, items=True), Generator[MapItem[Array], None, None])
    assert_type(next(client.map(XS, PAIR, items=True, ordered=False)), MapItem[ArrayPair])
    assert_type(next(client.map(XS, [AVG, MaxPool2d(2)], items=True)), MapItem[list[Array]])
    assert_type(next(client.map(XS, [PAIR], items=True)), MapItem[list[ArrayPair]])
    assert_type(next(client.map(XS, MIXED, items=True)), MapItem[list[Array | Any]])
    item = next(client.map(XS, AVG, items=True))
    assert_type(item.index, int)
    assert_type(item.result, Array | None)
    assert_type(item.error, PoolError | None)
    assert_type(item.execution, Execution | None)
    assert item.result is not None
    assert_type(item.result, Array)


def test_maps_to_torch(client: PoolClient) -> None:
    one = next(client.map(XS, AVG, returns="torch"))
    assert_type(one, Tensor)
    assert isinstance(one, torch.Tensor)
    assert_type(next(client.map(XS, PAIR, returns="torch", on_error="skip")), TensorPair)
    assert_type(next(client.map(XS, [AVG], returns="torch")), list[Tensor])
    assert_type(next(client.map(XS, [PAIR], returns="torch")), list[TensorPair])
    assert_type(next(client.map(XS, AVG, returns="torch", items=True)), MapItem[Tensor])
    assert_type(next(client.map(XS, PAIR, returns="torch", items=True)), MapItem[TensorPair])
    assert_type(next(client.map(XS, [AVG], returns="torch", items=True)), MapItem[list[Tensor]])
    assert_type(next(client.map(XS, [PAIR], returns="torch", items=True)), MapItem[list[TensorPair]])


def test_maps_of_every_input_type(client: PoolClient, photograph: Path) -> None:
    image = PIL.Image.open(photograph)
    assert_type(next(client.map([photograph, str(photograph)], AVG)), Array)
    assert_type(next(client.map(iter([photograph.read_bytes()]), AVG, items=True)), MapItem[Array])
    assert_type(next(client.map((image,), AVG)), Array)
    assert_type(next(client.map([torch.ones(3, 8, 8)], AVG)), Array)
    assert_type(next(client.map([X.tolist()], AVG)), Array)


async def test_maps_of_the_asyncio_client(server_address: str) -> None:
    async with AsyncPoolClient(server_address) as client:
        async for pair in client.map(XS, PAIR):
            assert_type(pair, ArrayPair)
        assert_type(client.map(XS, MaxPool2d(2)), AsyncGenerator[Array, None])
        assert_type(client.map(XS, [AVG], on_error="skip"), AsyncGenerator[list[Array], None])
        assert_type(client.map(XS, AVG, returns="torch"), AsyncGenerator[Tensor, None])
        assert_type(client.map(XS, [AVG], returns="torch"), AsyncGenerator[list[Tensor], None])
        assert_type(client.map(XS, MIXED), AsyncGenerator[list[Array | Any], None])
        assert_type(client.map(XS, AVG, items=True), AsyncGenerator[MapItem[Array], None])
        assert_type(client.map(XS, [PAIR], items=True), AsyncGenerator[MapItem[list[ArrayPair]], None])
        assert_type(client.map(XS, [AVG], returns="torch", items=True), AsyncGenerator[MapItem[list[Tensor]], None])
        assert_type(client.map(XS, MIXED, items=True), AsyncGenerator[MapItem[list[Array | Any]], None])
        items = client.map(XS, PAIR, returns="torch", items=True)
        assert_type(items, AsyncGenerator[MapItem[TensorPair], None])
        async for item in items:
            assert item.index in (0, 1)
            assert item.result is not None
            assert_type(item.result, TensorPair)


@pytest.mark.parametrize("items", [False, True])
def test_maps_whose_form_is_known_at_run_time_only(client: PoolClient, items: bool) -> None:
    assert_type(next(client.map(XS, AVG, items=items)), Any)
    assert_type(next(client.map(XS, MaxPool2d(2, return_indices=items))), Array | Any)


def test_both_clients_have_the_same_signatures_and_docstrings() -> None:
    public = {name for name in dir(PoolClient) if not name.startswith("_") and callable(getattr(PoolClient, name))}
    assert public == {"pool", "map", "pool_image", "explain", "server_info", "health", "stats", "close"}
    # The docstrings and annotations of map differ: one returns a generator, the other an asynchronous generator.
    assert list(inspect.signature(PoolClient.map).parameters) == list(inspect.signature(AsyncPoolClient.map).parameters)
    for name in public - {"map"}:
        blocking, asynchronous = getattr(PoolClient, name), getattr(AsyncPoolClient, name)
        assert inspect.signature(blocking) == inspect.signature(asynchronous)
        assert awaited(inspect.getdoc(blocking) or "") == inspect.getdoc(asynchronous)
        assert inspect.iscoroutinefunction(asynchronous) == (name != "stats")
        assert not inspect.iscoroutinefunction(blocking)

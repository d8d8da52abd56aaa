"""Calls of a real server with a tiny backbone, compared with the same network in numpy."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pytest
from tests.backbones.models import TinyBackbone
from tests.client.reference_network import NAME, assert_close, outputs, png, sample

from poolservice_client import (
    AdaptiveAvgPool2d,
    AsyncPoolClient,
    BackboneOutputInfo,
    GlobalAvgPool2d,
    InvalidRequest,
    MaxPool2d,
    PoolClient,
    PoolError,
)


class Case(NamedTuple):
    """A call, and its result.

    Attributes:
        specs: the specs.
        options: the keywords of `pool`, without the backbone.
        expected: returns the result from the outputs of the network.
    """

    specs: Any
    options: dict[str, Any]
    expected: Callable[[dict[str, np.ndarray]], Any]


def unit(vector: np.ndarray) -> np.ndarray:
    length: np.ndarray = vector / np.linalg.norm(vector)
    return length


CASES = {
    "the feature map": Case(None, {}, lambda out: out["features"]),
    "a vector": Case(None, {"tap": "embedding"}, lambda out: out["embedding"]),
    "a projection": Case(None, {"tap": "projected", "output": "features"}, lambda out: out["projected"]),
    "tokens": Case(None, {"tap": "tokens"}, lambda out: out["features"]),
    "one spec": Case(GlobalAvgPool2d(), {}, lambda out: out["features"].mean((1, 2), keepdims=True)),
    "a feature": Case(GlobalAvgPool2d(), {"output": "features", "normalize": True}, lambda out: unit(out["embedding"])),
    "two specs": Case(
        [MaxPool2d(8), AdaptiveAvgPool2d(2)],
        {},
        lambda out: [
            out["features"].max((1, 2), keepdims=True),
            out["features"].reshape(16, 2, 4, 2, 4).mean((2, 4)),
        ],
    ),
    "an empty list": Case([], {"tap": "embedding"}, lambda out: [out["embedding"]]),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("kind", ["image", "tensor", "batch"])
def test_results_equal_those_of_the_network(
    backbone_client: PoolClient, mobilenetv2: TinyBackbone, case: Case, kind: str
) -> None:
    expected = case.expected(outputs(mobilenetv2, 3))
    if kind == "image":
        result: Any = backbone_client.pool(png(3), case.specs, backbone=NAME, **case.options)
    elif kind == "tensor":
        result = backbone_client.pool(sample(mobilenetv2, 3), case.specs, backbone=NAME, **case.options)
    else:
        x = np.stack([sample(mobilenetv2, seed) for seed in (2, 3)])
        result = backbone_client.pool(x, case.specs, backbone=NAME, **case.options)
        result = [one[1] for one in result] if isinstance(result, list) else result[1]
    _assert_equal(result, expected)


def _assert_equal(result: Any, expected: Any) -> None:
    if isinstance(expected, list):
        assert isinstance(result, list)
        for one, expected_one in zip(result, expected, strict=True):
            _assert_equal(one, expected_one)
    else:
        assert result.dtype == np.float32
        assert result.flags.writeable
        assert_close(result, expected)


async def test_many_different_calls_at_once_get_their_own_results(
    backbone_address: str, mobilenetv2: TinyBackbone
) -> None:
    cases = list(CASES.values())

    async def call(client: AsyncPoolClient, seed: int) -> None:
        case = cases[seed % len(cases)]
        x = png(seed) if seed % 3 else sample(mobilenetv2, seed)
        result = await client.pool(x, case.specs, backbone=NAME, **case.options)
        _assert_equal(result, case.expected(outputs(mobilenetv2, seed)))

    async def wrong(client: AsyncPoolClient) -> None:
        with pytest.raises(InvalidRequest):
            await client.pool(b"no image", backbone=NAME)

    async with AsyncPoolClient(backbone_address) as client:
        # The client coalesces the calls of a backbone once it knows that it is fast.
        await asyncio.gather(*(call(client, seed) for seed in range(len(cases))))
        await asyncio.gather(*(call(client, seed) for seed in range(64)), *(wrong(client) for _ in range(8)))
        assert client.stats().coalesced_calls > 0


def test_many_threads_get_their_own_results(backbone_client: PoolClient, mobilenetv2: TinyBackbone) -> None:
    def call(seed: int) -> None:
        result = backbone_client.pool(png(seed), backbone=NAME, tap="whitened")
        assert_close(result, outputs(mobilenetv2, seed)["whitened"])

    call(0)
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(call, range(64)))
    assert backbone_client.stats().coalesced_calls > 0


async def test_a_cancelled_call_does_not_affect_the_others(backbone_address: str, mobilenetv2: TinyBackbone) -> None:
    async with AsyncPoolClient(backbone_address) as client:
        tasks = [asyncio.create_task(client.pool(png(seed), backbone=NAME, tap="embedding")) for seed in range(24)]
        # One turn of the event loop, in which the calls start.
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for seed, result in enumerate(results):
        if seed % 2 == 0:
            assert isinstance(result, asyncio.CancelledError)
        else:
            assert isinstance(result, np.ndarray)
            assert_close(result, outputs(mobilenetv2, seed)["embedding"])


def test_a_map_of_different_inputs(backbone_client: PoolClient, mobilenetv2: TinyBackbone) -> None:
    inputs: list[Any] = [png(seed) if seed % 2 else sample(mobilenetv2, seed) for seed in range(40)]
    inputs[7] = b"no image"
    inputs[12] = np.zeros((3, 31, 32), np.float32)
    items = list(backbone_client.map(inputs, GlobalAvgPool2d(), backbone=NAME, output="features", items=True))
    assert [item.index for item in items if item.error is not None] == [7, 12]
    for seed, item in enumerate(items):
        if item.result is not None:
            assert_close(item.result, outputs(mobilenetv2, seed)["embedding"])
    fingerprints = {item.execution.backbone_fingerprint for item in items if item.execution is not None}
    assert fingerprints == {backbone_client.server_info().backbones[0].fingerprint}


async def test_a_map_of_the_asyncio_client(backbone_address: str, mobilenetv2: TinyBackbone) -> None:
    async with AsyncPoolClient(backbone_address) as client:
        seed = 0
        async for vector in client.map(map(png, range(20)), backbone=NAME, tap="embedding"):
            assert_close(vector, outputs(mobilenetv2, seed)["embedding"])
            seed += 1
    assert seed == 20


def test_the_execution_of_a_backbone(backbone_client: PoolClient) -> None:
    execution = backbone_client.pool(png(1), backbone=NAME, execution=True).execution
    assert execution.device == "cpu"
    assert execution.batch_size == 1
    assert 0 < execution.backbone_microseconds <= execution.compute_microseconds
    assert len(execution.backbone_fingerprint) == 32
    plain = backbone_client.pool(png(1), GlobalAvgPool2d(), execution=True).execution
    assert (plain.preprocess_microseconds, plain.backbone_microseconds, plain.backbone_fingerprint) == (0, 0, "")


def test_the_server_describes_its_backbone(backbone_client: PoolClient) -> None:
    (backbone,) = backbone_client.server_info().backbones
    assert (backbone.name, backbone.state, backbone.reason) == (NAME, "SERVING", "")
    assert backbone.input_shape == (3, 32, 32)
    assert backbone.default_output == "features"
    assert BackboneOutputInfo("features", "FEATURE_MAP", (16, 8, 8)) in backbone.outputs
    assert BackboneOutputInfo("embedding", "VECTOR", (16,)) in backbone.outputs
    assert backbone.labels == ("tench", "goldfish", "brambling", "magpie", "tabby")
    assert {one.name for one in backbone.preprocessing} >= {"resize", "mean", "std"}
    assert len(backbone.fingerprint) == 32
    assert backbone.seconds > 0
    assert backbone.engines


@pytest.mark.parametrize(
    ("x", "options", "field", "words"),
    [
        (png(1), {"backbone": "resnet"}, "backbone", ["resnet", NAME]),
        (png(1), {"tap": "stage9"}, "tap", ["stage9", "features", "embedding"]),
        (png(1), {"tap": "embedding", "specs": GlobalAvgPool2d()}, "specs", ["vector"]),
        (np.zeros((3, 31, 32), np.float32), {}, "x.shape", ["32"]),
        (b"no image", {}, "x", []),
    ],
    ids=["backbone", "tap", "specs", "shape", "image"],
)
def test_the_server_says_what_is_wrong_in_the_terms_of_the_client(
    backbone_client: PoolClient, x: Any, options: dict[str, Any], field: str, words: list[str]
) -> None:
    with pytest.raises(InvalidRequest) as raised:
        backbone_client.pool(x, **{"specs": None, "backbone": NAME, **options})
    assert raised.value.field.startswith(field)
    for word in words:
        assert word in raised.value.reason


def test_a_server_without_backbones_says_so(client: PoolClient) -> None:
    assert client.server_info().backbones == ()
    for call in (
        lambda: client.pool(png(1), backbone=NAME),
        lambda: client.explain(png(1), backbone=NAME),
        lambda: client.explain(png(1), backbone=NAME, classes=["cat"]),
    ):
        with pytest.raises(PoolError, match="backbone") as raised:
            call()
        assert isinstance(raised.value, InvalidRequest)
        assert raised.value.field == "backbone"

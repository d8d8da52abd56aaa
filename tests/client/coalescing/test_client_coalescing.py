"""Coalesced calls of threads to a real server: each gets its own result, equal to that of an uncoalesced call."""

import io
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from poolservice_client import (
    AvgPool1d,
    AvgPool2d,
    GlobalAvgPool2d,
    GlobalMaxPool3d,
    InvalidRequest,
    MaxPool2d,
    MinPool2d,
    PoolClient,
    PoolSpec,
)
from poolservice_client._coalescing import limits
from poolservice_client._transport.cancellation import Cancellation

POOL_BATCH = "/poolservice.v1.PoolService/PoolBatch"
RANDOM = np.random.default_rng(10)


class HoldingTransport:
    """A transport to a real server that records every message and holds the first one until it is released."""

    def __init__(self, address: str) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.released = threading.Event()
        self.first_sent = threading.Event()
        self._channel = grpc.insecure_channel(address)

    def call(
        self,
        method: str,
        request: bytes,
        timeout: float | None,
        cancellation: Cancellation | None = None,
        partial_retry: object = None,
        traces: object = None,
    ) -> bytes:
        is_first = not self.sent
        self.sent.append((method, request))
        if is_first:
            self.first_sent.set()
            assert self.released.wait(60)
        multicallable: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(method)
        try:
            response: bytes = multicallable(request, timeout=timeout)
        except grpc.RpcError as error:
            raise InvalidRequest(str(error)) from None
        return response

    def close(self) -> None:
        self._channel.close()


@pytest.fixture
def transport(server_address: str) -> HoldingTransport:
    return HoldingTransport(server_address)


@pytest.fixture
def long_max_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets calls wait for as long as it takes to start their threads."""
    monkeypatch.setattr(limits, "MAX_WAIT_SECONDS", 60.0)
    monkeypatch.setattr(limits, "OVERLAP_SECONDS", 60.0)


Coalesce = Callable[[list[Callable[[PoolClient], Any]]], list[Any]]
WatchWaiting = Callable[[PoolClient], Callable[[int], None]]


@pytest.fixture
def holding_client(transport: HoldingTransport) -> Iterator[PoolClient]:
    with PoolClient(transport=transport) as client:
        yield client


@pytest.fixture
def coalesce(
    holding_client: PoolClient, transport: HoldingTransport, watch_waiting: WatchWaiting, long_max_wait: None
) -> Iterator[Coalesce]:
    """Makes calls, all but the first of them in one message, and returns their results or errors."""
    until_waiting = watch_waiting(holding_client)
    with ThreadPoolExecutor(128) as threads:

        def make(calls: list[Callable[[PoolClient], Any]]) -> list[Any]:
            futures: list[Future[Any]] = [threads.submit(calls[0], holding_client)]
            assert transport.first_sent.wait(30)
            futures += [threads.submit(call, holding_client) for call in calls[1:]]
            until_waiting(len(calls) - 1)
            transport.released.set()
            return [future.exception(60) or future.result() for future in futures]

        yield make
        # After a failed test, no thread must remain blocked.
        transport.released.set()


def pool_call(x: Any, specs: Any, **options: Any) -> Callable[[PoolClient], Any]:
    return lambda client: client.pool(x, specs, **options)


def test_calls_of_equal_shape_and_specs_are_stacked(
    coalesce: Coalesce, transport: HoldingTransport, holding_client: PoolClient
) -> None:
    xs = [RANDOM.standard_normal((3, 8, 6)).astype(np.float32) for _ in range(40)]
    results = coalesce([pool_call(x, MaxPool2d(2), execution=True) for x in xs])
    assert [method for method, _ in transport.sent] == ["/poolservice.v1.PoolService/Pool"] * 2
    for x, (y, _) in zip(xs, results, strict=True):
        np.testing.assert_array_equal(y, F.max_pool2d(torch.from_numpy(x), 2).numpy(), strict=True)
        assert y.flags.owndata
        assert y.flags.writeable
    stats = holding_client.stats()
    assert (stats.coalesced_calls, stats.coalesced_messages) == (39, 1)
    assert [execution.batch_size for _, execution in results] == [1] + [39] * 39
    assert all(execution.device == "cpu" for _, execution in results)


CASES: list[tuple[str, tuple[int, ...], str, PoolSpec | list[PoolSpec], dict[str, Any]]] = [
    ("indices", (3, 8, 6), "float32", MaxPool2d(2, return_indices=True), {}),
    ("batched", (4, 3, 8, 6), "float32", AvgPool2d(3, stride=2), {}),
    ("batch of one", (1, 3, 8, 6), "float32", MinPool2d(2, return_indices=True), {}),
    ("several specs", (3, 8, 6), "float64", [AvgPool2d(2), MaxPool2d(2, return_indices=True), GlobalAvgPool2d()], {}),
    ("integers", (3, 8, 6), "uint8", GlobalAvgPool2d(), {}),
    ("signed", (2, 9), "int16", AvgPool1d(2), {}),
    ("halved", (3, 8, 6), "float32", AvgPool2d(2), {"dtype": "float16"}),
    ("three dimensions", (2, 3, 4, 5), "float16", GlobalMaxPool3d(), {}),
    ("features", (7, 8, 6), "float32", GlobalAvgPool2d(), {"output": "features", "normalize": True}),
    ("features of batches", (2, 7, 8, 6), "float32", MaxPool2d(3), {"output": "features", "normalize": True}),
    ("long features", (40, 8, 6), "float32", MaxPool2d(1), {"output": "features", "normalize": True}),
]


@pytest.mark.parametrize(
    ("shape", "dtype", "specs", "options"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_coalesced_results_are_bitwise_equal(
    coalesce: Coalesce,
    transport: HoldingTransport,
    client: PoolClient,
    shape: Any,
    dtype: str,
    specs: Any,
    options: Any,
) -> None:
    xs = [(RANDOM.standard_normal(shape) * 50).astype(dtype) for _ in range(9)]
    xs[3].flat[1] = 0
    if np.issubdtype(dtype, np.floating):
        xs[4].flat[2], xs[5].flat[3] = np.nan, np.inf
    results = coalesce([pool_call(x, specs, **options) for x in xs])
    assert len(transport.sent) == 2
    for x, y in zip(xs, results, strict=True):
        for array, expected in zip(arrays_in(y), arrays_in(client.pool(x, specs, **options)), strict=True):
            np.testing.assert_array_equal(array, expected, strict=True)


def arrays_in(result: Any) -> list[NDArray[Any]]:
    """Return the arrays in a result of any form."""
    return [result] if isinstance(result, np.ndarray) else [array for part in result for array in arrays_in(part)]


def test_calls_of_different_shapes_form_a_batch(coalesce: Coalesce, transport: HoldingTransport) -> None:
    calls, expected = [], []
    for number in range(30):
        x = RANDOM.standard_normal((2 + number % 3, 8, 6 + 2 * (number % 2))).astype(np.float32)
        spec = AvgPool2d(2) if number % 5 else MaxPool2d(2)
        calls.append(pool_call(x, spec))
        pool = F.avg_pool2d if number % 5 else F.max_pool2d
        expected.append(pool(torch.from_numpy(x), 2).numpy())
    results = coalesce(calls)
    assert [method for method, _ in transport.sent][1:] == [POOL_BATCH]
    for y, expected_y in zip(results, expected, strict=True):
        np.testing.assert_allclose(y, expected_y, rtol=1e-6, strict=True)


def test_small_images_form_a_batch(
    coalesce: Coalesce, transport: HoldingTransport, client: PoolClient, small_images: list[bytes]
) -> None:
    results = coalesce([pool_call(file, GlobalAvgPool2d(), execution=True) for file in small_images])
    assert [method for method, _ in transport.sent][1:] == [POOL_BATCH]
    for file, (y, execution) in zip(small_images, results, strict=True):
        np.testing.assert_array_equal(y, client.pool(file, GlobalAvgPool2d()), strict=True)
        assert execution.decode_microseconds > 0


@pytest.fixture
def small_images(photograph: Path) -> list[bytes]:
    files = []
    with Image.open(photograph) as image:
        for number in range(8):
            file = io.BytesIO()
            image.crop((number * 20, 0, number * 20 + 60, 50)).save(file, "JPEG")
            files.append(file.getvalue())
    return files


def test_an_error_affects_its_call_only(coalesce: Coalesce, client: PoolClient) -> None:
    too_small, good = np.ones((1, 2, 2), np.float32), np.ones((1, 8, 8), np.float32)
    results = coalesce(
        [pool_call(good, MaxPool2d(4)), *(pool_call(too_small if n == 7 else good, MaxPool2d(4)) for n in range(20))]
    )
    assert isinstance(results[8], InvalidRequest)
    for y in results[:8] + results[9:]:
        np.testing.assert_array_equal(y, np.ones((1, 2, 2), np.float32), strict=True)
    with pytest.raises(InvalidRequest) as raised:
        client.pool(too_small, MaxPool2d(4))
    assert str(results[8]) == str(raised.value)


def test_each_of_several_invalid_calls_gets_its_own_error(coalesce: Coalesce, client: PoolClient) -> None:
    too_small = np.ones((1, 2, 2), np.float32)
    results = coalesce(
        [pool_call(np.ones((1, 8, 8), np.float32), MaxPool2d(4)), *([pool_call(too_small, MaxPool2d(4))] * 10)]
    )
    assert all(isinstance(result, InvalidRequest) for result in results[1:])
    assert len(set(map(id, results[1:]))) == 10


def test_large_calls_are_not_coalesced(transport: HoldingTransport) -> None:
    transport.released.set()
    x = RANDOM.random((64, 32, 32)).astype(np.float32)
    with PoolClient(transport=transport) as client, ThreadPoolExecutor(16) as threads:
        for y in threads.map(lambda _: client.pool(x, MaxPool2d(2)), range(32)):
            np.testing.assert_array_equal(y, F.max_pool2d(torch.from_numpy(x), 2).numpy())
    assert len(transport.sent) == 32


def test_coalescing_can_be_turned_off(transport: HoldingTransport) -> None:
    transport.released.set()
    x = RANDOM.random((2, 4, 4)).astype(np.float32)
    with PoolClient(transport=transport, coalesce=False) as client, ThreadPoolExecutor(16) as threads:
        for y in threads.map(lambda _: client.pool(x, MaxPool2d(2)), range(64)):
            np.testing.assert_array_equal(y, F.max_pool2d(torch.from_numpy(x), 2).numpy())
    assert len(transport.sent) == 64


def test_64_threads_with_mixed_shapes_and_specs(client: PoolClient) -> None:
    def check(number: int) -> None:
        x = np.random.default_rng(number).standard_normal((3, 6 + 2 * (number % 3), 8)).astype(np.float32)
        tensor = torch.from_numpy(x)
        if number % 4 == 0:
            y, indices = client.pool(x, MaxPool2d(2, return_indices=True))
            expected, expected_indices = F.max_pool2d(tensor, 2, return_indices=True)
            np.testing.assert_array_equal(y, expected.numpy(), strict=True)
            np.testing.assert_array_equal(indices, expected_indices.numpy(), strict=True)
        elif number % 4 == 1:
            batch = np.stack([x, x + 1])
            expected = F.avg_pool2d(torch.from_numpy(batch), 2)
            np.testing.assert_allclose(
                client.pool(batch, AvgPool2d(2)), expected.numpy(), rtol=1e-5, atol=1e-6, strict=True
            )
        elif number % 4 == 2:
            mean, high = client.pool(x, [GlobalAvgPool2d(), MaxPool2d(2)])
            np.testing.assert_allclose(mean[:, 0, 0], x.mean((1, 2)), rtol=1e-4, atol=1e-6)
            np.testing.assert_array_equal(high, F.max_pool2d(tensor, 2).numpy(), strict=True)
        else:
            vector = client.pool(x, GlobalAvgPool2d(), output="features", normalize=True)
            mean = x.astype(np.float64).mean((1, 2))
            np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), rtol=1e-4, atol=1e-6)

    with ThreadPoolExecutor(64) as threads:
        list(threads.map(check, range(2000)))
    assert client.stats().coalesced_calls > 0

"""Small calls of many threads on one client: they travel together, and each has its own answer."""

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

BATCH = "/poolservice.v1.PoolService/PoolBatch"
RANDOM = np.random.default_rng(10)


class Gate:
    """A transport to a real server that holds the first message up until it is opened, and notes every message."""

    def __init__(self, address: str) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.opened = threading.Event()
        self.arrived = threading.Event()
        self._channel = grpc.insecure_channel(address)

    def call(
        self, method: str, request: bytes, timeout: float | None, cancellation: Cancellation | None = None
    ) -> bytes:
        first = not self.sent
        self.sent.append((method, request))
        if first:
            self.arrived.set()
            assert self.opened.wait(60)
        ask: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(method)
        try:
            answer: bytes = ask(request, timeout=timeout)
        except grpc.RpcError as error:
            raise InvalidRequest(str(error)) from None
        return answer

    def close(self) -> None:
        self._channel.close()


@pytest.fixture
def gate(server_address: str) -> Gate:
    return Gate(server_address)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a test gather calls for as long as it takes to start their threads."""
    monkeypatch.setattr(limits, "MAX_WAIT_SECONDS", 60.0)


Together = Callable[[list[Callable[[PoolClient], Any]]], list[Any]]
Watch = Callable[[PoolClient], Callable[[int], None]]


@pytest.fixture
def gated(gate: Gate) -> Iterator[PoolClient]:
    with PoolClient(transport=gate) as client:
        yield client


@pytest.fixture
def together(gated: PoolClient, gate: Gate, watch: Watch, patient: None) -> Iterator[Together]:
    """Makes calls of which all but the first wait until each of them is there; their outcomes, errors among them."""
    until_waiting = watch(gated)
    with ThreadPoolExecutor(128) as threads:

        def make(calls: list[Callable[[PoolClient], Any]]) -> list[Any]:
            futures: list[Future[Any]] = [threads.submit(calls[0], gated)]
            assert gate.arrived.wait(30)
            futures += [threads.submit(call, gated) for call in calls[1:]]
            until_waiting(len(calls) - 1)
            gate.opened.set()
            return [future.exception(60) or future.result() for future in futures]

        yield make
        # A test that failed leaves no thread behind.
        gate.opened.set()


def pooling(x: Any, specs: Any, **options: Any) -> Callable[[PoolClient], Any]:
    return lambda client: client.pool(x, specs, **options)


def test_equal_calls_travel_as_one_tensor(together: Together, gate: Gate, gated: PoolClient) -> None:
    xs = [RANDOM.standard_normal((3, 8, 6)).astype(np.float32) for _ in range(40)]
    answers = together([pooling(x, MaxPool2d(2), execution=True) for x in xs])
    assert [method for method, _ in gate.sent] == ["/poolservice.v1.PoolService/Pool"] * 2
    for x, (y, _) in zip(xs, answers, strict=True):
        np.testing.assert_array_equal(y, F.max_pool2d(torch.from_numpy(x), 2).numpy(), strict=True)
        assert y.flags.owndata
        assert y.flags.writeable
    stats = gated.stats()
    assert (stats.coalesced_calls, stats.coalesced_messages) == (39, 1)
    assert [execution.batch_size for _, execution in answers] == [1] + [39] * 39
    assert all(execution.device == "cpu" for _, execution in answers)


KINDS: list[tuple[str, tuple[int, ...], str, PoolSpec | list[PoolSpec], dict[str, Any]]] = [
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
    ("shape", "dtype", "specs", "options"), [kind[1:] for kind in KINDS], ids=[k[0] for k in KINDS]
)
def test_company_changes_no_bit_of_an_answer(
    together: Together, gate: Gate, client: PoolClient, shape: Any, dtype: str, specs: Any, options: Any
) -> None:
    xs = [(RANDOM.standard_normal(shape) * 50).astype(dtype) for _ in range(9)]
    xs[3].flat[1] = 0
    if np.issubdtype(dtype, np.floating):
        xs[4].flat[2], xs[5].flat[3] = np.nan, np.inf
    answers = together([pooling(x, specs, **options) for x in xs])
    assert len(gate.sent) == 2
    for x, y in zip(xs, answers, strict=True):
        for one, alone in zip(flat(y), flat(client.pool(x, specs, **options)), strict=True):
            np.testing.assert_array_equal(one, alone, strict=True)


def flat(answer: Any) -> list[NDArray[Any]]:
    """The arrays of an answer, whatever its form."""
    return [answer] if isinstance(answer, np.ndarray) else [array for part in answer for array in flat(part)]


def test_unequal_calls_travel_side_by_side(together: Together, gate: Gate) -> None:
    calls, expected = [], []
    for number in range(30):
        x = RANDOM.standard_normal((2 + number % 3, 8, 6 + 2 * (number % 2))).astype(np.float32)
        spec = AvgPool2d(2) if number % 5 else MaxPool2d(2)
        calls.append(pooling(x, spec))
        pool = F.avg_pool2d if number % 5 else F.max_pool2d
        expected.append(pool(torch.from_numpy(x), 2).numpy())
    answers = together(calls)
    assert [method for method, _ in gate.sent][1:] == [BATCH]
    for y, right in zip(answers, expected, strict=True):
        np.testing.assert_allclose(y, right, rtol=1e-6, strict=True)


def test_small_pictures_travel_side_by_side(
    together: Together, gate: Gate, client: PoolClient, small_pictures: list[bytes]
) -> None:
    answers = together([pooling(file, GlobalAvgPool2d(), execution=True) for file in small_pictures])
    assert [method for method, _ in gate.sent][1:] == [BATCH]
    for file, (y, execution) in zip(small_pictures, answers, strict=True):
        np.testing.assert_array_equal(y, client.pool(file, GlobalAvgPool2d()), strict=True)
        assert execution.decode_microseconds > 0


@pytest.fixture
def small_pictures(photograph: Path) -> list[bytes]:
    files = []
    with Image.open(photograph) as picture:
        for number in range(8):
            file = io.BytesIO()
            picture.crop((number * 20, 0, number * 20 + 60, 50)).save(file, "JPEG")
            files.append(file.getvalue())
    return files


def test_an_error_is_that_calls_alone(together: Together, client: PoolClient) -> None:
    bad, good = np.ones((1, 2, 2), np.float32), np.ones((1, 8, 8), np.float32)
    answers = together(
        [pooling(good, MaxPool2d(4)), *(pooling(bad if n == 7 else good, MaxPool2d(4)) for n in range(20))]
    )
    assert isinstance(answers[8], InvalidRequest)
    for y in answers[:8] + answers[9:]:
        np.testing.assert_array_equal(y, np.ones((1, 2, 2), np.float32), strict=True)
    with pytest.raises(InvalidRequest) as alone:
        client.pool(bad, MaxPool2d(4))
    assert str(answers[8]) == str(alone.value)


def test_calls_that_are_all_refused_are_each_told_of_themselves(together: Together, client: PoolClient) -> None:
    bad = np.ones((1, 2, 2), np.float32)
    answers = together([pooling(np.ones((1, 8, 8), np.float32), MaxPool2d(4)), *([pooling(bad, MaxPool2d(4))] * 10)])
    assert all(isinstance(answer, InvalidRequest) for answer in answers[1:])
    assert len(set(map(id, answers[1:]))) == 10


def test_large_calls_go_on_their_own(gate: Gate) -> None:
    gate.opened.set()
    x = RANDOM.random((64, 32, 32)).astype(np.float32)
    with PoolClient(transport=gate) as client, ThreadPoolExecutor(16) as threads:
        for y in threads.map(lambda _: client.pool(x, MaxPool2d(2)), range(32)):
            np.testing.assert_array_equal(y, F.max_pool2d(torch.from_numpy(x), 2).numpy())
    assert len(gate.sent) == 32


def test_it_is_turned_off(gate: Gate) -> None:
    gate.opened.set()
    x = RANDOM.random((2, 4, 4)).astype(np.float32)
    with PoolClient(transport=gate, coalesce=False) as client, ThreadPoolExecutor(16) as threads:
        for y in threads.map(lambda _: client.pool(x, MaxPool2d(2)), range(64)):
            np.testing.assert_array_equal(y, F.max_pool2d(torch.from_numpy(x), 2).numpy())
    assert len(gate.sent) == 64


def test_sixty_four_threads_with_mixed_shapes_and_specs(client: PoolClient) -> None:
    def one(number: int) -> None:
        x = np.random.default_rng(number).standard_normal((3, 6 + 2 * (number % 3), 8)).astype(np.float32)
        there = torch.from_numpy(x)
        if number % 4 == 0:
            y, indices = client.pool(x, MaxPool2d(2, return_indices=True))
            right, at = F.max_pool2d(there, 2, return_indices=True)
            np.testing.assert_array_equal(y, right.numpy(), strict=True)
            np.testing.assert_array_equal(indices, at.numpy(), strict=True)
        elif number % 4 == 1:
            batch = np.stack([x, x + 1])
            right = F.avg_pool2d(torch.from_numpy(batch), 2)
            np.testing.assert_allclose(
                client.pool(batch, AvgPool2d(2)), right.numpy(), rtol=1e-5, atol=1e-6, strict=True
            )
        elif number % 4 == 2:
            mean, high = client.pool(x, [GlobalAvgPool2d(), MaxPool2d(2)])
            np.testing.assert_allclose(mean[:, 0, 0], x.mean((1, 2)), rtol=1e-4, atol=1e-6)
            np.testing.assert_array_equal(high, F.max_pool2d(there, 2).numpy(), strict=True)
        else:
            vector = client.pool(x, GlobalAvgPool2d(), output="features", normalize=True)
            mean = x.astype(np.float64).mean((1, 2))
            np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), rtol=1e-4, atol=1e-6)

    with ThreadPoolExecutor(64) as threads:
        list(threads.map(one, range(2000)))
    assert client.stats().coalesced_calls > 0

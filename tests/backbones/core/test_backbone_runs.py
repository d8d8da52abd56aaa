"""Where and when requests for a backbone run: unbatched or in batches, and never once their callers have left."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import numpy as np
import pytest
from tests.backbones.core.fake_network import FakeNetwork
from tests.backbones.core.requests import array, features_of_image, image_request, png, pool, samples, tensor_request

from poolservice.specs import GlobalAvgPool2d, MaxPool2d
from poolservice.v1 import pool_pb2 as pb
from poolservice_server import images
from poolservice_server.batcher import Batcher, DeadlinePassed
from poolservice_server.core.service import Call, PoolService
from poolservice_server.stop import Stop

Serve = Callable[..., PoolService]


@pytest.mark.parametrize("request_of", [image_request, lambda: tensor_request(samples())], ids=["image", "tensor"])
async def test_unbatched_requests_run_alone_on_the_thread_that_prepared_them(
    serve: Serve, network: FakeNetwork, request_of: Callable[[], pb.PoolRequest]
) -> None:
    service = serve()
    await asyncio.gather(*(pool(service, request_of()) for _ in range(5)))
    assert [len(payloads) for _, payloads in network.batches] == [1] * 5
    assert all(thread.name.startswith("decode") for thread in network.threads)


async def test_batched_requests_share_a_batch_whatever_their_image_sizes_and_specs(
    serve: Serve, network: FakeNetwork
) -> None:
    # A batch starts when it is full.
    service = serve(
        batches_backbone=lambda name: name == "net",
        batcher={"inline_bytes": 0, "max_batch_size": 3, "max_batch_delay": 60.0},
    )
    responses = await asyncio.gather(
        pool(service, image_request(GlobalAvgPool2d(), data=png(20, 10))),
        pool(service, image_request(MaxPool2d(2), data=png(10, 20))),
        pool(service, image_request(GlobalAvgPool2d(), classification=pb.Classification(top=1))),
    )
    assert [len(payloads) for _, payloads in network.batches] == [3]
    assert [response.execution.batch_size for response in responses] == [3, 3, 3]
    assert network.threads[0].name.startswith("batch")
    for response, file in zip(responses, (png(20, 10), png(10, 20), png()), strict=True):
        features = features_of_image(file)
        pooled = features.max(axis=(1, 2)) if response is responses[1] else features.mean(axis=(1, 2))
        np.testing.assert_allclose(array(response.results[0].tensor)[:, 0, 0], pooled, rtol=1e-6)


async def test_requests_are_batched_as_long_as_the_device_gains_by_it(serve: Serve, network: FakeNetwork) -> None:
    gains = [True, False]
    service = serve(batches_backbone=lambda _name: gains.pop(0), batcher={"inline_bytes": 0})
    await pool(service, image_request())
    await pool(service, image_request())
    assert [thread.name.partition("_")[0] for thread in network.threads] == ["batch", "decode"]


async def test_batched_requests_never_run_on_the_event_loop(serve: Serve, network: FakeNetwork) -> None:
    service = serve(batches_backbone=lambda name: name == "net", batcher={"inline_bytes": 0})
    for _ in range(20):
        await pool(service, tensor_request(samples()))
    assert threading.current_thread() not in network.threads


class PausedDecode:
    """Decodes an image once the test lets it go on."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.go_on = threading.Event()
        self.decoded = False

    def __call__(self, scanned: images.Scan, mode: images.ColorMode, *, stop: Stop, **options: Any) -> np.ndarray:
        self.started.set()
        assert self.go_on.wait(60)
        planes = images.decode_scanned(scanned, mode, **options)
        self.decoded = True
        return planes


async def test_an_abandoned_request_is_not_preprocessed_and_does_not_run(
    serve: Serve, network: FakeNetwork, image_threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    preprocessed: list[np.ndarray] = []

    def preprocess(planes: np.ndarray, *_arguments: object) -> np.ndarray:
        preprocessed.append(planes)
        return np.zeros((1, 3, 8, 8), np.uint8)

    monkeypatch.setattr("poolservice_server.core.backbone_request.to_samples", preprocess)
    paused = PausedDecode()
    service = serve(decode=paused)
    call = asyncio.ensure_future(service.pool(Call(image_request().SerializeToString())))
    assert await asyncio.to_thread(paused.started.wait, 60)
    call.cancel()
    await asyncio.wait([call])
    paused.go_on.set()
    await asyncio.to_thread(image_threads.shutdown)
    assert call.cancelled()
    assert paused.decoded
    assert not preprocessed
    assert not network.batches


async def test_a_request_whose_deadline_has_passed_does_not_run(serve: Serve, network: FakeNetwork) -> None:
    with pytest.raises(DeadlinePassed):
        await pool(serve(), image_request(), deadline=0.0)
    assert not network.batches


async def all_released(batcher: Batcher) -> None:
    """Wait until a batcher holds no request any more.

    No future announces the end of a batch whose callers have all left, and draining does not wait for it.
    """
    until = time.monotonic() + 60
    while batcher.snapshot().admitted_requests:
        assert time.monotonic() < until
        await asyncio.sleep(0)
    await batcher.drain()


@pytest.mark.parametrize("batched", [False, True], ids=["unbatched", "batched"])
async def test_calls_that_leave_at_any_time_give_back_what_they_hold(
    serve: Serve, network: FakeNetwork, batched: bool
) -> None:
    batcher = Batcher(network, threads=2, prepare_threads=2)
    service = serve(batcher=batcher, batches_backbone=lambda _name: batched)
    random = Random(11)
    calls = []
    for number in range(300):
        request = tensor_request(samples()) if number % 3 else image_request()
        deadline = time.monotonic() + random.choice((0.0, 0.002)) if number % 5 == 0 else None
        calls.append(asyncio.ensure_future(pool(service, request, deadline=deadline)))
        if random.random() < 0.5:
            await asyncio.sleep(0)
        if random.random() < 0.5:
            random.choice(calls).cancel()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {pb.PoolResponse, asyncio.CancelledError, DeadlinePassed}
    await all_released(batcher)
    snapshot = batcher.snapshot()
    assert (snapshot.admitted_bytes, snapshot.admitted_seconds, snapshot.queue_entries) == (0, 0, 0)

"""Each request that ended is counted for its caller, whether it succeeded, failed or was given up."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from poolservice.v1 import pool_pb2 as pb
from poolservice_server.backend import Backend
from poolservice_server.backend.cpu import CpuDevice
from poolservice_server.batcher import Batcher
from poolservice_server.core.service import Call, PoolService
from poolservice_server.metrics.callers import CallerMetrics
from poolservice_server.metrics.requests import RequestMetrics
from poolservice_server.stop import Stop

MEAN = pb.PoolSpec(spatial_dims=2, global_avg_pool=pb.GlobalAvgPool())
TENSOR = pb.Tensor(dtype=pb.DATA_TYPE_UINT8, shape=[1, 1, 2], data=b"\x01\x03")
VALID = pb.PoolRequest(specs=[MEAN], tensor=TENSOR)


class Served:
    """A service and its metrics."""

    def __init__(self, threads: ThreadPoolExecutor, run: Any, **batcher: Any) -> None:
        callers = CallerMetrics()
        metrics = RequestMetrics(callers)
        self._registry = CollectorRegistry()
        self._registry.register(callers)
        self._registry.register(metrics)
        self.batcher = Batcher(run, **batcher)
        self.service = PoolService(
            self.batcher,
            threads,
            pb.GetServerInfoResponse,
            max_message_bytes=2**20,
            max_image_pixels=100,
            max_queue_bytes=2**20,
            max_unread_bytes=0,
            max_request_seconds=1.0,
            seconds_per_step=1e-9,
            observe=metrics.observe,
        )

    async def pool(self, *requests: pb.PoolRequest) -> None:
        batch = pb.PoolBatchRequest(requests=requests)
        await self.service.pool_batch(Call(batch.SerializeToString(), caller="token:alice"))

    def requests(self, code: str) -> float | None:
        labels = {"caller": "token:alice", "code": code}
        return self._registry.get_sample_value("poolservice_caller_requests_total", labels)

    def value(self, name: str, **labels: str) -> float | None:
        return self._registry.get_sample_value(f"poolservice_{name}", labels)


Serve = Callable[..., Served]


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ThreadPoolExecutor(1) as threads:
        yield lambda *arguments, **batcher: Served(threads, *arguments, **batcher)


async def test_each_request_of_a_batch_counts_with_its_own_code(serve: Serve) -> None:
    served = serve(Backend([CpuDevice()]).run)
    await served.pool(VALID, pb.PoolRequest(), VALID)
    assert served.requests("OK") == 2
    assert served.requests("INVALID_ARGUMENT") == 1
    assert served.value("request_duration_seconds_count") == 2
    for stage, number in {"decode": 0, "preprocess": 0, "queue": 2, "compute": 2, "encode": 2}.items():
        assert served.value("request_stage_duration_seconds_count", stage=stage) == number
    await served.batcher.drain()


async def test_requests_share_the_computing_time_of_their_batch(serve: Serve) -> None:
    served = serve(Backend([CpuDevice()]).run, max_batch_delay=60.0, max_batch_size=4)
    await served.pool(*[VALID] * 4)
    seconds = served.value("caller_compute_seconds_total", caller="token:alice")
    # Each request was in the batch for all of its time.
    total = served.value("request_stage_duration_seconds_sum", stage="compute")
    assert seconds is not None
    assert total is not None
    assert seconds == pytest.approx(total / 4)
    await served.batcher.drain()


async def test_a_request_that_fails_counts_with_the_code_of_its_error(serve: Serve) -> None:
    def fail(_key: object, payloads: list[Any], _stop: Stop) -> list[Any]:
        return [RuntimeError("the device caught fire") for _ in payloads]

    served = serve(fail)
    await served.pool(VALID)
    assert served.requests("INTERNAL") == 1
    assert served.value("request_duration_seconds_count") == 0
    await served.batcher.drain()


async def test_a_request_whose_caller_leaves_counts_as_cancelled(serve: Serve) -> None:
    served = serve(Backend([CpuDevice()]).run, max_batch_delay=60.0)
    call = asyncio.create_task(served.pool(VALID))
    # The call's task, and then that of its request.
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert served.batcher.snapshot().queue_entries == 1
    call.cancel()
    await asyncio.wait([call])
    assert served.requests("CANCELLED") == 1
    assert served.value("caller_compute_seconds_total", caller="token:alice") == 0
    await served.batcher.drain()

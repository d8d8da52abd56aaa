"""The limits of a request's work and memory, which are checked before anything is queued or decoded."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from poolservice import codec
from poolservice.errors import InvalidRequest
from poolservice.v1 import pool_pb2 as pb
from poolservice_server.batcher import Batcher, QueueFull
from poolservice_server.core.plan import Plan, read_head
from poolservice_server.core.service import Call, PoolService
from poolservice_server.error_status import MessageTooLarge
from poolservice_server.stop import Stop

Serve = Callable[..., PoolService]


def adaptive(size: int, **output: Any) -> pb.PoolRequest:
    """Return a request of four float64 values for size by size means of them."""
    spec = pb.PoolSpec(spatial_dims=2, adaptive_avg_pool=pb.AdaptiveAvgPool(output_size=[size]))
    tensor = pb.Tensor(dtype=pb.DATA_TYPE_FLOAT64, shape=[1, 2, 2], data=bytes(32))
    return pb.PoolRequest(specs=[spec], tensor=tensor, output=pb.OutputOptions(**output))


def plan_of(request: pb.PoolRequest) -> Plan:
    plan = read_head(codec.decode_request(request.SerializeToString()).head).tensor_plan
    assert plan is not None
    return plan


@pytest.fixture
def serve() -> Serve:
    """Return a function that makes a service that must refuse all requests before it runs any."""

    def run(_key: object, _payloads: list[Any], _stop: Stop) -> list[Any]:
        raise AssertionError("no request may run")

    def serve(
        *,
        max_queue_bytes: int = 2**29,
        max_request_seconds: float = 10.0,
        max_message_bytes: int = 2**30,
        seconds_per_step: float = 1e-9,
    ) -> PoolService:
        return PoolService(
            Batcher(run, max_queue_bytes=max_queue_bytes),
            ThreadPoolExecutor(1),
            pb.GetServerInfoResponse,
            max_message_bytes=max_message_bytes,
            max_image_pixels=2**20,
            max_queue_bytes=max_queue_bytes,
            max_unread_bytes=0,
            max_request_seconds=max_request_seconds,
            seconds_per_step=seconds_per_step,
        )

    return serve


async def test_too_much_work_is_refused_with_the_estimate_the_limit_and_the_setting(serve: Serve) -> None:
    service = serve(max_request_seconds=1e-6)
    with pytest.raises(
        InvalidRequest, match=r"take about .* s .* more than the 1e-06 s .* larger --max-request-seconds"
    ):
        await service.pool(Call(adaptive(1000).SerializeToString()))


async def test_long_estimates_are_written_out(serve: Serve) -> None:
    service = serve(max_request_seconds=1e-9, seconds_per_step=1e-2)
    with pytest.raises(InvalidRequest, match=r"take about \d{1,3}(,\d{3})+ s of computing, more than the 1e-09 s "):
        await service.pool(Call(adaptive(1000).SerializeToString()))


@pytest.mark.parametrize(
    ("size", "advice"),
    [
        (
            4_000,
            r"start the server with a larger --max-message-bytes .* client with a larger max_message_bytes$",
        ),
        (10**6, r"no setting allows it, because --max-message-bytes is at most 1073741824$"),
    ],
)
async def test_a_too_large_response_is_refused_with_the_setting_that_allows_it_if_any_does(
    serve: Serve, size: int, advice: str
) -> None:
    service = serve(max_message_bytes=2**26)
    with pytest.raises(MessageTooLarge, match=advice) as caught:
        await service.pool(Call(adaptive(size).SerializeToString()))
    assert str(caught.value).startswith(f"the response to this request of {size**2 * 8 + 65536} bytes is over ")


async def test_a_request_that_needs_too_much_memory_is_refused_with_its_need_the_limit_and_the_setting(
    serve: Serve,
) -> None:
    request = adaptive(1000, format=pb.OUTPUT_FORMAT_IMAGE)
    needed = plan_of(request).cost.peak_bytes
    with pytest.raises(InvalidRequest, match=f"take {needed} bytes, more than the {needed - 1} .* --max-queue-bytes"):
        await serve(max_queue_bytes=needed - 1).pool(Call(request.SerializeToString()))


async def test_each_request_of_a_batch_counts(serve: Serve) -> None:
    service = serve(max_queue_bytes=int(2.5 * plan_of(adaptive(1000)).cost.peak_bytes))
    batch = pb.PoolBatchRequest(requests=[adaptive(1000)] * 4)
    response = pb.PoolBatchResponse.FromString(await service.pool_batch(Call(batch.SerializeToString())))
    refused = [result for result in response.results if str(QueueFull(0.1)) == result.status.message]
    assert len(refused) == 2


@pytest.mark.parametrize(
    ("output", "bytes_per_value"),
    [
        # The float64 values, and the response.
        ({}, 16),
        # Besides, the values that are scaled, twice, and the pixels.
        ({"format": pb.OUTPUT_FORMAT_IMAGE}, 8 + 16 + 1),
        ({"dtype": pb.DATA_TYPE_FLOAT16}, 8 + 2 + 2),
        ({"format": pb.OUTPUT_FORMAT_FEATURE_VECTOR, "l2_normalize": True}, 8 + 24),
    ],
)
def test_the_memory_of_encoding_counts(output: dict[str, Any], bytes_per_value: int) -> None:
    assert plan_of(adaptive(7600, **output)).cost.peak_bytes >= bytes_per_value * 7600 * 7600

"""Each refusal is counted once, under the reason that names its limit."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from poolservice.v1 import pool_pb2 as pb
from poolservice_server.batcher import Batcher, Quotas
from poolservice_server.core.service import Call, PoolService
from poolservice_server.core.unsent_responses import UnsentResponse
from poolservice_server.grpc_adapter.active_calls import ActiveCalls
from poolservice_server.metrics.admission import REFUSAL_REASONS, AdmissionMetrics
from poolservice_server.stop import Stop

MEAN = pb.PoolSpec(spatial_dims=2, global_avg_pool=pb.GlobalAvgPool())

NO_QUOTAS = Quotas()

# A response to GetServerInfo that is large enough to count as unread.
LARGE_INFO = pb.GetServerInfoResponse(version="x" * 20_000)


def tensor(height: int = 2, spec: pb.PoolSpec = MEAN) -> bytes:
    payload = pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[1, height, 2], data=bytes(8 * height))
    return pb.PoolRequest(specs=[spec], tensor=payload).SerializeToString()


def upsampled(size: int) -> bytes:
    """Return a small request for a large result."""
    return tensor(spec=pb.PoolSpec(spatial_dims=2, adaptive_avg_pool=pb.AdaptiveAvgPool(output_size=[size])))


def image(side: int) -> bytes:
    file = BytesIO()
    Image.new("L", (side, side)).save(file, "PNG")
    return pb.PoolRequest(specs=[MEAN], image=pb.Image(data=file.getvalue())).SerializeToString()


def never_runs(_key: object, _payloads: list[Any], _stop: Stop) -> list[Any]:
    raise AssertionError("no request may run")


class Core:
    """A service whose requests wait for batch-mates that never come, and the calls of a server.

    Args:
        quotas: the limits of each caller.
        max_queue_items: the limit of the requests that wait.
        limits: other limits than the usual ones.
    """

    def __init__(self, *, quotas: Quotas = NO_QUOTAS, max_queue_items: int = 1000, **limits: Any) -> None:
        settings: dict[str, Any] = {
            "max_message_bytes": 2**20,
            "max_image_pixels": 100,
            "max_queue_bytes": 2**20,
            "max_unread_bytes": 50_000,
            "max_request_seconds": 0.01,
            "seconds_per_step": 1e-9,
            **limits,
        }
        self.batcher = Batcher(
            never_runs,
            max_batch_delay=3600.0,
            max_queue_items=max_queue_items,
            max_queue_bytes=settings["max_queue_bytes"],
            quotas=quotas,
        )
        self._threads = ThreadPoolExecutor(1)
        self.service = PoolService(self.batcher, self._threads, lambda: LARGE_INFO, **settings)
        self.calls = ActiveCalls(
            receive_timeout=60, send_timeout=60, max_calls=2, caller_max_calls=1, is_short_of_memory=lambda: False
        )
        self._tasks: list[asyncio.Future[Any]] = []

    def refusals(self) -> dict[str, float]:
        """Return the refusals that the metrics show, by reason."""
        sources = (self.batcher.refusals, self.service.refusals, self.calls.refusals)
        metrics = AdmissionMetrics(self.batcher, sources, self.service.unsent_bytes)
        (family,) = [family for family in metrics.collect() if family.name == "poolservice_refusals"]
        return {sample.labels["reason"]: sample.value for sample in family.samples if sample.value}

    async def wait(self, message: bytes) -> None:
        """Let a request wait in the queue."""
        self._tasks.append(asyncio.ensure_future(self.service.pool(Call(message, caller="one"))))
        await asyncio.sleep(0)
        assert self.batcher.snapshot().queue_entries == 1

    async def refuse(self, message: bytes) -> None:
        with pytest.raises(Exception, match=r"."):
            await self.service.pool(Call(message, caller="one"))

    async def start_call(self, caller: str) -> None:
        """Start a call that goes on."""
        started = asyncio.Event()

        async def handle() -> None:
            self.calls.start(None, 0.0, caller)
            started.set()
            await asyncio.Event().wait()

        self._tasks.append(asyncio.ensure_future(handle()))
        await started.wait()

    def refuse_call(self, caller: str) -> None:
        with pytest.raises(Exception, match=r"."):
            self.calls.start(None, 0.0, caller)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._threads.shutdown()


MakeCore = Callable[..., Core]


@pytest.fixture
async def make() -> AsyncIterator[MakeCore]:
    """Return a function that makes a core, which is closed after the test."""
    cores: list[Core] = []

    def make(**limits: Any) -> Core:
        cores.append(Core(**limits))
        return cores[-1]

    yield make
    for core in cores:
        await core.close()


async def second_request(core: Core) -> None:
    await core.wait(tensor())
    await core.refuse(tensor())


async def large_second_request(core: Core) -> None:
    await core.wait(tensor(height=50_000))
    await core.refuse(tensor(height=50_000))


async def large_message(core: Core) -> None:
    await core.refuse(bytes(2**20 + 1))


async def large_response(core: Core) -> None:
    await core.refuse(upsampled(1000))


async def large_image(core: Core) -> None:
    await core.refuse(image(side=11))


async def one_request(core: Core) -> None:
    await core.refuse(tensor(height=50_000))


async def unread_responses(core: Core) -> None:
    held: list[UnsentResponse] = []
    await core.service.server_info(Call(b"", caller="one", hold=held.append))
    with pytest.raises(Exception, match="has not read"):
        await core.service.server_info(Call(b"", caller="one", hold=held.append))


async def request_while_stopping(core: Core) -> None:
    await core.batcher.drain()
    await core.refuse(tensor())


async def call_while_stopping(core: Core) -> None:
    await core.calls.stop(0.0)
    core.refuse_call("one")


async def third_call(core: Core) -> None:
    await core.start_call("first")
    await core.start_call("second")
    core.refuse_call("third")


async def second_call_of_a_caller(core: Core) -> None:
    await core.start_call("one")
    core.refuse_call("one")


CASES: list[tuple[str, dict[str, Any], Callable[[Core], Awaitable[None]]]] = [
    ("queue_requests", {"max_queue_items": 1}, second_request),
    ("queue_bytes", {"max_queue_bytes": 700_000}, large_second_request),
    ("request_bytes", {"max_queue_bytes": 100_000}, one_request),
    ("caller_requests", {"quotas": Quotas(max_requests=1)}, second_request),
    ("caller_bytes", {"quotas": Quotas(max_bytes=1)}, second_request),
    ("caller_seconds", {"quotas": Quotas(max_seconds=1e-12)}, second_request),
    ("caller_rate", {"quotas": Quotas(max_rate=1e-6)}, second_request),
    ("caller_calls", {}, second_call_of_a_caller),
    ("calls", {}, third_call),
    ("unread_bytes", {}, unread_responses),
    ("message_bytes", {}, large_message),
    ("message_bytes", {"max_request_seconds": 100.0}, large_response),
    ("image_pixels", {}, large_image),
    ("request_seconds", {"max_request_seconds": 1e-9}, one_request),
    ("stopping", {}, request_while_stopping),
    ("stopping", {}, call_while_stopping),
]


@pytest.mark.parametrize(("reason", "limits", "provoke"), CASES)
async def test_a_refusal_is_counted_once_under_its_reason(
    make: MakeCore, reason: str, limits: dict[str, Any], provoke: Callable[[Core], Awaitable[None]]
) -> None:
    core = make(**limits)
    await provoke(core)
    assert core.refusals() == {reason: 1}


def test_every_reason_has_a_test() -> None:
    # Validation in turns has its own tests.
    assert {reason for reason, _, _ in CASES} | {"validation_bytes"} == set(REFUSAL_REASONS)


async def test_a_wrong_request_is_no_refusal(make: MakeCore) -> None:
    core = make()
    await core.refuse(pb.PoolRequest().SerializeToString())
    assert core.refusals() == {}

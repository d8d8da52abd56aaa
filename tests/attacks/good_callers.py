"""Well-behaved callers of a server under attack, and a health check beside them."""

import asyncio
import io
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image

from poolservice.v1 import pool_pb2 as pb

_METHOD = "/poolservice.v1.PoolService/Pool"

# Each caller pauses between its calls, so that the callers leave most of two cores to others.
_PAUSE_SECONDS = 0.02
_HEALTH_PAUSE_SECONDS = 0.02
_TIMEOUT_SECONDS = 20.0

# The SDK's defaults: attempts of one call, and the pause before the second one, which doubles.
_ATTEMPTS = 5
_FIRST_BACKOFF_SECONDS = 0.1


@dataclass
class Observed:
    """What the good callers saw.

    Attributes:
        seconds: the duration of each call.
        errors: the status and message of each call that failed or had a wrong result.
        health: the longest health check, in seconds.
        elapsed: how long they called.
        retries: the calls that were repeated.
    """

    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    health: float = 0.0
    elapsed: float = 0.0
    retries: int = 0

    @property
    def p99(self) -> float:
        """The 99th percentile of the calls' durations, in seconds."""
        return float(np.percentile(self.seconds, 99)) if self.seconds else float("inf")

    @property
    def rate(self) -> float:
        """Calls per second."""
        return len(self.seconds) / self.elapsed if self.elapsed else 0.0


class GoodCallers:
    """Four callers on four connections: two send small tensors, one sends a feature map, one sends an image.

    Args:
        address: the server's.
        token: the callers' bearer token; "" for none.
        retries: repeat a call that ends as UNAVAILABLE, as the SDK does. Its duration includes the pauses.
    """

    def __init__(self, address: str, token: str = "", *, retries: bool = False) -> None:
        self._address = address
        self._attempts = _ATTEMPTS if retries else 1
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._channels: list[grpc.aio.Channel] = []
        # The results of each request, by the first response to it.
        self._expected: dict[bytes, list[pb.PoolResult]] = {}
        self._requests = (_tensor(8, 8, 8), _tensor(8, 8, 8), _tensor(512, 7, 7), _image())

    async def __aenter__(self) -> Self:
        # By default, channels with equal options share one connection. The pauses between connects are the SDK's.
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", 1000),
        ]
        self._channels = [
            grpc.aio.insecure_channel(self._address, options=options) for _ in range(len(self._requests) + 1)
        ]
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for channel in self._channels:
            await channel.close()

    async def observe(self, seconds: float) -> Observed:
        """Call the server for a time."""
        return await self.observe_until(asyncio.ensure_future(asyncio.sleep(seconds)))

    async def observe_until(self, end: "asyncio.Future[Any]") -> Observed:
        """Call the server until `end` is done."""
        observed = Observed()
        started = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for request, channel in zip(self._requests, self._channels, strict=False):
                tasks.create_task(self._call(channel, request.SerializeToString(), end, observed))
            tasks.create_task(self._check_health(self._channels[-1], end, observed))
        observed.elapsed = time.perf_counter() - started
        return observed

    async def _call(
        self, channel: grpc.aio.Channel, request: bytes, end: "asyncio.Future[Any]", observed: Observed
    ) -> None:
        pool: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_METHOD)
        expected = self._expected.setdefault(request, [])

        async def call() -> None:
            response = await pool(request, timeout=_TIMEOUT_SECONDS, metadata=self._metadata)
            results = pb.PoolResponse.FromString(response).results
            expected[:] = expected or results
            if list(results) != expected:
                observed.errors.append("a wrong result")

        while not end.done():
            observed.seconds.append(await self._timed(call, observed))
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _check_health(self, channel: grpc.aio.Channel, end: "asyncio.Future[Any]", observed: Observed) -> None:
        stub = health_pb2_grpc.HealthStub(channel)

        async def check() -> None:
            # Each attempt counts by itself. A worker that is killed answers none, and others must answer at once.
            started = time.perf_counter()
            try:
                await stub.Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_SECONDS, metadata=self._metadata)
            finally:
                observed.health = max(observed.health, time.perf_counter() - started)

        while not end.done():
            await self._timed(check, observed)
            await asyncio.sleep(_HEALTH_PAUSE_SECONDS)

    async def _timed(self, call: Callable[[], Awaitable[None]], observed: Observed) -> float:
        """Await a call, record its error, and return how long it took in seconds."""
        started = time.perf_counter()
        try:
            await self._repeated(call, observed)
        except grpc.aio.AioRpcError as error:
            observed.errors.append(f"{error.code().name} {error.details()}")
        return time.perf_counter() - started

    async def _repeated(self, call: Callable[[], Awaitable[None]], observed: Observed) -> None:
        backoff = _FIRST_BACKOFF_SECONDS
        for _ in range(self._attempts - 1):
            try:
                return await call()
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
            observed.retries += 1
            # Spread, so that the callers of one worker do not return together.
            await asyncio.sleep(random.uniform(backoff / 2, backoff))
            backoff *= 2
        return await call()


def _tensor(*shape: int) -> pb.PoolRequest:
    return pb.PoolRequest(
        specs=[pb.PoolSpec(spatial_dims=2, global_avg_pool=pb.GlobalAvgPool())],
        tensor=pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=shape, data=np.ones(shape, np.float32).tobytes()),
    )


def _image() -> pb.PoolRequest:
    pixels = np.random.default_rng(7).integers(0, 256, (48, 64, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return pb.PoolRequest(
        specs=[pb.PoolSpec(spatial_dims=2, max_pool=pb.MaxPool(kernel_size=[2]))],
        image=pb.Image(data=file.getvalue()),
    )

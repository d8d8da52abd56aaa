"""Hostile callers that send gRPC calls one after the other, and count how the calls end."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
import grpc.aio
from google.rpc import code_pb2

from poolservice.v1 import pool_pb2 as pb
from poolservice.v1.pool_pb2_grpc import PoolServiceStub
from target import Target

# A refused caller that tries again at once is not what these attacks measure.
_PAUSE_SECONDS = 0.01

#: Sends one call with a stub, for the caller with a number, and returns the response.
Call = Callable[[Any, int], Awaitable[pb.PoolResponse | pb.PoolBatchResponse]]


async def repeat_calls(
    target: Target, seconds: float, call: Call, *, callers: int, options: Sequence[tuple[str, int]] = ()
) -> str:
    """Let several callers on one connection send calls until the time is over; return how many ended in each way."""
    end = time.monotonic() + seconds
    outcomes: Counter[str] = Counter()
    async with grpc.aio.insecure_channel(target.address, options=options) as channel:
        stub: Any = PoolServiceStub(channel)

        async def repeat(caller: int) -> None:
            while time.monotonic() < end:
                try:
                    outcomes.update(_outcomes(await call(stub, caller)))
                except grpc.aio.AioRpcError as error:
                    outcomes[error.code().name] += 1
                    await asyncio.sleep(_PAUSE_SECONDS)

        await asyncio.gather(*(repeat(caller) for caller in range(callers)))
    return ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))


def _outcomes(response: pb.PoolResponse | pb.PoolBatchResponse) -> list[str]:
    if isinstance(response, pb.PoolResponse):
        return ["OK"]
    return [f"{code_pb2.Code.Name(result.status.code)} in a batch" for result in response.results]

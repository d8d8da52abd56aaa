"""PoolStream through the transport, blocking and awaited."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from poolservice import codec
from poolservice_client import MaxPool2d, Unavailable
from poolservice_client._request.payload import payload
from poolservice_client._request.query import PoolQuery
from poolservice_client._settings.settings import Settings
from poolservice_client._stats import Counters
from poolservice_client._transport.aio import AsyncGrpcTransport
from poolservice_client._transport.blocking import POOL_STREAM, GrpcTransport

StartServer = Callable[..., Any]

X = np.random.default_rng(6).standard_normal((3, 8, 8)).astype(np.float32)
SPEC = MaxPool2d(2)


def stream_messages(count: int) -> Iterator[bytes]:
    prepared = payload(X)
    request = PoolQuery.of(SPEC, output="tensor").template_for(prepared).request(prepared.data)
    for number in range(count):
        yield codec.encode_stream_request(number, request)


def numbers(answers: list[bytes]) -> list[int]:
    return sorted(codec.decode_stream_response(answer)[0] for answer in answers)


async def test_a_stream_answers_each_message(server_address: str) -> None:
    settings = Settings.of(server_address, 30.0, 2**26)
    transport = GrpcTransport(settings, Counters())
    assert numbers(await asyncio.to_thread(list, transport.stream(POOL_STREAM, stream_messages(100), 30))) == [
        *range(100)
    ]
    # Leaving it early ends it.
    answers = transport.stream(POOL_STREAM, stream_messages(10_000), 30)
    next(answers)
    answers.close()  # type: ignore[attr-defined]
    transport.close()

    async def messages() -> AsyncIterator[bytes]:
        for message in stream_messages(100):
            yield message

    awaited = AsyncGrpcTransport(settings, Counters())
    assert numbers([answer async for answer in awaited.stream(POOL_STREAM, messages(), 30)]) == [*range(100)]
    await awaited.close()


async def test_a_stream_that_breaks_is_a_pool_error(start_server: StartServer) -> None:
    server = start_server()
    settings = Settings.of(server.address, 30.0, 2**26)
    transport = GrpcTransport(settings, Counters())
    answers = transport.stream(POOL_STREAM, stream_messages(10**9), 30)
    next(answers)
    server.kill()
    with ThreadPoolExecutor(1) as thread, pytest.raises(Unavailable):
        await asyncio.wrap_future(thread.submit(lambda: [None for _ in answers]))
    transport.close()

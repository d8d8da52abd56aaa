"""Every call ends with the right PoolError, whatever HTTP/2 frames a server sends."""

import asyncio
import base64
import contextlib
import threading
from typing import Any

import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2
from tests.client.hostile_attacks import ATTEMPTS, CASES, LONG, MEGABYTE, OK, Case, status
from tests.client.hostile_server import Peer, hostile, message

from poolservice.v1 import pool_pb2
from poolservice_client import (
    AsyncPoolClient,
    GlobalAvgPool2d,
    InvalidRequest,
    MaxPool2d,
    Overloaded,
    PoolClient,
    PoolError,
    RetryPolicy,
    ServerError,
)

QUICK = RetryPolicy(max_attempts=ATTEMPTS, first_backoff=0.001, max_backoff=0.001, burst=1000)
#: The time after which a call counts as one that never ends.
NEVER = 60.0
CALLS = 4

X = np.ones((3, 8, 8), np.float32)


def blocking_errors(client: PoolClient, kind: str, timeout: float) -> list[Any]:
    if kind == "map":
        return [item.error for item in client.map([X] * CALLS, GlobalAvgPool2d(), items=True, timeout=timeout)]
    try:
        if kind == "health":
            return [client.health(timeout=timeout)]
        if kind == "server_info":
            return [client.server_info(timeout=timeout)]
        return [client.pool(X, MaxPool2d(2), timeout=timeout)]
    except PoolError as error:
        return [error]


async def async_errors(client: AsyncPoolClient, kind: str, timeout: float) -> list[Any]:  # noqa: ASYNC109
    if kind == "map":
        results = client.map([X] * CALLS, GlobalAvgPool2d(), items=True, timeout=timeout)
        return [item.error async for item in results]
    try:
        if kind == "health":
            return [await client.health(timeout=timeout)]
        if kind == "server_info":
            return [await client.server_info(timeout=timeout)]
        return [await client.pool(X, MaxPool2d(2), timeout=timeout)]
    except PoolError as error:
        return [error]


async def errors_of(client_class: type[Any], address: str, kind: str, timeout: float) -> list[Any]:  # noqa: ASYNC109
    """Make calls of one kind with a new client and return what they return or raise."""
    calls = CALLS if kind == "coalesced pool" else 1
    async with asyncio.timeout(NEVER):
        if client_class is PoolClient:
            with PoolClient(address, retries=QUICK, max_message_bytes=MEGABYTE) as client:
                threads = (asyncio.to_thread(blocking_errors, client, kind, timeout) for _ in range(calls))
                outcomes = await asyncio.gather(*threads)
        else:
            async with AsyncPoolClient(address, retries=QUICK, max_message_bytes=MEGABYTE) as aclient:
                outcomes = await asyncio.gather(*(async_errors(aclient, kind, timeout) for _ in range(calls)))
    return [error for errors in outcomes for error in errors]


@pytest.mark.parametrize("client_class", [PoolClient, AsyncPoolClient])
@pytest.mark.parametrize("kind", ["pool", "coalesced pool", "map", "health", "server_info"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_each_call_ends_with_the_right_error(
    client_class: type[Any], kind: str, case: Case, capfd: pytest.CaptureFixture[str]
) -> None:
    noise: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: noise.append(context))
    with hostile(case.attack) as server:
        errors = await errors_of(client_class, server.address, kind, case.timeout)
    for error in errors:
        assert isinstance(error, case.errors), repr(error)
        assert str(error).isprintable()
        assert len(str(error)) < 5000
    # A health check is never retried. If a message of several calls or items fails, each is sent once more, separately.
    shares_messages = kind in ("coalesced pool", "map")
    assert len(errors) == (CALLS if shares_messages else 1)
    assert server.streams <= (1 if kind == "health" else ((1 + CALLS) if shares_messages else 1) * ATTEMPTS)
    assert not noise
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("client_class", [PoolClient, AsyncPoolClient])
@pytest.mark.parametrize("case", [CASES[name] for name in ("endless message", "endless messages")])
async def test_a_client_reads_a_limited_part_of_an_endless_response(client_class: type[Any], case: Case) -> None:
    with hostile(case.attack) as server:
        await errors_of(client_class, server.address, "pool", case.timeout)
        taken = [nbytes for peer in server.peers for nbytes in peer.sent.values()]
    # gRPC's flow-control window grows to 16 to 40 MiB, however long the call lasts.
    assert max(taken) <= 64 * MEGABYTE


@pytest.mark.parametrize("client_class", [PoolClient, AsyncPoolClient])
@pytest.mark.parametrize("name", ["RST_STREAM REFUSED_STREAM", "RST_STREAM INTERNAL_ERROR", "close", "no response"])
async def test_a_call_ends_while_its_request_is_being_sent(client_class: type[Any], name: str) -> None:
    case = CASES[name]
    # The server reads no more than the first window of the request.
    with hostile(case.attack, early=True, grants=False) as server:
        large = np.ones((3, 200, 200), np.float32)
        async with asyncio.timeout(NEVER):
            if client_class is PoolClient:
                with PoolClient(server.address, retries=QUICK) as client, pytest.raises(case.errors):
                    await asyncio.to_thread(client.pool, large, MaxPool2d(2), timeout=case.timeout)
            else:
                async with AsyncPoolClient(server.address, retries=QUICK) as aclient:
                    with pytest.raises(case.errors):
                        await aclient.pool(large, MaxPool2d(2), timeout=case.timeout)
    assert server.streams <= ATTEMPTS


@pytest.mark.parametrize("client_class", [PoolClient, AsyncPoolClient])
async def test_text_of_a_server_is_escaped_and_cut(client_class: type[Any]) -> None:
    text = b"%1B[31m%0Aroot: ok%FF%E2%80%AE" + b"x" * 5000
    with hostile(status((b"grpc-status", b"13"), (b"grpc-message", text))) as server:
        (error,) = await errors_of(client_class, server.address, "pool", LONG)
    assert isinstance(error, ServerError)
    assert str(error).isprintable()
    assert str(error).startswith("\\x1b[31m\\nroot: ok")
    assert "characters)" in str(error)
    assert len(str(error)) < 4100


@pytest.mark.parametrize("client_class", [PoolClient, AsyncPoolClient])
@pytest.mark.parametrize("seconds", [-1, -(2**62), 2**62], ids=["negative", "long ago", "never"])
async def test_an_invalid_retry_info_delays_no_retry(client_class: type[Any], seconds: int) -> None:
    details = status_pb2.Status(code=code_pb2.RESOURCE_EXHAUSTED, message="full")
    details.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=Duration(seconds=seconds)))
    encoded = base64.b64encode(details.SerializeToString()).rstrip(b"=")
    with hostile(status((b"grpc-status", b"8"), (b"grpc-status-details-bin", encoded))) as server:
        (error,) = await errors_of(client_class, server.address, "pool", LONG)
    # Without a valid RetryInfo, the status means by the contract that a message exceeds a limit of the server.
    assert isinstance(error, Overloaded if seconds == -1 else InvalidRequest)
    assert server.streams <= ATTEMPTS


@pytest.mark.parametrize("client_class", [PoolClient, AsyncPoolClient])
@pytest.mark.parametrize(
    "info",
    [
        b"\xff",
        pool_pb2.GetServerInfoResponse(worker=7, workers=3).SerializeToString(),
        pool_pb2.GetServerInfoResponse(worker=1, workers=2**31).SerializeToString(),
    ],
    ids=["garbage", "an impossible worker", "a billion workers"],
)
async def test_worker_discovery_ignores_impossible_worker_counts(
    client_class: type[Any], info: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    noise: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: noise.append(context))
    asked = threading.Event()

    async def attack(peer: Peer, stream: int) -> None:
        # All methods get the same response, which is a health status, too. The second stream is the discovery's.
        if stream > 1 or len(server.peers) > 1:
            asked.set()
            await peer.headers(stream)
            await peer.data(stream, message(info))
        else:
            await peer.headers(stream)
            await peer.data(stream, message(b"\x08\x01"))
        await peer.trailers(stream, OK)

    with hostile(attack) as server:
        async with asyncio.timeout(NEVER):
            if client_class is PoolClient:
                with PoolClient(server.address) as client:
                    assert await asyncio.to_thread(client.health)
                    with contextlib.suppress(ServerError):
                        await asyncio.to_thread(client.health)
                    assert await asyncio.to_thread(asked.wait, 30)
            else:
                async with AsyncPoolClient(server.address) as aclient:
                    assert await aclient.health()
                    with contextlib.suppress(ServerError):
                        await aclient.health()
                    assert await asyncio.to_thread(asked.wait, 30)
    assert len(server.peers) == 1
    assert not noise
    assert "Traceback" not in capfd.readouterr().err

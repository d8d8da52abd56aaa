"""The retry policy of `pool`: what is retried, how often, and what is not."""

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from poolservice.codec import Result, Value, encode_response
from poolservice.v1 import pool_pb2
from poolservice_client import (
    AsyncPoolClient,
    InvalidRequest,
    MaxPool2d,
    Overloaded,
    PoolClient,
    PoolError,
    RetryPolicy,
    Unavailable,
)

Behaviour = Callable[[bytes, grpc.ServicerContext], bytes]
Serve = Callable[[Behaviour], str]

X = np.ones((2, 4, 4), np.float32)
SPEC = MaxPool2d(2)
CODES = {code.value[0]: code for code in grpc.StatusCode}
# Long enough for the first attempt to reach the server before its hedge, even on a busy machine.
HEDGE_AFTER = 0.5
QUICK = RetryPolicy(first_backoff=0.01, max_backoff=0.02)
RESPONSE = encode_response(
    pool_pb2.Execution(device="cpu"),
    [
        Result(
            Value(
                "tensor",
                pool_pb2.Tensor(dtype=pool_pb2.DATA_TYPE_FLOAT32, shape=[2, 2, 2]).SerializeToString(),
                np.ones(8, np.float32).tobytes(),
            ),
            None,
        )
    ],
)


class Flaky:
    """Fails a given number of times, then succeeds; records when it was called."""

    def __init__(self, failures: int, code: int, *details: Message) -> None:
        self.called: list[float] = []
        self._left = itertools.count(failures, -1)
        self._status = status_pb2.Status(code=code, message="it failed")
        for detail in details:
            self._status.details.add().Pack(detail)

    def __call__(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.called.append(time.monotonic())
        if next(self._left) > 0:
            if self._status.details:
                context.set_trailing_metadata((("grpc-status-details-bin", self._status.SerializeToString()),))
            context.abort(CODES[self._status.code], self._status.message)
        return RESPONSE


def retry_info(seconds: float) -> error_details_pb2.RetryInfo:
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(round(seconds * 1000))
    return retry


async def pool_once(client_class: type[Any], address: str, **options: Any) -> Any:
    """Make one call with a client of the given class; return its error and the client's counters."""
    if client_class is PoolClient:
        with PoolClient(address, **options) as client:
            try:
                await asyncio.to_thread(client.pool, X, SPEC)
            except PoolError as error:
                return error, client.stats()
            return None, client.stats()
    async with AsyncPoolClient(address, **options) as aclient:
        try:
            await aclient.pool(X, SPEC)
        except PoolError as error:
            return error, aclient.stats()
        return None, aclient.stats()


both_clients = pytest.mark.parametrize("client_class", [PoolClient, AsyncPoolClient])


@both_clients
async def test_a_temporary_failure_is_retried_after_a_pause(serve: Serve, client_class: type[Any]) -> None:
    server = Flaky(2, code_pb2.UNAVAILABLE)
    error, stats = await pool_once(client_class, serve(server), retries=RetryPolicy(first_backoff=0.1))
    assert error is None
    assert (stats.calls, stats.retries, stats.retry_budget_exhausted) == (1, 2, 0)
    first, second, third = server.called
    # Up to half of each pause is taken off at random.
    assert second - first >= 0.05
    assert third - second >= 0.1


@both_clients
async def test_the_error_of_the_last_attempt_is_raised(serve: Serve, client_class: type[Any]) -> None:
    server = Flaky(99, code_pb2.UNAVAILABLE)
    error, stats = await pool_once(client_class, serve(server), retries=RetryPolicy(max_attempts=3, first_backoff=0.01))
    assert isinstance(error, Unavailable)
    assert len(server.called) == 3
    assert stats.retries == 2


@both_clients
async def test_a_retry_waits_as_long_as_a_full_queue_asks(serve: Serve, client_class: type[Any]) -> None:
    server = Flaky(1, code_pb2.RESOURCE_EXHAUSTED, retry_info(0.3))
    error, stats = await pool_once(client_class, serve(server), retries=QUICK)
    assert error is None
    assert stats.retries == 1
    first, second = server.called
    assert second - first >= 0.3


@both_clients
@pytest.mark.parametrize(
    "server",
    [
        Flaky(99, code_pb2.RESOURCE_EXHAUSTED),
        Flaky(99, code_pb2.INVALID_ARGUMENT),
        Flaky(99, code_pb2.UNAUTHENTICATED),
        Flaky(99, code_pb2.INTERNAL),
        Flaky(99, code_pb2.UNIMPLEMENTED),
        Flaky(99, code_pb2.DEADLINE_EXCEEDED),
        Flaky(99, code_pb2.RESOURCE_EXHAUSTED, error_details_pb2.ErrorInfo(reason="TOO_LARGE")),
    ],
    ids=lambda server: code_pb2.Code.Name(server._status.code) if isinstance(server, Flaky) else None,
)
async def test_calls_that_cannot_succeed_are_sent_once(serve: Serve, client_class: type[Any], server: Flaky) -> None:
    before = len(server.called)
    error, stats = await pool_once(client_class, serve(server), retries=QUICK)
    assert isinstance(error, PoolError)
    assert len(server.called) == before + 1
    assert stats.retries == 0


@both_clients
async def test_no_attempt_starts_after_the_deadline(serve: Serve, client_class: type[Any]) -> None:
    server = Flaky(99, code_pb2.RESOURCE_EXHAUSTED, retry_info(60))
    started = time.monotonic()
    error, stats = await pool_once(client_class, serve(server), timeout=30)
    # The server's error is raised immediately, not a timeout 30 s later.
    assert isinstance(error, Overloaded)
    assert time.monotonic() - started < 30
    assert len(server.called) == 1
    assert stats.retries == 0


@both_clients
async def test_without_a_policy_nothing_is_retried(serve: Serve, client_class: type[Any]) -> None:
    server = Flaky(1, code_pb2.UNAVAILABLE)
    error, stats = await pool_once(client_class, serve(server), retries=None)
    assert isinstance(error, Unavailable)
    assert len(server.called) == 1
    assert stats.retries == 0


def test_the_budget_limits_the_load_on_a_server_in_trouble(serve: Serve) -> None:
    server = Flaky(10_000, code_pb2.UNAVAILABLE)
    policy = RetryPolicy(first_backoff=0.001, max_backoff=0.001, budget=0.1, burst=5)
    with PoolClient(serve(server), retries=policy) as client:
        for _ in range(100):
            with pytest.raises(Unavailable):
                client.pool(X, SPEC)
        stats = client.stats()
    assert stats.calls == 100
    # The burst, plus a tenth of the calls.
    assert 10 <= stats.retries <= 15
    assert len(server.called) == 100 + stats.retries
    assert stats.retry_budget_exhausted > 80


def test_calls_refill_the_budget(serve: Serve) -> None:
    server = Flaky(3, code_pb2.UNAVAILABLE)
    policy = RetryPolicy(first_backoff=0.001, max_backoff=0.001, budget=0.5, burst=1)
    with PoolClient(serve(server), retries=policy) as client:
        with pytest.raises(Unavailable):
            client.pool(X, SPEC)  # one retry, which empties the budget
        assert client.stats().retry_budget_exhausted == 1
        with pytest.raises(Unavailable):
            client.pool(X, SPEC)  # half a retry is not enough
        client.pool(X, SPEC)
        assert client.stats().retries == 1
    assert client.stats().calls == 3


def test_an_overloaded_server_serves_every_call_in_the_end(start_server: Callable[..., Any]) -> None:
    address = start_server("--max-queue-items", "2", "--max-batch-delay", "0.05").address
    with PoolClient(address, coalesce=False, retries=RetryPolicy(max_attempts=20)) as client:
        with ThreadPoolExecutor(8) as threads:
            results = list(threads.map(lambda number: client.pool(np.full_like(X, number), SPEC), range(32)))
        assert all((y == number).all() for number, y in enumerate(results))
        assert client.stats().retries > 0
    with PoolClient(address, coalesce=False, retries=None) as client, ThreadPoolExecutor(8) as threads:
        one_by_one = [threads.submit(client.pool, X, SPEC).exception() for _ in range(32)]
        concurrent = list(threads.map(lambda _: error_of_a_call(client), range(64)))
    assert all(error is None for error in one_by_one)
    assert any(isinstance(error, Overloaded) for error in concurrent)


def error_of_a_call(client: PoolClient) -> PoolError | None:
    try:
        client.pool(X, SPEC)
    except PoolError as error:
        return error
    return None


@pytest.fixture
def stuck() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


@both_clients
async def test_a_slow_call_is_hedged_and_the_slower_attempt_is_cancelled(
    serve: Serve, stuck: threading.Event, client_class: type[Any]
) -> None:
    calls = itertools.count()
    cancelled = threading.Event()

    def behaviour(request: bytes, context: grpc.ServicerContext) -> bytes:
        if next(calls) == 0:
            context.add_callback(cancelled.set)
            stuck.wait(30)
        return RESPONSE

    error, stats = await pool_once(client_class, serve(behaviour), hedge_after=HEDGE_AFTER)
    assert error is None
    assert (stats.calls, stats.hedges, stats.hedges_won, stats.retries) == (1, 1, 1, 0)
    assert next(calls) == 2
    assert await asyncio.to_thread(cancelled.wait, 10)
    stuck.set()


@both_clients
async def test_a_hedge_that_fails_does_not_end_the_first_attempt(
    serve: Serve, stuck: threading.Event, client_class: type[Any]
) -> None:
    calls = itertools.count()

    def behaviour(request: bytes, context: grpc.ServicerContext) -> bytes:
        if next(calls) == 0:
            stuck.wait(30)
            return RESPONSE
        stuck.set()
        context.abort(grpc.StatusCode.INTERNAL, "the hedge fails")
        raise AssertionError

    error, stats = await pool_once(client_class, serve(behaviour), hedge_after=HEDGE_AFTER)
    assert error is None
    assert (stats.hedges, stats.hedges_won) == (1, 0)


@both_clients
async def test_a_fast_call_is_not_hedged(server_address: str, client_class: type[Any]) -> None:
    error, stats = await pool_once(client_class, server_address, hedge_after=20)
    assert error is None
    assert stats.hedges == 0


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_attempts": 0},
        {"max_attempts": 21},
        {"first_backoff": 0},
        {"first_backoff": 3.0, "max_backoff": 2.0},
        {"budget": -0.1},
        {"budget": 1.1},
        {"burst": -1},
        {"burst": "1"},
        {"first_backoff": "1"},
        {"max_backoff": None},
        {"budget": "1"},
    ],
)
def test_an_argument_out_of_range_is_named_in_the_error(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        RetryPolicy(**arguments)
    assert refused.value.field in arguments

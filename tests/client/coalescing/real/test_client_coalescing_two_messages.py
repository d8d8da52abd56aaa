"""Two messages in flight over gRPC: when each message is sent, and that each call keeps its own outcome."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

import grpc
import pytest

from poolservice_client import DeadlineExceeded, InvalidRequest, PoolError, RetryPolicy, Unavailable
from poolservice_client._coalescing import limits

if TYPE_CHECKING:
    from tests.client.coalescing.real.conftest import Caller, HoldingServer, Message

NewCaller = Callable[..., "AbstractAsyncContextManager[Caller]"]

FULL = 4
REFUSED = (grpc.StatusCode.INVALID_ARGUMENT, "no")
LOST = (grpc.StatusCode.UNAVAILABLE, "the server is stopping")


async def two_in_flight(caller: "Caller", server: "HoldingServer") -> list["asyncio.Future[bool]"]:
    """Make a call that the server holds, and a full message of calls that it holds as well. Return the calls."""
    calls = [caller.call(1)]
    await server.received(1)
    calls += [caller.call(number) for number in range(2, 2 + FULL)]
    await server.received(2)
    return calls


async def test_a_full_message_leaves_while_another_is_in_flight(server: "HoldingServer", new_caller: NewCaller) -> None:
    async with new_caller(server.address) as caller:
        calls = await two_in_flight(caller, server)
        server.messages[1].release()
        assert await asyncio.gather(*calls[1:]) == [True] * FULL
        assert not calls[0].done()
        server.release_all()
        assert await calls[0]
        assert caller.client.stats().coalesced_calls == FULL


async def test_a_third_message_waits_for_a_response(server: "HoldingServer", new_caller: NewCaller) -> None:
    async with new_caller(server.address) as caller:
        calls = await two_in_flight(caller, server)
        calls += [caller.call(number) for number in range(10, 10 + FULL)]
        await caller.until_waiting(FULL)
        assert len(server.messages) == 2
        server.messages[1].release()
        await server.received(3)
        server.release_all()
        assert await asyncio.gather(*calls) == [True] * (1 + 2 * FULL)
        assert len(server.messages) == 3


async def test_a_small_message_follows_one_that_is_on_its_way_for_long(
    server: "HoldingServer", new_caller: NewCaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "OVERLAP_SECONDS", 0.01)
    async with new_caller(server.address) as caller:
        first = caller.call(1)
        await server.received(1)
        others = [caller.call(number) for number in (2, 3)]
        await server.received(2)
        assert not first.done()
        server.release_all()
        assert await asyncio.gather(first, *others) == [True] * 3


async def test_a_slow_message_holds_none_of_the_later_calls(
    server: "HoldingServer", new_caller: NewCaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "OVERLAP_SECONDS", 0.0)
    async with new_caller(server.address) as caller:
        slow = caller.call(1)
        (message,) = await server.received(1)
        for number in range(2, 12):
            call = caller.call(number)
            (await server.received(number))[-1].release()
            assert await call
        assert not slow.done()
        message.release()
        assert await slow


async def test_no_call_waits_long_for_two_slow_messages(
    server: "HoldingServer", new_caller: NewCaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "OVERLAP_SECONDS", 0.0)
    monkeypatch.setattr(limits, "MAX_WAIT_SECONDS", 0.02)
    async with new_caller(server.address) as caller:
        slow = []
        for number in (1, 2):
            slow.append(caller.call(number))
            await server.received(number)
        call = caller.call(3)
        (await server.received(3))[-1].release()
        assert await call
        assert not any(one.done() for one in slow)
        server.release_all()
        assert await asyncio.gather(*slow) == [True] * 2


async def test_each_call_ends_at_its_own_deadline(server: "HoldingServer", new_caller: NewCaller) -> None:
    async with new_caller(server.address) as caller:
        calls = [caller.call(1)]
        await server.received(1)
        calls += [caller.call(2), caller.call(3)]
        # A thread's first call leads its message, and the deadline of that one is the deadline of the message.
        await caller.until_waiting(2)
        calls.append(caller.call(4, timeout=1.0))
        await caller.until_waiting(3)
        calls.append(caller.call(5))
        await server.received(2)
        waiting = caller.call(6)
        await caller.until_waiting(1)
        # Two messages are in flight, so this call expires while it waits.
        expired = caller.call(7, timeout=0.2)
        for call in (expired, calls[3]):
            with pytest.raises(DeadlineExceeded, match=r"gave no response within the timeout of"):
                await call
        assert not any(call.done() for call in (*calls[:3], calls[4], waiting))
        server.release_all()
        assert await asyncio.gather(*calls[:3], calls[4], waiting) == [True] * 5


async def test_a_refused_message_is_no_error_of_its_neighbors(server: "HoldingServer", new_caller: NewCaller) -> None:
    async with new_caller(server.address) as caller:
        calls = await two_in_flight(caller, server)
        server.messages[1].release(REFUSED)
        # Each call of the refused message is sent again, in a message of its own.
        own = (await server.received(2 + FULL))[2:]
        own[1].release(REFUSED)
        server.release_all()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    (error,) = [outcome for outcome in outcomes if outcome is not True]
    assert isinstance(error, InvalidRequest)
    assert outcomes[0] is True


async def test_closing_ends_two_messages_in_flight(server: "HoldingServer", new_caller: NewCaller) -> None:
    async with new_caller(server.address) as caller:
        calls = await two_in_flight(caller, server)
        calls += [caller.call(number) for number in (10, 11)]
        await caller.until_waiting(2)
        await caller.close()
        outcomes = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 30)
        assert all(isinstance(outcome, PoolError) for outcome in outcomes)
        for message in server.messages:
            assert await asyncio.to_thread(message.ended.wait, 30)
    assert len(server.messages) == 2


async def test_both_messages_use_one_retry_budget(server: "HoldingServer", new_caller: NewCaller) -> None:
    policy = RetryPolicy(first_backoff=0.01, max_backoff=0.02, budget=0, burst=1)
    async with new_caller(server.address, retries=policy) as caller:
        calls = await two_in_flight(caller, server)
        server.messages[0].release(LOST)
        server.messages[1].release(LOST)
        # One of the two is sent again.
        (await server.received(3))[2].release()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        stats = caller.client.stats()
    assert (stats.retries, stats.retry_budget_exhausted) == (1, 1)
    assert len({outcome is True for outcome in outcomes[1:]}) == 1
    assert (outcomes[0] is True) != (outcomes[1] is True)
    assert all(outcome is True or isinstance(outcome, Unavailable) for outcome in outcomes)
    assert len(server.messages) == 3


async def test_a_message_in_flight_is_hedged(server: "HoldingServer", new_caller: NewCaller) -> None:
    async with new_caller(server.address, hedge_after=0.3) as caller:
        calls = await two_in_flight(caller, server)
        # On a busy machine, the first message may be hedged before the second one is sent.
        first_of: dict[bytes, Message] = {}
        for message in await server.received(4):
            if first_of.setdefault(message.request, message) is not message:
                message.release()
        assert await asyncio.gather(*calls) == [True] * (1 + FULL)
        assert caller.client.stats().hedges_won == 2
        for message in first_of.values():
            assert await asyncio.to_thread(message.ended.wait, 30)

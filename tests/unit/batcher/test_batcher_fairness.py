"""Fairness: callers that wait get equal shares of the work, however many requests each of them has."""

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from poolservice.errors import InvalidRequest
from poolservice_server.batcher import Batcher, QuotaExceeded, Quotas, Request
from poolservice_server.batcher.quotas import Callers

if TYPE_CHECKING:
    from tests.unit.batcher.conftest import MakeRequest, Runner


def request(caller: str, payload: Any, *, key: str | None = None, seconds: float = 0.0, nbytes: int = 10) -> Request:
    """Return a request that is batched with no other, unless a key is given."""
    return Request(payload if key is None else key, payload, nbytes, None, caller, seconds)


async def order_of(runner: "Runner", blocked: "MakeRequest", batcher: Batcher, requests: list[Request]) -> list[Any]:
    """Return the batches of requests that waited together."""
    first = batcher.submit(blocked("first"))
    await runner.wait_for_start()
    futures = [batcher.submit(one) for one in requests]
    runner.release.set()
    await asyncio.gather(first, *futures)
    await batcher.drain()
    return runner.batches[1:]


async def test_a_thousand_waiting_requests_do_not_delay_the_first_of_another_caller(
    runner: "Runner", blocked: "MakeRequest"
) -> None:
    batcher = Batcher(runner, threads=1)
    many = [request("many", f"many {number}") for number in range(1000)]
    order = await order_of(runner, blocked, batcher, [*many, request("one", "one")])
    assert order.index(["one"]) <= 1


async def test_callers_take_turns_by_their_work_and_not_by_their_requests(
    runner: "Runner", blocked: "MakeRequest"
) -> None:
    batcher = Batcher(runner, threads=1)
    heavy = [request("heavy", f"heavy {number}", seconds=0.03) for number in range(3)]
    light = [request("light", f"light {number}", seconds=0.01) for number in range(9)]
    order = [name.split()[0] for (name,) in await order_of(runner, blocked, batcher, heavy + light)]
    # After each heavy request of one caller, the other has had about as much work done.
    assert [order[: end + 1].count("light") for end, name in enumerate(order) if name == "heavy"] == pytest.approx(
        [3, 6, 9], abs=1
    )


async def test_a_batch_takes_equal_keys_of_all_callers_in_turns(runner: "Runner", blocked: "MakeRequest") -> None:
    batcher = Batcher(runner, threads=1, max_batch_size=4)
    many = [request("many", f"many {number}", key="same") for number in range(6)]
    few = [request("few", f"few {number}", key="same") for number in range(2)]
    batches = await order_of(runner, blocked, batcher, many + few)
    assert sorted(batches[0]) == ["few 0", "few 1", "many 0", "many 1"]
    assert batches[1] == ["many 2", "many 3", "many 4", "many 5"]


async def test_requests_of_one_caller_run_in_the_order_of_their_arrival(
    runner: "Runner", blocked: "MakeRequest"
) -> None:
    batcher = Batcher(runner, threads=1)
    requests = [request("one", number, seconds=0.001 * (number % 5)) for number in range(20)]
    assert await order_of(runner, blocked, batcher, requests) == [[number] for number in range(20)]


@pytest.mark.parametrize("threads", [1, 2])
async def test_long_work_always_leaves_a_slot_for_short_work(runner: "Runner", threads: int) -> None:
    batcher = Batcher(runner, threads=threads, max_batch_seconds=0.02)
    long = [batcher.submit(Request("blocked", number, 10, None, "long", 1.0)) for number in range(threads + 2)]
    for _ in range(threads):
        await runner.wait_for_start()
    # All slots have long work, and more of it waits.
    assert (await batcher.submit(Request("short", "short", 10, None, "short", 0.01))).result == "short"
    assert not any(future.done() for future in long)
    assert batcher.snapshot().queue_entries == 2
    runner.release.set()
    await asyncio.gather(*long)
    await batcher.drain()


@pytest.mark.parametrize(
    ("quotas", "found", "limit", "reason"),
    [
        (Quotas(max_requests=2), "2 requests in flight", r"2 \(--caller-max-requests\)", "caller_requests"),
        (Quotas(max_bytes=25), "30 bytes in flight", r"25 \(--caller-max-bytes\)", "caller_bytes"),
        (
            Quotas(max_seconds=2.5),
            "3 estimated seconds of work in flight",
            r"2\.5 \(--caller-max-seconds\)",
            "caller_seconds",
        ),
        (Quotas(max_rate=2), "more than 2 requests per second", r"2 \(--caller-max-rate\)", "caller_rate"),
    ],
)
async def test_a_refusal_names_the_quota_of_the_caller_and_no_other_caller_is_refused(
    runner: "Runner", quotas: Quotas, found: str, limit: str, reason: str
) -> None:
    now = asyncio.get_running_loop().time()
    batcher = Batcher(runner, threads=1, quotas=quotas, clock=lambda: now)
    futures = [batcher.submit(Request("blocked", number, 10, None, "greedy", 1.0)) for number in range(2)]
    with pytest.raises(QuotaExceeded, match=f"{found}, and the server allows each caller {limit}; retry in") as refusal:
        batcher.reserve(10, "greedy", 1.0)
    assert 0 < refusal.value.retry_after <= 30
    futures.append(batcher.submit(Request("other", "other", 10, None, "modest", 1.0)))
    assert (batcher.snapshot().refused, batcher.refusals) == (1, {reason: 1})
    runner.release.set()
    await asyncio.gather(*futures)
    now += 10.0
    assert (await batcher.submit(Request("again", "again", 10, None, "greedy", 1.0))).result == "again"
    await batcher.drain()
    assert batcher.snapshot().admitted_seconds == 0


async def test_a_caller_with_nothing_in_flight_may_send_a_request_of_any_size(runner: "Runner") -> None:
    batcher = Batcher(runner, max_queue_bytes=1000, quotas=Quotas(max_bytes=100, max_seconds=1.0))
    with batcher.reserve(1000, "one", 60.0):
        pass
    with pytest.raises(InvalidRequest, match="1001 bytes, more than the 1000"):
        batcher.reserve(1001, "one")
    await batcher.drain()


@pytest.mark.parametrize("quotas", [Quotas(), Quotas(max_rate=100.0)])
def test_callers_that_have_left_are_forgotten(quotas: Quotas) -> None:
    now = 0.0
    callers = Callers(quotas, lambda: now, lambda *_: 0.0)
    largest = 0
    for number in range(100_000):
        holdings = callers.holdings(f"caller {number}")
        callers.check(holdings, 10, 0.001)
        now += 0.001
        largest = max(largest, len(callers))
    assert largest <= 4096

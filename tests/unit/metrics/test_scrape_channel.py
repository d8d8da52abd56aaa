"""The channel between a supervisor and a worker, whatever the worker does."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Iterator

import pytest
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from structlog.testing import capture_logs

from poolservice_server.metrics.families import encode
from poolservice_server.metrics.scrape_channel import ScrapeChannel, answer_scrapes

# Longer than any answer takes, also on a busy machine.
SECONDS = 60.0


def gauge(value: float) -> list[Metric]:
    return [GaugeMetricFamily("tested", "A gauge.", value)]


def framed(page: bytes) -> bytes:
    return struct.pack("!I", len(page)) + page


class Ends:
    """Both ends of a channel."""

    def __init__(self) -> None:
        supervisor, self.worker = socket.socketpair()
        self.worker.setblocking(False)
        self.channel = ScrapeChannel(3, 1234, supervisor)

    async def request(self) -> None:
        """Wait for a request, as a worker does."""
        assert await asyncio.get_running_loop().sock_recv(self.worker, 1) == b"?"

    async def respond(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.worker, data)

    async def next_request(self) -> "asyncio.Task[float | None]":
        """Scrape until that sends a request, after a late answer; return the scrape."""
        arrived = asyncio.create_task(self.request())
        while True:
            value = asyncio.create_task(self.value())
            await asyncio.wait((value, arrived), return_when=asyncio.FIRST_COMPLETED)
            if not value.done():
                await arrived
                return value
            assert value.result() is None

    async def value(self, seconds: float = SECONDS) -> float | None:
        """Return the gauge in the worker's metrics, or None."""
        families = await self.channel.collect(seconds)
        return None if families is None else families[0].samples[0].value


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    ends = Ends()
    yield ends
    ends.channel.close()
    ends.worker.close()


async def test_a_worker_answers_with_its_metrics_as_they_are_then(ends: Ends) -> None:
    values = iter((1.0, 2.0))
    ends.worker.setblocking(True)
    answer_scrapes(ends.worker.fileno(), lambda: gauge(next(values)))
    assert [await ends.value(), await ends.value()] == [1.0, 2.0]


async def test_a_failed_collection_costs_one_scrape(ends: Ends) -> None:
    outcomes: Iterator[list[Metric] | Exception] = iter((RuntimeError("a counter is damaged"), gauge(2.0)))

    def collect() -> list[Metric]:
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    ends.worker.setblocking(True)
    answer_scrapes(ends.worker.fileno(), collect)
    assert [await ends.value(), await ends.value()] == [None, 2.0]


async def test_a_stuck_worker_delays_one_scrape_and_no_later_one(ends: Ends) -> None:
    assert await ends.value(0.01) is None
    assert await ends.value() is None
    assert await ends.value() is None


async def test_a_worker_that_gets_stuck_and_goes_on_is_logged_once_each_time(ends: Ends) -> None:
    with capture_logs() as events:
        assert await ends.value(0.01) is None
        assert await ends.value() is None
        await ends.request()
        await ends.respond(framed(encode(gauge(1.0))))
        for _ in range(2):
            value = await ends.next_request()
            await ends.respond(framed(encode(gauge(2.0))))
            assert await value == 2.0
    assert events == [
        {"event": "a worker does not answer", "log_level": "warning", "worker": 3, "pid": 1234},
        {"event": "a worker answers again", "log_level": "info", "worker": 3, "pid": 1234},
    ]


async def test_an_answer_that_comes_too_late_is_not_used_by_a_later_scrape(ends: Ends) -> None:
    assert await ends.value(0.01) is None
    await ends.request()
    await ends.respond(framed(encode(gauge(1.0))))
    value = await ends.next_request()
    await ends.respond(framed(encode(gauge(2.0))))
    assert await value == 2.0


async def test_a_worker_that_is_stopped_within_an_answer_may_end_it_later(ends: Ends) -> None:
    answer = framed(encode(gauge(1.0)))
    first = asyncio.create_task(ends.value(0.01))
    await ends.request()
    await ends.respond(answer[:7])
    assert await first is None
    await ends.respond(answer[7:])
    value = await ends.next_request()
    await ends.respond(framed(encode(gauge(2.0))))
    assert await value == 2.0


@pytest.mark.parametrize("answer", [framed(b"nonsense"), struct.pack("!I", 2**31)], ids=["no metrics", "too large"])
async def test_a_worker_that_answers_nonsense_is_left_out(ends: Ends, answer: bytes) -> None:
    value = asyncio.create_task(ends.value())
    await ends.request()
    await ends.respond(answer)
    assert await value is None


async def test_a_worker_that_ends_is_left_out_immediately(ends: Ends) -> None:
    value = asyncio.create_task(ends.value())
    await ends.request()
    ends.worker.close()
    assert await value is None
    assert await ends.value() is None


async def test_closing_the_channel_ends_a_scrape_that_waits(ends: Ends) -> None:
    value = asyncio.create_task(ends.value())
    await ends.request()
    ends.channel.close()
    assert await value is None

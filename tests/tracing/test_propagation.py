"""Trace contexts from callers to the server: blocking, asyncio, coalesced, and in a map."""

import asyncio
import sys

import numpy as np
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanContext, Tracer, TraceState
from tests.tracing.conftest import Collector, FinishedSpan

from poolservice_client import AsyncPoolClient, AvgPool2d, GlobalAvgPool2d, MaxPool2d, PoolClient
from poolservice_client._transport.trace_context import CallMetadata, TraceContext, current_trace

X = np.zeros((3, 8, 8), np.float32)
SERVER_KIND = 2


def server_spans(spans: list[FinishedSpan], context: SpanContext) -> list[FinishedSpan]:
    """Return the server's spans directly below a span."""
    parent = f"{context.span_id:016x}"
    return [one for one in spans if one.kind == SERVER_KIND and one.parent_id == parent]


def test_an_asyncio_call_is_below_the_span_of_its_task(
    traced_address: str, collector: Collector, tracer: Tracer
) -> None:
    async def call() -> SpanContext:
        async with AsyncPoolClient(traced_address) as client:
            with tracer.start_as_current_span("task") as span:
                await client.pool(X, MaxPool2d(2))
                return span.get_span_context()

    context = asyncio.run(call())
    collector.wait_for(lambda spans: server_spans(spans, context))


def test_every_caller_of_a_coalesced_message_finds_the_server_in_its_trace(
    traced_address: str, collector: Collector, tracer: Tracer
) -> None:
    async def call(client: AsyncPoolClient, number: int) -> SpanContext:
        with tracer.start_as_current_span(f"task {number}") as span:
            await client.pool(X, MaxPool2d(2) if number % 2 else AvgPool2d(2))
            return span.get_span_context()

    async def calls() -> list[SpanContext]:
        async with AsyncPoolClient(traced_address) as client:
            found = await asyncio.gather(*(call(client, number) for number in range(8)))
            assert client.stats().coalesced_messages
            return found

    contexts = asyncio.run(calls())
    spans = collector.wait_for(lambda spans: all(server_spans(spans, one) for one in contexts))
    found = [one for context in contexts for one in server_spans(spans, context)]
    calls_by_id = {one.span_id: one for one in found if "poolservice.coalesced" not in one.attributes}
    others = [one for one in found if "poolservice.coalesced" in one.attributes]
    assert others
    for one in others:
        (call_id,) = one.links
        assert one.parent_id in calls_by_id[call_id].links


def test_the_calls_of_a_map_are_below_the_span_of_its_caller(
    traced_address: str, collector: Collector, tracer: Tracer
) -> None:
    with PoolClient(traced_address) as client, tracer.start_as_current_span("job") as span:
        assert len(list(client.map([X] * 5, GlobalAvgPool2d()))) == 5
        context = span.get_span_context()
    collector.wait_for(lambda spans: server_spans(spans, context))


async def test_the_calls_of_an_asyncio_map_are_below_the_span_of_its_caller(
    traced_address: str, collector: Collector, tracer: Tracer
) -> None:
    async with AsyncPoolClient(traced_address) as client:
        with tracer.start_as_current_span("job") as span:
            assert len([one async for one in client.map([X] * 5, GlobalAvgPool2d())]) == 5
            context = span.get_span_context()
    await asyncio.to_thread(collector.wait_for, lambda spans: server_spans(spans, context))


def test_a_span_that_is_not_recorded_is_sent_too() -> None:
    with TracerProvider(sampler=ALWAYS_OFF).get_tracer("tests").start_as_current_span("span") as span:
        ((key, value),) = CallMetadata(()).of_call() or ()
    context = span.get_span_context()
    assert key == "traceparent"
    assert isinstance(value, str)
    assert value.startswith(f"00-{context.trace_id:032x}-{context.span_id:016x}-")
    assert int(value[-2:], 16) & 1 == 0


@pytest.mark.parametrize("module", [None, object()])
def test_without_a_span_no_header_is_sent(monkeypatch: pytest.MonkeyPatch, module: object) -> None:
    assert CallMetadata(()).of_call() is None
    # A program without opentelemetry, and one that is importing it on another thread.
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", module)
    assert CallMetadata((("x-team", "search"),)).of_call() == (("x-team", "search"),)


def test_metadata_of_the_client_with_a_traceparent_is_sent_as_it_is(tracer: Tracer) -> None:
    own = (("traceparent", f"00-{1:032x}-{2:016x}-01"),)
    with tracer.start_as_current_span("span"):
        assert CallMetadata(own).of_call() == own


def context_of(number: int, *, is_sampled: bool = True, state: str = "") -> TraceContext:
    return TraceContext(f"00-{number:032x}-{number:016x}-0{int(is_sampled)}", state, is_sampled)


def test_the_first_recorded_span_is_the_parent_and_the_others_are_links() -> None:
    callers = [context_of(1, is_sampled=False), context_of(2), context_of(2), context_of(3), context_of(4)]
    metadata = dict(CallMetadata(()).of_call(callers) or ())
    assert metadata == {
        "traceparent": context_of(2).parent,
        "x-trace-links": f"{context_of(3).parent},{context_of(4).parent}",
    }


def test_a_call_is_never_too_large_because_it_is_traced() -> None:
    callers = [context_of(number, state="a=" + "b" * 400) for number in range(1, 100)]
    for size in range(5000, 7100, 100):
        metadata = (("x-large", "x" * size),)
        sent = CallMetadata(metadata).of_call(callers) or ()
        assert sent[:1] == metadata
        assert sum(len(key) + len(value) + 32 for key, value in sent) <= max(7 * 1024, size + 39)


@pytest.mark.parametrize(
    ("entries", "expected"), [([("a", "b")], "a=b"), ([(f"a{i}", "b" * 200) for i in range(4)], "")]
)
def test_a_trace_state_is_sent_unless_it_is_too_long(entries: list[tuple[str, str]], expected: str) -> None:
    context = SpanContext(1, 2, is_remote=False, trace_state=TraceState(entries))
    with trace.use_span(trace.NonRecordingSpan(context)):
        found = current_trace()
    assert found is not None
    assert found.state == expected

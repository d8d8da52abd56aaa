"""Spans of calls and requests, made from their records when they have ended.

Nothing is traced while a call runs: its record has all times. A call whose trace is not recorded costs one decision of
the sampler.
"""

import asyncio
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, cast

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Link, Span, SpanKind, StatusCode
from opentelemetry.util.types import AttributeValue

import poolservice
from poolservice_server.core.call_record import CallRecord
from poolservice_server.core.request_record import RequestRecord
from poolservice_server.core.request_stages import Stage, stages
from poolservice_server.core.request_summary import summarize
from poolservice_server.error_status import code_name
from poolservice_server.tracing.batch_spans import BatchSpans
from poolservice_server.tracing.clock import Clock
from poolservice_server.tracing.contexts import below, below_caller, remote_context

_SERVICE = "poolservice.v1.PoolService"
# By OpenTelemetry's conventions, the codes that are errors of a server.
_SERVER_ERRORS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
# Of a batch or a stream, so many requests get spans, and further ones only if they fail: the exporter's queue holds
# 2,048 spans.
_MAX_REQUESTS = 128


class _CallSpan:
    """The span of a call, and how many of its requests have spans."""

    __slots__ = ("requests", "span")

    def __init__(self, span: Span) -> None:
        self.span = span
        self.requests = 0


class Tracing:
    """The spans of one process. Use it on the event loop.

    Args:
        provider: makes and exports the spans.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("poolservice_server", poolservice.__version__)
        self._clock = Clock()
        self._batches = BatchSpans(self._tracer, self._clock)

    def observe_request(self, record: RequestRecord, error: BaseException | None) -> None:
        """Make the spans of a request that ended; see `RequestObserver`."""
        call = record.call
        if call.record is None:
            return
        of_call = self._span_of(call.record)
        span = of_call.span
        if not span.is_recording():
            return
        if call.position is not None:
            of_call.requests += 1
            if error is None and of_call.requests > _MAX_REQUESTS:
                return
            position = "index" if call.method == "PoolBatch" else "correlation_id"
            span = self._tracer.start_span(
                "request",
                below(span.get_span_context()),
                attributes={f"poolservice.{position}": call.position},
                start_time=self._clock.of_monotonic(record.started),
            )
        span.set_attributes(_request_attributes(record))
        for stage in stages(record):
            self._add_stage(stage, record, span)
        if call.position is not None:
            if error is not None:
                code = code_name(error)
                _set_code(span, code, "" if code == "INTERNAL" else str(error))
            span.end(self._clock.of_monotonic(record.ended))

    def observe_call(self, record: CallRecord) -> None:
        """End the span of a call; see `CallObserver`."""
        of_call = self._span_of(record)
        span = of_call.span
        if span.is_recording():
            if of_call.requests:
                span.set_attribute("poolservice.requests", of_call.requests)
            span.set_attributes(
                {
                    "poolservice.received_bytes": record.received_bytes,
                    "poolservice.sent_bytes": record.sent_bytes,
                }
            )
            _set_code(span, record.code, record.reason)
        ended = self._clock.of_perf_counter(time.perf_counter())
        span.end(ended)
        self._show_in_other_traces(record, span, ended)

    async def close(self, seconds: float) -> None:
        """Export the last spans, within so many seconds, and stop."""
        self._batches.close()
        loop = asyncio.get_running_loop()
        exported = asyncio.Event()

        def shut_down() -> None:
            self._provider.shutdown()
            # If the export took too long, the loop is closed.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(exported.set)

        # A daemon, so that a collector that does not respond cannot keep the process alive.
        threading.Thread(target=shut_down, name="tracing-end", daemon=True).start()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await exported.wait()

    def _span_of(self, record: CallRecord) -> _CallSpan:
        """Return the span of a call, which the first of its requests that ends starts, or its own end."""
        if record.span is not None:
            return cast(_CallSpan, record.span)
        self._clock.adjust()
        ids = record.ids
        attributes: dict[str, AttributeValue] = {**_call_attributes(record), "poolservice.request_id": ids.request_id}
        if record.caller:
            attributes["poolservice.caller"] = record.caller
        span = self._tracer.start_span(
            f"{_SERVICE}/{record.method}",
            below_caller(ids),
            SpanKind.SERVER,
            attributes,
            [Link(remote_context(one)) for one in ids.links],
            self._clock.of_perf_counter(record.started),
        )
        of_call = record.span = _CallSpan(span)
        return of_call

    def _show_in_other_traces(self, record: CallRecord, span: Span, ended: int) -> None:
        """Add a span to the trace of each further caller of a coalesced message, which links to the span of the call.

        Otherwise these callers would find nothing of the server in their traces.
        """
        for one in record.ids.links:
            if one.is_sampled:
                self._tracer.start_span(
                    f"{_SERVICE}/{record.method}",
                    below(remote_context(one)),
                    SpanKind.SERVER,
                    {**_call_attributes(record), "poolservice.coalesced": True},
                    [Link(span.get_span_context())],
                    self._clock.of_perf_counter(record.started),
                ).end(ended)

    def _add_stage(self, stage: Stage, record: RequestRecord, span: Span) -> None:
        links: list[Link] = []
        attributes: dict[str, AttributeValue] = {}
        completed = record.completed
        if stage.name == "compute" and completed is not None:
            attributes = {"poolservice.device": completed.device, "poolservice.batch_size": completed.batch_size}
            if completed.batch_size > 1:
                links = [Link(self._batches.add(completed, span))]
        self._tracer.start_span(
            stage.name,
            below(span.get_span_context()),
            SpanKind.INTERNAL,
            attributes,
            links,
            self._clock.of_monotonic(stage.started),
        ).end(self._clock.of_monotonic(stage.started + stage.seconds))


def _call_attributes(record: CallRecord) -> dict[str, AttributeValue]:
    return {"rpc.system.name": "grpc", "rpc.method": f"{_SERVICE}/{record.method}"}


def _request_attributes(record: RequestRecord) -> Mapping[str, Any]:
    specs, shape, dtype, backbone, tap = summarize(record)
    found = {"specs": specs, "shape": shape, "dtype": dtype, "backbone": backbone, "tap": tap}
    attributes: dict[str, Any] = {f"poolservice.{name}": value for name, value in found.items() if value}
    if record.completed is not None:
        attributes["poolservice.device"] = record.completed.device
        attributes["poolservice.batch_size"] = record.completed.batch_size
    return attributes


def _set_code(span: Span, code: str, reason: str) -> None:
    """Record how a call or a request ended."""
    span.set_attribute("rpc.response.status_code", code)
    if code == "OK":
        return
    span.set_attribute("error.type", code)
    if reason:
        # The message that the caller gets. Python's own message and traceback may have paths.
        span.add_event("exception", {"exception.type": code, "exception.message": reason})
    if code in _SERVER_ERRORS:
        span.set_status(StatusCode.ERROR, reason or None)

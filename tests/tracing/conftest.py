"""Fixtures: a collector of traces, and servers that export to it."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Tracer

from poolservice_server.testing import serve


class FinishedSpan(NamedTuple):
    """A span that arrived at the collector, with its ids as hexadecimal digits and its times in nanoseconds."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    started: int
    ended: int
    attributes: dict[str, Any]
    links: list[str]
    events: list[dict[str, Any]]
    status: int
    resource: dict[str, Any]


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """A collector that keeps all spans."""

    def __init__(self) -> None:
        self.spans: list[FinishedSpan] = []
        self._arrived = threading.Condition()
        self._threads = ThreadPoolExecutor(2)
        self._server = grpc.server(self._threads)
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        self.url = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def Export(  # noqa: N802 - the name of the method
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        with self._arrived:
            for of_resource in request.resource_spans:
                resource = _values(of_resource.resource.attributes)
                for of_scope in of_resource.scope_spans:
                    self.spans += [_finished(span, resource) for span in of_scope.spans]
            self._arrived.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    def wait_for(self, condition: Callable[[list[FinishedSpan]], object]) -> list[FinishedSpan]:
        """Wait until the spans meet a condition, and return them."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: condition(self.spans), 60), self.spans
            return list(self.spans)

    def trace(self, trace_id: int, spans: int) -> list[FinishedSpan]:
        """Wait until so many spans of a trace have arrived, and return them in the order of their starts."""
        digits = f"{trace_id:032x}"
        found = self.wait_for(lambda arrived: sum(one.trace_id == digits for one in arrived) >= spans)
        return sorted((one for one in found if one.trace_id == digits), key=lambda one: (one.started, -one.ended))

    def stop(self) -> None:
        self._server.stop(None).wait()
        self._threads.shutdown()


def _finished(span: trace_pb2.Span, resource: dict[str, Any]) -> FinishedSpan:
    return FinishedSpan(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.kind,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        _values(span.attributes),
        [link.span_id.hex() for link in span.links],
        [_values(event.attributes) for event in span.events],
        span.status.code,
        resource,
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {one.key: _value(one.value) for one in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind)


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.stop()


@pytest.fixture(scope="session")
def traced_address(collector: Collector) -> Iterator[str]:
    """Return the address of a server that exports its spans to the collector, and fills batches of four requests."""
    flags = ("--device", "cpu", "--max-batch-size", "4", "--max-batch-delay", "0.02")
    with serve(*flags, "--otlp-endpoint", collector.url, env={"OTEL_BSP_SCHEDULE_DELAY": "20"}) as server:
        yield server.address


@pytest.fixture(scope="session")
def tracer() -> Tracer:
    """Return the tracer of a program that calls the server."""
    return TracerProvider().get_tracer("tests")

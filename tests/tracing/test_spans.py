"""The spans of a call: their parents, order, times and attributes."""

import time
from pathlib import Path

import grpc
import numpy as np
import pytest
from opentelemetry.trace import SpanContext, SpanKind, Tracer
from tests.tracing.conftest import Collector, FinishedSpan

from poolservice.v1 import pool_pb2 as pb
from poolservice.v1.pool_pb2_grpc import PoolServiceStub
from poolservice_client import GlobalAvgPool2d, InvalidRequest, MaxPool2d, PoolClient

X = np.zeros((3, 8, 8), np.float32)
SERVER_KIND = 2
CALL = "poolservice.v1.PoolService/Pool"


def headers_of(context: SpanContext) -> tuple[tuple[str, str], ...]:
    return (("traceparent", f"00-{context.trace_id:032x}-{context.span_id:016x}-01"),)


def request(kernel_size: int) -> pb.PoolRequest:
    return pb.PoolRequest(
        specs=[pb.PoolSpec(spatial_dims=2, max_pool=pb.MaxPool(kernel_size=[kernel_size]))],
        tensor=pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[3, 8, 8], data=X.tobytes()),
    )


def assert_in_order(parent: FinishedSpan, children: list[FinishedSpan]) -> None:
    """Fail unless the children follow one another within their parent."""
    earlier = parent.started
    for child in children:
        assert child.parent_id == parent.span_id
        assert child.trace_id == parent.trace_id
        assert earlier <= child.started <= child.ended <= parent.ended, child
        earlier = child.ended


def test_a_call_has_a_span_with_its_stages(traced_address: str, collector: Collector, tracer: Tracer) -> None:
    before = time.time_ns()
    with PoolClient(traced_address) as client, tracer.start_as_current_span("caller") as caller:
        client.pool(X, [MaxPool2d(2), GlobalAvgPool2d()])
    after = time.time_ns()
    call, *stages = collector.trace(caller.get_span_context().trace_id, 4)
    assert (call.name, call.kind) == (CALL, SERVER_KIND)
    assert call.parent_id == f"{caller.get_span_context().span_id:016x}"
    assert before <= call.started <= call.ended <= after
    assert [one.name for one in stages] == ["queue", "compute", "encode"]
    assert_in_order(call, stages)
    assert call.attributes["rpc.system.name"] == "grpc"
    assert call.attributes["rpc.method"] == CALL
    assert call.attributes["rpc.response.status_code"] == "OK"
    assert call.attributes["poolservice.specs"] == ["MaxPool2d(kernel_size=2)", "GlobalAvgPool2d()"]
    assert call.attributes["poolservice.shape"] == [3, 8, 8]
    assert call.attributes["poolservice.dtype"] == "float32"
    assert stages[1].attributes == {"poolservice.device": "cpu", "poolservice.batch_size": 1}
    assert call.resource["service.name"] == "poolservice-server"


def test_an_image_is_decoded_before_it_is_computed(
    traced_address: str, collector: Collector, tracer: Tracer, photograph: Path
) -> None:
    with PoolClient(traced_address) as client, tracer.start_as_current_span("caller") as caller:
        client.pool(photograph, GlobalAvgPool2d())
    call, *stages = collector.trace(caller.get_span_context().trace_id, 6)
    # A wait may be so short that it starts and ends in the nanosecond in which the next stage starts.
    stages.sort(key=lambda one: (one.started, one.ended))
    names = [one.name for one in stages]
    assert names == ["queue", "decode", "queue", "compute", "encode"]
    assert_in_order(call, stages)


def test_a_failed_call_records_the_error_that_its_caller_gets(
    traced_address: str, collector: Collector, tracer: Tracer
) -> None:
    with (
        PoolClient(traced_address) as client,
        tracer.start_as_current_span("caller") as caller,
        pytest.raises(InvalidRequest) as raised,
    ):
        client.pool(X, MaxPool2d(20))
    (call,) = collector.trace(caller.get_span_context().trace_id, 1)
    assert call.attributes["rpc.response.status_code"] == call.attributes["error.type"] == "INVALID_ARGUMENT"
    assert call.attributes["poolservice.request_id"] == raised.value.request_id
    (event,) = call.events
    assert "a kernel_size of 20 is larger than the input" in event["exception.message"]
    # By OpenTelemetry's conventions, a caller's mistake is no error of the server.
    assert call.status == 0


def test_each_request_of_a_batch_has_a_span(traced_address: str, collector: Collector, tracer: Tracer) -> None:
    context = tracer.start_span("caller", kind=SpanKind.CLIENT).get_span_context()
    with grpc.insecure_channel(traced_address) as channel:
        batch = pb.PoolBatchRequest(requests=[request(2), request(20)])
        PoolServiceStub(channel).PoolBatch(batch, timeout=60, metadata=headers_of(context))
    spans = collector.trace(context.trace_id, 6)
    (call,) = [one for one in spans if one.kind == SERVER_KIND]
    first, second = sorted(
        (one for one in spans if one.name == "request"), key=lambda one: one.attributes["poolservice.index"]
    )
    assert call.name == "poolservice.v1.PoolService/PoolBatch"
    assert call.attributes["poolservice.requests"] == 2
    assert first.parent_id == second.parent_id == call.span_id
    assert second.attributes["rpc.response.status_code"] == "INVALID_ARGUMENT"
    assert_in_order(first, [one for one in spans if one.parent_id == first.span_id])


def test_a_batch_has_a_span_that_links_to_its_members(
    traced_address: str, collector: Collector, tracer: Tracer
) -> None:
    context = tracer.start_span("caller").get_span_context()
    with grpc.insecure_channel(traced_address) as channel:
        four = pb.PoolBatchRequest(requests=[request(4)] * 4)
        PoolServiceStub(channel).PoolBatch(four, timeout=60, metadata=headers_of(context))
    spans = collector.trace(context.trace_id, 1 + 4 * 4 + 1)
    members = [one for one in spans if one.name == "request"]
    computes = [one for one in spans if one.name == "compute"]
    (batch,) = [one for one in spans if one.name == "batch"]
    assert sorted(batch.links) == sorted(one.span_id for one in members)
    assert batch.attributes == {"poolservice.device": "cpu", "poolservice.batch_size": 4}
    assert {(one.started, one.ended) for one in computes} == {(batch.started, batch.ended)}
    assert all(one.links == [batch.span_id] for one in computes)


def test_requests_above_a_number_have_spans_only_if_they_fail(
    traced_address: str, collector: Collector, tracer: Tracer
) -> None:
    context = tracer.start_span("caller").get_span_context()
    with grpc.insecure_channel(traced_address) as channel:
        many = pb.PoolBatchRequest(requests=[*[request(2)] * 200, request(20)])
        PoolServiceStub(channel).PoolBatch(many, timeout=60, metadata=headers_of(context))

    def is_complete(spans: list[FinishedSpan]) -> bool:
        return any(one.attributes.get("poolservice.requests") == 201 for one in spans)

    spans = [one for one in collector.wait_for(is_complete) if one.trace_id == f"{context.trace_id:032x}"]
    requests = [one for one in spans if one.name == "request"]
    failed = [one for one in requests if "error.type" in one.attributes]
    assert len(failed) == 1
    assert len(requests) <= 129


def test_the_sampling_decision_of_the_caller_is_honoured(
    traced_address: str, collector: Collector, tracer: Tracer
) -> None:
    dropped, kept = (tracer.start_span(name).get_span_context() for name in ("dropped", "kept"))
    with grpc.insecure_channel(traced_address) as channel:
        stub = PoolServiceStub(channel)
        not_sampled = f"00-{dropped.trace_id:032x}-{dropped.span_id:016x}-00"
        stub.Pool(request(2), timeout=60, metadata=(("traceparent", not_sampled),))
        stub.Pool(request(2), timeout=60, metadata=headers_of(kept))
    collector.trace(kept.trace_id, 4)
    assert f"{dropped.trace_id:032x}" not in {one.trace_id for one in collector.spans}

"""The call log: lines about failed and slow calls, what they say, what they never say, and how many there are."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from tests.server.server_log import wait_for_log

from http2_connection import connect
from poolservice.v1 import pool_pb2 as pb
from poolservice.v1.pool_pb2_grpc import PoolServiceStub
from poolservice_client import AsyncPoolClient, MaxPool2d, PoolError
from poolservice_server.testing import Service, serve

StartServer = Callable[..., Service]

TIMEOUT_SECONDS = 60
SPEC = pb.PoolSpec(spatial_dims=2, max_pool=pb.MaxPool(kernel_size=[2]))
WRONG_SPEC = pb.PoolSpec(spatial_dims=2, max_pool=pb.MaxPool(kernel_size=[9]))
VALID, INVALID = (
    pb.PoolRequest(specs=[spec], tensor=pb.Tensor(dtype=pb.DATA_TYPE_UINT8, shape=[1, 4, 4], data=bytes(16)))
    for spec in (SPEC, WRONG_SPEC)
)


@pytest.fixture(scope="module")
def server() -> Iterator[Service]:
    """Return a server with default settings, whose log is JSON."""
    with serve("--device", "cpu", "--log-format", "json") as server:
        yield server


def events(server: Service, text: str = "") -> list[dict[str, Any]]:
    """Return the events about calls whose lines contain `text`; fails if a line of the log is not JSON."""
    found = [(line, json.loads(line)) for line in server.log().splitlines()]
    return [event for line, event in found if text in line and event["logger"] == "poolservice_server.call_log"]


def metadata_of(request_id: str) -> tuple[tuple[str, str], ...]:
    return (("x-request-id", request_id),)


def refused(server: Service, metadata: tuple[tuple[str, str], ...] = ()) -> dict[str, Any]:
    """Send an invalid request; return the trailing metadata of its response."""
    with grpc.insecure_channel(server.address) as channel:
        call = PoolServiceStub(channel).Pool.future(INVALID, timeout=TIMEOUT_SECONDS, metadata=metadata)
        assert call.code() is not grpc.StatusCode.OK
        return dict(call.trailing_metadata())


def test_a_failed_call_has_a_line_under_the_id_of_its_caller(server: Service) -> None:
    trailing = refused(server, metadata_of("job-7"))
    info = error_details_pb2.RequestInfo()
    status_pb2.Status.FromString(trailing["grpc-status-details-bin"]).details[-1].Unpack(info)
    assert info.request_id == trailing["x-request-id"] == "job-7"
    wait_for_log(server, "job-7")
    (line,) = events(server, "job-7")
    assert (line["event"], line["level"], line["method"]) == ("failed call", "info", "Pool")
    assert line["code"] == "INVALID_ARGUMENT"
    assert line["caller"].startswith("ipv4:127.0.0.1:")
    assert "kernel_size" in line["reason"]
    assert line["milliseconds"] > 0


def test_a_failed_call_without_an_id_gets_a_new_one(server: Service) -> None:
    request_id = refused(server)["x-request-id"]
    wait_for_log(server, request_id)
    (line,) = events(server, request_id)
    assert line["request_id"] == request_id


def test_failed_requests_of_batches_and_streams_have_lines_of_their_own(server: Service) -> None:
    with grpc.insecure_channel(server.address) as channel:
        stub = PoolServiceStub(channel)
        batch = pb.PoolBatchRequest(requests=[VALID, INVALID, VALID, INVALID])
        stub.PoolBatch(batch, timeout=TIMEOUT_SECONDS, metadata=metadata_of("batch-1"))
        stream = [
            pb.PoolStreamRequest(correlation_id=70, request=VALID),
            pb.PoolStreamRequest(correlation_id=71, request=INVALID),
        ]
        responses = stub.PoolStream(iter(stream), timeout=TIMEOUT_SECONDS, metadata=metadata_of("stream-1"))
        assert len(list(responses)) == 2
    wait_for_log(server, "stream-1")
    in_batch, in_stream = events(server, "batch-1"), events(server, "stream-1")
    assert {line["event"] for line in in_batch + in_stream} == {"failed request"}
    assert sorted(line["index"] for line in in_batch) == [1, 3]
    assert [line["correlation_id"] for line in in_stream] == [71]


def test_an_id_that_is_too_long_is_replaced(server: Service) -> None:
    request_id = refused(server, metadata_of("x" * 6000))["x-request-id"]
    assert len(request_id) < 40
    wait_for_log(server, request_id)
    assert "xxxx" not in server.log()


async def test_hostile_ids_reach_neither_log_nor_response(server: Service) -> None:
    hostile = (b"a\x01bc", b"\xff\xfesecret", "\u00e9secret".encode(), b"forged secret level=error", b"\x1b[31msecret")
    async with connect(server.address) as connection:
        for value in hostile:
            stream = connection.call("/poolservice.v1.PoolService/Pool", [(b"x-request-id", value)])
            await connection.send_data(stream, b"\x00\x00\x00\x00\x00", end=True)
            await connection.streams[stream].ended.wait()
            assert value not in connection.streams[stream].trailers
    # The next line is written after those of the calls before it.
    wait_for_log(server, refused(server)["x-request-id"])
    assert events(server)
    assert "secret" not in server.log()
    assert "Traceback" not in server.log()


def test_a_slow_call_has_a_line_that_says_where_its_time_went(start_server: StartServer) -> None:
    server = start_server("--log-format", "json", "--slow-call-seconds", "1e-9")
    metadata = (*metadata_of("slow-1"), ("traceparent", f"00-{7:032x}-{8:016x}-01"))
    with grpc.insecure_channel(server.address) as channel:
        PoolServiceStub(channel).Pool(VALID, timeout=TIMEOUT_SECONDS, metadata=metadata)
    wait_for_log(server, "slow-1")
    (line,) = events(server, "slow-1")
    assert (line["event"], line["level"], line["code"]) == ("slow call", "warning", "OK")
    assert line["specs"] == "MaxPool2d(kernel_size=2)"
    assert (line["shape"], line["dtype"], line["device"], line["batch_size"]) == ([1, 4, 4], "uint8", "cpu", 1)
    assert line["trace_id"] == f"{7:032x}"
    assert line["received_bytes"] > 16
    assert line["sent_bytes"] > 4
    stages = [line[f"{stage}_milliseconds"] for stage in ("queue", "compute", "encode")]
    assert 0 < sum(stages) <= line["milliseconds"]


def test_a_flood_of_wrong_requests_leaves_few_lines_and_their_number(start_server: StartServer) -> None:
    server = start_server("--log-format", "json")
    with grpc.insecure_channel(server.address) as channel:
        PoolServiceStub(channel).PoolBatch(pb.PoolBatchRequest(requests=[INVALID] * 1000), timeout=TIMEOUT_SECONDS)
    assert server.stop() == 0
    lines = events(server)
    left_out = [line for line in lines if line["event"] == "left out lines about calls"]
    assert len(lines) < 150
    assert len(lines) - len(left_out) + sum(line["lines"] for line in left_out) == 1000
    assert set(left_out[0]["codes"]) == {"INVALID_ARGUMENT"}


async def test_the_access_log_has_every_call_but_no_payloads_tokens_or_paths(
    start_server: StartServer, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("open-sesame search-team\n")
    flags = ("--access-log", "--slow-call-seconds", "0", "--auth-token-file", str(tokens))
    server = start_server("--log-format", "json", *flags)
    image = tmp_path / "secret-folder.png"
    image.write_bytes(b"\x89PNG\r\n\x1a\n secret-payload")
    errors: list[PoolError] = []
    for token in ("open-sesame", "wrong-sesame"):
        async with AsyncPoolClient(server.address, token=token, retries=None, connections=1) as client:
            for x in (image, np.full((1, 4, 4), 77, np.uint8)):
                for spec in (MaxPool2d(2), MaxPool2d(9)):
                    try:
                        await client.pool(x, spec)
                    except PoolError as error:
                        errors.append(error)
    assert server.stop() == 0
    lines = [line for line in events(server) if line["method"] == "Pool"]
    assert [line["event"] for line in lines].count("call") == 1
    assert [line["event"] for line in lines].count("failed call") == len(errors) == 7
    assert {line["request_id"] for line in lines if line["event"] == "failed call"} == {
        one.request_id for one in errors
    }
    callers = {line["caller"] for line in lines}
    assert "token:search-team" in callers
    assert {one.partition(":")[0] for one in callers} == {"token", "ipv4"}
    assert not re.search(r"sesame|secret-|M{4}|tmp", server.log())

"""Backbones of a real server over raw gRPC, as a caller without the SDK uses them."""

import io
from collections.abc import Iterator
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2
from PIL import Image
from tests.backbones.models import TinyBackbone, tiny_backbone
from tests.scraping import scrape

from poolservice.v1 import pool_pb2 as pb
from poolservice.v1.pool_pb2_grpc import PoolServiceStub
from poolservice_server.testing import Service, serve

MEAN = pb.PoolSpec(spatial_dims=2, global_avg_pool=pb.GlobalAvgPool())


class Served(NamedTuple):
    """A server with one tiny backbone, whose samples are NaN if they are dark."""

    stub: PoolServiceStub
    tiny: TinyBackbone
    server: Service


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("backbones")
    tiny = tiny_backbone(folder / "tiny", nan_below=-1.9)
    torn = tiny_backbone(folder / "torn", name="torn")
    (torn.path / "model.onnx").unlink()
    flags = ("--device", "cpu", "--backbones", str(folder), "--skip-broken-backbones")
    with (
        serve(*flags, "--metrics-address", "127.0.0.1:0") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        yield Served(PoolServiceStub(channel), tiny, server)


def png(width: int, height: int, color: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (color, color, color)).save(file, "PNG")
    return file.getvalue()


def request(color: int, **fields: Any) -> pb.PoolRequest:
    return pb.PoolRequest(specs=[MEAN], backbone="tiny", image=pb.Image(data=png(50, 40, color)), **fields)


def metric(served: Served, name: str) -> float:
    return scrape(served.server).value(f"poolservice_backbone_{name}", backbone="tiny")


def test_calls_batches_and_streams_give_the_features_of_the_network(served: Served) -> None:
    samples, runs = (metric(served, name) for name in ("samples_total", "run_duration_seconds_count"))
    responses = [served.stub.Pool(request(200))]
    batch = served.stub.PoolBatch(pb.PoolBatchRequest(requests=[request(200)] * 3))
    responses += [result.response for result in batch.results]
    stream = served.stub.PoolStream(iter([pb.PoolStreamRequest(request=request(200))] * 3))
    responses += [result.response for result in stream]
    sample = np.full((1, 3, 32, 32), 200, np.uint8)
    expected = served.tiny.numpy_reference(served.tiny.normalized(sample))["embedding"][0]
    (info,) = [one for one in served.stub.GetServerInfo(pb.GetServerInfoRequest()).backbones if one.name == "tiny"]
    assert len(responses) == 7
    for response in responses:
        values = np.frombuffer(response.results[0].tensor.data, np.float32)
        np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)
        assert response.execution.backbone_fingerprint == info.fingerprint
    assert metric(served, "samples_total") == samples + 7
    assert metric(served, "run_duration_seconds_count") == runs + 7
    assert metric(served, "memory_bytes") == info.memory_bytes


def test_server_info_lists_the_backbone_that_is_broken_with_the_reason(served: Served) -> None:
    info = {one.name: one for one in served.stub.GetServerInfo(pb.GetServerInfoRequest()).backbones}
    assert info["tiny"].state == pb.BACKBONE_STATE_SERVING
    assert list(info["tiny"].engines) == ["onnxruntime on cpu"]
    assert info["torn"].state == pb.BACKBONE_STATE_BROKEN
    assert "model.onnx" in info["torn"].reason


def test_an_unknown_backbone_is_an_invalid_argument_that_names_the_field(served: Served) -> None:
    wrong = request(200)
    wrong.backbone = "tinny"
    with pytest.raises(grpc.RpcError) as refused:
        served.stub.Pool(wrong)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    expected = "backbone: there is no backbone tinny; this server has tiny; did you mean tiny?"
    assert refused.value.details() == expected
    metadata: dict[str, Any] = {item.key: item.value for item in refused.value.trailing_metadata()}
    violation = error_details_pb2.BadRequest()
    assert status_pb2.Status.FromString(metadata["grpc-status-details-bin"]).details[0].Unpack(violation)
    assert violation.field_violations[0].field == "backbone"


def test_a_request_whose_features_are_nan_fails_with_the_reason_and_the_server_goes_on(served: Served) -> None:
    failures = metric(served, "failures_total")
    batch = served.stub.PoolBatch(pb.PoolBatchRequest(requests=[request(200), request(0), request(100)]))
    assert [result.status.code for result in batch.results] == [code_pb2.OK, code_pb2.INTERNAL, code_pb2.OK]
    assert "NaN" in batch.results[1].status.message
    assert metric(served, "failures_total") == failures + 1

"""GetServerInfo and the metrics describe the backbones."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from prometheus_client import CollectorRegistry
from tests.backbones.core.fake_network import LABELS, backbone, backbones

from poolservice.v1 import pool_pb2 as pb
from poolservice_server.backbones.backbone import BrokenBackbone
from poolservice_server.backend import choose_backend
from poolservice_server.core.service import Call, PoolService
from poolservice_server.core.unsent_responses import UnsentResponse
from poolservice_server.error_status import UnreadResponses
from poolservice_server.metrics.backbones import BackboneMetrics
from poolservice_server.server_info import responder
from poolservice_server.settings import Settings

Serve = Callable[..., PoolService]


def test_server_info_describes_each_backbone() -> None:
    of_server = backbones(backbone(), broken=(BrokenBackbone("torn", "model.onnx is missing"),))
    respond = responder(Settings(), choose_backend("cpu"), worker=0, backbones=of_server)
    serving, broken = respond().backbones
    assert (serving.name, serving.state, serving.fingerprint) == (
        "net",
        pb.BACKBONE_STATE_SERVING,
        "0123456789abcdef" * 2,
    )
    assert (serving.description, serving.licence, serving.source) == ("a network for tests", "Apache-2.0", "numpy")
    assert list(serving.input_shape) == [3, 8, 8]
    assert [(one.name, one.kind, list(one.shape)) for one in serving.outputs] == [
        ("features", pb.BACKBONE_OUTPUT_KIND_FEATURE_MAP, [4, 2, 2]),
        ("embedding", pb.BACKBONE_OUTPUT_KIND_VECTOR, [4]),
    ]
    assert serving.default_output == "features"
    assert tuple(serving.labels) == LABELS
    assert list(serving.engines) == ["numpy on fake"]
    assert (serving.memory_bytes, serving.seconds) == (123_456, 0.002)
    assert (broken.name, broken.state, broken.reason) == ("torn", pb.BACKBONE_STATE_BROKEN, "model.onnx is missing")


def test_server_info_has_every_value_of_the_preprocessing() -> None:
    preprocessing = backbone().preprocessing.model_copy(update={"mean": (0.485, 0.456, 0.406), "size": None})
    respond = responder(
        Settings(), choose_backend("cpu"), worker=0, backbones=backbones(backbone(preprocessing=preprocessing))
    )
    values = {one.name: one.value for one in respond().backbones[0].preprocessing}
    assert set(values) == {"color_mode", "channel_order", *type(preprocessing).model_fields}
    assert (values["color_mode"], values["channel_order"]) == ("RGB", "RGB")
    assert (values["resize"], values["antialias"], values["size"]) == ("squash", "true", "[8, 8]")
    assert values["mean"] == "[0.485, 0.456, 0.406]"


async def test_unread_descriptions_with_many_labels_count_to_the_limit_of_their_caller(serve: Serve) -> None:
    described = pb.GetServerInfoResponse(backbones=[pb.BackboneInfo(labels=[f"class {n}" for n in range(10_000)])])
    service = serve(info=lambda: described, max_unread_bytes=400_000)
    held: list[UnsentResponse] = []
    response = await service.server_info(Call(b"", caller="reads nothing", hold=held.append))
    assert pb.GetServerInfoResponse.FromString(response) == described
    assert service.unsent_bytes() >= len(response)
    with pytest.raises(UnreadResponses):
        await service.server_info(Call(b"", caller="reads nothing", hold=held.append))
    await service.server_info(Call(b"", caller="another", hold=held.append))
    for one in held:
        one.release()
    assert service.unsent_bytes() == 0


async def test_metrics_count_the_samples_and_the_run_of_a_batch_once(serve: Serve) -> None:
    of_server = backbones(backbone(), backbone("idle"))
    # A batch starts when it is full.
    service = serve(
        backbones=of_server,
        batches_backbone=lambda name: name == "net",
        batcher={"inline_bytes": 0, "max_batch_size": 2, "max_batch_delay": 60.0},
    )
    registry = CollectorRegistry()
    registry.register(BackboneMetrics(of_server, service.backbone_counts))
    file = io.BytesIO()
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(file, "PNG")
    request = pb.PoolRequest(backbone="net", image=pb.Image(data=file.getvalue()))
    await service.pool_batch(Call(pb.PoolBatchRequest(requests=[request, request]).SerializeToString()))
    of_net, of_idle = {"backbone": "net"}, {"backbone": "idle"}
    assert registry.get_sample_value("poolservice_backbone_samples_total", of_net) == 2
    assert registry.get_sample_value("poolservice_backbone_run_duration_seconds_count", of_net) == 1
    assert registry.get_sample_value("poolservice_backbone_run_duration_seconds_sum", of_net) == 0.25
    assert registry.get_sample_value("poolservice_backbone_failures_total", of_net) == 0
    assert registry.get_sample_value("poolservice_backbone_memory_bytes", of_net) == 123_456
    assert registry.get_sample_value("poolservice_backbone_samples_total", of_idle) == 0
    assert registry.get_sample_value("poolservice_backbone_run_duration_seconds_count", of_idle) == 0

"""The estimated cost of a request for a backbone."""

from collections.abc import Callable
from typing import Any

import pytest
from tests.backbones.core.fake_network import LABELS, backbone, backbones

from poolservice import codec
from poolservice.errors import InvalidRequest
from poolservice.specs import GlobalAvgPool2d, MaxPool2d, PoolSpec, to_message
from poolservice.v1 import pool_pb2 as pb
from poolservice_server.backbones.backbone import Output
from poolservice_server.core.backbone_plan import BackbonePlan, BackbonePlans
from poolservice_server.core.plan import read_head
from poolservice_server.core.service import Call, PoolService

Serve = Callable[..., PoolService]

STEP = 1e-9
SECONDS = backbone().seconds


def plan_of(*specs: PoolSpec, samples: int | None = None, **fields: Any) -> BackbonePlan:
    """Return the plan of a request with a tensor of `samples`, or with an image."""
    if samples is None:
        fields["image"] = pb.Image()
    else:
        fields["tensor"] = pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[samples, 3, 8, 8])
    message = pb.PoolRequest(specs=[to_message(spec) for spec in specs], backbone="net", **fields)
    head = read_head(codec.decode_request(message.SerializeToString()).head)
    assert head.backbone is not None
    return BackbonePlans(backbones(backbone()), STEP).plan(head, head.backbone)


def test_the_time_of_a_request_grows_with_its_samples() -> None:
    assert plan_of().run_steps * STEP == pytest.approx(SECONDS)
    assert plan_of(samples=7).run_steps * STEP == pytest.approx(7 * SECONDS)


def test_pooling_counts_to_the_time() -> None:
    assert plan_of(MaxPool2d(2)).run_steps > plan_of().run_steps


def test_the_memory_of_a_request_covers_its_samples_outputs_and_results() -> None:
    sample, features = 3 * 8 * 8 * 4, 16 * 4
    assert plan_of(samples=7).cost.peak_bytes == 7 * (sample + 2 * features)


def test_the_size_of_a_batch_counts_samples_and_results() -> None:
    assert plan_of().nbytes == 3 * 8 * 8 + 16 * 4
    assert plan_of(samples=2).nbytes == 2 * (3 * 8 * 8 * 4 + 16 * 4)


def test_images_with_different_specs_and_classes_have_equal_batch_keys() -> None:
    keys = {plan_of(*specs).batch_key for specs in ((), (MaxPool2d(2),), (GlobalAvgPool2d(), MaxPool2d(1)))}
    keys.add(plan_of(classification=pb.Classification(top=1)).batch_key)
    assert len(keys) == 1
    assert plan_of(tap="embedding").batch_key not in keys
    assert plan_of(samples=1).batch_key not in keys


def test_the_size_of_the_response_covers_classes_and_their_maps() -> None:
    labels = sum(len(label) for label in LABELS)
    without = plan_of(GlobalAvgPool2d())
    scores = plan_of(GlobalAvgPool2d(), classification=pb.Classification(top=3))
    maps = plan_of(GlobalAvgPool2d(), classification=pb.Classification(top=3, activation_maps=True))
    assert scores.cost.response_bytes >= without.cost.response_bytes + labels + 3 * 12
    assert maps.cost.response_bytes >= scores.cost.response_bytes + 3 * 2 * 2 * 4


def test_more_classes_than_there_are_cost_no_more() -> None:
    assert plan_of(classification=pb.Classification(top=100)) == plan_of(classification=pb.Classification(top=3))


def test_equal_requests_share_a_plan() -> None:
    assert plan_of(MaxPool2d(2), samples=3) is plan_of(MaxPool2d(2), samples=3)


async def test_more_memory_than_the_queue_allows_is_refused(serve: Serve) -> None:
    hungry = backbone(outputs={"features": Output("map", (2**20, 8, 8))})
    request = pb.PoolRequest(
        specs=[to_message(GlobalAvgPool2d())],
        backbone="net",
        tensor=pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[3, 8, 8], data=bytes(768)),
    )
    service = serve(backbones=backbones(hungry), batcher={"max_queue_bytes": 2**28})
    with pytest.raises(InvalidRequest, match=r"more than the 268435456 .* --max-queue-bytes"):
        await service.pool(Call(request.SerializeToString()))

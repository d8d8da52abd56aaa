"""What the clients send and read with a backbone, and the arguments that they refuse."""

import asyncio
from typing import Any

import numpy as np
import pytest
from tests.client.recorded_backbone import Recorder, Serve, X, explained, image, pooled, tensor

from poolservice.v1 import pool_pb2
from poolservice_client import (
    AsyncPoolClient,
    GlobalAvgPool2d,
    InvalidRequest,
    MaxPool2d,
    PoolClient,
    PoolResponse,
    ServerError,
)
from poolservice_client._coalescing import limits
from poolservice_client._coalescing.queue import CallQueue
from poolservice_client._request.query import PoolQuery
from poolservice_client._stats import Counters


@pytest.mark.parametrize(
    ("specs", "tap", "sent_specs", "is_list"),
    [
        (None, None, 0, False),
        (None, "stage3", 0, False),
        ([], None, 0, True),
        (GlobalAvgPool2d(), "stage3", 1, False),
        ([GlobalAvgPool2d()], None, 1, True),
    ],
)
def test_a_call_names_the_backbone_and_its_output(
    serve: Serve, specs: Any, tap: str | None, sent_specs: int, is_list: bool
) -> None:
    recorder = Recorder(pooled([1, 2, 3]))
    with PoolClient(serve(recorder)) as client:
        result: Any = client.pool(image(), specs, backbone="tiny", tap=tap, output="features")
    (request,) = recorder.requests
    assert (request.backbone, request.tap, len(request.specs)) == ("tiny", tap or "", sent_specs)
    assert request.output.format == pool_pb2.OUTPUT_FORMAT_FEATURE_VECTOR
    assert request.WhichOneof("payload") == "image"
    assert not request.HasField("classification")
    assert isinstance(result, list) == is_list
    np.testing.assert_array_equal(result[0] if is_list else result, [1, 2, 3])


def test_the_execution_has_the_parts_of_a_backbone(serve: Serve) -> None:
    with PoolClient(serve(Recorder(pooled([1])))) as client:
        response = client.pool(image(), backbone="tiny", execution=True)
    assert isinstance(response, PoolResponse)
    execution = response.execution
    assert (execution.preprocess_microseconds, execution.backbone_microseconds) == (3, 7)
    assert execution.backbone_fingerprint == "f1"


def test_a_tensor_is_float32_with_channels_first(serve: Serve, recwarn: pytest.WarningsRecorder) -> None:
    recorder = Recorder(pooled([1]))
    with PoolClient(serve(recorder)) as client:
        client.pool(X, backbone="tiny")
        # Without a backbone, this shape gives a warning about channels that may be last.
        client.pool(np.zeros((8, 8, 3), np.float32), backbone="tiny")
        client.pool(np.zeros((2, 9, 8, 3), np.float32), backbone="tiny", layout="HWC")
        for wrong in (X.astype(np.uint8), X.astype(np.float64), X[0], X[None, None]):
            with pytest.raises(InvalidRequest, match="preprocessed already: float32 of shape") as raised:
                client.pool(wrong, backbone="tiny")
            assert raised.value.field == "x"
    assert [tuple(request.tensor.shape) for request in recorder.requests] == [(3, 8, 8), (8, 8, 3), (2, 3, 9, 8)]
    assert not recwarn.list


@pytest.mark.parametrize(
    ("options", "field", "reason"),
    [
        ({"backbone": ""}, "backbone", "must be a name"),
        ({"backbone": 3}, "backbone", "must be a name"),
        ({"backbone": ["tiny"]}, "backbone", "must be a name"),
        ({"backbone": "tiny", "tap": ""}, "tap", "must be a name"),
        ({"tap": "stage3", "specs": MaxPool2d(2)}, "tap", "set backbone too"),
        ({"backbone": "tiny", "color_mode": "RGB"}, "color_mode", "leave it out"),
        ({}, "specs", "must be a spec such as MaxPool2d(2), or a list of them; got None"),
        ({"specs": []}, "specs", "at least one is needed"),
    ],
)
def test_a_wrong_choice_of_a_backbone_is_refused_before_anything_is_sent(
    options: dict[str, Any], field: str, reason: str
) -> None:
    with PoolClient("127.0.0.1:1") as client:
        for call in (lambda: client.pool(X, **options), lambda: client.map([X], **options)):
            with pytest.raises(InvalidRequest) as raised:
                call()
            assert raised.value.field == field
            assert reason in raised.value.reason


def slow(*arrays: Any) -> pool_pb2.PoolResponse:
    """Return the response of a backbone that takes too long for its calls to share messages."""
    response = pooled(*arrays)
    response.execution.backbone_microseconds = 20_001
    return response


def test_a_map_sends_each_input_of_a_slow_backbone_by_itself(serve: Serve) -> None:
    recorder = Recorder(slow([1, 2]))
    with PoolClient(serve(recorder)) as client:
        results = list(client.map([X] * 5 + [image()], backbone="tiny", tap="embedding"))
        assert [one.tolist() for one in results] == [[1, 2]] * 6
    assert [(request.backbone, request.tap) for request in recorder.requests] == [("tiny", "embedding")] * 6
    assert [len(request.tensor.shape) for request in recorder.requests].count(3) == 5


def test_concurrent_calls_of_a_slow_backbone_are_not_coalesced(serve: Serve) -> None:
    recorder = Recorder(slow([1, 2]))

    async def call_often() -> int:
        async with AsyncPoolClient(serve(recorder)) as client:
            for _ in range(2):
                await asyncio.gather(*(client.pool(X, backbone="tiny", tap="slow") for _ in range(4)))
            return client.stats().coalesced_calls

    assert asyncio.run(call_often()) == 0
    assert len(recorder.requests) == 8


def test_a_second_message_of_a_backbone_is_not_delayed() -> None:
    backbones: CallQueue[Any] = CallQueue(limits.BACKBONES, Counters())
    tensors: CallQueue[Any] = CallQueue(limits.TENSORS, Counters())
    for queue in (backbones, tensors):
        assert queue.is_free(100.0)
        queue.count_sent(100.0)
    assert backbones.is_free(100.0)
    assert not tensors.is_free(100.0)
    backbones.count_sent(100.0)
    assert not backbones.is_free(100.0)


@pytest.mark.parametrize(("microseconds", "is_short"), [(0, False), (1, True), (20_000, True), (20_001, False)])
def test_only_a_backbone_that_is_known_to_be_fast_shares_messages(microseconds: int, is_short: bool) -> None:
    query = PoolQuery.of(None, output="tensor", backbone="tiny", tap=f"tap{microseconds}")
    query.backbone_time.microseconds = microseconds
    assert query.may_share_messages == is_short
    payload = query.payload_of(X)
    assert bool(limits.coalesced_bytes(query, query.template_for(payload), payload)) == is_short


def test_a_server_that_ignores_the_backbone_is_too_old(serve: Serve) -> None:
    response = explained([[1]], [[2]])
    response.results.add(tensor=tensor([0.5]))
    response.execution.ClearField("backbone_fingerprint")
    with PoolClient(serve(Recorder(response))) as client:
        for call in (
            lambda: client.pool(image(), GlobalAvgPool2d(), backbone="tiny"),
            lambda: next(client.map([image()], GlobalAvgPool2d(), backbone="tiny")),
            lambda: client.explain(image(), backbone="tiny"),
        ):
            with pytest.raises(ServerError, match="ignored the backbone"):
                call()

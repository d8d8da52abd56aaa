"""What `explain` sends, reads and computes, and the arguments that it refuses."""

import asyncio
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.client.recorded_backbone import Recorder, Serve, X, explained, image, pooled

from poolservice.v1 import pool_pb2
from poolservice_client import (
    AsyncPoolClient,
    ImageRegion,
    InvalidRequest,
    PoolClient,
    ServerError,
)


def test_an_explanation_has_labels_scores_and_maps(serve: Serve) -> None:
    maps = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    recorder = Recorder(explained(*maps))
    with PoolClient(serve(recorder)) as client:
        explanation = client.explain(image(), backbone="tiny", top=1, classes=[6])
    (request,) = recorder.requests
    assert request.backbone == "tiny"
    assert not request.specs
    assert request.classification == pool_pb2.Classification(top=1, classes=[6], activation_maps=True)
    assert explanation.labels == ("cat", "dog")
    assert explanation.indices.tolist() == [5, 6]
    assert explanation.logits.tolist() == [2, 1]
    assert explanation.probabilities.tolist() == [0.5, 0.25]
    assert explanation.maps is not None
    np.testing.assert_array_equal(explanation.maps, maps)
    assert explanation.region == ImageRegion(10, 0, 30, 20)
    assert explanation.image_size == (20, 40)
    assert explanation.execution.backbone_fingerprint == "f1"


def test_both_clients_explain_alike(serve: Serve) -> None:
    address = serve(Recorder(explained([[1, 2]], [[3, 4]])))

    async def explain() -> Any:
        async with AsyncPoolClient(address) as client:
            return await client.explain(Image.new("L", (40, 20)), backbone="tiny")

    with PoolClient(address) as client:
        blocking = client.explain(Image.new("L", (40, 20)), backbone="tiny")
    asynchronous = asyncio.run(explain())
    np.testing.assert_array_equal(blocking.heatmaps(), asynchronous.heatmaps())
    assert blocking.labels == asynchronous.labels


def test_heatmaps_are_interpolated_like_torch_where_the_network_saw_the_image(serve: Serve) -> None:
    maps = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    with PoolClient(serve(Recorder(explained(*maps)))) as client:
        explanation = client.explain(image(), backbone="tiny")
    heatmaps = explanation.heatmaps()
    assert heatmaps.shape == (2, 20, 40)
    assert heatmaps.dtype == np.float32
    expected = torch.nn.functional.interpolate(torch.from_numpy(maps)[None], (20, 20), mode="bilinear")[0].numpy()
    np.testing.assert_allclose(heatmaps[:, :, 10:30], expected, rtol=1e-5, atol=1e-6)
    assert np.isnan(heatmaps[:, :, :10]).all()
    assert np.isnan(heatmaps[:, :, 30:]).all()
    # The region keeps its place if the whole image is smaller.
    smaller = explanation.heatmaps((10, 20))
    assert smaller.shape == (2, 10, 20)
    expected = torch.nn.functional.interpolate(torch.from_numpy(maps)[None], (10, 10), mode="bilinear")[0].numpy()
    np.testing.assert_allclose(smaller[:, :, 5:15], expected, rtol=1e-5, atol=1e-6)
    assert np.isnan(smaller[0, 0]).tolist() == [True] * 5 + [False] * 10 + [True] * 5


@pytest.mark.parametrize("size", [(0, 4), (4, 0), 5, (1, 2, 3), "big"])
def test_the_size_of_heatmaps_is_a_pair_of_positive_ints(serve: Serve, size: Any) -> None:
    with PoolClient(serve(Recorder(explained([[1]], [[2]])))) as client:
        explanation = client.explain(image(), backbone="tiny")
    with pytest.raises(InvalidRequest, match="height, width") as raised:
        explanation.heatmaps(size)
    assert raised.value.field == "size"


def test_the_indices_of_classes_may_be_an_array(serve: Serve) -> None:
    recorder = Recorder(explained([[1]], [[2]]))
    with PoolClient(serve(recorder)) as client:
        classes: Any = np.array([5, 6])
        client.explain(image(), backbone="tiny", top=0, classes=classes)
    assert recorder.requests[0].classification.classes == [5, 6]


def test_only_one_sample_is_explained_at_a_time(serve: Serve) -> None:
    recorder = Recorder(explained([[1]], [[2]]))
    with PoolClient(serve(recorder)) as client, pytest.raises(InvalidRequest, match="one sample at a time") as raised:
        client.explain(np.stack([X, X]), backbone="tiny")
    assert raised.value.field == "x.shape"
    assert not recorder.requests


def test_a_region_beyond_the_image_is_cropped(serve: Serve) -> None:
    response = explained([[1, 2]], [[3, 4]])
    response.region.CopyFrom(pool_pb2.ImageRegion(left=0, top=-10, right=40, bottom=30))
    with PoolClient(serve(Recorder(response))) as client:
        heatmaps = client.explain(image(), backbone="tiny").heatmaps()
    assert heatmaps.shape == (2, 20, 40)
    assert not np.isnan(heatmaps).any()
    assert (heatmaps[0, 0, 0], heatmaps[0, 0, -1]) == (1, 2)


@pytest.mark.parametrize(("orientation", "size"), [(1, (20, 40)), (3, (20, 40)), (6, (40, 20)), (8, (40, 20))])
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_the_size_is_that_of_the_upright_image(
    serve: Serve, orientation: int, size: tuple[int, int], file_format: str
) -> None:
    with PoolClient(serve(Recorder(explained([[1]], [[2]])))) as client:
        explanation = client.explain(image(orientation=orientation, file_format=file_format), backbone="tiny")
    assert explanation.image_size == size


def test_the_heatmaps_of_a_tensor_cover_it(serve: Serve) -> None:
    response = explained([[1, 2]], [[3, 4]])
    response.ClearField("region")
    with PoolClient(serve(Recorder(response))) as client:
        explanation = client.explain(X[None], backbone="tiny")
    assert explanation.region == ImageRegion(0, 0, 8, 8)
    assert explanation.heatmaps().shape == (2, 8, 8)
    assert not np.isnan(explanation.heatmaps()).any()


def test_classes_without_maps(serve: Serve) -> None:
    recorder = Recorder(explained([[1]], [[2]]))
    for one in recorder.response.classes:
        one.ClearField("activation_map")
    with PoolClient(serve(recorder)) as client:
        explanation = client.explain(image(), backbone="tiny", maps=False)
    assert not recorder.requests[0].classification.activation_maps
    assert explanation.maps is None
    with pytest.raises(InvalidRequest, match="maps=True"):
        explanation.heatmaps()


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"backbone": None}, "backbone"),
        ({"backbone": ""}, "backbone"),
        ({"top": -1}, "top"),
        ({"top": 101}, "top"),
        ({"top": 10**5000}, "top"),
        ({"top": 2.5}, "top"),
        ({"top": True}, "top"),
        ({"top": 0}, "top"),
        ({"maps": 1}, "maps"),
        ({"classes": "cat"}, "classes"),
        ({"classes": 3}, "classes"),
        ({"classes": [0, -1]}, "classes[1]"),
        ({"classes": [2**32]}, "classes[0]"),
        ({"classes": [None]}, "classes[0]"),
        ({"layout": "CWH"}, "layout"),
        ({"timeout": 0}, "timeout"),
    ],
)
def test_a_wrong_argument_of_explain_is_named(options: dict[str, Any], field: str) -> None:
    with PoolClient("127.0.0.1:1") as client, pytest.raises(InvalidRequest) as raised:
        client.explain(X, **{"backbone": "tiny", **options})
    assert raised.value.field == field


def _without_region() -> pool_pb2.PoolResponse:
    response = explained([[1]], [[2]])
    response.ClearField("region")
    return response


def _with_maps_of(dtype: pool_pb2.DataType.ValueType) -> pool_pb2.PoolResponse:
    response = explained([[1]], [[2]])
    for one in response.classes:
        one.activation_map.dtype = dtype
    return response


def _with_region(left: float, top: float, right: float, bottom: float) -> pool_pb2.PoolResponse:
    response = explained([[1]], [[2]])
    response.region.CopyFrom(pool_pb2.ImageRegion(left=left, top=top, right=right, bottom=bottom))
    return response


def _with_scores(logit: float, probability: float) -> pool_pb2.PoolResponse:
    response = explained([[1]], [[2]])
    response.classes[1].logit, response.classes[1].probability = logit, probability
    return response


@pytest.mark.parametrize(
    "response",
    [
        pooled(),
        explained([[1]], [[2]], [[3]], [[4]], labels=("a", "b", "c", "d")),
        explained([[1]], [[1, 2]]),
        explained([1], [2]),
        explained([[]], [[]]),
        explained(np.zeros((1, 8193)), np.zeros((1, 8193))),
        _without_region(),
        _with_region(10, 0, 10, 20),
        _with_region(10, 20, 30, 20),
        _with_region(0, 0, math.inf, 20),
        _with_region(0, math.nan, 40, 20),
        _with_maps_of(pool_pb2.DATA_TYPE_INT32),
        _with_maps_of(pool_pb2.DATA_TYPE_UNSPECIFIED),
        explained([[1]], [[math.inf]]),
        _with_scores(math.nan, 0.5),
        _with_scores(1, math.inf),
    ],
    ids=[
        "no classes",
        "more classes",
        "unequal maps",
        "flat maps",
        "empty maps",
        "large maps",
        "no region",
        "no width",
        "no height",
        "infinite region",
        "NaN region",
        "integers",
        "no dtype",
        "infinite map",
        "NaN logit",
        "infinite probability",
    ],
)
def test_an_explanation_that_cannot_be_read_is_a_server_error(serve: Serve, response: pool_pb2.PoolResponse) -> None:
    with (
        PoolClient(serve(Recorder(response))) as client,
        pytest.raises(ServerError, match="response cannot be read"),
    ):
        client.explain(image(), backbone="tiny")


def test_a_response_without_any_class_is_a_server_error(serve: Serve) -> None:
    with (
        PoolClient(serve(Recorder(pooled()))) as client,
        pytest.raises(ServerError, match="it has 0 classes, not those that were asked for"),
    ):
        client.explain(image(), backbone="tiny", maps=False)


def test_an_explanation_of_other_bytes_is_a_server_error(serve: Callable[[Any], str]) -> None:
    with (
        PoolClient(serve(lambda _message, _context: b"\xff\xff")) as client,
        pytest.raises(ServerError, match="response cannot be read"),
    ):
        client.explain(image(), backbone="tiny")


def test_the_labels_of_a_server_are_printable(serve: Serve) -> None:
    with PoolClient(serve(Recorder(explained([[1]], [[2]], labels=("\x1b[31mcat", "d\nog"))))) as client:
        assert client.explain(image(), backbone="tiny").labels == ("\\x1b[31mcat", "d\\nog")

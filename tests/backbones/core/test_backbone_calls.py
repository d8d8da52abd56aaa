"""Requests for a backbone through the service: results, classes, region and times."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.backbones.core.fake_network import BIAS, HEAD, LABELS, FakeNetwork, backbone, backbones, features_of
from tests.backbones.core.requests import array, features_of_image, image_request, png, pool, samples, tensor_request

from poolservice.specs import GlobalAvgPool2d, MaxPool2d
from poolservice.v1 import pool_pb2 as pb
from poolservice_server.backbone_stage import BackboneFailed, BackboneStage
from poolservice_server.core.service import Call, PoolService

Serve = Callable[..., PoolService]

FEATURES = pb.OutputOptions(format=pb.OUTPUT_FORMAT_FEATURE_VECTOR, l2_normalize=True, dtype=pb.DATA_TYPE_FLOAT16)


async def test_specs_pool_the_output_for_an_image(serve: Serve) -> None:
    response = await pool(serve(), image_request(GlobalAvgPool2d(), MaxPool2d(2)))
    expected = features_of_image(png())
    means, maxima = response.results
    assert list(means.tensor.shape) == [4, 1, 1]
    np.testing.assert_allclose(array(means.tensor)[:, 0, 0], expected.mean(axis=(1, 2)), rtol=1e-6)
    np.testing.assert_array_equal(array(maxima.tensor)[:, 0, 0], expected.max(axis=(1, 2)))


async def test_without_specs_the_result_is_the_output(serve: Serve) -> None:
    service = serve()
    expected = features_of_image(png())
    (features,) = (await pool(service, image_request())).results
    np.testing.assert_array_equal(array(features.tensor), expected)
    (embedding,) = (await pool(service, image_request(tap="embedding"))).results
    np.testing.assert_allclose(array(embedding.tensor), expected.mean(axis=(1, 2)), rtol=1e-6)


async def test_preprocessed_tensors_keep_their_batch_dimension(serve: Serve) -> None:
    service, values = serve(), samples(5)
    (pooled,) = (await pool(service, tensor_request(values, GlobalAvgPool2d()))).results
    assert list(pooled.tensor.shape) == [5, 4, 1, 1]
    np.testing.assert_allclose(array(pooled.tensor)[..., 0, 0], features_of(values).mean(axis=(2, 3)), rtol=1e-5)
    (one,) = (await pool(service, tensor_request(values[0], tap="embedding"))).results
    assert list(one.tensor.shape) == [4]


async def test_the_samples_of_a_tensor_are_aligned_in_memory(serve: Serve, network: FakeNetwork) -> None:
    service = serve()
    # A spec takes six bytes in front of the samples, so that of two requests one has its samples at an odd position or
    # at one that is no multiple of four.
    for specs in ([GlobalAvgPool2d()], [GlobalAvgPool2d()] * 2):
        await pool(service, tensor_request(samples(), *specs))
    assert [payload.samples.flags.aligned for _, (payload,) in network.batches] == [True, True]


@pytest.mark.parametrize("tap", ["features", "embedding"])
async def test_outputs_are_sent_as_normalized_float16_vectors(serve: Serve, tap: str) -> None:
    (result,) = (await pool(serve(), tensor_request(samples(2), tap=tap, output=FEATURES))).results
    vectors = array(result.tensor)
    assert vectors.shape == (2, 16 if tap == "features" else 4)
    assert vectors.dtype == np.float16
    np.testing.assert_allclose(np.linalg.norm(vectors.astype(float), axis=1), 1, atol=1e-3)


async def test_a_result_of_four_channels_is_sent_as_an_image(serve: Serve) -> None:
    response = await pool(
        serve(), image_request(GlobalAvgPool2d(), output=pb.OutputOptions(format=pb.OUTPUT_FORMAT_IMAGE))
    )
    assert response.results[0].image.data.startswith(b"\x89PNG")


async def test_the_classes_with_the_highest_scores_come_first_and_then_the_chosen_ones(serve: Serve) -> None:
    classification = pb.Classification(top=1, classes=[1, 2], activation_maps=True)
    response = await pool(serve(), image_request(classification=classification))
    features = features_of_image(png())
    logits = HEAD @ features.mean(axis=(1, 2)) + BIAS
    assert not response.results
    best = np.argmax(logits)
    assert [one.index for one in response.classes] == [best, *(index for index in (1, 2) if index != best)]
    for one in response.classes:
        assert one.label == LABELS[one.index]
        assert one.logit == pytest.approx(logits[one.index], rel=1e-5)
        activation_map = array(one.activation_map)
        assert activation_map.shape == (2, 2)
        # The identity that makes global average pooling interpretable.
        assert activation_map.mean() + BIAS[one.index] == pytest.approx(one.logit, rel=1e-5)
    assert response.classes[0].probability > response.classes[1].probability


async def test_classes_and_results_come_in_one_response(serve: Serve) -> None:
    response = await pool(serve(), image_request(GlobalAvgPool2d(), classification=pb.Classification(top=100)))
    assert len(response.results) == 1
    assert [one.label for one in response.classes] != []
    assert len(response.classes) == len(LABELS)
    assert not any(one.HasField("activation_map") for one in response.classes)


async def test_without_specs_classes_need_the_feature_map_of_the_head_only(serve: Serve, network: FakeNetwork) -> None:
    await pool(serve(), image_request(tap="embedding", classification=pb.Classification(top=1)))
    ((key, _),) = network.batches
    assert key.stage == BackboneStage("net", "features")


async def test_the_response_says_which_part_of_an_image_the_backbone_saw(serve: Serve) -> None:
    crop = backbone().preprocessing.model_copy(update={"resize": "shortest", "size": 8})
    service = serve(backbones=backbones(backbone(preprocessing=crop)))
    region = (await pool(service, image_request(data=png(32, 16)))).region
    assert (region.left, region.top, region.right, region.bottom) == (8, 0, 24, 16)
    assert not (await pool(service, tensor_request(samples()))).HasField("region")


async def test_the_response_says_what_took_how_long_and_what_made_it(serve: Serve) -> None:
    execution = (await pool(serve(), image_request())).execution
    assert (execution.device, execution.batch_size) == ("fake", 1)
    assert execution.decode_microseconds > 0
    assert execution.preprocess_microseconds > 0
    assert execution.backbone_microseconds == 250_000
    assert execution.backbone_fingerprint == backbone().fingerprint
    execution = (await pool(serve(), tensor_request(samples()))).execution
    assert (execution.decode_microseconds, execution.preprocess_microseconds) == (0, 0)


async def test_a_damaged_image_fails_alone(serve: Serve, network: FakeNetwork) -> None:
    service = serve()
    damaged = image_request(data=png()[:-30] + bytes(30))
    batch = pb.PoolBatchRequest(requests=[image_request(), damaged, image_request()])
    response = pb.PoolBatchResponse.FromString(await service.pool_batch(Call(batch.SerializeToString())))
    assert [result.status.code for result in response.results] == [0, 3, 0]
    assert len(network.batches) == 2


async def test_a_failure_of_the_network_is_the_outcome_of_the_request(serve: Serve, network: FakeNetwork) -> None:
    service = serve()
    network.error = BackboneFailed("the network gives NaN")
    with pytest.raises(BackboneFailed, match="the network gives NaN"):
        await pool(service, image_request())
    network.error = None
    assert (await pool(service, image_request())).results
    assert (service.backbone_counts.failures["net"], service.backbone_counts.samples["net"]) == (1, 1)


async def test_streams_carry_backbones(serve: Serve) -> None:
    sent: list[pb.PoolStreamResponse] = []

    async def messages() -> Any:
        for number in range(3):
            yield pb.PoolStreamRequest(correlation_id=number, request=image_request()).SerializeToString()

    async def send(message: bytes) -> None:
        sent.append(pb.PoolStreamResponse.FromString(message))

    await serve().pool_stream(messages(), send)
    assert sorted(one.correlation_id for one in sent) == [0, 1, 2]
    assert all(one.response.execution.backbone_fingerprint for one in sent)

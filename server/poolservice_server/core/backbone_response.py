"""The response to a request for a backbone: results, classes, the region of the image, and the fingerprint."""

from typing import NamedTuple

import numpy as np

from poolservice import codec
from poolservice.v1 import pool_pb2
from poolservice_server.backbone_stage import BackboneResult, ClassResult
from poolservice_server.backbones.backbone import Backbone
from poolservice_server.batcher import Completed
from poolservice_server.core.response_builder import ResponseBuilder, execution_of


class Preparation(NamedTuple):
    """How a payload was prepared.

    Attributes:
        decode_seconds: the time that decoding took.
        preprocess_seconds: the time that resizing and cropping took.
        region: left, top, right and bottom of the part of the image that the backbone saw; None for a tensor.
    """

    decode_seconds: float
    preprocess_seconds: float
    region: tuple[float, float, float, float] | None


def encode_response(
    builder: ResponseBuilder, backbone: Backbone, completed: Completed, preparation: Preparation
) -> bytes:
    """Return the encoded PoolResponse.

    Args:
        builder: builds the results.
        backbone: the backbone that ran.
        completed: the request's outcome; its result is a `BackboneResult`.
        preparation: how the payload was prepared.
    """
    result: BackboneResult = completed.result
    execution = execution_of(completed)
    execution.decode_microseconds = round(preparation.decode_seconds * 1e6)
    execution.preprocess_microseconds = round(preparation.preprocess_seconds * 1e6)
    execution.backbone_microseconds = round(result.backbone_seconds * 1e6)
    execution.backbone_fingerprint = backbone.fingerprint
    region = None
    if preparation.region is not None:
        left, top, right, bottom = preparation.region
        region = pool_pb2.ImageRegion(left=left, top=top, right=right, bottom=bottom)
    classes = () if result.classes is None else _class_scores(result.classes, backbone.labels)
    results = [builder.result(*pair) for pair in zip(builder.formats, result.specs, strict=True)]
    return codec.encode_response(execution, results, classes, region)


def _class_scores(classes: ClassResult, labels: tuple[str, ...]) -> list[pool_pb2.ClassScore]:
    scores = []
    for number, index in enumerate(classes.indices.tolist()):
        score = pool_pb2.ClassScore(
            index=index,
            label=labels[index],
            logit=classes.logits[number],
            probability=classes.probabilities[number],
        )
        if classes.activation_maps is not None:
            activation_map = classes.activation_maps[number].astype(np.float32, copy=False)
            score.activation_map.dtype = pool_pb2.DATA_TYPE_FLOAT32
            score.activation_map.shape.extend(activation_map.shape)
            score.activation_map.data = activation_map.tobytes()
        scores.append(score)
    return scores

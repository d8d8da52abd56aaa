"""The response to a request for a backbone: results, classes, the region of the image, and the fingerprint."""

from typing import NamedTuple

import numpy as np

from poolservice import codec
from poolservice.v1 import pool_pb2
from poolservice_server.backbone_stage import BackboneResult, ClassResult
from poolservice_server.backbones.backbone import Backbone
from poolservice_server.batcher import Completed
from poolservice_server.core.response_builder import ResponseBuilder, execution_of


class PreprocessedImage(NamedTuple):
    """What the response says about an image.

    Attributes:
        seconds: the time that resizing and cropping took.
        region: left, top, right and bottom of the part of the image that the backbone saw.
    """

    seconds: float
    region: tuple[float, float, float, float]


def encode_response(
    builder: ResponseBuilder, backbone: Backbone, completed: Completed, image: PreprocessedImage | None
) -> bytes:
    """Return the encoded PoolResponse.

    Args:
        builder: builds the results.
        backbone: the backbone that ran.
        completed: the request's outcome; its result is a `BackboneResult`.
        image: the image, which was decoded and preprocessed in the time of its preparation; None for a tensor.
    """
    result: BackboneResult = completed.result
    execution = execution_of(completed)
    execution.backbone_microseconds = round(result.backbone_seconds * 1e6)
    execution.backbone_fingerprint = backbone.fingerprint
    region = None
    if image is None:
        # The preparation of a tensor is the check of its values.
        execution.decode_microseconds = 0
    else:
        execution.decode_microseconds = round((completed.prepare_seconds - image.seconds) * 1e6)
        execution.preprocess_microseconds = round(image.seconds * 1e6)
        left, top, right, bottom = image.region
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

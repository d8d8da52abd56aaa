"""The part of a request that concerns a backbone, validated without knowing the server's backbones."""

from typing import NamedTuple

import numpy as np

from poolservice.errors import InvalidRequest
from poolservice.v1 import pool_pb2
from poolservice_server.backbone_stage import ClassChoice

_MAX_CLASSES = 100


class BackboneHead(NamedTuple):
    """The backbone, output and classes that a request names.

    Attributes:
        name: the name of the backbone.
        tap: the name of the output; empty for the default one.
        classes: the classes that are wanted; None for none.
        shape: the shape of a preprocessed tensor; None for an image.
        dtype: the dtype of the tensor; None for an image.
    """

    name: str
    tap: str
    classes: ClassChoice | None
    shape: tuple[int, ...] | None = None
    dtype: np.dtype | None = None


def read_backbone(message: pool_pb2.PoolRequest) -> BackboneHead | None:
    """Return the backbone, output and classes that a request names, without its tensor; None without a backbone.

    Raises:
        InvalidRequest: a field goes with a backbone only, or does not go with one, or is out of range.
    """
    if not message.backbone:
        for field, is_set in (("tap", bool(message.tap)), ("classification", message.HasField("classification"))):
            if is_set:
                raise InvalidRequest("goes with a backbone only; set backbone, or leave it out", field=field)
        return None
    if message.WhichOneof("payload") == "image" and message.image.color_mode:
        raise InvalidRequest(
            "must be left out: a backbone has its own color mode, to which the server decodes the image",
            field="image.color_mode",
        )
    classes = _class_choice(message.classification) if message.HasField("classification") else None
    return BackboneHead(message.backbone, message.tap, classes)


def _class_choice(message: pool_pb2.Classification) -> ClassChoice:
    top, classes = message.top, tuple(message.classes)
    if top > _MAX_CLASSES:
        raise InvalidRequest(f"must be at most {_MAX_CLASSES}; got {top}", field="classification.top")
    if len(classes) > _MAX_CLASSES:
        raise InvalidRequest(
            f"may name at most {_MAX_CLASSES} classes; got {len(classes)}", field="classification.classes"
        )
    if len(set(classes)) < len(classes):
        repeated = next(index for number, index in enumerate(classes) if index in classes[:number])
        raise InvalidRequest(f"must name each class once; {repeated} is repeated", field="classification.classes")
    if not top and not classes:
        raise InvalidRequest("must ask for at least one class: set top or classes", field="classification")
    return ClassChoice(top, classes, message.activation_maps)

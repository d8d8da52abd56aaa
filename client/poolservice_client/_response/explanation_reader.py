"""Decoding the response to `explain`."""

import math

import numpy as np
from numpy.typing import NDArray

from poolservice.codec import MalformedMessage, Response, decode_response
from poolservice.errors import InvalidRequest
from poolservice_client._request.payload import ImagePayload, Payload
from poolservice_client._request.query import PoolQuery
from poolservice_client._response.explanation import Explanation, ImageRegion
from poolservice_client._response.reader import note_backbone_time, read_execution, read_tensor, unreadable_response
from poolservice_client._response.status import printable

# No backbone takes larger images, and no map is larger than its image. The memory of `heatmaps` grows with the sides.
_LARGEST_SIDE = 8192


def read_explanation(message: bytes, query: PoolQuery, payload: Payload) -> Explanation:
    """Return the explanation in an encoded PoolResponse.

    Args:
        message: the encoded PoolResponse.
        query: the query, which asks for classes.
        payload: what was sent, for the size of the image.

    Raises:
        ServerError: the message is malformed or does not fit the query.
        InvalidRequest: Pillow cannot read the size of the image.
    """
    try:
        response = decode_response(message)
        note_backbone_time(response.execution, query)
        _check_classes(response, query)
        maps = _maps(response, query)
        region = _region(response, payload)
    except (MalformedMessage, InvalidRequest) as error:
        raise unreadable_response(error) from None
    return Explanation(
        tuple(printable(one.label) for one in response.classes),
        np.array([one.index for one in response.classes], np.int64),
        np.array([one.logit for one in response.classes], np.float32),
        np.array([one.probability for one in response.classes], np.float32),
        maps,
        region,
        None if maps is None else _image_size(payload),
        read_execution(response.execution),
    )


def _check_classes(response: Response, query: PoolQuery) -> None:
    asked = query.classification
    if asked is None or not 1 <= len(response.classes) <= asked.top + len(asked.classes):
        raise MalformedMessage(f"it has {len(response.classes)} classes, not those that were asked for")
    # A server reports a network that overflows as an error.
    if not all(math.isfinite(one.logit) and math.isfinite(one.probability) for one in response.classes):
        raise MalformedMessage("a score is NaN or infinite")


def _maps(response: Response, query: PoolQuery) -> NDArray[np.float32] | None:
    if query.classification is None or not query.classification.maps:
        return None
    maps = [read_tensor(one.activation_map) for one in response.classes]
    shapes = {(one.dtype.name, one.shape) for one in maps}
    if (
        len(shapes) != 1
        or maps[0].dtype != np.float32
        or maps[0].ndim != 2
        or not maps[0].size
        or max(maps[0].shape) > _LARGEST_SIDE
    ):
        raise MalformedMessage(f"the activation maps have the types {sorted(map(str, shapes))}")
    stacked = np.stack(maps)
    if not np.isfinite(stacked).all():
        raise MalformedMessage("an activation map has NaN or infinite values")
    return stacked


def _region(response: Response, payload: Payload) -> ImageRegion:
    if not isinstance(payload, ImagePayload):
        height, width = payload.array.shape[-2:]
        return ImageRegion(0.0, 0.0, float(width), float(height))
    region = response.region
    if region is None:
        raise MalformedMessage("it has no region of the image")
    edges = ImageRegion(region.left, region.top, region.right, region.bottom)
    if not all(map(math.isfinite, edges)) or edges.left >= edges.right or edges.top >= edges.bottom:
        raise MalformedMessage(f"the region of the image is {tuple(edges)}")
    return edges


def _image_size(payload: Payload) -> tuple[int, int]:
    if isinstance(payload, ImagePayload):
        # Pillow is imported only for callers of explain.
        from poolservice_client._request import pil_images

        return pil_images.upright_size(payload.data)
    height, width = payload.array.shape[-2:]
    return height, width

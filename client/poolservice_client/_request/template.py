"""Calls that ask the same of payloads of one type and shape: what is worked out for the first serves the rest."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from poolservice.codec import Buffer, RequestEncoder
from poolservice.dtypes import wire_dtype
from poolservice.specs import to_message
from poolservice.v1 import pool_pb2

if TYPE_CHECKING:
    from poolservice_client._request.query import PoolQuery

OUTPUTS: dict[object, pool_pb2.OutputFormat.ValueType] = {
    "tensor": pool_pb2.OUTPUT_FORMAT_TENSOR,
    "features": pool_pb2.OUTPUT_FORMAT_FEATURE_VECTOR,
    "image": pool_pb2.OUTPUT_FORMAT_IMAGE,
}
COLOR_MODES: dict[object, pool_pb2.ColorMode.ValueType] = {
    None: pool_pb2.COLOR_MODE_UNSPECIFIED,
    "RGB": pool_pb2.COLOR_MODE_RGB,
    "GRAY": pool_pb2.COLOR_MODE_GRAY,
    "RGBA": pool_pb2.COLOR_MODE_RGBA,
}


class RequestTemplate:
    """All calls of one query on tensors of one type and shape, or on pictures. For any number of threads.

    Attributes:
        query: what is asked.
        is_image: whether it is asked of pictures.
        rows: the batch size of one call's tensor; None where it is (C, *), without one.
        stacks: whether several calls make one request: tensors that have elements, whose rank is the layers'.
        answer_bytes: the size of the last call's answer; 0 before there was one.
    """

    __slots__ = ("_dtype", "_encoders", "_shape", "answer_bytes", "is_image", "query", "rows", "stacks")

    def __init__(self, query: "PoolQuery", dtype: "np.dtype[Any] | None", shape: tuple[int, ...] | None) -> None:
        self.query = query
        self.is_image = shape is None
        self._dtype = dtype
        self._shape = shape
        self.answer_bytes = 0
        self.rows: int | None = None
        self.stacks = False
        if shape is not None and len(dims := {spec.spatial_dims for spec in query.specs}) == 1:
            (rank,) = dims
            self.stacks = len(shape) in (rank + 1, rank + 2) and math.prod(shape) > 0 and query.output != "image"
            self.rows = shape[0] if len(shape) == rank + 2 else None
        self._encoders = {1: self._encoder(shape)}

    def request(self, data: Buffer) -> bytes:
        """The PoolRequest of one call on the payload's bytes."""
        return self._encoders[1].encode(data)

    def request_of_several(self, payloads: Sequence[Buffer]) -> bytes:
        """The one PoolRequest of several calls, their tensors one batch: (C, *) stacked, (N, C, *) joined."""
        count = len(payloads)
        encoder = self._encoders.get(count)
        if encoder is None:
            encoder = self._encoders[count] = self._encoder(self._shape_of_several(count))
        return encoder.encode_joined(payloads)

    def _shape_of_several(self, count: int) -> tuple[int, ...]:
        if self._shape is None:
            raise ValueError("pictures do not make one tensor")
        return (count, *self._shape) if self.rows is None else (count * self.rows, *self._shape[1:])

    def _encoder(self, shape: tuple[int, ...] | None) -> RequestEncoder:
        query = self.query
        head = pool_pb2.PoolRequest(specs=[to_message(spec) for spec in query.specs])
        if query.output != "tensor":
            head.output.format = OUTPUTS[query.output]
            head.output.l2_normalize = query.normalize
        if query.narrow:
            head.output.dtype = pool_pb2.DATA_TYPE_FLOAT16
        if self._dtype is None or shape is None:
            head.image.color_mode = COLOR_MODES[query.color_mode]
            head.image.SetInParent()
        else:
            head.tensor.dtype = wire_dtype(self._dtype, field="x.dtype")
            head.tensor.shape.extend(shape)
            head.tensor.SetInParent()
        return RequestEncoder(head)

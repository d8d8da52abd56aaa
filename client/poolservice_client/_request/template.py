"""Request templates: encoders reused by all requests that differ only in the bytes of their payload."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from poolservice.codec import Buffer, RequestEncoder
from poolservice.dtypes import wire_dtype
from poolservice.v1 import pool_pb2


class RequestTemplate:
    """Encodes requests that have the same specs and options, and payloads of one dtype and shape. Thread-safe.

    Args:
        head: the PoolRequest without its payload.
        dtype: the dtype of the tensors; None for images.
        shape: the shape of the tensors; None for images.
        stackable_dims: the number of spatial dimensions of the specs, if several requests may be sent as one stacked
            tensor; else None.
        parameter_bytes: the size of the tensors among the parameters of the specs.

    Attributes:
        is_image: whether the payloads are images.
        has_backbone: whether the requests run a backbone.
        parameter_bytes: the size of the tensors among the parameters, which are in each request.
        can_stack: whether several tensors can be stacked into one request.
        rows: the N of tensors of shape (N, C, *); None for (C, *).
        response_bytes: the size of the latest response; 0 before the first one.
    """

    __slots__ = (
        "_dtype",
        "_encoders",
        "_head",
        "_shape",
        "can_stack",
        "has_backbone",
        "is_image",
        "parameter_bytes",
        "response_bytes",
        "rows",
    )

    def __init__(
        self,
        head: pool_pb2.PoolRequest,
        dtype: "np.dtype[Any] | None",
        shape: tuple[int, ...] | None,
        stackable_dims: int | None,
        parameter_bytes: int = 0,
    ) -> None:
        self._head = head
        self._dtype = dtype
        self._shape = shape
        self.is_image = shape is None
        self.has_backbone = bool(head.backbone)
        self.parameter_bytes = parameter_bytes
        self.response_bytes = 0
        self.rows: int | None = None
        self.can_stack = False
        if shape is not None and stackable_dims is not None:
            self.can_stack = len(shape) in (stackable_dims + 1, stackable_dims + 2) and math.prod(shape) > 0
            self.rows = shape[0] if len(shape) == stackable_dims + 2 else None
        self._encoders = {1: self._make_encoder(shape)}

    def request(self, data: Buffer) -> bytes:
        """Return the PoolRequest for one payload."""
        return self._encoders[1].encode(data)

    def stacked_request(self, payloads: Sequence[Buffer]) -> bytes:
        """Return one PoolRequest for several tensors: (C, *) are stacked, (N, C, *) are concatenated."""
        count = len(payloads)
        encoder = self._encoders.get(count)
        if encoder is None:
            encoder = self._encoders[count] = self._make_encoder(self._stacked_shape(count))
        return encoder.encode_joined(payloads)

    def _stacked_shape(self, count: int) -> tuple[int, ...]:
        if self._shape is None:
            raise ValueError("images cannot be stacked")
        return (count, *self._shape) if self.rows is None else (count * self.rows, *self._shape[1:])

    def _make_encoder(self, shape: tuple[int, ...] | None) -> RequestEncoder:
        head = pool_pb2.PoolRequest()
        head.CopyFrom(self._head)
        if self._dtype is not None and shape is not None:
            head.tensor.dtype = wire_dtype(self._dtype, field="x.dtype")
            head.tensor.shape.extend(shape)
            head.tensor.SetInParent()
        return RequestEncoder(head)

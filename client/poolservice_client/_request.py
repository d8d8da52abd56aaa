"""From what a caller asks to a message: specs, output, colour mode, payload."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeAlias, TypedDict

import numpy as np

from poolservice.codec import RequestEncoder
from poolservice.dtypes import wire_dtype
from poolservice.errors import InvalidRequest
from poolservice.specs import PoolSpec, to_message
from poolservice.v1 import pool_pb2
from poolservice_client._payload import ImagePayload, Payload

ColorMode: TypeAlias = Literal["RGB", "GRAY", "RGBA"]
Output: TypeAlias = Literal["tensor", "features"]

_OUTPUTS: dict[object, pool_pb2.OutputFormat.ValueType] = {
    "tensor": pool_pb2.OUTPUT_FORMAT_TENSOR,
    "features": pool_pb2.OUTPUT_FORMAT_FEATURE_VECTOR,
    "image": pool_pb2.OUTPUT_FORMAT_IMAGE,
}
_COLOR_MODES: dict[object, pool_pb2.ColorMode.ValueType] = {
    None: pool_pb2.COLOR_MODE_UNSPECIFIED,
    "RGB": pool_pb2.COLOR_MODE_RGB,
    "GRAY": pool_pb2.COLOR_MODE_GRAY,
    "RGBA": pool_pb2.COLOR_MODE_RGBA,
}
# What comes back in one kind of request rarely has more kinds than this: specs times shapes.
_KINDS_KEPT = 512


class ImageOptions(TypedDict, total=False):
    """The keywords of pool_image."""

    color_mode: ColorMode | None
    timeout: float | None


class PoolOptions(ImageOptions, total=False):
    """The keywords of pool, beside `execution`."""

    output: Output
    normalize: bool
    dtype: Literal["float16"] | None


@dataclass(frozen=True, slots=True)
class PoolQuery:
    """What is asked about a payload, checked.

    Attributes:
        specs: how to pool it, in order.
        single: whether one spec was given on its own, so that its result comes back on its own.
        output: "tensor", "features" or "image".
        normalize: whether feature vectors are divided by their length.
        narrow: whether floating results come as float16.
        color_mode: the mode to read a picture in; None for the server's default.
    """

    specs: tuple[PoolSpec, ...]
    single: bool
    output: str
    normalize: bool
    narrow: bool
    color_mode: str | None

    @classmethod
    def of(
        cls,
        specs: object,
        *,
        output: object,
        normalize: object = False,
        dtype: object = None,
        color_mode: object = None,
    ) -> "PoolQuery":
        """The query for what a caller gave.

        Raises:
            InvalidRequest: one of them is not what it may be.
        """
        if not isinstance(output, str) or output not in _OUTPUTS:
            raise InvalidRequest(
                f'must be "tensor" or "features" (pool_image gives pictures); got {output!r}', field="output"
            )
        if not isinstance(normalize, bool):
            raise InvalidRequest(f"must be True or False; got {normalize!r}", field="normalize")
        if normalize and output != "features":
            raise InvalidRequest(
                'only feature vectors are normalised: ask for output="features" too', field="normalize"
            )
        if not isinstance(color_mode, str | None) or color_mode not in _COLOR_MODES:
            raise InvalidRequest(f'must be "RGB", "GRAY" or "RGBA"; got {color_mode!r}', field="color_mode")
        return cls(
            (specs,) if isinstance(specs, PoolSpec) else _several(specs),
            isinstance(specs, PoolSpec),
            output,
            normalize,
            dtype is not None and _is_float16(dtype),
            color_mode,
        )

    def message(self, payload: Payload) -> bytes:
        """The PoolRequest that asks this about `payload`.

        Raises:
            InvalidRequest: a colour mode was asked for, and the payload is a tensor.
        """
        if isinstance(payload, ImagePayload):
            return _encoder(self, None, None).encode(payload.data)
        if self.color_mode is not None:
            raise InvalidRequest("is for pictures; a tensor is pooled in the channels that it has", field="color_mode")
        array = payload.array
        return _encoder(self, array.dtype, array.shape).encode(payload.data)


@lru_cache(maxsize=_KINDS_KEPT)
def _encoder(query: PoolQuery, dtype: "np.dtype[Any] | None", shape: tuple[int, ...] | None) -> RequestEncoder:
    """The encoder of all requests that ask `query` of a tensor of this type and shape, or of a picture."""
    head = pool_pb2.PoolRequest(specs=[to_message(spec) for spec in query.specs])
    if query.output != "tensor":
        head.output.format = _OUTPUTS[query.output]
        head.output.l2_normalize = query.normalize
    if query.narrow:
        head.output.dtype = pool_pb2.DATA_TYPE_FLOAT16
    if dtype is None or shape is None:
        head.image.color_mode = _COLOR_MODES[query.color_mode]
        head.image.SetInParent()
    else:
        head.tensor.dtype = wire_dtype(dtype)
        head.tensor.shape.extend(shape)
        head.tensor.SetInParent()
    return RequestEncoder(head)


def _several(specs: object) -> tuple[PoolSpec, ...]:
    if isinstance(specs, Sequence) and not isinstance(specs, str):
        several = tuple(specs)
        for number, spec in enumerate(several):
            if not isinstance(spec, PoolSpec):
                raise InvalidRequest(f"must be a spec such as MaxPool2d(2); got {spec!r}", field=f"specs[{number}]")
        if several:
            return several
        raise InvalidRequest("at least one is needed, such as MaxPool2d(2)", field="specs")
    raise InvalidRequest(f"must be a spec such as MaxPool2d(2), or a list of them; got {specs!r}", field="specs")


def _is_float16(dtype: object) -> bool:
    try:
        if np.dtype(dtype) == np.float16:  # type: ignore[call-overload]
            return True
    except TypeError:
        pass
    raise InvalidRequest(f'must be "float16", or None for the type that the layer gives; got {dtype!r}', field="dtype")

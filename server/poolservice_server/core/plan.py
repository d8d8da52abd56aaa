"""What a request asks for, validated: everything that can be known before its payload is looked at.

A head (a request without its payload's bytes) is read once and remembered, since a pipeline sends the same one
again and again.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from poolservice import codec
from poolservice.dtypes import numpy_dtype, wire_dtype
from poolservice.errors import InvalidRequest
from poolservice.specs import PoolSpec, from_message
from poolservice.v1 import pool_pb2
from poolservice_server.shapes import output_shape, result_dtype
from poolservice_server.stages import BatchKey, PoolStage

MAX_SPECS = 16

Format = Literal["tensor", "image", "features"]
ColorMode = Literal["RGB", "GRAY", "RGBA"]

_PICTURES_CHANNELS = (1, 3, 4)
_LAYOUT_HINT = "; if these are pictures with their channels last, (H, W, C), move the channels to the front"

# Longer heads than any honest one are read each time rather than kept.
_LONGEST_KEPT_HEAD = 4096

_FORMATS: dict[int, Format] = {
    pool_pb2.OUTPUT_FORMAT_UNSPECIFIED: "tensor",
    pool_pb2.OUTPUT_FORMAT_TENSOR: "tensor",
    pool_pb2.OUTPUT_FORMAT_IMAGE: "image",
    pool_pb2.OUTPUT_FORMAT_FEATURE_VECTOR: "features",
}
_COLOR_MODES: dict[int, ColorMode] = {
    pool_pb2.COLOR_MODE_UNSPECIFIED: "RGB",
    pool_pb2.COLOR_MODE_RGB: "RGB",
    pool_pb2.COLOR_MODE_GRAY: "GRAY",
    pool_pb2.COLOR_MODE_RGBA: "RGBA",
}


@dataclass(frozen=True, slots=True)
class Output:
    """How the results are sent back."""

    format: Format
    l2_normalize: bool
    half: bool


@dataclass(frozen=True, slots=True)
class ResultPlan:
    """One result: what the operator gives, and what is sent."""

    shape: tuple[int, ...]
    sent_shape: tuple[int, ...]
    sent_dtype: np.dtype
    #: The result's Tensor message without its data.
    tensor_head: bytes
    #: The message of its indices without their data.
    indices_head: bytes


@dataclass(frozen=True, slots=True)
class Plan:
    """A request whose payload's shape and type are known."""

    output: Output
    shape: tuple[int, ...]
    dtype: np.dtype
    #: The payload as planes: (P, *spatial), P the product of the leading dimensions.
    planes: tuple[int, ...]
    payload_bytes: int
    #: What may run together with it: equal stages over planes of equal shape and type.
    kind: BatchKey
    results: tuple[ResultPlan, ...]
    #: Bytes that it holds until it is answered: payload and results.
    nbytes: int
    #: Bytes of the results as they are sent; of a PNG, what it is before compression.
    sent_bytes: int

    def planes_of(self, data: memoryview) -> np.ndarray:
        """The payload's bytes as planes, without a copy."""
        if len(data) != self.payload_bytes:
            raise InvalidRequest(
                f"has {len(data)} bytes; shape {list(self.shape)} of {self.dtype.name} takes {self.payload_bytes}",
                field="tensor.data",
            )
        return np.ndarray(self.planes, self.dtype, data)


@dataclass(frozen=True, slots=True)
class Head:
    """A request without its payload's bytes: a tensor's plan, or what to make of a picture."""

    specs: tuple[PoolSpec, ...]
    output: Output
    tensor: Plan | None
    color_mode: ColorMode
    #: Whether a picture is pooled as fast where its planes lie interleaved.
    any_order: bool = False


def read_head(head: bytes) -> Head:
    """Validate a request's head.

    Raises:
        InvalidRequest: names the field that is wrong.
    """
    return _read_kept_head(head) if len(head) <= _LONGEST_KEPT_HEAD else _read_head(head)


@lru_cache(maxsize=1024)
def _read_kept_head(head: bytes) -> Head:
    return _read_head(head)


def _read_head(head: bytes) -> Head:
    message = codec.parse_head(head)
    specs = _specs(message)
    output = _output(message.output)
    payload = message.WhichOneof("payload")
    if payload == "tensor":
        dtype = numpy_dtype(message.tensor.dtype, field="tensor.dtype")
        shape = tuple(message.tensor.shape)
        for index, size in enumerate(shape):
            if size < 0:
                raise InvalidRequest(f"must be at least 0; got {size}", field=f"tensor.shape[{index}]")
        return Head(specs, output, plan_tensor(specs, output, shape, dtype), "RGB")
    if payload is None:
        raise InvalidRequest("is required: a tensor or an image", field="payload")
    color_mode = _COLOR_MODES.get(message.image.color_mode)
    if color_mode is None:
        raise InvalidRequest("must be COLOR_MODE_RGB, _GRAY or _RGBA", field="image.color_mode")
    # Of one dimension, it pools rows, which do not lie in one piece there.
    any_order = all(spec.operator == "global_avg_pool" and spec.spatial_dims == 2 for spec in specs)
    return Head(specs, output, None, color_mode, any_order)


def plan_tensor(specs: tuple[PoolSpec, ...], output: Output, shape: tuple[int, ...], dtype: np.dtype) -> Plan:
    """The plan for a tensor of `shape` and `dtype`."""
    return _plan(specs, output, shape, dtype, dtype, PoolStage(specs), payload="tensor.shape")


@lru_cache(maxsize=1024)
def plan_picture(specs: tuple[PoolSpec, ...], output: Output, channels: int, height: int, width: int) -> Plan:
    """The plan for a decoded picture: uint8 planes that are read as float32 in [0, 1]."""
    stage = PoolStage(specs, unit_scale=True)
    shape = (channels, height, width)
    return _plan(specs, output, shape, np.dtype(np.uint8), np.dtype(np.float32), stage, payload="image")


def _plan(
    specs: tuple[PoolSpec, ...],
    output: Output,
    shape: tuple[int, ...],
    dtype: np.dtype,
    pooled_dtype: np.dtype,
    stage: PoolStage,
    *,
    payload: str,
) -> Plan:
    other = next((i for i, spec in enumerate(specs) if spec.spatial_dims != specs[0].spatial_dims), None)
    if other is not None:
        raise InvalidRequest(
            f"must pool the same number of dimensions, since they pool the same payload; the first pools "
            f"{specs[0].spatial_dims}, specs[{other}] {specs[other].spatial_dims}: send them apart",
            field="specs",
        )
    results = []
    sent = 0
    payload_bytes = math.prod(shape) * dtype.itemsize
    held = payload_bytes
    for index, spec in enumerate(specs):
        try:
            pooled_shape = output_shape(spec, shape)
        except InvalidRequest as error:
            if error.field == "tensor.shape":
                raise InvalidRequest(error.reason, field=payload) from None
            hint = _LAYOUT_HINT if error.field == "kernel_size" and _looks_interleaved(shape) else ""
            raise InvalidRequest(error.reason + hint, field=error.field).within(
                f"specs[{index}].{spec.operator}"
            ) from None
        natural = result_dtype(spec, pooled_dtype)
        result = _result(spec, output, pooled_shape, natural, batched=len(shape) == spec.spatial_dims + 2)
        results.append(result)
        elements = math.prod(pooled_shape)
        indices = elements * 8 if getattr(spec, "return_indices", False) else 0
        held += elements * natural.itemsize + indices
        sent += elements * (1 if output.format == "image" else result.sent_dtype.itemsize) + indices
    spatial = shape[-specs[0].spatial_dims :]
    leading = math.prod(shape[: -len(spatial)])
    kind = BatchKey(stage, spatial, dtype)
    return Plan(output, shape, dtype, (leading, *spatial), payload_bytes, kind, tuple(results), held, sent)


def _looks_interleaved(shape: tuple[int, ...]) -> bool:
    """Whether it may be a picture whose channels come last."""
    return len(shape) in (3, 4) and shape[-1] in _PICTURES_CHANNELS and shape[-3] not in _PICTURES_CHANNELS


def _result(spec: PoolSpec, output: Output, shape: tuple[int, ...], dtype: np.dtype, *, batched: bool) -> ResultPlan:
    floating = dtype.kind not in "iu"
    layer = type(spec).__name__
    sent_shape = shape
    sent_dtype = dtype
    if output.format == "image":
        if len(shape) != 3 or batched or shape[0] not in _PICTURES_CHANNELS:
            which = "" if spec.spatial_dims == 2 else f", which pools {spec.spatial_dims}-D,"
            raise InvalidRequest(
                f"IMAGE takes an unbatched 2-D result of 1, 3 or 4 channels; {layer}{which} gives {list(shape)}",
                field="output.format",
            )
        if not floating and dtype != np.uint8:
            raise InvalidRequest(f"IMAGE takes floats or uint8; {layer} gives {dtype.name}", field="output.format")
        if 0 in shape:
            raise InvalidRequest(f"IMAGE needs at least one pixel; {layer} gives {list(shape)}", field="output.format")
    elif output.format == "features":
        sent_shape = (shape[0], math.prod(shape[1:])) if batched else (math.prod(shape),)
        if output.l2_normalize and not floating:
            sent_dtype = np.dtype(np.float32)
            floating = True
    if output.half:
        if not floating:
            raise InvalidRequest(
                f"FLOAT16 narrows floating results; {layer} gives {dtype.name}, leave dtype out", field="output.dtype"
            )
        sent_dtype = np.dtype(np.float16)
    return ResultPlan(
        shape,
        sent_shape,
        sent_dtype,
        pool_pb2.Tensor(dtype=wire_dtype(sent_dtype), shape=sent_shape).SerializeToString(),
        pool_pb2.Tensor(dtype=pool_pb2.DATA_TYPE_INT64, shape=shape).SerializeToString(),
    )


def _specs(message: pool_pb2.PoolRequest) -> tuple[PoolSpec, ...]:
    if not 1 <= len(message.specs) <= MAX_SPECS:
        raise InvalidRequest(f"must be 1 to {MAX_SPECS} specs; got {len(message.specs)}", field="specs")
    specs = []
    for index, spec in enumerate(message.specs):
        try:
            specs.append(from_message(spec))
        except InvalidRequest as error:
            raise error.within(f"specs[{index}]") from None
    return tuple(specs)


def _output(message: pool_pb2.OutputOptions) -> Output:
    chosen = _FORMATS.get(message.format)
    if chosen is None:
        raise InvalidRequest("must be TENSOR, IMAGE or FEATURE_VECTOR", field="output.format")
    if message.l2_normalize and chosen != "features":
        raise InvalidRequest("goes with FEATURE_VECTOR only", field="output.l2_normalize")
    if message.dtype not in (pool_pb2.DATA_TYPE_UNSPECIFIED, pool_pb2.DATA_TYPE_FLOAT16):
        raise InvalidRequest("must be DATA_TYPE_FLOAT16 or left out", field="output.dtype")
    if message.dtype and chosen == "image":
        raise InvalidRequest(
            "does not go with IMAGE, whose PNG has 8 bits a channel; leave it out", field="output.dtype"
        )
    return Output(chosen, message.l2_normalize, bool(message.dtype))

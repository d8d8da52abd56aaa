"""Request validation: everything that can be computed or refused before the payload's bytes are read.

A head, which is a request without its payload's bytes, is validated once and cached, because pipelines send the same
head again and again.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

import numpy as np

from poolservice import codec
from poolservice.dtypes import numpy_dtype
from poolservice.errors import InvalidRequest
from poolservice.specs import PoolSpec, from_message
from poolservice.v1 import pool_pb2
from poolservice_server.cache import Cache, cached
from poolservice_server.core.backbone_head import BackboneHead, read_backbone
from poolservice_server.core.output_options import IMAGE_CHANNELS, OutputOptions, read_output_options
from poolservice_server.core.response_builder import ResponseBuilder
from poolservice_server.core.results_plan import PlannedResult, plan_results
from poolservice_server.images import ColorMode
from poolservice_server.operator_shapes import output_shape, result_dtype
from poolservice_server.pool_heads.head import NO_HEADS, PoolHeads
from poolservice_server.pool_stage import BatchKey, PoolStage
from poolservice_server.stage_cost import Cost, stage_cost

MAX_SPECS = 16

#: Encoding that takes more steps, about a millisecond, runs on a thread.
MAX_INLINE_STEPS = 1e6

_FLOAT32 = np.dtype(np.float32)

_LAYOUT_HINT = "; if these are images with their channels last, (H, W, C), move the channels to the front"

# The values of parameters are in memory three times: in the message, in its head and in the specs.
_PARAMETER_COPIES = 3

# Usual heads are far shorter. Longer ones are validated each time instead of being cached.
_MAX_CACHED_HEAD = 4096

_COLOR_MODES: Mapping[int, ColorMode] = MappingProxyType(
    {
        pool_pb2.COLOR_MODE_UNSPECIFIED: "RGB",
        pool_pb2.COLOR_MODE_RGB: "RGB",
        pool_pb2.COLOR_MODE_GRAY: "GRAY",
        pool_pb2.COLOR_MODE_RGBA: "RGBA",
    }
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do with a payload whose shape and dtype are known.

    Attributes:
        shape: the payload's shape.
        dtype: the payload's dtype.
        planes_shape: the shape in which it is pooled, (P, *spatial); P is the product of the leading dimensions.
        payload_bytes: the payload's size.
        batch_key: requests with equal keys may run in one batch.
        response_builder: builds the response.
        nbytes: size of the payload and the results, in which the sizes of batches are counted.
        run_steps: the estimated work of the device.
        cost: the estimated cost of the whole request: its work, the most memory that it needs at one time from its
            payload to its response, and the size of the results as they are sent; of PNG images, before compression.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    planes_shape: tuple[int, ...]
    payload_bytes: int
    batch_key: BatchKey
    response_builder: ResponseBuilder
    nbytes: int
    run_steps: float
    cost: Cost

    def planes_of(self, data: memoryview) -> np.ndarray:
        """Return the payload's bytes as planes, without copying them.

        Raises:
            InvalidRequest: there are more or fewer bytes than the shape takes.
        """
        if len(data) != self.payload_bytes:
            raise InvalidRequest(
                f"has {len(data)} bytes; shape {list(self.shape)} of {self.dtype.name} takes {self.payload_bytes}",
                field="tensor.data",
            )
        return np.ndarray(self.planes_shape, self.dtype, data)


@dataclass(frozen=True, slots=True)
class Head:
    """A validated request without its payload's bytes.

    Attributes:
        specs: the pooling specs.
        output: the form of the results.
        tensor_plan: the plan if the payload is a tensor to pool; None if it is an image, whose size is in its file, or
            if it goes through a backbone.
        color_mode: the channels that an image is decoded to.
        takes_interleaved: whether an image is pooled as fast if its channels are interleaved in memory.
        backbone: what the request asks of a backbone; None without one.
    """

    specs: tuple[PoolSpec, ...]
    output: OutputOptions
    tensor_plan: Plan | None
    color_mode: ColorMode = "RGB"
    takes_interleaved: bool = False
    backbone: BackboneHead | None = None


def read_head(head: bytes, pool_heads: PoolHeads = NO_HEADS) -> Head:
    """Validate a request's head.

    Args:
        head: the head.
        pool_heads: the pool heads of the server, which specs name.

    Raises:
        InvalidRequest: a field is wrong; the error names it.
    """
    read = _read_cached_head if len(head) <= _MAX_CACHED_HEAD else _read_head
    return read(head, pool_heads)


def known_head(head: bytes, pool_heads: PoolHeads = NO_HEADS) -> Head | None:
    """Return the validated head if it was used lately, which takes no time; else None."""
    return _HEADS.find(head, pool_heads)


@cached("heads")
def _read_cached_head(head: bytes, pool_heads: PoolHeads) -> Head:
    return _read_head(head, pool_heads)


_HEADS = cast("Cache[Head]", _read_cached_head)


def _read_head(head: bytes, pool_heads: PoolHeads) -> Head:
    message = codec.parse_head(head)
    backbone = read_backbone(message)
    specs = _specs(message, pool_heads, minimum=0 if backbone else 1)
    output = read_output_options(message.output)
    payload = message.WhichOneof("payload")
    if payload == "tensor":
        dtype = numpy_dtype(message.tensor.dtype, field="tensor.dtype")
        shape = tuple(message.tensor.shape)
        for index, size in enumerate(shape):
            if size < 0:
                raise InvalidRequest(f"must be at least 0; got {size}", field=f"tensor.shape[{index}]")
        if backbone:
            return Head(specs, output, None, backbone=backbone._replace(shape=shape, dtype=dtype))
        return Head(specs, output, plan_tensor(specs, output, shape, dtype))
    if payload is None:
        raise InvalidRequest("is required: a tensor or an image", field="payload")
    if backbone:
        return Head(specs, output, None, backbone=backbone)
    color_mode = _COLOR_MODES.get(message.image.color_mode)
    if color_mode is None:
        raise InvalidRequest("must be COLOR_MODE_RGB, _GRAY or _RGBA", field="image.color_mode")
    # A one-dimensional operator pools rows, which are not contiguous in interleaved images.
    takes_interleaved = all(spec.operator == "global_avg_pool" and spec.spatial_dims == 2 for spec in specs)
    return Head(specs, output, None, color_mode, takes_interleaved)


def plan_tensor(specs: tuple[PoolSpec, ...], output: OutputOptions, shape: tuple[int, ...], dtype: np.dtype) -> Plan:
    """Return the plan for a tensor of `shape` and `dtype`.

    Raises:
        InvalidRequest: a spec or the output options do not suit the tensor.
    """
    return _plan(specs, output, shape, dtype, dtype, unit_scale=False, payload="tensor.shape")


@cached("image_plans")
def plan_image(
    specs: tuple[PoolSpec, ...], output: OutputOptions, channels: int, height: int, width: int, dtype: np.dtype
) -> Plan:
    """Return the plan for a decoded image: planes of uint8 or uint16 whose values stand for float32 in [0, 1].

    Raises:
        InvalidRequest: a spec or the output options do not suit the image.
    """
    shape = (channels, height, width)
    return _plan(specs, output, shape, dtype, _FLOAT32, unit_scale=True, payload="image")


def _plan(
    specs: tuple[PoolSpec, ...],
    output: OutputOptions,
    shape: tuple[int, ...],
    dtype: np.dtype,
    pooled_dtype: np.dtype,
    *,
    unit_scale: bool,
    payload: str,
) -> Plan:
    dims = specs[0].spatial_dims
    other = next((i for i, spec in enumerate(specs) if spec.spatial_dims != dims), None)
    if other is not None:
        raise InvalidRequest(
            f"must pool the same number of dimensions, since they pool the same payload; specs[0] pools {dims} "
            f"and specs[{other}] pools {specs[other].spatial_dims}; send them in separate requests",
            field="specs",
        )
    results = plan_results(
        output,
        [
            PlannedResult(
                type(spec).__name__,
                dims,
                result_shape(spec, shape, path=f"specs[{index}].{spec.operator}", payload=payload),
                result_dtype(spec, pooled_dtype),
                bool(getattr(spec, "return_indices", False)),
            )
            for index, spec in enumerate(specs)
        ],
        has_batch_dimension=len(shape) == dims + 2,
    )
    spatial = shape[-dims:]
    stage = PoolStage.of(specs, shape[-dims - 1], unit_scale=unit_scale)
    planes_shape = (math.prod(shape[:-dims]), *spatial)
    run_steps, run_bytes = stage_cost(stage, planes_shape, dtype)
    payload_bytes = math.prod(shape) * dtype.itemsize
    parameter_bytes = held_parameter_bytes(specs)
    return Plan(
        shape=shape,
        dtype=dtype,
        planes_shape=planes_shape,
        payload_bytes=payload_bytes,
        batch_key=BatchKey(stage, spatial, dtype),
        response_builder=ResponseBuilder(output, results.formats, on_thread=results.encoding_steps > MAX_INLINE_STEPS),
        nbytes=payload_bytes + parameter_bytes + results.result_bytes,
        run_steps=run_steps,
        cost=Cost(
            run_steps + results.encoding_steps,
            payload_bytes + parameter_bytes + max(run_bytes, results.peak_bytes),
            results.response_bytes,
        ),
    )


def held_parameter_bytes(specs: tuple[PoolSpec, ...]) -> int:
    """Return the memory that the tensors among the parameters take until the response is built."""
    return _PARAMETER_COPIES * sum(spec.parameter_bytes for spec in specs)


def result_shape(spec: PoolSpec, shape: tuple[int, ...], *, path: str, payload: str) -> tuple[int, ...]:
    """Return the shape of a spec's result.

    Args:
        spec: the spec.
        shape: the payload's shape.
        path: the path of the spec's field in the request, for errors.
        payload: the field that an error about the payload's shape names.
    """
    try:
        return output_shape(spec, shape)
    except InvalidRequest as error:
        if error.field == "tensor.shape":
            raise InvalidRequest(error.reason, field=payload) from None
        hint = _LAYOUT_HINT if error.field == "kernel_size" and _may_be_channels_last(shape) else ""
        raise InvalidRequest(error.reason + hint, field=error.field).within(path) from None


def _may_be_channels_last(shape: tuple[int, ...]) -> bool:
    return len(shape) in (3, 4) and shape[-1] in IMAGE_CHANNELS and shape[-3] not in IMAGE_CHANNELS


def _specs(message: pool_pb2.PoolRequest, pool_heads: PoolHeads, *, minimum: int) -> tuple[PoolSpec, ...]:
    if not minimum <= len(message.specs) <= MAX_SPECS:
        raise InvalidRequest(f"must be {minimum} to {MAX_SPECS} specs; got {len(message.specs)}", field="specs")
    specs = []
    for index, spec in enumerate(message.specs):
        try:
            specs.append(pool_heads.resolve(from_message(spec)))
        except InvalidRequest as error:
            raise error.within(f"specs[{index}]") from None
    parameter_bytes = sum(spec.parameter_bytes for spec in specs)
    if parameter_bytes > codec.MAX_PARAMETERS_BYTES:
        raise InvalidRequest(
            f"may have tensors of {codec.MAX_PARAMETERS_BYTES} bytes in all as parameters; they have {parameter_bytes}",
            field="specs",
        )
    return tuple(specs)

"""Output options: the form in which a request wants its results, and which results can take that form."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

from poolservice.errors import InvalidRequest
from poolservice.v1 import pool_pb2

OutputFormat = Literal["tensor", "image", "features"]

#: Numbers of channels that an image may have.
IMAGE_CHANNELS = (1, 3, 4)

_FLOAT16 = np.dtype(np.float16)
_FLOAT32 = np.dtype(np.float32)

_FORMATS: Mapping[int, OutputFormat] = MappingProxyType(
    {
        pool_pb2.OUTPUT_FORMAT_UNSPECIFIED: "tensor",
        pool_pb2.OUTPUT_FORMAT_TENSOR: "tensor",
        pool_pb2.OUTPUT_FORMAT_IMAGE: "image",
        pool_pb2.OUTPUT_FORMAT_FEATURE_VECTOR: "features",
    }
)


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """The form in which results are sent.

    Attributes:
        format: tensors, PNG images, or flat feature vectors.
        l2_normalize: whether feature vectors are divided by their Euclidean norm.
        float16: whether floating-point results are narrowed to float16.
    """

    format: OutputFormat
    l2_normalize: bool
    float16: bool


def read_output_options(message: pool_pb2.OutputOptions) -> OutputOptions:
    """Validate a request's output options.

    Raises:
        InvalidRequest: the options contradict one another.
    """
    chosen = _FORMATS.get(message.format)
    if chosen is None:
        raise InvalidRequest("must be TENSOR, IMAGE or FEATURE_VECTOR", field="output.format")
    if message.l2_normalize and chosen != "features":
        raise InvalidRequest("goes with FEATURE_VECTOR only", field="output.l2_normalize")
    if message.dtype not in (pool_pb2.DATA_TYPE_UNSPECIFIED, pool_pb2.DATA_TYPE_FLOAT16):
        raise InvalidRequest("must be DATA_TYPE_FLOAT16 or left out", field="output.dtype")
    if message.dtype and chosen == "image":
        raise InvalidRequest(
            "does not go with IMAGE, whose PNG has 8 bits per channel; leave it out", field="output.dtype"
        )
    return OutputOptions(chosen, message.l2_normalize, bool(message.dtype))


def sent_form(
    output: OutputOptions,
    source: str,
    shape: tuple[int, ...],
    dtype: np.dtype,
    *,
    dims: int,
    has_batch_dimension: bool,
) -> tuple[tuple[int, ...], np.dtype]:
    """Return the shape and dtype in which a result is sent; for a PNG image, those before encoding.

    Args:
        output: the form that the request wants.
        source: the name of the layer or of the backbone's output that gives the result, for errors.
        shape: the shape of the result.
        dtype: the dtype of the result.
        dims: the number of dimensions that are pooled.
        has_batch_dimension: whether the first dimension counts the samples of a batch.

    Raises:
        InvalidRequest: the result cannot be sent in that form.
    """
    floating = dtype.kind not in "iu"
    if output.format == "image":
        _check_image(source, shape, dtype, dims=dims, has_batch_dimension=has_batch_dimension)
    elif output.format == "features":
        shape = (shape[0], math.prod(shape[1:])) if has_batch_dimension else (math.prod(shape),)
        if output.l2_normalize and not floating:
            dtype = _FLOAT32
            floating = True
    if output.float16:
        if not floating:
            raise InvalidRequest(
                f"FLOAT16 narrows floating results; {source} gives {dtype.name}, leave dtype out",
                field="output.dtype",
            )
        dtype = _FLOAT16
    return shape, dtype


def _check_image(source: str, shape: tuple[int, ...], dtype: np.dtype, *, dims: int, has_batch_dimension: bool) -> None:
    """Refuse (InvalidRequest) a result that cannot be a PNG image."""
    if len(shape) != 3 or has_batch_dimension or shape[0] not in IMAGE_CHANNELS:
        pools = "" if dims == 2 else f", which pools {dims}-D,"
        raise InvalidRequest(
            f"IMAGE takes an unbatched 2-D result of 1, 3 or 4 channels; {source}{pools} gives {list(shape)}",
            field="output.format",
        )
    if dtype.kind in "iu" and dtype != np.uint8:
        raise InvalidRequest(f"IMAGE takes floats or uint8; {source} gives {dtype.name}", field="output.format")
    if 0 in shape:
        raise InvalidRequest(f"IMAGE needs at least one pixel; {source} gives {list(shape)}", field="output.format")

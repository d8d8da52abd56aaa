"""What it costs to encode the results of a request: estimated steps and bytes."""

from typing import NamedTuple

import numpy as np

from poolservice_server.core.output_options import OutputOptions

# Steps per value, rounded up. The largest error is that of a PNG file whose pixels compress well.
_STEPS_TO_NORMALIZE = 30.0
_STEPS_TO_NARROW = 5.0
_STEPS_TO_WRITE_PNG = 60.0

# Bytes per value: float64 values, their conjugate and their squares.
_NORMALIZING_BYTES = 24

# Bytes per value of 8 bits: pixels in planes, interleaved pixels, Pillow's image, and the file while it grows.
_PNG_BYTES = 6


class EncodingCost(NamedTuple):
    """What it costs to encode one result.

    Attributes:
        steps: the work; see `stage_cost`.
        temporary_bytes: the most memory that is needed while it is encoded, besides the result.
        kept_bytes: memory that is needed until all results are encoded, besides the result.
    """

    steps: float
    temporary_bytes: int
    kept_bytes: int


def encoding_cost(output: OutputOptions, elements: int, dtype: np.dtype, sent_dtype: np.dtype) -> EncodingCost:
    """Return what it costs to encode a result.

    Args:
        output: the form in which it is sent.
        elements: number of its values.
        dtype: their dtype.
        sent_dtype: the dtype in which they are sent; for a PNG image, that before encoding.
    """
    if output.format == "image":
        wide = 0 if dtype == np.uint8 else 2 * max(4, dtype.itemsize)
        return EncodingCost(_STEPS_TO_WRITE_PNG * elements, elements * (wide + _PNG_BYTES), elements)
    if output.l2_normalize:
        kept = elements * sent_dtype.itemsize
        return EncodingCost(_STEPS_TO_NORMALIZE * elements, elements * _NORMALIZING_BYTES, kept)
    if sent_dtype != dtype:
        kept = elements * sent_dtype.itemsize
        return EncodingCost(_STEPS_TO_NARROW * elements, kept, kept)
    return EncodingCost(0.0, 0, 0)

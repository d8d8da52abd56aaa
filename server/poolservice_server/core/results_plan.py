"""The sizes and the form of a request's results, and what it costs to encode them."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from poolservice_server.core.encoding_cost import encoding_cost
from poolservice_server.core.output_options import OutputOptions, sent_form
from poolservice_server.core.response_builder import ResultFormat


class PlannedResult(NamedTuple):
    """A result before it is sent.

    Attributes:
        source: the name of the layer or of the backbone's output that it is the result of.
        dims: the number of dimensions that are pooled.
        shape: its shape.
        dtype: its dtype.
        has_indices: whether it has indices.
    """

    source: str
    dims: int
    shape: tuple[int, ...]
    dtype: np.dtype
    has_indices: bool = False


class ResultsPlan(NamedTuple):
    """The results of a request.

    Attributes:
        formats: how each of them is sent.
        result_bytes: the size of the results.
        response_bytes: their size in the form in which they are sent.
        encoding_steps: the work of encoding them.
        peak_bytes: the most memory in use from their computation to the encoded response.
    """

    formats: tuple[ResultFormat, ...]
    result_bytes: int
    response_bytes: int
    encoding_steps: float
    peak_bytes: int


def plan_results(
    output: OutputOptions, results: Iterable[PlannedResult], *, has_batch_dimension: bool, further_bytes: int = 0
) -> ResultsPlan:
    """Return the plan for results.

    Args:
        output: the form in which they are sent.
        results: the results in their order.
        has_batch_dimension: whether their first dimension counts the samples of a batch.
        further_bytes: the size of what the response contains besides the results.

    Raises:
        InvalidRequest: a result cannot be sent in that form.
    """
    formats = []
    result_bytes = response_bytes = further_bytes
    steps = 0.0
    encoding_bytes = kept_bytes = 0
    for source, dims, shape, dtype, has_indices in results:
        sent_shape, sent_dtype = sent_form(
            output, source, shape, dtype, dims=dims, has_batch_dimension=has_batch_dimension
        )
        formats.append(ResultFormat.create(shape, sent_shape, sent_dtype))
        elements = math.prod(shape)
        indices_bytes = elements * 8 if has_indices else 0
        result_bytes += elements * dtype.itemsize + indices_bytes
        response_bytes += elements * (1 if output.format == "image" else sent_dtype.itemsize) + indices_bytes
        encoding = encoding_cost(output, elements, dtype, sent_dtype)
        steps += encoding.steps
        encoding_bytes = max(encoding_bytes, kept_bytes + encoding.temporary_bytes)
        kept_bytes += encoding.kept_bytes
    # The results are encoded one after the other, then the response is assembled from them.
    peak_bytes = result_bytes + max(encoding_bytes, kept_bytes + response_bytes)
    return ResultsPlan(tuple(formats), result_bytes, response_bytes, steps, peak_bytes)

"""Decoding a PoolResponse to what the caller gets: arrays, indices, images and the execution report."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from poolservice.codec import MalformedMessage, Response, Result, Value, decode_response
from poolservice.dtypes import numpy_dtype
from poolservice.errors import InvalidRequest
from poolservice.specs import PoolSpec
from poolservice.v1 import pool_pb2
from poolservice_client._request.query import PoolQuery
from poolservice_client.errors import ServerError

T_co = TypeVar("T_co", covariant=True)


class Execution(NamedTuple):
    """Where and how the server ran a request.

    Attributes:
        device: the device that computed it, as torch names it: "cpu", "cuda:0".
        batch_size: the number of requests in its batch, itself included.
        decode_microseconds: time spent decoding the image; 0 for a tensor.
        queue_microseconds: time spent in the queue, waiting for the device and for batch-mates.
        compute_microseconds: time spent computing the batch, including copies to and from the device.
        preprocess_microseconds: time spent resizing and cropping the image for a backbone, which is not part of the
            decoding; 0 without a backbone.
        backbone_microseconds: the part of compute_microseconds in which the backbone ran; 0 without one.
        backbone_fingerprint: identifies the backbone's model, preprocessing and outputs, so that features can be
            traced to what made them; "" without a backbone.
    """

    device: str
    batch_size: int
    decode_microseconds: int
    queue_microseconds: int
    compute_microseconds: int
    preprocess_microseconds: int = 0
    backbone_microseconds: int = 0
    backbone_fingerprint: str = ""


class PoolResponse(NamedTuple, Generic[T_co]):
    """The return value of `pool` with `execution=True`.

    Attributes:
        result: what `pool` returns without `execution=True`.
        execution: where and how the request ran.

    Example:
        >>> y, execution = client.pool(x, MaxPool2d(2), execution=True)
    """

    result: T_co
    execution: Execution


def read_response(message: bytes | memoryview, query: PoolQuery, *, execution: bool) -> Any:
    """Return what the caller of `query` gets for the encoded PoolResponse `message`.

    Raises:
        ServerError: the message is malformed or does not fit the query.
    """
    try:
        response = decode_response(message)
        results = _results(response, query)
    except (MalformedMessage, InvalidRequest) as error:
        raise unreadable_response(error) from None
    result = results[0] if query.single else results
    return PoolResponse(result, read_execution(response.execution)) if execution else result


def read_stacked_response(
    message: bytes | memoryview, query: PoolQuery, count: int, rows: int | None
) -> list[PoolResponse[Any]]:
    """Split the response to a stacked request into the response of each of its inputs.

    Args:
        message: the encoded PoolResponse.
        query: the query of all inputs, for tensors or features.
        count: the number of inputs.
        rows: the N of each (N, C, *) input; None if the inputs are (C, *).

    Raises:
        ServerError: the message is malformed or does not fit the query and the number of inputs.
    """
    try:
        response = decode_response(message)
        _check_result_count(response, query)
        results_by_spec = [
            _unstacked(result, spec, count, rows) for result, spec in zip(response.results, query.specs, strict=True)
        ]
    except (MalformedMessage, InvalidRequest) as error:
        raise unreadable_response(error) from None
    reported = read_execution(response.execution)
    # The server counted the stacked request as one request.
    execution = reported._replace(batch_size=reported.batch_size + count - 1)
    if query.single:
        return [PoolResponse(result, execution) for result in results_by_spec[0]]
    return [PoolResponse(list(results), execution) for results in zip(*results_by_spec, strict=True)]


def read_tensor(message: pool_pb2.Tensor) -> NDArray[Any]:
    """Return a Tensor message as an array that owns its memory.

    Raises:
        MalformedMessage, InvalidRequest: it is no valid tensor.
    """
    head = pool_pb2.Tensor(dtype=message.dtype, shape=message.shape)
    return _array(Value("tensor", head.SerializeToString(deterministic=True), message.data))


def unreadable_response(error: Exception) -> ServerError:
    """Return the error for a response that cannot be decoded."""
    return ServerError(f"the server's response cannot be read: {error}")


def _unstacked(
    result: Result, spec: PoolSpec, count: int, rows: int | None
) -> Sequence[NDArray[Any] | tuple[NDArray[Any], NDArray[Any]]]:
    values = _split(_check_kind(result.value, "tensor"), count, rows)
    if not getattr(spec, "return_indices", False):
        return values
    return list(zip(values, _split(_indices(result, spec), count, rows), strict=True))


def _split(value: Value, count: int, rows: int | None) -> list[NDArray[Any]]:
    stacked = _view(value)
    if stacked.ndim == 0 or len(stacked) != count * (1 if rows is None else rows):
        raise MalformedMessage(f"{count} tensors were sent, but a result of shape {stacked.shape} was received")
    if rows is None:
        return [row.copy() for row in stacked]
    return [stacked[start : start + rows].copy() for start in range(0, count * rows, rows)]


def note_backbone_time(execution: pool_pb2.Execution, query: PoolQuery) -> None:
    """Note how long the backbone of the query ran, if it has one.

    Raises:
        MalformedMessage: the server ignored the backbone, as a server does that is too old to have any.
    """
    if query.backbone is not None:
        if not execution.backbone_fingerprint:
            raise MalformedMessage("the server ignored the backbone, so it is too old to have any; update the server")
        query.backbone_time.microseconds = execution.backbone_microseconds


def _check_result_count(response: Response, query: PoolQuery) -> None:
    note_backbone_time(response.execution, query)
    if len(response.results) != query.results:
        raise MalformedMessage(f"{query.results} results were expected, but {len(response.results)} were received")


def _results(response: Response, query: PoolQuery) -> list[Any]:
    _check_result_count(response, query)
    if query.output == "image":
        # Pillow is imported only for callers of pool_image.
        from poolservice_client._response import pil_images

        return [pil_images.decode(_check_kind(result.value, "image").data) for result in response.results]
    if not query.specs:
        return [_array(_check_kind(result.value, "tensor")) for result in response.results]
    return [_arrays(result, spec) for result, spec in zip(response.results, query.specs, strict=True)]


def _arrays(result: Result, spec: PoolSpec) -> NDArray[Any] | tuple[NDArray[Any], NDArray[Any]]:
    values = _array(_check_kind(result.value, "tensor"))
    if not getattr(spec, "return_indices", False):
        return values
    return values, _array(_indices(result, spec))


def _indices(result: Result, spec: PoolSpec) -> Value:
    if result.indices is None:
        raise MalformedMessage(f"the result of {spec!r} has no indices")
    return result.indices


def _array(value: Value) -> NDArray[Any]:
    """Return a tensor as an array with its own, writable memory.

    Without the copy (8 microseconds for 150 KB) the array would be read-only, possibly unaligned, and keep the whole
    message in memory.
    """
    return _view(value).copy()


def _view(value: Value) -> NDArray[Any]:
    dtype, shape = _tensor_head(value.head)
    if len(value.data) != dtype.itemsize * math.prod(shape):
        raise MalformedMessage(f"a {dtype.name} tensor of shape {shape} has {len(value.data)} bytes")
    return np.ndarray(shape, dtype, value.data)


@lru_cache(maxsize=512)
def _tensor_head(head: bytes) -> "tuple[np.dtype[Any], tuple[int, ...]]":
    tensor = pool_pb2.Tensor.FromString(head)
    shape = tuple(tensor.shape)
    if min(shape, default=0) < 0:
        raise MalformedMessage(f"a tensor has the shape {shape}")
    return numpy_dtype(tensor.dtype), shape


def _check_kind(value: Value, kind: str) -> Value:
    if value.kind != kind:
        raise MalformedMessage(f"a result of kind {value.kind} was received instead of {kind}")
    return value


def read_execution(message: pool_pb2.Execution) -> Execution:
    """Return an Execution message as the SDK's class."""
    return Execution(
        message.device,
        message.batch_size,
        message.decode_microseconds,
        message.queue_microseconds,
        message.compute_microseconds,
        message.preprocess_microseconds,
        message.backbone_microseconds,
        message.backbone_fingerprint,
    )

"""From a reply to what the caller gets: arrays, indices, pictures, and where it ran."""

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
    """Where and how a request ran, so that "why was it slow" has an answer.

    Attributes:
        device: the device that computed it, in torch's words: "cpu", "cuda:0".
        batch_size: the number of requests in the batch it ran in, itself included.
        decode_microseconds: time spent decoding the picture; 0 for a tensor.
        queue_microseconds: time spent waiting for the device and for company.
        compute_microseconds: time spent computing the batch, copies to and from the device included.
    """

    device: str
    batch_size: int
    decode_microseconds: int
    queue_microseconds: int
    compute_microseconds: int


class PoolResponse(NamedTuple, Generic[T_co]):
    """What `execution=True` brings: ``y, execution = client.pool(x, spec, execution=True)``.

    Attributes:
        result: what would have come back without it.
        execution: where and how it ran.
    """

    result: T_co
    execution: Execution


def read_response(message: bytes | memoryview, query: PoolQuery, *, execution: bool) -> Any:
    """What the caller of `query` gets for the PoolResponse `message`.

    Raises:
        ServerError: it is no answer to this query.
    """
    try:
        response = decode_response(message)
        results = _results(response, query)
    except (MalformedMessage, InvalidRequest) as error:
        raise ServerError(f"the server's answer cannot be read: {error}") from None
    result = results[0] if query.single else results
    return PoolResponse(result, _execution(response.execution)) if execution else result


def read_stack(message: bytes | memoryview, query: PoolQuery, count: int, rows: int | None) -> list[PoolResponse[Any]]:
    """What each of `count` callers of `query` gets whose tensors travelled as one.

    Args:
        message: the PoolResponse.
        query: what all of them asked; for tensors or features, not for pictures.
        count: how many they are.
        rows: the N of each one's (N, C, *); None where each sent (C, *).

    Raises:
        ServerError: it is no answer to this query of that many.
    """
    try:
        response = decode_response(message)
        _check_number(response, query)
        dealt = [_dealt(result, spec, count, rows) for result, spec in zip(response.results, query.specs, strict=True)]
    except (MalformedMessage, InvalidRequest) as error:
        raise ServerError(f"the server's answer cannot be read: {error}") from None
    ran = _execution(response.execution)
    # To the server they were one request.
    execution = ran._replace(batch_size=ran.batch_size + count - 1)
    if query.single:
        return [PoolResponse(result, execution) for result in dealt[0]]
    return [PoolResponse(list(results), execution) for results in zip(*dealt, strict=True)]


def _dealt(
    result: Result, spec: PoolSpec, count: int, rows: int | None
) -> Sequence[NDArray[Any] | tuple[NDArray[Any], NDArray[Any]]]:
    values = _parts(_of_kind(result.value, "tensor"), count, rows)
    if not getattr(spec, "return_indices", False):
        return values
    return list(zip(values, _parts(_indices(result, spec), count, rows), strict=True))


def _parts(value: Value, count: int, rows: int | None) -> list[NDArray[Any]]:
    together = _view(value)
    if together.ndim == 0 or len(together) != count * (1 if rows is None else rows):
        raise MalformedMessage(f"{count} tensors were sent and a result of shape {together.shape} came back")
    if rows is None:
        return [row.copy() for row in together]
    return [together[start : start + rows].copy() for start in range(0, count * rows, rows)]


def _check_number(response: Response, query: PoolQuery) -> None:
    if len(response.results) != len(query.specs):
        raise MalformedMessage(f"{len(query.specs)} specs were sent and {len(response.results)} results came back")


def _results(response: Response, query: PoolQuery) -> list[Any]:
    _check_number(response, query)
    if query.output == "image":
        # Only who asks for pictures pays for Pillow.
        from poolservice_client._request import image_files

        return [image_files.decode(_of_kind(result.value, "image").data) for result in response.results]
    return [_arrays(result, spec) for result, spec in zip(response.results, query.specs, strict=True)]


def _arrays(result: Result, spec: PoolSpec) -> NDArray[Any] | tuple[NDArray[Any], NDArray[Any]]:
    values = _array(_of_kind(result.value, "tensor"))
    if not getattr(spec, "return_indices", False):
        return values
    return values, _array(_indices(result, spec))


def _indices(result: Result, spec: PoolSpec) -> Value:
    if result.indices is None:
        raise MalformedMessage(f"{spec!r} came back without indices")
    return result.indices


def _array(value: Value) -> NDArray[Any]:
    """A tensor's array: its own, writable memory.

    Without the copy (8 microseconds for 150 KB) it would be read-only, of any alignment, and hold the whole message.
    """
    return _view(value).copy()


def _view(value: Value) -> NDArray[Any]:
    dtype, shape = _tensor_head(value.head)
    if len(value.data) != dtype.itemsize * math.prod(shape):
        raise MalformedMessage(f"{len(value.data)} bytes came for a {dtype.name} tensor of shape {shape}")
    return np.ndarray(shape, dtype, value.data)


@lru_cache(maxsize=512)
def _tensor_head(head: bytes) -> "tuple[np.dtype[Any], tuple[int, ...]]":
    tensor = pool_pb2.Tensor.FromString(head)
    shape = tuple(tensor.shape)
    if min(shape, default=0) < 0:
        raise MalformedMessage(f"a tensor of shape {shape} came")
    return numpy_dtype(tensor.dtype), shape


def _of_kind(value: Value, kind: str) -> Value:
    if value.kind != kind:
        raise MalformedMessage(f"a result of kind {value.kind} came where {kind} was asked for")
    return value


def _execution(message: pool_pb2.Execution) -> Execution:
    return Execution(
        message.device,
        message.batch_size,
        message.decode_microseconds,
        message.queue_microseconds,
        message.compute_microseconds,
    )

"""From a reply to what the caller gets: arrays, indices, pictures, and where it ran."""

import math
from functools import lru_cache
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from poolservice.codec import MalformedMessage, Response, Result, Value, decode_response
from poolservice.dtypes import numpy_dtype
from poolservice.errors import InvalidRequest
from poolservice.specs import PoolSpec
from poolservice.v1 import pool_pb2
from poolservice_client._request import PoolQuery
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


class PoolReply(NamedTuple, Generic[T_co]):
    """What `execution=True` brings: ``y, execution = client.pool(x, spec, execution=True)``.

    Attributes:
        result: what would have come back without it.
        execution: where and how it ran.
    """

    result: T_co
    execution: Execution


def read_reply(message: bytes, query: PoolQuery, *, execution: bool) -> Any:
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
    return PoolReply(result, _execution(response.execution)) if execution else result


def _results(response: Response, query: PoolQuery) -> list[Any]:
    if len(response.results) != len(query.specs):
        raise MalformedMessage(f"{len(query.specs)} specs were sent and {len(response.results)} results came back")
    if query.output == "image":
        # Only who asks for pictures pays for Pillow.
        from poolservice_client import _picture

        return [_picture.decode(_of_kind(result.value, "image").data) for result in response.results]
    return [_arrays(result, spec) for result, spec in zip(response.results, query.specs, strict=True)]


def _arrays(result: Result, spec: PoolSpec) -> NDArray[Any] | tuple[NDArray[Any], NDArray[Any]]:
    values = _array(_of_kind(result.value, "tensor"))
    if not getattr(spec, "return_indices", False):
        return values
    if result.indices is None:
        raise MalformedMessage(f"{spec!r} came back without indices")
    return values, _array(result.indices)


def _array(value: Value) -> NDArray[Any]:
    """A tensor's array: its own, writable memory.

    Without the copy (8 microseconds for 150 KB) it would be read-only, of any alignment, and hold the whole message.
    """
    dtype, shape = _tensor_head(value.head)
    if len(value.data) != dtype.itemsize * math.prod(shape):
        raise MalformedMessage(f"{len(value.data)} bytes came for a {dtype.name} tensor of shape {shape}")
    return np.ndarray(shape, dtype, value.data).copy()


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

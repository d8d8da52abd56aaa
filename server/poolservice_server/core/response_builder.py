"""Responses: the device's results in the form that the request asked for, encoded as a PoolResponse."""

import asyncio
import math
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import NamedTuple

import numpy as np

from poolservice import codec
from poolservice.dtypes import wire_dtype
from poolservice.v1 import pool_pb2
from poolservice_server.batcher import Completed
from poolservice_server.core.output_options import OutputOptions
from poolservice_server.images import encode_png
from poolservice_server.pool_stage import SpecResult

_PNG_COLOR_MODES = {1: pool_pb2.COLOR_MODE_GRAY, 3: pool_pb2.COLOR_MODE_RGB, 4: pool_pb2.COLOR_MODE_RGBA}

#: Copying a response of this size into its message takes 0.1 ms; from then on a thread does it.
MAX_INLINE_BYTES = 512 * 1024

# Up to this size, copying the bytes once more takes a tenth of the time that making a view of them takes.
_MAX_COPIED_BYTES = 4096


class ResultFormat(NamedTuple):
    """How one result is sent.

    Attributes:
        shape: the result's shape.
        sent_shape: the shape in which it is sent.
        sent_dtype: the dtype in which it is sent.
        head: its Tensor message without the data; a PNG image does not use it.
        indices_head: the Tensor message of its indices without the data.
    """

    shape: tuple[int, ...]
    sent_shape: tuple[int, ...]
    sent_dtype: np.dtype
    head: bytes
    indices_head: bytes

    @property
    def nbytes(self) -> int:
        """The size of the values in the form in which they are sent."""
        return math.prod(self.sent_shape) * self.sent_dtype.itemsize

    @classmethod
    def create(cls, shape: tuple[int, ...], sent_shape: tuple[int, ...], sent_dtype: np.dtype) -> "ResultFormat":
        """Return the format of a result of `shape` that is sent as `sent_shape` and `sent_dtype`."""
        head = pool_pb2.Tensor(dtype=wire_dtype(sent_dtype), shape=sent_shape).SerializeToString()
        indices_head = pool_pb2.Tensor(dtype=pool_pb2.DATA_TYPE_INT64, shape=shape).SerializeToString()
        return cls(shape, sent_shape, sent_dtype, head, indices_head)


class ResponseBuilder:
    """A builder of the responses to all requests with the same head and payload size; it is created once for them.

    Args:
        output: the form of the results.
        formats: how the result of each spec is sent.
        on_thread: whether encoding takes so long that it must not run on the event loop.

    Attributes:
        formats: how the result of each spec is sent.
        on_thread: True if encoding takes so long, or writes images or large results.
    """

    __slots__ = ("_output", "formats", "on_thread")

    def __init__(self, output: OutputOptions, formats: Sequence[ResultFormat], *, on_thread: bool) -> None:
        self._output = output
        self.formats = tuple(formats)
        nbytes = sum(one.nbytes for one in self.formats)
        self.on_thread = on_thread or output.format == "image" or nbytes > MAX_INLINE_BYTES

    async def build(self, completed: Completed, executor: Executor) -> bytes:
        """Return the encoded PoolResponse.

        Args:
            completed: the request's outcome; its result has a `SpecResult` for each spec.
            executor: where PNG images and large results are encoded, which takes milliseconds.
        """
        if self.on_thread:
            return await asyncio.get_running_loop().run_in_executor(executor, self.encode, completed)
        return self.encode(completed)

    def encode(self, completed: Completed) -> bytes:
        """Return the encoded PoolResponse, encoded on the calling thread."""
        results = [self.result(*pair) for pair in zip(self.formats, completed.result, strict=True)]
        return codec.encode_response(execution_of(completed), results)

    def result(self, result_format: ResultFormat, pooled: SpecResult) -> codec.Result:
        """Return a result in the form in which it is sent."""
        indices = None
        if pooled.indices is not None:
            indices = codec.Value("tensor", result_format.indices_head, _buffer(pooled.indices))
        values = pooled.values
        if self._output.format == "image":
            return codec.Result(_png(values.reshape(result_format.shape)), indices)
        # Otherwise the sent shape does not matter: the bytes are the same in any shape.
        if self._output.l2_normalize:
            values = _normalized(values.reshape(result_format.sent_shape))
        if values.dtype != result_format.sent_dtype:
            # The contract says that values too large for float16 become infinite.
            with np.errstate(over="ignore"):
                values = values.astype(result_format.sent_dtype)
        return codec.Result(codec.Value("tensor", result_format.head, _buffer(values)), indices)


def execution_of(completed: Completed) -> pool_pb2.Execution:
    """Return where a request ran and where its time went; its preparation counts as decoding."""
    return pool_pb2.Execution(
        device=completed.device,
        batch_size=completed.batch_size,
        decode_microseconds=round(completed.prepare_seconds * 1e6),
        queue_microseconds=round(completed.queue_seconds * 1e6),
        compute_microseconds=round(completed.compute_seconds * 1e6),
    )


def _png(planes: np.ndarray) -> codec.Value:
    head = pool_pb2.Image(color_mode=_PNG_COLOR_MODES[planes.shape[0]]).SerializeToString()
    return codec.Value("image", head, encode_png(planes))


def _normalized(vectors: np.ndarray) -> np.ndarray:
    """Divide each vector by its Euclidean norm, in float64, where the norm neither overflows nor loses precision."""
    wide = vectors.astype(np.float64)
    # As in torch, infinity divided by an infinite norm is NaN. A caller's values must not cause a warning in the log.
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.linalg.norm(wide, axis=-1, keepdims=True)
        np.divide(wide, norms, out=wide, where=norms != 0)
    return wide


def _buffer(values: np.ndarray) -> codec.Buffer:
    if values.nbytes <= _MAX_COPIED_BYTES:
        return values.tobytes()
    # bfloat16 has no buffer format, but every dtype can be viewed as bytes.
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data

"""What calls that travel together are tried with: what a server says to them, and a look at who waits for the next."""

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from poolservice import codec
from poolservice.v1 import pool_pb2
from poolservice_client import PoolClient

BATCH = "/poolservice.v1.PoolService/PoolBatch"

Watch = Callable[[PoolClient], Callable[[int], None]]


def _highest(request: codec.Request) -> bytes:
    """A PoolResponse with the maximum of each channel, as a server would write it."""
    shape = codec.parse_head(request.head).tensor.shape
    high = np.frombuffer(request.data, np.float32).reshape(shape).max((-2, -1), keepdims=True)
    head = pool_pb2.Tensor(dtype=pool_pb2.DATA_TYPE_FLOAT32, shape=high.shape).SerializeToString()
    execution = pool_pb2.Execution(device="cpu", batch_size=1)
    return codec.encode_response(execution, [codec.Result(codec.Value("tensor", head, high.tobytes()))])


def _answer(method: str, message: bytes) -> bytes:
    if method != BATCH:
        return _highest(codec.decode_request(message))
    ok = codec.decode_batch_response(b"\x0a\x00")[0][0]
    return codec.encode_batch_response([(ok, _highest(request)) for request in codec.decode_batch_request(message)])


@pytest.fixture(scope="session")
def answer() -> Callable[[str, bytes], bytes]:
    """What a server says to a method's message: the maximum of each channel."""
    return _answer


class _WatchedLine(deque[Any]):
    """The calls that wait in a line, whose coming can be waited for."""

    def __init__(self, has_come: threading.Condition) -> None:
        super().__init__()
        self._has_come = has_come

    def append(self, call: Any) -> None:
        with self._has_come:
            super().append(call)
            self._has_come.notify_all()


@pytest.fixture(scope="session")
def watch() -> Watch:
    """Watches an idle client's lines; gives what waits until so many calls stand in them."""

    def begin(client: PoolClient) -> Callable[[int], None]:
        lines = client._coalescers
        assert lines is not None
        has_come = threading.Condition()
        for line in lines:
            line._waiting = _WatchedLine(has_come)

        def until_waiting(count: int) -> None:
            with has_come:
                assert has_come.wait_for(lambda: sum(len(line._waiting) for line in lines) >= count, 60)

        return until_waiting

    return begin

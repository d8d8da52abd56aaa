"""Fixtures of the coalescing tests: a fake server's responses, and waiting until calls wait in a coalescer."""

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from poolservice import codec
from poolservice.v1 import pool_pb2
from poolservice_client import PoolClient

POOL_BATCH = "/poolservice.v1.PoolService/PoolBatch"

WatchWaiting = Callable[[PoolClient], Callable[[int], None]]


def _maxima(request: codec.Request) -> bytes:
    """Return a PoolResponse with the maximum of each channel, as a server would encode it."""
    shape = codec.parse_head(request.head).tensor.shape
    maxima = np.frombuffer(request.data, np.float32).reshape(shape).max((-2, -1), keepdims=True)
    head = pool_pb2.Tensor(dtype=pool_pb2.DATA_TYPE_FLOAT32, shape=maxima.shape).SerializeToString()
    execution = pool_pb2.Execution(device="cpu", batch_size=1)
    return codec.encode_response(execution, [codec.Result(codec.Value("tensor", head, maxima.tobytes()))])


def _respond(method: str, message: bytes) -> bytes:
    if method != POOL_BATCH:
        return _maxima(codec.decode_request(message))
    ok = codec.decode_batch_response(b"\x0a\x00")[0][0]
    return codec.encode_batch_response([(ok, _maxima(request)) for request in codec.decode_batch_request(message)])


@pytest.fixture(scope="session")
def respond() -> Callable[[str, bytes], bytes]:
    """Returns a server's response to a message: the maximum of each channel."""
    return _respond


class _WatchedQueue(deque[Any]):
    """A queue that notifies a condition when a call joins it."""

    def __init__(self, joined: threading.Condition) -> None:
        super().__init__()
        self._joined = joined

    def append(self, call: Any) -> None:
        with self._joined:
            super().append(call)
            self._joined.notify_all()


@pytest.fixture(scope="session")
def watch_waiting() -> WatchWaiting:
    """Watches the coalescers of an idle client. Returns a function that blocks until so many calls wait in them."""

    def watch(client: PoolClient) -> Callable[[int], None]:
        coalescers = client._coalescers
        assert coalescers is not None
        joined = threading.Condition()
        for coalescer in coalescers:
            coalescer._queue.calls = _WatchedQueue(joined)

        def until_waiting(count: int) -> None:
            with joined:
                assert joined.wait_for(lambda: sum(len(one._queue.calls) for one in coalescers) >= count, 60)

        return until_waiting

    return watch

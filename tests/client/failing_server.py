"""A server whose Pool and PoolBatch methods fail as a test demands, for the retries of `map`."""

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
from google.rpc import code_pb2, error_details_pb2, status_pb2

from poolservice.v1 import pool_pb2

CODES = {code.value[0]: code for code in grpc.StatusCode}
NUMBERS = range(20)


def full(seconds: float = 0.0) -> status_pb2.Status:
    """The status of a full queue."""
    status = status_pb2.Status(code=code_pb2.RESOURCE_EXHAUSTED, message="the queue is full")
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(round(seconds * 1000))
    status.details.add().Pack(retry)
    return status


STOPPING = status_pb2.Status(code=code_pb2.UNAVAILABLE, message="the server is stopping")
BROKEN = status_pb2.Status(code=code_pb2.INTERNAL, message="it broke")
LATE = status_pb2.Status(code=code_pb2.DEADLINE_EXCEEDED, message="too late")


class FailingServer:
    """A server that fails as a test demands, and otherwise returns the number in each image.

    It responds once all images are read. At most two messages that are not full are sent by then, so at least one
    message carries several images.

    Attributes:
        messages: the numbers in each message that arrived, in the order of arrival.
        refuse: returns the status of one request, given its number and how often it has arrived; None for success.
        fail: returns the status of a whole message, given its numbers; None for success.
    """

    def __init__(self) -> None:
        self.messages: list[list[int]] = []
        self.refuse: Callable[[int, int], status_pb2.Status | None] = lambda number, attempt: None
        self.fail: Callable[[list[int]], status_pb2.Status | None] = lambda numbers: None
        self._all_read = threading.Event()
        self._threads = ThreadPoolExecutor(16)
        self._server = grpc.server(self._threads)
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Pool": grpc.unary_unary_rpc_method_handler(
                self._pool, pool_pb2.PoolRequest.FromString, pool_pb2.PoolResponse.SerializeToString
            ),
            "PoolBatch": grpc.unary_unary_rpc_method_handler(
                self._pool_batch, pool_pb2.PoolBatchRequest.FromString, pool_pb2.PoolBatchResponse.SerializeToString
            ),
        }
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("poolservice.v1.PoolService", handlers),)
        )
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def images(self) -> Iterator[bytes]:
        """Yield an image for each number; they are small, so they are sent together."""
        for number in NUMBERS:
            yield str(number).encode()
        self._all_read.set()

    @property
    def attempts(self) -> Counter[int]:
        """How often each number has arrived."""
        return Counter(itertools.chain.from_iterable(self.messages))

    def stop(self) -> None:
        self._all_read.set()
        self._server.stop(None).wait()
        self._threads.shutdown()

    def _pool(self, request: pool_pb2.PoolRequest, context: grpc.ServicerContext) -> pool_pb2.PoolResponse:
        number = int(request.image.data)
        self._receive([number], context)
        if status := self.refuse(number, self.attempts[number]):
            self._abort(status, context)
        return response_of(number)

    def _pool_batch(
        self, batch: pool_pb2.PoolBatchRequest, context: grpc.ServicerContext
    ) -> pool_pb2.PoolBatchResponse:
        numbers = [int(request.image.data) for request in batch.requests]
        self._receive(numbers, context)
        attempts = self.attempts
        results = []
        for number in numbers:
            if status := self.refuse(number, attempts[number]):
                results.append(pool_pb2.PoolBatchResult(status=status))
            else:
                results.append(pool_pb2.PoolBatchResult(status=status_pb2.Status(), response=response_of(number)))
        return pool_pb2.PoolBatchResponse(results=results)

    def _receive(self, numbers: list[int], context: grpc.ServicerContext) -> None:
        assert self._all_read.wait(30)
        self.messages.append(numbers)
        if status := self.fail(numbers):
            self._abort(status, context)

    @staticmethod
    def _abort(status: status_pb2.Status, context: grpc.ServicerContext) -> None:
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        context.abort(CODES[status.code], status.message)


def response_of(number: int) -> pool_pb2.PoolResponse:
    data = np.array([number], np.float32).tobytes()
    tensor = pool_pb2.Tensor(dtype=pool_pb2.DATA_TYPE_FLOAT32, shape=[1], data=data)
    return pool_pb2.PoolResponse(results=[pool_pb2.PoolResult(tensor=tensor)])

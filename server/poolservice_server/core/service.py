"""The heart of the service: a call is bytes and a deadline, the outcome is bytes or an exception.

It knows no grpc object, so that any front can stand before it. A caller that leaves cancels the coroutine.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from google.rpc import status_pb2

from poolservice import codec
from poolservice.v1 import pool_pb2
from poolservice_server import images
from poolservice_server.batcher import Batcher, Completed, Permit, Request
from poolservice_server.core import response_builder
from poolservice_server.core.plan import Head, Plan, plan_picture, read_head
from poolservice_server.errors import MessageTooLarge, to_status

MAX_BATCH_ITEMS = 1024

# What one stream may have in flight: enough to keep the device busy, and all that a caller who does not read costs.
STREAM_WINDOW_ITEMS = 64
STREAM_WINDOW_BYTES = 64 * 2**20

# An answer's head and execution, beside its results' bytes.
_ANSWER_ROOM = 64 * 1024

_OK = status_pb2.Status()


class Call(NamedTuple):
    """One call: its message, and when its caller stops waiting (in seconds of time.monotonic; None = never)."""

    message: bytes
    deadline: float | None = None


class PoolService:
    """The methods of the contract.

    Args:
        batcher: where work runs.
        decoders: the threads that decode and encode pictures.
        info: the answer to GetServerInfo, made anew for each call since a device's state changes.
        max_message_bytes: the limit of a message in either direction.
        max_image_pixels: the limit of a picture, by its header.
    """

    def __init__(
        self,
        batcher: Batcher,
        decoders: ThreadPoolExecutor,
        info: Callable[[], pool_pb2.GetServerInfoResponse],
        *,
        max_message_bytes: int,
        max_image_pixels: int,
    ) -> None:
        self._batcher = batcher
        self._decoders = decoders
        self._info = info
        self._max_message_bytes = max_message_bytes
        self._max_image_pixels = max_image_pixels

    def pool(self, call: Call) -> Awaitable[bytes]:
        """Answer a PoolRequest with a PoolResponse."""
        self._check_size(call.message)
        return self._answer(codec.decode_request(call.message), call.deadline)

    async def pool_batch(self, call: Call) -> bytes:
        """Answer a PoolBatchRequest with a PoolBatchResponse: an outcome for each item, whatever the others do."""
        self._check_size(call.message)
        requests = codec.decode_batch_request(call.message, max_items=MAX_BATCH_ITEMS)
        outcomes = await asyncio.gather(*(self._outcome(request, call.deadline) for request in requests))
        answer = codec.encode_batch_response(outcomes)
        if len(answer) > self._max_message_bytes:
            raise MessageTooLarge(
                "the answer to this batch", len(answer), self._max_message_bytes, remedy="send fewer items at a time"
            )
        return answer

    async def pool_stream(
        self, messages: AsyncIterator[bytes], send: Callable[[bytes], Awaitable[None]], deadline: float | None
    ) -> None:
        """Answer each PoolStreamRequest with a PoolStreamResponse as it completes.

        Reading stops while `STREAM_WINDOW_ITEMS` items or `STREAM_WINDOW_BYTES` bytes are unanswered or unsent, so
        a caller who does not read costs no more than that.
        """
        window = _Window(STREAM_WINDOW_ITEMS, STREAM_WINDOW_BYTES)
        sending = asyncio.Lock()

        async def answer(message: bytes) -> None:
            try:
                self._check_size(message)
                correlation_id, request = codec.decode_stream_request(message)
                status, response = await self._outcome(request, deadline)
                async with sending:
                    await send(codec.encode_stream_response(correlation_id, status, response))
            finally:
                window.leave(len(message))

        try:
            async with asyncio.TaskGroup() as answers:
                async for message in messages:
                    await window.enter(len(message))
                    answers.create_task(answer(message))
        except ExceptionGroup as failed:
            # An item's own failure is its outcome; what ends the stream is a message that is none, or a lost caller.
            raise failed.exceptions[0] from None

    async def server_info(self, call: Call) -> bytes:
        """Answer a GetServerInfoRequest, which has no fields, with a GetServerInfoResponse."""
        self._check_size(call.message)
        return self._info().SerializeToString()

    def _check_size(self, message: bytes) -> None:
        if len(message) > self._max_message_bytes:
            raise MessageTooLarge("a message", len(message), self._max_message_bytes, remedy="send less at a time")

    async def _outcome(self, request: codec.Request, deadline: float | None) -> tuple[status_pb2.Status, bytes | None]:
        try:
            return _OK, await self._answer(request, deadline)
        except Exception as error:  # noqa: BLE001 - each item of many has its own outcome, whatever it is
            return to_status(error), None

    async def _answer(self, request: codec.Request, deadline: float | None) -> bytes:
        head = read_head(request.head)
        if head.tensor is not None:
            plan = head.tensor
            planes = plan.planes_of(request.data)
            self._check_answer(plan)
            ran = await self._batcher.submit(Request(plan.kind, planes, plan.nbytes, deadline))
            return _encode(ran, await self._results(plan, ran))
        return await self._answer_picture(head, request.data, deadline)

    async def _answer_picture(self, head: Head, data: memoryview, deadline: float | None) -> bytes:
        scanned = images.scan(data, max_pixels=self._max_image_pixels)
        channels = {"RGB": 3, "GRAY": 1, "RGBA": 4}[head.color_mode]
        plan = plan_picture(head.specs, head.output, channels, *scanned.header.upright)
        self._check_answer(plan)
        # The permit is taken by the declared size before a pixel is decoded, and kept until the answer is there.
        with self._batcher.reserve(plan.nbytes) as permit:
            picture = _Picture(scanned, head, plan.planes, self._max_image_pixels)
            ran, wait_seconds = await self._run_picture(plan, picture, deadline, permit)
            results = await self._results(plan, ran)
            return _encode(ran, results, decode_seconds=picture.decode_seconds, wait_seconds=wait_seconds)

    async def _run_picture(
        self, plan: Plan, picture: "_Picture", deadline: float | None, permit: Permit
    ) -> tuple[Completed, float]:
        """What became of a picture, and how long it waited to be decoded where the batcher does not know it."""
        if not self._batcher.gains_from_batching(plan.nbytes):
            work = Request(plan.kind, picture.planes, plan.nbytes, deadline)
            return await self._batcher.submit_unbatched(work, permit, self._decoders), 0.0
        arrived = time.monotonic()
        planes = await asyncio.get_running_loop().run_in_executor(self._decoders, picture.planes)
        wait_seconds = time.monotonic() - arrived - picture.decode_seconds
        return await self._batcher.submit(Request(plan.kind, planes, plan.nbytes, deadline), permit), wait_seconds

    async def _results(self, plan: Plan, ran: Completed) -> Sequence[codec.Result]:
        if plan.output.format != "image":
            return response_builder.results(plan, ran.result)
        return await asyncio.get_running_loop().run_in_executor(
            self._decoders, response_builder.results, plan, ran.result
        )

    def _check_answer(self, plan: Plan) -> None:
        if plan.sent_bytes + _ANSWER_ROOM > self._max_message_bytes:
            raise MessageTooLarge(
                "the answer to this request",
                plan.sent_bytes,
                self._max_message_bytes,
                remedy="ask for less (a smaller output_size, a larger stride, fewer specs)",
            )


def _encode(
    ran: Completed, results: Sequence[codec.Result], *, decode_seconds: float = 0.0, wait_seconds: float = 0.0
) -> bytes:
    execution = pool_pb2.Execution(
        device=ran.device,
        batch_size=ran.batch_size,
        decode_microseconds=round(decode_seconds * 1e6),
        queue_microseconds=round((ran.queue_seconds + wait_seconds) * 1e6),
        compute_microseconds=round(ran.compute_seconds * 1e6),
    )
    return codec.encode_response(execution, results)


class _Picture:
    """A picture that is still to be decoded.

    Attributes:
        decode_seconds: how long that took.
    """

    def __init__(self, scanned: images.Scan, head: Head, shape: tuple[int, ...], max_pixels: int) -> None:
        self._scanned = scanned
        self._head = head
        self._shape = shape
        self._max_pixels = max_pixels
        self.decode_seconds = 0.0

    def planes(self) -> np.ndarray:
        """Decode it, on any thread."""
        started = time.perf_counter()
        planes = images.decode_scanned(
            self._scanned, self._head.color_mode, max_pixels=self._max_pixels, interleaved=self._head.any_order
        )
        self.decode_seconds = time.perf_counter() - started
        # As the plan has them: an operator of one dimension pools each row.
        return planes.reshape(self._shape)


class _Window:
    """How much of a stream may be in flight; one item always may, however large."""

    def __init__(self, items: int, nbytes: int) -> None:
        self._items = items
        self._nbytes = nbytes
        self._held_items = 0
        self._held_bytes = 0
        self._changed = asyncio.Event()

    async def enter(self, nbytes: int) -> None:
        while self._held_items and (self._held_items >= self._items or self._held_bytes + nbytes > self._nbytes):
            self._changed.clear()
            await self._changed.wait()
        self._held_items += 1
        self._held_bytes += nbytes

    def leave(self, nbytes: int) -> None:
        self._held_items -= 1
        self._held_bytes -= nbytes
        self._changed.set()

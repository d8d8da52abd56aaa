"""The service: the methods of the contract, without gRPC. A call is bytes and a deadline; it returns bytes or raises.

A caller that leaves cancels the coroutine.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from google.rpc import status_pb2

from poolservice import codec
from poolservice.v1 import pool_pb2
from poolservice_server import images
from poolservice_server.batcher import Batcher, Request
from poolservice_server.core.flow_control import FlowControl
from poolservice_server.core.plan import Plan, read_head
from poolservice_server.core.scanned_image import ImageRequest
from poolservice_server.error_status import MessageTooLarge, to_status

MAX_BATCH_ITEMS = 1024

# Bytes of a response in addition to those of its results.
_RESPONSE_OVERHEAD = 64 * 1024

_OK = status_pb2.Status()


class Call(NamedTuple):
    """One call.

    Attributes:
        message: the encoded request message.
        deadline: when the caller stops waiting, in seconds of time.monotonic; None means never.
        caller: who calls: the name of a token, the identity of a client certificate, or the address of a connection.
    """

    message: bytes
    deadline: float | None = None
    caller: str = ""


class PoolService:
    """The methods of the contract.

    Args:
        batcher: runs the requests.
        image_threads: decode and encode images.
        info: returns the response to GetServerInfo. It is called for each such call, because devices change state.
        max_message_bytes: the limit of a message in either direction.
        max_image_pixels: the limit of an image, by the size that its header declares.
        decode: decodes a scanned image on one of the image threads.
    """

    def __init__(
        self,
        batcher: Batcher,
        image_threads: ThreadPoolExecutor,
        info: Callable[[], pool_pb2.GetServerInfoResponse],
        *,
        max_message_bytes: int,
        max_image_pixels: int,
        decode: images.Decode = images.decode_scanned,
    ) -> None:
        self._batcher = batcher
        self._image_threads = image_threads
        self._info = info
        self._max_message_bytes = max_message_bytes
        self._max_image_pixels = max_image_pixels
        self._decode = decode

    def pool(self, call: Call) -> Awaitable[bytes]:
        """Respond to a PoolRequest with a PoolResponse."""
        self._check_size(call.message)
        return self._respond(codec.decode_request(call.message), call.deadline)

    async def pool_batch(self, call: Call) -> bytes:
        """Respond to a PoolBatchRequest with a PoolBatchResponse, in which each request has its own outcome."""
        self._check_size(call.message)
        requests = codec.decode_batch_request(call.message, max_items=MAX_BATCH_ITEMS)
        outcomes = await asyncio.gather(*(self._outcome(request, call.deadline) for request in requests))
        response = codec.encode_batch_response(outcomes)
        if len(response) > self._max_message_bytes:
            raise MessageTooLarge(
                "the response to this batch",
                len(response),
                self._max_message_bytes,
                remedy="send fewer requests at a time",
            )
        return response

    async def pool_stream(
        self, messages: AsyncIterator[bytes], send: Callable[[bytes], Awaitable[None]], deadline: float | None
    ) -> None:
        """Respond to each PoolStreamRequest with a PoolStreamResponse as soon as it is ready.

        Reading pauses while `FlowControl` lets no further request in, so that a caller who does not read its responses
        costs the server no more than that limit.
        """
        flow_control = FlowControl()
        sending = asyncio.Lock()

        async def respond(message: bytes) -> None:
            try:
                self._check_size(message)
                correlation_id, request = codec.decode_stream_request(message)
                status, response = await self._outcome(request, deadline)
                async with sending:
                    await send(codec.encode_stream_response(correlation_id, status, response))
            finally:
                flow_control.release(len(message))

        try:
            async with asyncio.TaskGroup() as responses:
                async for message in messages:
                    await flow_control.acquire(len(message))
                    responses.create_task(respond(message))
        except ExceptionGroup as failed:
            # A failed request does not end the stream, because it has its own outcome. What ends it is a lost caller,
            # or a message that is too large or not a PoolStreamRequest.
            raise failed.exceptions[0] from None

    async def server_info(self, call: Call) -> bytes:
        """Respond to a GetServerInfoRequest, which has no fields, with a GetServerInfoResponse."""
        self._check_size(call.message)
        return self._info().SerializeToString()

    async def _outcome(self, request: codec.Request, deadline: float | None) -> tuple[status_pb2.Status, bytes | None]:
        try:
            return _OK, await self._respond(request, deadline)
        except Exception as error:  # noqa: BLE001 - one of many requests has its own outcome, whatever it is
            return to_status(error), None

    async def _respond(self, request: codec.Request, deadline: float | None) -> bytes:
        head = read_head(request.head)
        plan = head.tensor_plan
        if plan is None:
            image = ImageRequest(head, request.data, max_pixels=self._max_image_pixels, decode=self._decode)
            return await self._respond_to_image(image, deadline)
        planes = plan.planes_of(request.data)
        self._check_response_size(plan)
        completed = await self._batcher.submit(Request(plan.batch_key, planes, plan.nbytes, deadline))
        return await plan.response_builder.build(completed, self._image_threads)

    async def _respond_to_image(self, image: ImageRequest, deadline: float | None) -> bytes:
        plan = image.plan
        self._check_response_size(plan)
        request = Request(plan.batch_key, image.decode, plan.nbytes, deadline)
        # The permit reserves the declared size from before the decoding until the response is ready.
        with self._batcher.reserve(plan.nbytes) as permit:
            completed = await self._batcher.prepare_and_run(request, permit, self._image_threads)
            return await plan.response_builder.build(completed, self._image_threads)

    def _check_size(self, message: bytes) -> None:
        if len(message) > self._max_message_bytes:
            raise MessageTooLarge("a message", len(message), self._max_message_bytes, remedy="send less at a time")

    def _check_response_size(self, plan: Plan) -> None:
        if plan.response_bytes + _RESPONSE_OVERHEAD > self._max_message_bytes:
            raise MessageTooLarge(
                "the response to this request",
                plan.response_bytes,
                self._max_message_bytes,
                remedy="ask for less (a smaller output_size, a larger stride, fewer specs)",
            )

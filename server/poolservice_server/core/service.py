"""The service: the methods of the contract, without gRPC. A call is bytes and a deadline; it returns bytes or raises.

A caller that leaves cancels the coroutine.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVarTuple

from google.rpc import status_pb2

from poolservice import codec
from poolservice.v1 import pool_pb2
from poolservice_server import images
from poolservice_server.backbones.backbone import NO_BACKBONES, Backbones
from poolservice_server.batcher import Batcher
from poolservice_server.core.backbone_counts import BackboneCounts
from poolservice_server.core.call import Call
from poolservice_server.core.call_record import CallRecord
from poolservice_server.core.flow_control import FlowControl
from poolservice_server.core.request_limits import RequestLimits
from poolservice_server.core.request_record import RequestObserver, ignore_request
from poolservice_server.core.responder import Responder
from poolservice_server.core.response_builder import MAX_INLINE_BYTES
from poolservice_server.core.unsent_responses import UnsentResponse, UnsentResponses
from poolservice_server.error_status import to_status
from poolservice_server.pool_heads.head import NO_HEADS, PoolHeads

__all__ = ["MAX_BATCH_ITEMS", "Call", "PoolService"]

Arguments = TypeVarTuple("Arguments")

MAX_BATCH_ITEMS = 1024

# Requests of a batch that start in one iteration of the event loop, so that thousands do not stop it.
_STARTED_AT_ONCE = 64

_OK = status_pb2.Status()


class PoolService:
    """The methods of the contract.

    Args:
        batcher: runs the requests.
        image_threads: decode and encode images.
        info: returns the response to GetServerInfo. It is called for each such call, because devices change state.
        max_message_bytes: the limit of a message in either direction.
        max_image_pixels: the limit of an image, by the size that its header declares.
        max_queue_bytes: the batcher's limit of all requests and unsent responses.
        max_unread_bytes: the limit of the memory of a caller's unread responses; 0: a quarter of `max_queue_bytes`.
        max_request_seconds: the limit of a request's estimated work.
        seconds_per_step: the time of one step of the estimates on this machine.
        decode: decodes a scanned image on one of the image threads.
        backbones: the backbones.
        batches_backbone: returns True if the requests for a backbone of this name are batched now. Otherwise the
            image thread that prepares a request runs it, too.
        pool_heads: the pool heads.
        observe: called with the record of each request that has ended.

    Attributes:
        refusals: the numbers of refusals by their reasons, except those of the batcher: validation_bytes,
            unread_bytes, message_bytes, image_pixels or request_seconds.
    """

    def __init__(
        self,
        batcher: Batcher,
        image_threads: ThreadPoolExecutor,
        info: Callable[[], pool_pb2.GetServerInfoResponse],
        *,
        max_message_bytes: int,
        max_image_pixels: int,
        max_queue_bytes: int,
        max_unread_bytes: int,
        max_request_seconds: float,
        seconds_per_step: float,
        decode: images.Decode = images.decode_scanned,
        backbones: Backbones = NO_BACKBONES,
        batches_backbone: Callable[[str], bool] = lambda _name: False,
        pool_heads: PoolHeads = NO_HEADS,
        observe: RequestObserver = ignore_request,
    ) -> None:
        self._image_threads = image_threads
        self._info = info
        self.refusals: Counter[str] = Counter()
        self._limits = RequestLimits(max_message_bytes, max_request_seconds, seconds_per_step, self.refusals)
        self._unsent = UnsentResponses(
            max_bytes=max_queue_bytes // 2,
            max_caller_bytes=max_unread_bytes or max_queue_bytes // 4,
            count=batcher.count_unsent,
            refusals=self.refusals,
        )
        self._responder = Responder(
            batcher,
            image_threads,
            self._limits,
            self._unsent,
            observe=observe,
            refusals=self.refusals,
            max_image_pixels=max_image_pixels,
            max_queue_bytes=max_queue_bytes,
            seconds_per_step=seconds_per_step,
            decode=decode,
            backbones=backbones,
            batches_backbone=batches_backbone,
            pool_heads=pool_heads,
        )

    def unread_responses_exceed_half_the_queue(self) -> bool:
        """Return True if unsent responses take more than half of the queue's bytes."""
        return self._unsent.exceed_limit

    def unsent_bytes(self) -> int:
        """Return the memory of the large responses that are built and not sent yet."""
        return self._unsent.nbytes

    @property
    def backbone_counts(self) -> BackboneCounts:
        """Counts of what the backbones have computed."""
        return self._responder.backbone_counts

    def pool(self, call: Call) -> Awaitable[bytes]:
        """Respond to a PoolRequest with a PoolResponse."""
        self._limits.check_message(call.message)
        return self._responder.respond(codec.decode_request(call.message), call)

    async def pool_batch(self, call: Call) -> bytes:
        """Respond to a PoolBatchRequest with a PoolBatchResponse, in which each request has its own outcome."""
        self._limits.check_message(call.message)
        requests = codec.decode_batch_request(call.message, max_items=MAX_BATCH_ITEMS)
        tasks = []
        # Calls are made directly, because _replace takes three times as long.
        all_but_position = call[:-1]
        async with asyncio.TaskGroup() as started:
            for index, request in enumerate(requests):
                tasks.append(started.create_task(self._outcome(request, Call(*all_but_position, index))))
                if len(tasks) % _STARTED_AT_ONCE == 0:
                    await asyncio.sleep(0)
        outcomes = [task.result() for task in tasks]
        nbytes = sum(len(response) for _, response in outcomes if response is not None)
        self._limits.check_batch_response(nbytes)
        response = await self._encode(nbytes, codec.encode_batch_response, outcomes)
        self._limits.check_batch_response(len(response))
        return response

    async def pool_stream(
        self,
        messages: AsyncIterator[bytes],
        send: Callable[[bytes], Awaitable[None]],
        *,
        deadline: float | None = None,
        caller: str = "",
        record: CallRecord | None = None,
    ) -> None:
        """Respond to each PoolStreamRequest with a PoolStreamResponse as soon as it is ready.

        Reading pauses while `FlowControl` lets no further request in, so that a caller who does not read its responses
        costs the server no more than that limit.

        Args:
            messages: the encoded requests.
            send: sends an encoded response; it returns when gRPC has taken it.
            deadline: as in `Call`.
            caller: as in `Call`.
            record: as in `Call`.
        """
        flow_control = FlowControl()
        sending = asyncio.Lock()

        async def respond(correlation_id: int, request: codec.Request, nbytes: int, response_bytes: int) -> None:
            unsent: list[UnsentResponse] = []
            try:
                status, response = await self._outcome(
                    request, Call(b"", deadline, caller, unsent.append, "PoolStream", record, correlation_id)
                )
                # The response may wait for a long time, in which nobody needs the request.
                del request
                if response is not None and len(response) > response_bytes:
                    flow_control.add(len(response) - response_bytes)
                    nbytes += len(response) - response_bytes
                size = 0 if response is None else len(response)
                message = await self._encode(size, codec.encode_stream_response, correlation_id, status, response)
                del response
                async with sending:
                    await send(message)
            finally:
                for one in unsent:
                    one.release()
                flow_control.release(nbytes)

        error: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as responses:
                async for message in messages:
                    self._limits.check_message(message)
                    correlation_id, request = codec.decode_stream_request(message)
                    response_bytes = await self._responder.expected_response_bytes(request, caller)
                    nbytes = len(message) + response_bytes
                    await flow_control.acquire(nbytes)
                    responses.create_task(respond(correlation_id, request, nbytes, response_bytes))
                    del message, request
        except ExceptionGroup as failed:
            # A failed request does not end the stream, because it has its own outcome. What ends it is a lost caller,
            # or a message that is too large or not a PoolStreamRequest.
            error = failed.exceptions[0]
            # The group's traceback refers to the group, which would keep the stream's responses until Python's next
            # garbage collection. So would an error whose context is the group, or to which this frame refers.
            failed.__traceback__ = None
        if error is not None:
            try:
                raise error
            finally:
                del error

    async def server_info(self, call: Call) -> bytes:
        """Respond to a GetServerInfoRequest, which has no fields, with a GetServerInfoResponse."""
        self._limits.check_message(call.message)
        response = self._info().SerializeToString()
        # The labels of backbones make it large, and a caller may leave thousands of such responses unread.
        self._unsent.check(call.caller, len(response))
        return self._responder.hold(response, call)

    async def _outcome(self, request: codec.Request, call: Call) -> tuple[status_pb2.Status, bytes | None]:
        try:
            return _OK, await self._responder.respond(request, call)
        except Exception as error:  # noqa: BLE001 - one of many requests has its own outcome, whatever it is
            return to_status(error, call.request_id), None

    async def _encode(self, nbytes: int, encode: Callable[[*Arguments], bytes], *arguments: *Arguments) -> bytes:
        """Encode a message that contains responses of `nbytes`; copying large ones must not run on the event loop."""
        if nbytes > MAX_INLINE_BYTES:
            return await asyncio.get_running_loop().run_in_executor(self._image_threads, encode, *arguments)
        return encode(*arguments)

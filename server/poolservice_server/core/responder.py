"""The responder: from one request to its response."""

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from poolservice import codec
from poolservice.errors import InvalidRequest
from poolservice_server import images
from poolservice_server.backbone_stage import BackboneFailed
from poolservice_server.backbones.backbone import Backbones
from poolservice_server.batcher import Batcher, Request
from poolservice_server.core.backbone_counts import BackboneCounts
from poolservice_server.core.backbone_request import BackboneRequest, BackboneRequests
from poolservice_server.core.call import Call
from poolservice_server.core.plan import Head, known_head, read_head
from poolservice_server.core.request_limits import RequestLimits
from poolservice_server.core.request_record import RequestObserver, RequestRecord
from poolservice_server.core.scanned_image import ImageRequest
from poolservice_server.core.unsent_responses import UNCOUNTED_BYTES, UnsentResponses
from poolservice_server.core.validation_turns import ValidationTurns
from poolservice_server.pool_heads.head import PoolHeads


class Responder:
    """Validates requests, lets the batcher run them and builds their responses.

    Args:
        batcher: runs the requests.
        image_threads: decode and encode images.
        limits: the limits of a request.
        unsent: the responses that are built and not sent yet.
        observe: called with the record of each request that has ended.
        refusals: counts the refusals by their reasons, see METRICS.md.
        max_image_pixels, max_queue_bytes, seconds_per_step, decode, backbones, batches_backbone, pool_heads:
            see `PoolService`.
    """

    def __init__(
        self,
        batcher: Batcher,
        image_threads: ThreadPoolExecutor,
        limits: RequestLimits,
        unsent: UnsentResponses,
        *,
        observe: RequestObserver,
        refusals: Counter[str],
        max_image_pixels: int,
        max_queue_bytes: int,
        seconds_per_step: float,
        decode: images.Decode,
        backbones: Backbones,
        batches_backbone: Callable[[str], bool],
        pool_heads: PoolHeads,
    ) -> None:
        self._batcher = batcher
        self._image_threads = image_threads
        self._limits = limits
        self._unsent = unsent
        self._observe = observe
        self._refusals = refusals
        self._max_image_pixels = max_image_pixels
        self._seconds_per_step = seconds_per_step
        self._decode = decode
        self._pool_heads = pool_heads
        self._backbones = BackboneRequests(
            backbones,
            seconds_per_step,
            is_batched=batches_backbone,
            max_pixels=max_image_pixels,
            decode=decode,
        )
        self._turns = ValidationTurns(max_queue_bytes // 4, refusals)

    @property
    def backbone_counts(self) -> BackboneCounts:
        """Counts of what the backbones have computed."""
        return self._backbones.counts

    async def respond(self, request: codec.Request, call: Call) -> bytes:
        """Return the encoded PoolResponse to a request, and report to the observer how the request ended.

        Raises:
            Exception: the outcome of the request, see `error_status`.
        """
        record = RequestRecord(call, time.monotonic())
        try:
            head = known_head(request.head, self._pool_heads)
            if head is None:
                read = partial(read_head, request.head, self._pool_heads)
                head = await self._turns.run(call.caller, read, _kept_bytes(request))
            record.head = head
            plan = head.tensor_plan
            if plan is None:
                response = await self._prepare_and_respond(head, request, record)
            else:
                planes = plan.planes_of(request.data)
                seconds = self._limits.seconds(plan.cost)
                to_run = Request(
                    plan.batch_key,
                    planes,
                    plan.nbytes,
                    call.deadline,
                    call.caller,
                    plan.run_steps * self._seconds_per_step,
                )
                if plan.cost.response_bytes > UNCOUNTED_BYTES:
                    self._unsent.check(call.caller, plan.cost.response_bytes)
                # The permit reserves the memory until the response is ready; a large response then counts as unsent.
                with self._batcher.reserve(plan.cost.peak_bytes, call.caller, seconds) as permit:
                    completed = record.completed = await self._batcher.submit(to_run, permit)
                    record.encode_started = time.monotonic()
                    response = self.hold(await plan.response_builder.build(completed, self._image_threads), call)
        except BaseException as error:
            record.ended = time.monotonic()
            self._observe(record, error)
            raise
        record.ended = time.monotonic()
        record.response_bytes = len(response)
        self._observe(record, None)
        return response

    async def expected_response_bytes(self, request: codec.Request, caller: str) -> int:
        """Return the size of a response as far as it is known before the payload is read: that of a valid tensor's."""
        head = known_head(request.head, self._pool_heads)
        if head is None:
            try:
                read = partial(read_head, request.head, self._pool_heads)
                head = await self._turns.run(caller, read, _kept_bytes(request))
            except InvalidRequest:
                # The request has an error as its own outcome.
                return 0
        return 0 if head.tensor_plan is None else head.tensor_plan.cost.response_bytes

    def _to_prepare(self, head: Head, data: memoryview) -> ImageRequest | BackboneRequest:
        """Return a request whose payload is prepared on a thread."""
        try:
            if head.backbone is not None:
                return self._backbones.request(head, head.backbone, data)
            return ImageRequest(head, data, max_pixels=self._max_image_pixels, decode=self._decode)
        except images.ImageTooLarge:
            self._refusals["image_pixels"] += 1
            raise

    async def _prepare_and_respond(self, head: Head, request: codec.Request, record: RequestRecord) -> bytes:
        call = record.call
        to_prepare = record.prepared = await self._turns.run(
            call.caller, partial(self._to_prepare, head, request.data), _kept_bytes(request)
        )
        plan = to_prepare.plan
        seconds = self._limits.seconds(to_prepare.cost)
        to_run = Request(
            plan.batch_key,
            to_prepare.prepare,
            plan.nbytes,
            call.deadline,
            call.caller,
            plan.run_steps * self._seconds_per_step,
            to_prepare.prepare_steps * self._seconds_per_step,
            to_prepare.is_unbatched,
        )
        self._unsent.check(call.caller, plan.cost.response_bytes)
        # The permit reserves the memory from before the decoding until the response is ready.
        with self._batcher.reserve(to_prepare.cost.peak_bytes, call.caller, seconds) as permit:
            try:
                completed = await self._batcher.prepare_and_run(to_run, permit, self._image_threads)
            except BackboneFailed:
                if isinstance(to_prepare, BackboneRequest):
                    to_prepare.count_failure()
                raise
            record.completed = completed
            record.encode_started = time.monotonic()
            return self.hold(await to_prepare.build(completed, self._image_threads), call)

    def hold(self, response: bytes, call: Call) -> bytes:
        """Count a response as unsent, unless it is small."""
        if len(response) > UNCOUNTED_BYTES:
            call.hold(self._unsent.add(call.caller, len(response)))
        return response


def _kept_bytes(request: codec.Request) -> int:
    """Return the size of a request's message, or of its part of a batch."""
    return len(request.head) + request.data.nbytes

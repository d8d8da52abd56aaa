"""Calls that travel together: several in one message, and each one's own end out of what came back."""

import copy
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, TypeVar

from poolservice.codec import Buffer, MalformedMessage, decode_batch_response, encode_batch_request
from poolservice_client._request.payload import Payload
from poolservice_client._request.template import RequestTemplate
from poolservice_client._response.reader import PoolResponse, read_response, read_stack
from poolservice_client._response.status import error_of_status
from poolservice_client._transport.blocking import POOL, POOL_BATCH
from poolservice_client.errors import DeadlineExceeded, InvalidRequest, Overloaded, PoolError, ServerError, Unavailable

#: Calls of one message. More are no cheaper (measured: the cost of a message is shared out by then).
MOST_CALLS = 64
#: Bytes of one message's payloads, and of the answers as far as they are known: far below every default limit.
MOST_BYTES = 2**20
#: Payloads and answers up to here travel together, larger ones on their own. `make bench-coalesce` shows what company
#: saves by size: for 32 callers more than half of the CPU time of 100 KB tensors, a quarter of that of 256 KB ones,
#: which then are answered later; a third of that of 21 KB pictures, nothing of that of 66 KB ones.
SMALL_TENSOR_BYTES = 128 * 1024
SMALL_IMAGE_BYTES = 32 * 1024

AnyCall = TypeVar("AnyCall", bound="Call")


class Call:
    """One call of `pool`: what it sends, until when its caller waits, and how it ended.

    Args:
        kind: what it asks, of what.
        data: the payload's bytes; they must not change before it ended.
        timeout: seconds from now; None waits for ever.

    Attributes:
        since: when it was made, in seconds of time.monotonic.
        nbytes: what it is counted as in a message, payload or answer.
        deadline: until when its caller waits, in seconds of time.monotonic.
    """

    __slots__ = ("_end", "data", "deadline", "kind", "nbytes", "since", "timeout")

    def __init__(self, kind: RequestTemplate, data: Buffer, nbytes: int, timeout: float | None) -> None:
        self.kind = kind
        self.data = data
        self.nbytes = nbytes
        self.timeout = timeout
        self.since = since = time.monotonic()
        self.deadline = None if timeout is None else since + timeout
        self._end: bytes | memoryview | PoolResponse[Any] | BaseException | None = None

    @property
    def request(self) -> bytes:
        """The PoolRequest of this call alone."""
        return self.kind.request(self.data)

    @property
    def left(self) -> float | None:
        """The seconds that its caller still waits; None for ever."""
        return None if self.deadline is None else max(self.deadline - time.monotonic(), 0.0)

    def answered(self, end: bytes | memoryview | PoolResponse[Any]) -> None:
        """It has its answer: a PoolResponse of its own, or what was read of one that it shared."""
        self._end = end

    def failed(self, error: Exception) -> None:
        """It has failed, for a reason that is its own."""
        self._end = error

    def overdue(self, address: str) -> DeadlineExceeded:
        """The error of a call whose caller waited for as long as it would."""
        return DeadlineExceeded(f"{address} gave no answer within the timeout of {self.timeout:g} s")

    @property
    def is_open(self) -> bool:
        """Whether it travelled in company that failed, and is to be made again on its own."""
        return self._end is None

    def result(self, *, execution: bool) -> Any:
        """What its caller gets.

        Raises:
            PoolError: what it ended with.
        """
        end = self._end
        if isinstance(end, PoolResponse):
            return end if execution else end.result
        if isinstance(end, BaseException):
            raise end
        if end is None:
            raise ServerError("a call ended without an answer")
        self.kind.answer_bytes = len(end)
        return read_response(end, self.kind.query, execution=execution)


class CoalescedRequest:
    """Calls in one message: those of a kind as one tensor, and several such requests side by side as a batch."""

    def __init__(self, calls: Sequence[Call]) -> None:
        kinds: dict[object, list[Call]] = {}
        for call in calls:
            kinds.setdefault(call.kind if call.kind.stacks else call, []).append(call)
        self._groups = list(kinds.values())
        requests = [_request(group) for group in self._groups]
        alone = len(requests) == 1
        self.method = POOL if alone else POOL_BATCH
        self.message = requests[0] if alone else encode_batch_request(requests)

    def answered(self, answer: bytes) -> None:
        """Deal the answer out. What cannot be read of it leaves its calls open."""
        if len(self._groups) == 1:
            _deal(self._groups[0], answer)
            return
        try:
            outcomes = decode_batch_response(answer)
        except MalformedMessage:
            return
        if len(outcomes) != len(self._groups):
            return
        for group, (status, response) in zip(self._groups, outcomes, strict=True):
            if not status.code:
                _deal(group, response or b"")
            elif len(group) == 1 and not isinstance(error := error_of_status(status), Overloaded | Unavailable):
                group[0].failed(error)
            # What the others ended with may be the company's fault, or may pass: each asks again for itself, with
            # the transport's retries.

    def failed(self, error: Exception) -> None:
        """Settle those calls whose failure it is whatever their company; the others are left open.

        A refusal or a fault may be that of the whole message or of one of its calls, and a deadline is the one that
        the message had: each call asks again for itself. What is said of the server is said to all.
        """
        if isinstance(error, PoolError) and not isinstance(error, InvalidRequest | ServerError | DeadlineExceeded):
            for group in self._groups:
                for call in group:
                    # Each raises an exception of its own, which gathers a traceback of its own.
                    call.failed(copy.copy(error))


def small(kind: RequestTemplate, payload: Payload) -> int:
    """What a call of `kind` on `payload` is counted as in a message; 0 where it is to travel on its own."""
    nbytes = payload.nbytes or 1
    if nbytes < kind.answer_bytes:
        nbytes = kind.answer_bytes
    if nbytes > (SMALL_IMAGE_BYTES if kind.is_image else SMALL_TENSOR_BYTES):
        return 0
    # A picture that comes back takes the server far longer than a message does.
    return 0 if kind.query.output == "image" else nbytes


def gather(calls: deque[AnyCall], first: AnyCall | None = None) -> list[AnyCall]:
    """Take from the front of `calls` what fits into one message, after `first`; at least one."""
    gathered = [] if first is None else [first]
    nbytes = 0 if first is None else first.nbytes
    while calls and len(gathered) < MOST_CALLS and (not gathered or nbytes + calls[0].nbytes <= MOST_BYTES):
        call = calls.popleft()
        gathered.append(call)
        nbytes += call.nbytes
    return gathered


def _request(group: Sequence[Call]) -> bytes:
    if len(group) == 1:
        return group[0].request
    return group[0].kind.request_of_several([call.data for call in group])


def _deal(group: Sequence[Call], response: bytes | memoryview) -> None:
    if len(group) == 1:
        group[0].answered(response)
        return
    kind = group[0].kind
    try:
        replies = read_stack(response, kind.query, len(group), kind.rows)
    except ServerError:
        return
    kind.answer_bytes = len(response) // len(group)
    for call, reply in zip(group, replies, strict=True):
        call.answered(reply)

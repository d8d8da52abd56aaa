"""Coalesced requests: encoding several calls in one message and settling each call from its response."""

import copy
from collections.abc import Sequence
from functools import cache

from poolservice.codec import MalformedMessage, decode_batch_response, encode_batch_request
from poolservice_client._coalescing.call import BaseCall
from poolservice_client._response.reader import read_stacked_response
from poolservice_client._response.status import error_of_status
from poolservice_client._transport.methods import POOL, POOL_BATCH
from poolservice_client.errors import DeadlineExceeded, InvalidRequest, Overloaded, PoolError, ServerError, Unavailable

# The size of a block whose release makes glibc keep the memory of messages: more than two messages in flight take.
_RELEASED_BYTES = 8 * 2**20


class CoalescedRequest:
    """Several calls in one message.

    Calls with the same template are stacked into one tensor and one request. Several requests form a batch request.

    Attributes:
        method: the gRPC method that the message is for.
        message: the encoded message.
        traces: the trace contexts of those calls that have one.
    """

    def __init__(self, calls: Sequence[BaseCall]) -> None:
        _keep_freed_memory()
        self.traces = [call.trace for call in calls if call.trace is not None]
        groups: dict[object, list[BaseCall]] = {}
        for call in calls:
            groups.setdefault(call.template if call.template.can_stack else call, []).append(call)
        self._groups = list(groups.values())
        requests = [_encode(group) for group in self._groups]
        if len(requests) == 1:
            self.method, self.message = POOL, requests[0]
        else:
            self.method, self.message = POOL_BATCH, encode_batch_request(requests)

    def set_response(self, response: bytes) -> None:
        """Settle the calls from the response. Calls whose part cannot be read remain unsettled."""
        if len(self._groups) == 1:
            _settle(self._groups[0], response)
            return
        try:
            outcomes = decode_batch_response(response)
        except MalformedMessage:
            return
        if len(outcomes) != len(self._groups):
            return
        for group, (status, part) in zip(self._groups, outcomes, strict=True):
            if not status.code:
                _settle(group, part or b"")
            elif len(group) == 1 and not isinstance(error := error_of_status(status), Overloaded | Unavailable):
                group[0].set_error(error)
            # Any other error may be due to another call of the group, or may be temporary. Its calls remain
            # unsettled and are sent again one by one, with the transport's retries.

    def set_error(self, error: Exception) -> None:
        """Settle the calls if the error of the message is the error of each of them; else leave them unsettled.

        A rejection or a server error may concern the whole message or one of its calls, and the deadline was that of
        the message. In those cases each call is sent again separately. Any other error is that of all calls.
        """
        if isinstance(error, PoolError) and not isinstance(error, InvalidRequest | ServerError | DeadlineExceeded):
            for group in self._groups:
                for call in group:
                    # A copy for each caller, because raising an exception adds a traceback to it.
                    call.set_error(copy.copy(error))


@cache
def _keep_freed_memory() -> None:
    """Make glibc keep the memory of freed messages for the next ones, once in a process.

    By default glibc returns a block of more than 128 KB to the system when it is freed, and the kernel fills the next
    one with zeros, page by page. That doubles the client's CPU time for a message of 1 MiB. glibc stops for blocks up
    to the size of the largest one that was ever freed (M_MMAP_THRESHOLD in mallopt(3)), so one is freed here. Its pages
    are never touched, so it costs no memory. glibc then keeps at most twice its size, as in any program that has once
    freed an array of 8 MiB. A library must not change more of its host's allocator, such as the settings of mallopt(3).
    """
    bytes(_RELEASED_BYTES)


def _encode(group: Sequence[BaseCall]) -> bytes:
    if len(group) == 1:
        return group[0].request
    return group[0].template.stacked_request([call.data for call in group])


def _settle(group: Sequence[BaseCall], response: bytes | memoryview) -> None:
    if len(group) == 1:
        group[0].set_response(response)
        return
    template = group[0].template
    try:
        parts = read_stacked_response(response, group[0].query, len(group), template.rows)
    except ServerError:
        return
    template.response_bytes = len(response) // len(group)
    for call, part in zip(group, parts, strict=True):
        call.set_response(part)

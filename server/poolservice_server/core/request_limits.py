"""The limits of one request: the size of its messages and its estimated work."""

from collections import Counter

from poolservice.errors import InvalidRequest
from poolservice_server.error_status import MessageTooLarge
from poolservice_server.rounded_seconds import rounded_seconds
from poolservice_server.stage_cost import Cost

# Bytes of a response in addition to those of its results.
_RESPONSE_OVERHEAD = 64 * 1024


class RequestLimits:
    """The limits of one request.

    Args:
        max_message_bytes: the limit of a message in either direction.
        max_request_seconds: the limit of a request's estimated work.
        seconds_per_step: the time of one step of the estimates on this machine.
        refusals: counts the refusals, under "message_bytes" and "request_seconds".
    """

    def __init__(
        self, max_message_bytes: int, max_request_seconds: float, seconds_per_step: float, refusals: Counter[str]
    ) -> None:
        self._refusals = refusals
        self._max_message_bytes = max_message_bytes
        self._max_request_seconds = max_request_seconds
        self._seconds_per_step = seconds_per_step

    def check_message(self, message: bytes) -> None:
        """Check the size of a request message.

        Raises:
            MessageTooLarge: it exceeds the limit of a message.
        """
        if len(message) > self._max_message_bytes:
            self._refusals["message_bytes"] += 1
            raise MessageTooLarge("a message", len(message), self._max_message_bytes, remedy="send less at a time")

    def check_batch_response(self, nbytes: int) -> None:
        """Check the size of the response to a batch.

        Raises:
            MessageTooLarge: it exceeds the limit of a message.
        """
        if nbytes > self._max_message_bytes:
            self._refusals["message_bytes"] += 1
            raise MessageTooLarge(
                "the response to this batch", nbytes, self._max_message_bytes, remedy="send fewer requests at a time"
            )

    def seconds(self, cost: Cost) -> float:
        """Return the estimated seconds of a request.

        Raises:
            MessageTooLarge: its response would exceed the limit of a message.
            InvalidRequest: its work would exceed the limit of a request.
        """
        response_bytes = cost.response_bytes + _RESPONSE_OVERHEAD
        if response_bytes > self._max_message_bytes:
            self._refusals["message_bytes"] += 1
            raise MessageTooLarge(
                "the response to this request",
                response_bytes,
                self._max_message_bytes,
                remedy="ask for less (a smaller output_size, a larger stride, fewer specs)",
            )
        seconds = cost.steps * self._seconds_per_step
        if seconds > self._max_request_seconds:
            self._refusals["request_seconds"] += 1
            raise InvalidRequest(
                f"the request would take about {rounded_seconds(seconds)} s of computing, more than the "
                f"{self._max_request_seconds:,.15g} s that this server allows for one request; a larger stride, a "
                "smaller kernel_size or output_size, fewer specs or a smaller payload take less, or start the server "
                "with a larger --max-request-seconds (POOLSERVICE_MAX_REQUEST_SECONDS)"
            )
        return seconds

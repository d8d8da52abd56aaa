"""One `pool` call that may be coalesced: its payload, its deadline and its outcome."""

import time
from typing import Any

from poolservice.codec import Buffer
from poolservice_client._request.query import PoolQuery
from poolservice_client._request.template import RequestTemplate
from poolservice_client._response.reader import PoolResponse, read_response
from poolservice_client._transport.trace_context import current_trace
from poolservice_client.errors import DeadlineExceeded, ServerError


class BaseCall:
    """The part of a call that blocking and asyncio clients share.

    Args:
        query: the specs and options of the call.
        template: encodes its request.
        data: the bytes of its payload. They must not change before the call ends.
        nbytes: its share of the size limit of a message, in bytes.
        timeout: seconds until the call must end; None for no limit.

    Attributes:
        created: the time when the call was made, in seconds of time.monotonic.
        deadline: the time when it must end, in seconds of time.monotonic; None for no limit.
        trace: the span in which it was made; None without one.
    """

    __slots__ = ("_outcome", "created", "data", "deadline", "nbytes", "query", "template", "timeout", "trace")

    def __init__(
        self, query: PoolQuery, template: RequestTemplate, data: Buffer, nbytes: int, timeout: float | None
    ) -> None:
        self.query = query
        self.template = template
        self.data = data
        self.nbytes = nbytes
        self.timeout = timeout
        self.created = created = time.monotonic()
        self.deadline = None if timeout is None else created + timeout
        # Now, because another thread or task may send the message.
        self.trace = current_trace()
        self._outcome: bytes | memoryview | PoolResponse[Any] | Exception | None = None

    @property
    def request(self) -> bytes:
        """The PoolRequest of this call only."""
        return self.template.request(self.data)

    @property
    def remaining(self) -> float | None:
        """The seconds until the deadline; None for no limit."""
        return None if self.deadline is None else max(self.deadline - time.monotonic(), 0.0)

    @property
    def is_settled(self) -> bool:
        """Whether the call has a response or an error. If its coalesced message failed, it has neither."""
        return self._outcome is not None

    def set_response(self, response: bytes | memoryview | PoolResponse[Any]) -> None:
        """Settle the call with an encoded PoolResponse, or with its part of a stacked one, already decoded."""
        self._outcome = response

    def set_error(self, error: Exception) -> None:
        """Settle the call with an error of its own."""
        self._outcome = error

    def timeout_error(self, address: str) -> DeadlineExceeded:
        """Return the error for a call whose deadline has passed."""
        return DeadlineExceeded(f"{address} gave no response within the timeout of {self.timeout:g} s")

    def result(self, *, execution: bool) -> Any:
        """Return the result for the caller, with its execution report if `execution`.

        Raises:
            PoolError: the call failed.
        """
        outcome = self._outcome
        if isinstance(outcome, PoolResponse):
            return outcome if execution else outcome.result
        if isinstance(outcome, Exception):
            raise outcome
        if outcome is None:
            raise ServerError("the call ended without a response")
        self.template.response_bytes = len(outcome)
        return read_response(outcome, self.query, execution=execution)

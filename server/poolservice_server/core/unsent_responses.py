"""Responses that are computed and not sent yet: they count in the queue's bytes, and each caller has a limit.

gRPC keeps a response until its caller reads it. A caller that does not read would otherwise fill the server's memory
with responses that no limit counts.
"""

from collections import Counter
from collections.abc import Callable

from poolservice_server.error_status import UnreadResponses

#: A response up to this size is not counted. Counting one costs the server a microsecond, and the number of calls in
#: progress bounds their memory.
UNCOUNTED_BYTES = 16 * 1024

# gRPC copies a response when it starts to send it, and grpcio keeps the original until it is sent.
_COPIES = 2


class UnsentResponse:
    """The memory of one response that is not sent yet. Release it when the response is sent, or when its call ends."""

    __slots__ = ("_caller", "_responses", "nbytes")

    def __init__(self, responses: "UnsentResponses", caller: str, nbytes: int) -> None:
        self._responses = responses
        self._caller = caller
        self.nbytes = nbytes

    def release(self) -> None:
        """Stop counting the response. Call it once."""
        self._responses.remove(self._caller, self.nbytes)


class UnsentResponses:
    """The unsent responses of all callers.

    Args:
        max_bytes: the memory that all unsent responses together should not exceed.
        max_caller_bytes: most memory that the unsent responses of one caller take. A single response may take more.
        count: called with the number of bytes that are added or, if negative, no longer held.
        refusals: counts the refusals, under "unread_bytes".
    """

    def __init__(
        self, *, max_bytes: int, max_caller_bytes: int, count: Callable[[int], None], refusals: Counter[str]
    ) -> None:
        self._refusals = refusals
        self._max_caller_bytes = max_caller_bytes
        self._max_bytes = max_bytes
        self._count = count
        self._total = 0
        self._nbytes: dict[str, int] = {}

    @property
    def nbytes(self) -> int:
        """The memory that the unsent responses take."""
        return self._total

    @property
    def exceed_limit(self) -> bool:
        """True if the unsent responses take more than `max_bytes`."""
        return self._total > self._max_bytes

    def check(self, caller: str, nbytes: int) -> None:
        """Check, before a request is admitted, that its caller may have another unread response of `nbytes`.

        Raises:
            UnreadResponses: the caller's unread responses and this one exceed the limit.
        """
        unread = self._nbytes.get(caller, 0)
        if unread and unread + _COPIES * nbytes > self._max_caller_bytes:
            self._refusals["unread_bytes"] += 1
            raise UnreadResponses(unread, self._max_caller_bytes)

    def add(self, caller: str, nbytes: int) -> UnsentResponse:
        """Count a response of `nbytes` that is about to be sent.

        It is not refused any more: its work is done, and its permit has reserved the memory.
        """
        nbytes *= _COPIES
        self._nbytes[caller] = self._nbytes.get(caller, 0) + nbytes
        self._total += nbytes
        self._count(nbytes)
        return UnsentResponse(self, caller, nbytes)

    def remove(self, caller: str, nbytes: int) -> None:
        """Stop counting a response that takes `nbytes` of memory."""
        left = self._nbytes[caller] - nbytes
        if left:
            self._nbytes[caller] = left
        else:
            del self._nbytes[caller]
        self._total -= nbytes
        self._count(-nbytes)

"""Responses that are computed and not sent yet: they count in the queue's bytes, and each caller has a limit.

gRPC keeps a response until its caller reads it. A caller that does not read would otherwise fill the server's memory
with responses that no limit counts.
"""

from collections.abc import Callable

from poolservice_server.error_status import UnreadResponses

#: A response up to this size is not counted. Counting one costs the server a microsecond, and the number of calls in
#: progress bounds their memory.
UNCOUNTED_BYTES = 16 * 1024


class UnsentResponse:
    """The bytes of one response that is not sent yet. Release it when the response is sent, or when its call ends."""

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
        max_bytes: the total size of all unsent responses above which they crowd the queue.
        max_caller_bytes: largest total size of one caller's unsent responses. A single response may be larger.
        count: called with the number of bytes that are added or, if negative, no longer held.
    """

    def __init__(self, *, max_bytes: int, max_caller_bytes: int, count: Callable[[int], None]) -> None:
        self._max_caller_bytes = max_caller_bytes
        self._max_bytes = max_bytes
        self._count = count
        self._total = 0
        self._nbytes: dict[str, int] = {}

    @property
    def nbytes(self) -> int:
        """The total size of the unsent responses."""
        return self._total

    @property
    def are_crowding(self) -> bool:
        """True if the unsent responses take more than `max_bytes`."""
        return self._total > self._max_bytes

    def check(self, caller: str, nbytes: int) -> None:
        """Check that a caller may have another unread response of `nbytes`.

        Raises:
            UnreadResponses: its unread responses and this one exceed the limit.
        """
        unread = self._nbytes.get(caller, 0)
        if unread and unread + nbytes > self._max_caller_bytes:
            raise UnreadResponses(unread, self._max_caller_bytes)

    def add(self, caller: str, nbytes: int) -> UnsentResponse:
        """Count a response of `nbytes` that is about to be sent.

        Raises:
            UnreadResponses: the caller's unread responses and this one exceed the limit.
        """
        self.check(caller, nbytes)
        self._nbytes[caller] = self._nbytes.get(caller, 0) + nbytes
        self._total += nbytes
        self._count(nbytes)
        return UnsentResponse(self, caller, nbytes)

    def remove(self, caller: str, nbytes: int) -> None:
        """Stop counting a response of `nbytes`."""
        left = self._nbytes[caller] - nbytes
        if left:
            self._nbytes[caller] = left
        else:
            del self._nbytes[caller]
        self._total -= nbytes
        self._count(-nbytes)

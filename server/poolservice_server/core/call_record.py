"""The record of one call, which observers get when the call has ended: metrics, the call log, tracing."""

from collections.abc import Callable, Iterable, Mapping

from google.rpc import code_pb2, status_pb2

from poolservice_server.batcher import QuotaExceeded
from poolservice_server.core.call_ids import CallIds, read_call_ids


class CallRecord:
    """What is known of one call of a method. The servicer fills it in.

    Attributes:
        method: the method's name.
        started: when the call arrived, in seconds of time.perf_counter.
        caller: who made the call; empty if unknown.
        code: the name of the gRPC status that ended it; CANCELLED if the caller left.
        reason: the message of that status; empty if the call succeeded.
        is_over_quota: whether a quota of the caller refused the call.
        received_bytes: the size of the messages that the caller sent.
        sent_bytes: the size of the messages that it was sent.
        details: returns what the call log says about its only request; None if it has none, or nobody will ask.
        span: the span of the call, once tracing has started it.
    """

    caller: str = ""
    code: str = "CANCELLED"
    reason: str = ""
    is_over_quota: bool = False
    received_bytes: int = 0
    sent_bytes: int = 0
    details: Callable[[], Mapping[str, object]] | None = None
    span: object = None
    _ids: CallIds | None = None

    def __init__(
        self, method: str, started: float, metadata: Callable[[], Iterable[tuple[str, str | bytes]] | None]
    ) -> None:
        self.method = method
        self.started = started
        self._metadata = metadata

    def fail(self, error: BaseException, status: status_pb2.Status) -> None:
        """Note the error that ended the call, and the status that reports it."""
        # Not the error itself: its traceback would keep the request in memory.
        self.code, self.reason = code_pb2.Code.Name(status.code), status.message
        self.is_over_quota = isinstance(error, QuotaExceeded)

    @property
    def ids(self) -> CallIds:
        """The ids of the call. Reading the metadata takes 2 microseconds, so it is read only if something needs it."""
        if self._ids is None:
            self._ids = read_call_ids(self._metadata() or ())
        return self._ids


#: Called on the event loop with each call that ended. It must not raise.
CallObserver = Callable[[CallRecord], None]

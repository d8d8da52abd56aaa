"""The record of one call, which observers get when the call has ended: metrics, the call log, tracing."""

from collections.abc import Callable


class CallRecord:
    """What is known of one call of a method. The servicer fills it in.

    Attributes:
        method: the method's name.
        started: when the call arrived, in seconds of time.perf_counter.
        caller: who made the call; empty if unknown.
        code: the name of the gRPC status that ended it; CANCELLED if the caller left.
        reason: the message of that status; empty if the call succeeded.
        received_bytes: the size of the messages that the caller sent.
        sent_bytes: the size of the messages that it was sent.
    """

    caller: str = ""
    code: str = "CANCELLED"
    reason: str = ""
    received_bytes: int = 0
    sent_bytes: int = 0

    def __init__(self, method: str, started: float) -> None:
        self.method = method
        self.started = started


#: Called on the event loop with each call that ended. It must not raise.
CallObserver = Callable[[CallRecord], None]

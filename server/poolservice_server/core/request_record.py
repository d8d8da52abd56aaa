"""The record of one request, which observers get when the request has ended: metrics, the call log, tracing."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from poolservice_server.batcher import Completed
from poolservice_server.core.call import Call

if TYPE_CHECKING:
    from poolservice_server.core.backbone_request import BackboneRequest
    from poolservice_server.core.plan import Head
    from poolservice_server.core.scanned_image import ImageRequest


class RequestRecord:
    """What is known of one request, on its own or in a batch or stream. All times are seconds of time.monotonic.

    The defaults are class attributes, so that a request pays only for those that it reaches.

    Attributes:
        call: the call to which the request belongs.
        started: when the request arrived.
        head: the validated request without its payload; None if it is not valid.
        prepared: the request whose payload is prepared on a thread, with its plan; None for a tensor to pool, whose
            plan is `head.tensor_plan`, and if validation failed.
        completed: the batcher's outcome; None if the request did not run to its end.
        encode_started: when the encoding of the response started; 0 if it did not.
        response_bytes: the size of the response; 0 if there is none.
        ended: when the request ended.
    """

    head: "Head | None" = None
    prepared: "ImageRequest | BackboneRequest | None" = None
    completed: Completed | None = None
    encode_started: float = 0.0
    response_bytes: int = 0
    ended: float = 0.0

    def __init__(self, call: Call, started: float) -> None:
        self.call = call
        self.started = started


#: Called on the event loop with each request that ended, and its error: None if it has a response, CancelledError if
#: its caller left. It must not raise, and must not keep the error, whose traceback refers to the request's memory.
RequestObserver = Callable[[RequestRecord, BaseException | None], None]


def ignore_request(_record: RequestRecord, _error: BaseException | None) -> None:
    """Observe nothing."""

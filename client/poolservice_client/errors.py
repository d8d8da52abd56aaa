"""The exceptions of the SDK. No `grpc.RpcError` ever leaves it.

PoolError                the base class of all of them
├── InvalidRequest       the request is wrong; `field` and the message say what would be right (also a ValueError)
├── Overloaded           the server's queue is full; `retry_after` says in how many seconds to retry
├── DeadlineExceeded     the call did not finish within its timeout (also a TimeoutError)
├── Unauthenticated      the server rejected the caller's credentials
├── Unavailable          no server can be reached, or the server is stopping
└── ServerError          the server failed; `error_id` identifies the entry in its log

The `request_id` of each is the id under which the server's log has the call; it is None if no server responded. All of
them can be pickled. A file that cannot be read raises the `OSError` of `open`.
"""

from poolservice.errors import InvalidRequest, PoolError

__all__ = [
    "DeadlineExceeded",
    "InvalidRequest",
    "Overloaded",
    "PoolError",
    "ServerError",
    "Unauthenticated",
    "Unavailable",
]


class Overloaded(PoolError):
    """The server's queue is full. The same request may succeed later.

    Attributes:
        retry_after: seconds to wait before a retry, as the server estimates them; 1 if the server does not say.
    """

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineExceeded(PoolError, TimeoutError):
    """The call did not finish within its timeout."""


class Unauthenticated(PoolError):
    """The server rejected the caller's credentials, or they do not allow this call."""


class Unavailable(PoolError):
    """No server can be reached at the address, the connection was lost, or the server is stopping."""


class ServerError(PoolError):
    """The server failed, or sent a response that this version of the SDK cannot read.

    Attributes:
        error_id: the id of the error in the server's log; None if the server sent none.
    """

    def __init__(self, message: str, *, error_id: str | None = None) -> None:
        super().__init__(message)
        self.error_id = error_id

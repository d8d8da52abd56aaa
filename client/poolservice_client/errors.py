"""The errors that the SDK raises; a grpc.RpcError never leaves it.

PoolError                what every error of poolservice is
├── InvalidRequest       the request is wrong: says which field, and what would be right (also a ValueError)
├── Overloaded           the server's queue is full: says in how many seconds to come back
├── DeadlineExceeded     no answer within the call's timeout (also a TimeoutError)
├── Unauthenticated      the server does not let this caller in
├── Unavailable          no server answers, or it is stopping
└── ServerError          the server's own fault: says the id under which its log has the cause

A file that cannot be opened raises what open() raises, an OSError.
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
    """The server's queue is full; the same request may succeed a little later.

    Attributes:
        retry_after: seconds to wait before the next try, as the server measured; 1 where it does not say.
    """

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineExceeded(PoolError, TimeoutError):
    """No answer came within the call's timeout."""


class Unauthenticated(PoolError):
    """The server does not know this caller, or does not let it do this."""


class Unavailable(PoolError):
    """No server answers at the address, the connection broke, or the server is stopping."""


class ServerError(PoolError):
    """The server failed, or it answered what no poolservice of this version would.

    Attributes:
        error_id: the id under which the server's log has the cause; None where it gave none.
    """

    def __init__(self, message: str, *, error_id: str | None = None) -> None:
        super().__init__(message)
        self.error_id = error_id

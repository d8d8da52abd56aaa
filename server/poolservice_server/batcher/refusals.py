"""The errors with which the batcher refuses or ends requests."""

from poolservice_server.rounded_seconds import rounded_seconds


class QueueFull(Exception):
    """The batcher holds as many requests or bytes as it may.

    Attributes:
        retry_after: seconds until about half of the admitted requests are done, at the measured throughput.
    """

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"the server's queue is full; retry in {rounded_seconds(retry_after)} s")
        self.retry_after = retry_after


class QuotaExceeded(Exception):
    """The caller has as much in flight as one caller may.

    Args:
        found: what the caller has, or would have with this request, in the unit of the quota.
        limit: the quota.
        quota: the setting's name without its prefix: requests, bytes, seconds, rate or calls.
        retry_after: seconds until a retry has a chance.

    Attributes:
        quota, retry_after: as the arguments.
    """

    def __init__(self, found: str, limit: str, quota: str, retry_after: float) -> None:
        super().__init__(
            f"this caller has {found}, and the server allows each caller {limit} (--caller-max-{quota}); "
            f"retry in {rounded_seconds(retry_after)} s"
        )
        self.quota = quota
        self.retry_after = retry_after


class DeadlinePassed(Exception):
    """The caller's deadline passed before the request was done."""

    def __init__(self) -> None:
        super().__init__("the deadline passed before the request was done")


class Draining(Exception):
    """The server is stopping: it finishes the requests that it has accepted and refuses new ones."""

    def __init__(self) -> None:
        super().__init__("the server is stopping and accepts no new requests; send this one to another server")

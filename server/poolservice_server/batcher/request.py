"""Requests to the batcher, their outcomes, and the errors with which the batcher refuses them."""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple, Protocol


class Request(NamedTuple):
    """A request to run one payload.

    Attributes:
        key: requests with equal keys may run in the same batch.
        payload: what the runner receives. For `Batcher.prepare_and_run`, a callable without arguments that returns it.
        nbytes: memory that the request needs until its response is sent, results included.
        deadline: when the caller stops waiting, in seconds of the batcher's clock; None means never.
        caller: who sent the request. Requests of different callers are served fairly.
    """

    key: Hashable
    payload: Any
    nbytes: int
    deadline: float | None = None
    caller: str = ""


class Completed(NamedTuple):
    """The outcome of a request that ran.

    Attributes:
        result: what the runner returned for the payload.
        device: the device that ran it.
        batch_size: number of requests in the device's batch, this one included.
        queue_seconds: time that the request waited, for its preparation and for its batch.
        compute_seconds: time that its batch took.
        prepare_seconds: time that its preparation took; 0 if it needed none.
    """

    result: Any
    device: str
    batch_size: int
    queue_seconds: float
    compute_seconds: float
    prepare_seconds: float = 0.0


class RunResult(Protocol):
    """What a runner returns for one payload."""

    @property
    def result(self) -> Any:
        """The result."""

    @property
    def device(self) -> str:
        """The device that ran the payload."""

    @property
    def batch_size(self) -> int:
        """Number of payloads that ran together on the device: fewer than the runner received if it split the batch."""


class Runner(Protocol):
    """A function that runs a batch. It is called on the event loop and on several threads at the same time."""

    def __call__(self, key: Any, payloads: list[Any], /) -> Sequence[RunResult | Exception]:
        """Return the outcome of each payload, in order. An exception that is raised is the outcome of all of them."""


class QueueFull(Exception):
    """The batcher holds as many requests or bytes as it may.

    Attributes:
        retry_after: seconds until about half of the admitted requests are done, at the measured throughput.
    """

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"the server's queue is full; retry in {retry_after:.3g} s")
        self.retry_after = retry_after


class DeadlinePassed(Exception):
    """The caller's deadline passed before the request was done."""

    def __init__(self) -> None:
        super().__init__("the deadline passed before the request was done")


class Draining(Exception):
    """The server is stopping: it finishes the requests that it has accepted and refuses new ones."""

    def __init__(self) -> None:
        super().__init__("the server is stopping and accepts no new requests; send this one to another server")

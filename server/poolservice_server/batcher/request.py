"""Requests to the batcher, their outcomes, and the function that runs them."""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple, Protocol

from poolservice_server.stop import Stop


class Request(NamedTuple):
    """A request to run one payload.

    Attributes:
        key: requests with equal keys may run in the same batch.
        payload: what the runner receives. For `Batcher.prepare_and_run`, a callable that returns it; it gets `Stop`.
        nbytes: size of the payload and its results. The sizes of batches and of what runs inline are counted in it.
        deadline: when the caller stops waiting, in seconds of the batcher's clock; None means never.
        caller: who sent the request. Requests of different callers are served fairly.
        seconds: how long the runner takes for this request, estimated before any request with its key has run.
        prepare_seconds: how long its preparation takes, estimated.
        is_unbatched: whether the thread that prepares the payload must run it, too, by itself. `Batcher.submit` ignores
            it.
    """

    key: Hashable
    payload: Any
    nbytes: int
    deadline: float | None = None
    caller: str = ""
    seconds: float = 0.0
    prepare_seconds: float = 0.0
    is_unbatched: bool = False


class Completed(NamedTuple):
    """The outcome of a request that ran.

    Attributes:
        result: what the runner returned for the payload.
        device: the device that ran it.
        batch_size: number of requests in the device's batch, this one included.
        queue_seconds: time that the request waited, for its preparation and for its batch.
        compute_seconds: time that its batch took.
        prepare_seconds: time that its preparation took; 0 if it needed none.
        compute_started: when its batch started, in seconds of the batcher's clock.
        batch: the number of its batch, counted from 1. The backend may have split it.
        prepare_started: when its preparation started, on the same clock; 0 if it needed none.
        share: its equal share of `compute_seconds`, which the requests of its batch divide among themselves.
    """

    result: Any
    device: str
    batch_size: int
    queue_seconds: float
    compute_seconds: float
    prepare_seconds: float = 0.0
    compute_started: float = 0.0
    batch: int = 0
    prepare_started: float = 0.0
    share: float = 0.0


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

    def __call__(self, key: Any, payloads: list[Any], stop: Stop, /) -> Sequence[RunResult | Exception]:
        """Return the outcome of each payload, in order. An exception that is raised is the outcome of all of them.

        Long work runs in pieces and raises WorkStopped between two of them if `stop` returns True.
        """

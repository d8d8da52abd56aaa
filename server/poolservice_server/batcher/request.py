"""What is handed to the batcher, what comes back, and how it refuses."""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple, Protocol


class Request(NamedTuple):
    """One item of work.

    Attributes:
        key: items of equal keys may run together.
        payload: what the runner takes, or, for `Batcher.submit_unbatched`, what gives it when it is called.
        nbytes: memory that it holds until it is answered, results included.
        deadline: when its caller stops waiting, in seconds of the batcher's clock; None = never.
    """

    key: Hashable
    payload: Any
    nbytes: int
    deadline: float | None = None


class Completed(NamedTuple):
    """What became of an item.

    Attributes:
        result: what the runner made of its payload.
        device: where it ran.
        batch_size: how many items ran together, itself included.
        queue_seconds: from its submission to the start of its batch.
        compute_seconds: how long its batch ran.
    """

    result: Any
    device: str
    batch_size: int
    queue_seconds: float
    compute_seconds: float


class RunResult(Protocol):
    """What a runner made of one payload."""

    @property
    def result(self) -> Any:
        """The answer."""

    @property
    def device(self) -> str:
        """Where it ran."""

    @property
    def batch_size(self) -> int:
        """How many items ran in one go on the device, which is fewer than were given where it had to split them."""


class Runner(Protocol):
    """Runs a batch, on the event loop's thread or on one of the batcher's: it is called by several at a time."""

    def __call__(self, key: Any, payloads: list[Any], /) -> Sequence[RunResult | Exception]:
        """For each payload, in order, what became of it; what is raised is the outcome of all of them."""


class QueueFull(Exception):
    """There is no room for more work now.

    Attributes:
        retry_after: seconds until half of what is here has been worked off, at the pace that was measured.
    """

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"the server's queue is full; retry in {retry_after:.3g} s")
        self.retry_after = retry_after


class DeadlinePassed(Exception):
    """The caller's deadline passed before the work was done."""

    def __init__(self) -> None:
        super().__init__("the deadline passed before the work was done")


class Draining(Exception):
    """The server is stopping: it finishes what it has accepted and takes nothing new."""

    def __init__(self) -> None:
        super().__init__("the server is stopping and takes no new work; send it to another, or to its successor")

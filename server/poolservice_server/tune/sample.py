"""What the load generator is asked, and what it measured."""

from typing import NamedTuple


class Round(NamedTuple):
    """A request to the load generator: keep calling a server for some time.

    Attributes:
        address: the server's address.
        job: the number of the job.
        concurrency: the number of calls in progress.
        seconds: for how long.
    """

    address: str
    job: int
    concurrency: int
    seconds: float


class Sample(NamedTuple):
    """What one process of the load generator measured in one round.

    Attributes:
        calls: the number of calls that succeeded.
        seconds: the time that they took together, until the last response.
        latencies: the seconds of each, as the bytes of an array of doubles.
        failure: the first error: the server's status and message; empty if no call failed.
    """

    calls: int
    seconds: float
    latencies: bytes
    failure: str

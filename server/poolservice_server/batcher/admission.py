"""Admission control: how many requests and bytes the batcher may hold, and how fast it completes them."""

import asyncio
from collections.abc import Callable
from types import TracebackType

from poolservice.errors import InvalidRequest
from poolservice_server.batcher.request import Draining, QueueFull

# Used before any throughput has been measured.
_FIRST_RETRY_AFTER = 0.1
_SHORTEST_RETRY_AFTER = 0.001
_LONGEST_RETRY_AFTER = 30.0

# Throughput is measured over intervals of this many busy seconds. Each new interval weighs as much as all earlier ones
# together.
_INTERVAL_SECONDS = 0.05


class Permit:
    """The admission of one request, valid until nobody needs the request's memory any more.

    A permit counts its holders: each `acquire` needs a `release`. Its creation counts as the first `acquire`, whose
    `release` is the end of a `with` block. The batcher holds the permit, too, until the request's batch ends.
    """

    __slots__ = ("_admission", "_holders", "_nbytes")

    def __init__(self, admission: "Admission", nbytes: int) -> None:
        self._admission = admission
        self._holders = 1
        self._nbytes = nbytes

    def acquire(self) -> None:
        """Add a holder."""
        self._holders += 1

    def release(self) -> None:
        """Remove a holder; the last one ends the admission."""
        self._holders -= 1
        if not self._holders:
            self._admission.release(self._nbytes)

    def shrink_to(self, nbytes: int) -> None:
        """Give back all but `nbytes` of the memory; `nbytes` must be no more than the permit has."""
        self._admission.nbytes -= self._nbytes - nbytes
        self._nbytes = nbytes

    def __enter__(self) -> "Permit":
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


class Admission:
    """The limits on the requests that wait or run, by number and by bytes.

    Args:
        max_requests: largest number of admitted requests.
        max_bytes: most memory that they may need together.
        clock: seconds.

    Attributes:
        requests: requests that are admitted now.
        nbytes: memory that they need.
        accepted: requests that have been admitted since the start.
        refused: requests that have been refused since the start.
        draining: set it to refuse all new requests.
    """

    def __init__(self, *, max_requests: int, max_bytes: int, clock: Callable[[], float]) -> None:
        self.requests = 0
        self.nbytes = 0
        self.accepted = 0
        self.refused = 0
        self.draining = False
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._clock = clock
        # Throughput while there were requests; 0 until it has been measured.
        self._requests_per_second = 0.0
        self._bytes_per_second = 0.0
        self._interval_start = 0.0
        self._interval_seconds = 0.0
        self._interval_requests = 0
        self._interval_bytes = 0
        self._emptied: asyncio.Future[None] | None = None

    def admit(self, nbytes: int) -> Permit:
        """Admit a request that needs `nbytes` of memory.

        Raises:
            QueueFull: the limits do not allow it now.
            Draining: no new requests are admitted.
            InvalidRequest: the limits never allow it.
        """
        if self.draining:
            self.refused += 1
            raise Draining
        if self.requests >= self._max_requests or self.nbytes + nbytes > self._max_bytes:
            self.refused += 1
            if nbytes > self._max_bytes:
                raise InvalidRequest(
                    f"the request and its results take {nbytes} bytes, more than the {self._max_bytes} that this "
                    "server allows for all requests together; send less at a time, or start the server with a larger "
                    "--max-queue-bytes"
                )
            raise QueueFull(self._retry_after())
        if not self.requests:
            self._interval_start = self._clock()
        self.requests += 1
        self.nbytes += nbytes
        self.accepted += 1
        return Permit(self, nbytes)

    def release(self, nbytes: int) -> None:
        """End the admission of a request that needed `nbytes`."""
        self.requests -= 1
        self.nbytes -= nbytes
        self._interval_requests += 1
        self._interval_bytes += nbytes
        if self.requests:
            return
        self.measure_throughput()
        if self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

    def measure_throughput(self) -> None:
        """Update the throughput if the current interval is long enough."""
        now = self._clock()
        self._interval_seconds += now - self._interval_start
        self._interval_start = now
        if self._interval_seconds < _INTERVAL_SECONDS:
            return
        weight = 0.5 if self._requests_per_second else 1.0
        requests_per_second = self._interval_requests / self._interval_seconds
        bytes_per_second = self._interval_bytes / self._interval_seconds
        self._requests_per_second += weight * (requests_per_second - self._requests_per_second)
        self._bytes_per_second += weight * (bytes_per_second - self._bytes_per_second)
        self._interval_seconds = 0.0
        self._interval_requests = 0
        self._interval_bytes = 0

    async def wait_until_empty(self) -> None:
        """Wait until no request is admitted."""
        while self.requests:
            if self._emptied is None or self._emptied.done():
                self._emptied = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._emptied)

    def _retry_after(self) -> float:
        if not self._requests_per_second or not self._bytes_per_second:
            return _FIRST_RETRY_AFTER
        # Half of the time until all of them are done: callers that retry then are admitted and keep the device busy.
        seconds = max(self.requests / self._requests_per_second, self.nbytes / self._bytes_per_second) / 2
        return min(max(seconds, _SHORTEST_RETRY_AFTER), _LONGEST_RETRY_AFTER)

"""Admission control: how many requests and bytes the batcher may hold, of all callers and of each of them."""

import asyncio
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple

from poolservice.errors import InvalidRequest
from poolservice_server.batcher.quotas import Callers, Holdings, Quotas
from poolservice_server.batcher.refusals import Draining, QueueFull, QuotaExceeded
from poolservice_server.batcher.throughput import Throughput


class Permit:
    """The admission of one request, valid until nobody needs the request's memory any more.

    A permit counts its holders: each `acquire` needs a `release`. Its creation counts as the first `acquire`, whose
    `release` is the end of a `with` block. The batcher holds the permit, too, until the request's batch ends.
    """

    __slots__ = ("_admission", "_holders", "_holdings", "_is_unwanted", "_nbytes", "_seconds")

    def __init__(self, admission: "Admission", holdings: Holdings, nbytes: int, seconds: float) -> None:
        self._admission = admission
        self._holdings = holdings
        self._holders = 1
        self._is_unwanted = False
        self._nbytes = nbytes
        self._seconds = seconds

    def acquire(self) -> None:
        """Add a holder."""
        self._holders += 1

    def release(self) -> None:
        """Remove a holder; the last one ends the admission."""
        self._holders -= 1
        if not self._holders:
            if self._seconds:
                self._end_work()
            self._admission.release(self._holdings, self._nbytes, self._is_unwanted)

    def release_after_work(self) -> None:
        """Remove a holder, the batcher, because the request's work has ended or will never start."""
        if self._seconds:
            self._end_work()
        self.release()

    def mark_unwanted(self) -> None:
        """Record, once, that nobody waits for the request any more, although it still runs."""
        self._is_unwanted = True
        self._admission.count_unwanted()

    def __enter__(self) -> "Permit":
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def _end_work(self) -> None:
        self._admission.end_work(self._holdings, self._seconds)
        self._seconds = 0.0


class Limits(NamedTuple):
    """The limits of all admitted requests together: their number, and their memory with that of unsent responses."""

    requests: int
    nbytes: int


class Admission:
    """The limits on the requests that wait or run, and on their memory together with that of unsent responses.

    Args:
        max_requests: largest number of admitted requests.
        max_bytes: most memory that they and unsent responses may need together.
        quotas: the limits of each caller.
        clock: seconds.

    Attributes:
        requests: requests that are admitted now.
        nbytes: memory that they and unsent responses need. `Batcher.count_unsent` changes it, too.
        seconds: their estimated seconds of work that has not ended.
        accepted: requests that have been admitted since the start.
        refused: requests that have been refused since the start.
        refusals: their numbers by reason.
        limits: `max_requests` and `max_bytes`.
        unwanted: requests that still run, although nobody waits for them any more.
        draining: set it to refuse all new requests.
        throughput: how fast requests are completed.
    """

    def __init__(self, *, max_requests: int, max_bytes: int, quotas: Quotas, clock: Callable[[], float]) -> None:
        self.requests = 0
        self.nbytes = 0
        self.seconds = 0.0
        self.accepted = 0
        self.refused = 0
        self.refusals: Counter[str] = Counter()
        self.limits = Limits(max_requests, max_bytes)
        self.unwanted = 0
        self.draining = False
        self.throughput = Throughput(clock)
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._callers = Callers(quotas, clock, self.throughput.retry_after)
        self._emptied: asyncio.Future[None] | None = None

    def admit(self, nbytes: int, caller: str = "", seconds: float = 0.0) -> Permit:
        """Admit a request.

        Args:
            nbytes: memory that it needs.
            caller: who sent it.
            seconds: its estimated seconds of work.

        Raises:
            QueueFull: the limits do not allow it now.
            QuotaExceeded: a quota of the caller does not allow it now.
            Draining: no new requests are admitted.
            InvalidRequest: the limits never allow it.
        """
        if self.draining:
            self._count_refusal("stopping")
            raise Draining
        if self.requests >= self._max_requests or self.nbytes + nbytes > self._max_bytes:
            self._refuse(nbytes)
        holdings = self._callers.holdings(caller)
        try:
            self._callers.check(holdings, nbytes, seconds)
        except QuotaExceeded as error:
            self._count_refusal(f"caller_{error.quota}")
            raise
        if not self.requests:
            self.throughput.resume()
        self.requests += 1
        self.nbytes += nbytes
        self.seconds += seconds
        self.accepted += 1
        holdings.requests += 1
        holdings.nbytes += nbytes
        holdings.seconds += seconds
        return Permit(self, holdings, nbytes, seconds)

    def end_work(self, holdings: Holdings, seconds: float) -> None:
        """Give back the estimated seconds of work of a request."""
        holdings.seconds -= seconds
        self.seconds -= seconds
        self.throughput.count_work(seconds)

    def count_unwanted(self) -> None:
        """Count a request that still runs, although nobody waits for it any more."""
        self.unwanted += 1
        self._wake_if_empty()

    def release(self, holdings: Holdings, nbytes: int, is_unwanted: bool) -> None:
        """End the admission of a request that needed `nbytes`."""
        if is_unwanted:
            self.unwanted -= 1
        holdings.requests -= 1
        holdings.nbytes -= nbytes
        if not holdings.requests:
            # Without the rounding errors of the sums.
            holdings.seconds = 0.0
        self.requests -= 1
        self.nbytes -= nbytes
        self.throughput.count(nbytes)
        if not self.requests:
            self.seconds = 0.0
            self.throughput.measure()
        if self._emptied is not None:
            self._wake_if_empty()

    async def wait_until_empty(self) -> None:
        """Wait until no request is admitted for which anybody waits."""
        while self.requests > self.unwanted:
            if self._emptied is None or self._emptied.done():
                self._emptied = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._emptied)

    def _wake_if_empty(self) -> None:
        if self._emptied is not None and self.requests <= self.unwanted and not self._emptied.done():
            self._emptied.set_result(None)

    def _count_refusal(self, reason: str) -> None:
        self.refused += 1
        self.refusals[reason] += 1

    def _refuse(self, nbytes: int) -> None:
        if nbytes > self._max_bytes:
            self._count_refusal("request_bytes")
            raise InvalidRequest(
                f"the request, its intermediate values, its results and their encoding take {nbytes} bytes, more than "
                f"the {self._max_bytes} that this server allows for all requests together; send less at a time, or "
                "start the server with a larger --max-queue-bytes"
            )
        self._count_refusal("queue_requests" if self.requests >= self._max_requests else "queue_bytes")
        raise QueueFull(self.throughput.retry_after(self.requests, self.nbytes, self.seconds))

"""Quotas: how much one caller may have in flight, so that no caller takes the server from the others."""

from collections.abc import Callable
from typing import NamedTuple

from poolservice_server.batcher.refusals import QuotaExceeded
from poolservice_server.rounded_seconds import rounded_seconds

_NO_LIMIT = float("inf")

# Idle callers are forgotten when this many are known, and again whenever their number has doubled since.
_FIRST_SWEEP = 1024


class Quotas(NamedTuple):
    """The limits of each caller. Infinity means no limit.

    A caller that has nothing in flight may always send one request, whatever its size.

    Attributes:
        max_requests: largest number of requests in flight.
        max_bytes: most memory that they may need together.
        max_seconds: most estimated seconds of work in flight.
        max_rate: requests per second, on average; after a pause, as many as in one second may arrive at once.
    """

    max_requests: float = _NO_LIMIT
    max_bytes: float = _NO_LIMIT
    max_seconds: float = _NO_LIMIT
    max_rate: float = _NO_LIMIT


class Holdings:
    """What one caller has in flight.

    Attributes:
        requests: number of its requests.
        nbytes: memory that they need.
        seconds: their estimated seconds of work that has not ended.
        tokens: requests that the rate allows at `refilled`; the token bucket.
        refilled: when `tokens` was computed.
    """

    __slots__ = ("nbytes", "refilled", "requests", "seconds", "tokens")

    def __init__(self, tokens: float, refilled: float) -> None:
        self.requests = 0
        self.nbytes = 0
        self.seconds = 0.0
        self.tokens = tokens
        self.refilled = refilled


class Callers:
    """The callers that have something in flight, or have used up some of their rate, and their quotas.

    An idle caller whose token bucket is full equals a new one, so it is forgotten: memory is bounded by the callers
    that were active within about a second, however many there have been.

    Args:
        quotas: the limits of each caller.
        clock: seconds.
        retry_after: returns the seconds until half of these requests, bytes and seconds of work are done.
    """

    def __init__(
        self, quotas: Quotas, clock: Callable[[], float], retry_after: Callable[[int, int, float], float]
    ) -> None:
        self._quotas = quotas
        self._clock = clock
        self._retry_after = retry_after
        self._holdings: dict[str, Holdings] = {}
        self._sweep_at = _FIRST_SWEEP
        self._limits_rate = quotas.max_rate < _NO_LIMIT
        # The token bucket holds the requests of one second, but at least one.
        self._bucket = max(1.0, quotas.max_rate) if self._limits_rate else 0.0

    def __len__(self) -> int:
        return len(self._holdings)

    def holdings(self, caller: str) -> Holdings:
        """Return what a caller has in flight."""
        holdings = self._holdings.get(caller)
        if holdings is None:
            if len(self._holdings) >= self._sweep_at:
                self._forget_idle()
            holdings = self._holdings[caller] = Holdings(self._bucket, self._clock())
        return holdings

    def check(self, holdings: Holdings, nbytes: int, seconds: float) -> None:
        """Count a request towards the rate of its caller.

        Raises:
            QuotaExceeded: a quota does not allow the request now.
        """
        quotas = self._quotas
        if holdings.requests:
            if holdings.requests >= quotas.max_requests:
                self._refuse(holdings, f"{holdings.requests} requests in flight", quotas.max_requests, "requests")
            if holdings.nbytes + nbytes > quotas.max_bytes:
                self._refuse(holdings, f"{holdings.nbytes + nbytes} bytes in flight", quotas.max_bytes, "bytes")
            if holdings.seconds + seconds > quotas.max_seconds:
                work = f"{rounded_seconds(holdings.seconds + seconds)} estimated seconds of work in flight"
                self._refuse(holdings, work, quotas.max_seconds, "seconds")
        if self._limits_rate:
            self._take_token(holdings)

    def _take_token(self, holdings: Holdings) -> None:
        self._refill(holdings, self._clock())
        if holdings.tokens < 1.0:
            rate = self._quotas.max_rate
            raise QuotaExceeded(
                f"more than {rate:g} requests per second", f"{rate:g}", "rate", (1.0 - holdings.tokens) / rate
            )
        holdings.tokens -= 1.0

    def _refill(self, holdings: Holdings, now: float) -> None:
        tokens = holdings.tokens + (now - holdings.refilled) * self._quotas.max_rate
        holdings.tokens = min(self._bucket, tokens)
        holdings.refilled = now

    def _refuse(self, holdings: Holdings, found: str, limit: float, quota: str) -> None:
        retry_after = self._retry_after(holdings.requests, holdings.nbytes, holdings.seconds)
        raise QuotaExceeded(found, f"{limit:g}" if quota == "seconds" else f"{limit:.0f}", quota, retry_after)

    def _forget_idle(self) -> None:
        now = self._clock()
        for caller, holdings in list(self._holdings.items()):
            if holdings.requests:
                continue
            if self._limits_rate:
                self._refill(holdings, now)
            if holdings.tokens >= self._bucket:
                del self._holdings[caller]
        self._sweep_at = max(_FIRST_SWEEP, 2 * len(self._holdings))

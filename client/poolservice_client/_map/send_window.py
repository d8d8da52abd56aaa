"""The send window of a map: how many of its requests may be in flight, and when the next ones may be sent."""

import math
import random
import time

from poolservice_client._settings.retry_policy import RetryPolicy

# Waits are cut to this length, since much longer ones overflow the system's clocks; the map then waits again.
_MAX_WAIT_SECONDS = 3600.0


class SendWindow:
    """The number of requests that may be in flight, which follows from what the server refuses.

    It is unlimited until the server refuses a request and says when to send it again, because its queue is full or
    because the caller has reached a quota. Like TCP's congestion window, it is then halved, and grows by one whenever
    as many requests as it holds have succeeded. A refusal also closes it for the time that the server asks for.

    Args:
        retries: the client's retry policy; None if refused requests fail.
        timeout: seconds from the first refusal without any success after which refused requests fail.
    """

    def __init__(self, retries: RetryPolicy | None, timeout: float) -> None:
        self._retries = retries
        self._timeout = timeout
        self._size = math.inf
        self._in_flight = 0
        self._opens_at = -math.inf
        # Refusals in a row that closed the window, and when the first one after the last success came.
        self._refusals = 0
        self._refused_since: float | None = None

    @property
    def available(self) -> float:
        """The number of requests that may be sent now."""
        if self._size == math.inf:
            return math.inf
        return 0 if time.monotonic() < self._opens_at else max(math.floor(self._size) - self._in_flight, 0)

    @property
    def seconds_until_open(self) -> float | None:
        """The seconds until requests may be sent again; None if the window is open."""
        seconds = self._opens_at - time.monotonic()
        return min(seconds, _MAX_WAIT_SECONDS) if seconds > 0 else None

    def start(self, requests: int) -> None:
        """Count requests that are sent."""
        self._in_flight += requests

    def finish(self, requests: int) -> None:
        """Count requests that have ended, in whatever way."""
        self._in_flight -= requests

    def succeed(self, requests: int) -> None:
        """Count requests that the server has not refused."""
        self._refusals = 0
        self._refused_since = None
        self._size += requests / self._size

    def refuse(self, retry_after: float) -> bool:
        """Close the window, because the server refused requests that are still counted as in flight.

        Args:
            retry_after: seconds that the server asks to wait before they are sent again.

        Returns:
            True if the requests are to be sent again, False if they have failed.
        """
        now = time.monotonic()
        if self._refused_since is None:
            self._refused_since = now
        if self._retries is None or now + retry_after >= self._refused_since + self._timeout:
            return False
        if now >= self._opens_at:
            self._size = max(1.0, min(self._size, self._in_flight) / 2)
            self._refusals += 1
        # The random part spreads the callers. If nothing succeeds in between, the waits grow.
        pause = retry_after * random.uniform(1.0, 1.5)  # noqa: S311 - no secret
        if self._refusals > 1:
            pause = max(pause, self._retries.backoff(min(self._refusals, 20)))
        self._opens_at = max(self._opens_at, now + pause)
        return True

"""The retry policy: which failed calls are sent again, when, and how often.

It serves `pool` and `map`, blocking and asyncio.

gRPC's own retries (the service config's retryPolicy) are switched off. They do not know RetryInfo, give up on messages
larger than a buffer of 256 KiB, and do not show a program how often they retried. In Python they are throttled per
channel, and one client has several channels.
"""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from poolservice.errors import InvalidRequest
from poolservice.specs.validation import integer
from poolservice_client._stats import Counters
from poolservice_client.errors import Overloaded, PoolError, Unavailable

#: Seconds that the calls of a client wait for a server that has answered before, counted from the first call that finds
#: it missing. The timeout of each call applies as well.
RESTART_SECONDS = 30.0

# The interval between two checks for a missing server. No message is sent, so a check costs the server nothing.
_RECONNECT_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How a client retries failures that may pass: a lost connection, a server that is stopping, a full queue.

    Pooling changes no state on the server, so every call may safely be sent twice. Calls that cannot succeed (an
    invalid request, a message over a size limit, a wrong token) are never retried. No attempt starts after the call's
    timeout.

    Args:
        max_attempts: the most times that a call is sent, the first attempt included; 1 to 20.
        first_backoff: seconds before the second attempt, reduced at random by up to half. The pause doubles for each
            further attempt. If a full queue says how long to wait, the client waits at least that long.
        max_backoff: the longest pause between two attempts, in seconds.
        budget: retries that each call adds to the client's budget, so that many retrying clients do not overload a
            server in trouble; 0.2 limits the extra load to a fifth.
        burst: retries that the budget holds at first and at most, for example for a lost connection with many calls.

    Raises:
        InvalidRequest: an argument is out of range.
    """

    max_attempts: int = 5
    first_backoff: float = 0.1
    max_backoff: float = 2.0
    budget: float = 0.2
    burst: int = 100

    def __post_init__(self) -> None:
        if not 1 <= integer("max_attempts", self.max_attempts) <= 20:
            raise InvalidRequest(f"must be from 1 to 20; got {self.max_attempts!r}", field="max_attempts")
        if not 0 < self.first_backoff <= self.max_backoff < float("inf"):
            raise InvalidRequest(
                f"must be seconds above 0 and at most max_backoff; got {self.first_backoff!r} and {self.max_backoff!r}",
                field="first_backoff",
            )
        if not 0 <= self.budget <= 1:
            raise InvalidRequest(f"must be from 0 to 1 retries per call; got {self.budget!r}", field="budget")
        if integer("burst", self.burst) < 0:
            raise InvalidRequest(f"must be 0 or more retries; got {self.burst!r}", field="burst")

    def backoff(self, attempt: int) -> float:
        """Return the seconds between the given attempt, counted from 1, and the next one."""
        longest = min(self.first_backoff * 2.0 ** (attempt - 1), self.max_backoff)
        return random.uniform(longest / 2, longest)  # noqa: S311 - it spreads callers and is no secret


class Failure(NamedTuple):
    """How an attempt failed.

    Attributes:
        error: what the caller gets if there is no further attempt.
        again: whether another attempt may succeed.
        wait: seconds that the server asks to wait before the next attempt.
        sent: whether a server may have received the call; False if there was no connection.
        is_lost: whether the connection is lost, or the server at its end is stopping.
    """

    error: PoolError
    again: bool
    wait: float = 0.0
    sent: bool = True
    is_lost: bool = False


def refusal_of_entry(error: PoolError) -> Failure | None:
    """Return the failure of one request in a PoolBatch if sending it again may succeed; None if it may not."""
    if isinstance(error, Overloaded):
        return Failure(error, again=True, wait=error.retry_after)
    if isinstance(error, Unavailable):
        return Failure(error, again=True, is_lost=True)
    return None


def combined(refusals: list[Failure]) -> Failure:
    """Return one failure for the refused requests of a message: the longest wait, and the error of the first."""
    return Failure(
        refusals[0].error,
        again=True,
        wait=max(refusal.wait for refusal in refusals),
        is_lost=any(refusal.is_lost for refusal in refusals),
    )


#: Takes a response and returns the message that sends its refused requests again, and why they were refused; None if
#: the response leaves nothing to send.
Remainder: TypeAlias = Callable[[bytes], tuple[bytes, Failure] | None]


class Retries:
    """What the calls of one client share: the retry budget, and whether its server was ever reached."""

    def __init__(self, policy: RetryPolicy | None, wait_for_ready: float | None, counters: Counters) -> None:
        self.policy = policy
        self.counters = counters
        self._wait_for_ready = wait_for_ready
        self._lock = threading.Lock()
        self._tokens = float(policy.burst) if policy else 0.0
        self._answered = False
        self._missing_since: float | None = None

    def called(self) -> None:
        """Count a new call, which adds its fraction of a retry to the budget."""
        if self.policy is not None:
            with self._lock:
                self._tokens = min(self._tokens + self.policy.budget, max(self.policy.burst, 1))
        self.counters.add("calls")

    def answered(self) -> None:
        """Note that a server has answered."""
        if not self._answered or self._missing_since is not None:
            with self._lock:
                self._answered = True
                self._missing_since = None

    def may_wait(self) -> bool:
        """Return True while calls still wait for a missing server, counted from the first call that misses it."""
        with self._lock:
            now = time.monotonic()
            if self._missing_since is None:
                self._missing_since = now
            limit = self._wait_for_ready
            if limit is None:
                limit = RESTART_SECONDS if self._answered and self.policy is not None else 0.0
            return now - self._missing_since < limit

    def spend(self) -> bool:
        """Take a retry from the budget; return False if there is none."""
        with self._lock:
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True


class Attempts:
    """The attempts of one call.

    Args:
        retries: what the call shares with the client's other calls.
        deadline: when the response is due, in seconds of time.monotonic; None for no limit.
        once: True for a call that is never retried, because it asks for the state of the server at this moment.
    """

    def __init__(self, retries: Retries, deadline: float | None, *, once: bool = False) -> None:
        self._retries = retries
        self._deadline = deadline
        self._attempts = 1
        self._once = once

    def pause_after(self, failure: Failure, *, elsewhere: bool = False) -> float:
        """Return the seconds to wait before the next attempt.

        Args:
            failure: how the last attempt failed.
            elsewhere: whether there is another connection, which has not failed.

        Raises:
            PoolError: the failure's own error, if there is no further attempt.
        """
        pause = self._until_retry(failure) if failure.sent else self._until_connected(elsewhere=elsewhere)
        if pause is None or (self._deadline is not None and time.monotonic() + pause >= self._deadline):
            raise failure.error from None
        if failure.sent:
            if not self._retries.spend():
                self._retries.counters.add("retry_budget_exhausted")
                raise failure.error from None
            self._retries.counters.add("retries")
            self._attempts += 1
        return pause

    def _until_connected(self, *, elsewhere: bool) -> float | None:
        if elsewhere:
            return 0.0
        if self._retries.may_wait() and not self._once:
            return random.uniform(_RECONNECT_SECONDS / 2, _RECONNECT_SECONDS)  # noqa: S311 - as in backoff
        return None

    def _until_retry(self, failure: Failure) -> float | None:
        policy = self._retries.policy
        if policy is None or self._once or not failure.again or self._attempts >= policy.max_attempts:
            return None
        # The server's wait is a minimum. The random part spreads the callers, and the backoff slows them down for as
        # long as the queue stays full.
        asked = failure.wait * random.uniform(1.0, 1.5)  # noqa: S311 - as in backoff
        return max(asked, policy.backoff(self._attempts))

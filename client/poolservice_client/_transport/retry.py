"""Retries: which failed calls are sent again, when, and how often.

This module serves `pool` and `map`, blocking and asyncio.

gRPC's own retries (the service config's retryPolicy) are switched off. They do not know RetryInfo, give up on messages
larger than a buffer of 256 KiB, and do not report how often they retried. In Python they are throttled per
channel, and one client has several channels.
"""

import random
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from poolservice_client._settings.retry_policy import RetryPolicy
from poolservice_client._stats import Counters
from poolservice_client.errors import Overloaded, PoolError, Unavailable

#: Seconds that the calls of a client wait for a server that has responded before, counted from the first call that
#: cannot reach it. The timeout of each call applies as well.
RESTART_SECONDS = 30.0

# The interval between two attempts to reach a server. No message is sent, so an attempt costs the server nothing.
_RECONNECT_SECONDS = 0.2
# The connections that one call opens anew because a server accepts them and stays silent. Each takes up to three
# seconds, and a server of which every worker is silent must be reported within 15.
_MAX_REPLACEMENTS = 3


class Failure(NamedTuple):
    """How an attempt failed.

    Attributes:
        error: what the caller gets if there is no further attempt.
        retryable: whether another attempt may succeed.
        retry_after: seconds that the server asks to wait before the next attempt.
        sent: whether a server may have received the call; False if there was no connection.
        is_lost: whether the connection is lost, or the server at its end is stopping.
        is_silent: whether something accepted the connection and sent nothing, as a worker does that is stuck. A new
            connection may reach another worker.
    """

    error: PoolError
    retryable: bool
    retry_after: float = 0.0
    sent: bool = True
    is_lost: bool = False
    is_silent: bool = False


class Refused(PoolError):
    """The server refused a message and said when to send it again. `map` catches it, so users of the SDK never see it.

    Attributes:
        error: the error for the caller if the message is not sent again.
        retry_after: seconds that the server asks to wait.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure.error))
        self.error = failure.error
        self.retry_after = failure.retry_after


def retryable_failure(error: PoolError) -> Failure | None:
    """Return the failure of one request of a batch if another attempt may succeed; else None."""
    if isinstance(error, Overloaded):
        return Failure(error, retryable=True, retry_after=error.retry_after)
    if isinstance(error, Unavailable):
        return Failure(error, retryable=True, is_lost=True)
    return None


def combine_failures(failures: list[Failure]) -> Failure:
    """Return one failure for several requests of a message: the error of the first one, and the longest wait."""
    return Failure(
        failures[0].error,
        retryable=True,
        retry_after=max(failure.retry_after for failure in failures),
        is_lost=any(failure.is_lost for failure in failures),
    )


#: Called with the response to a message of several requests. Returns the next message, with those requests that failed
#: and can be retried, and their failure; None if there are none. If the server refuses a whole message and says when to
#: send it again, a call with a PartialRetry raises Refused instead of waiting, because its caller paces its messages.
PartialRetry: TypeAlias = Callable[[bytes], tuple[bytes, Failure] | None]


class Retries:
    """The state that the calls of one client share: the retry budget, and whether the server can be reached."""

    def __init__(self, policy: RetryPolicy | None, wait_for_ready: float | None, counters: Counters) -> None:
        self.policy = policy
        self.counters = counters
        self._wait_for_ready = wait_for_ready
        self._lock = threading.Lock()
        self._budget = float(policy.burst) if policy else 0.0
        self._was_reached = False
        self._unreachable_since: float | None = None

    def count_call(self) -> None:
        """Count a new call and add its fraction of a retry to the budget."""
        if self.policy is not None:
            with self._lock:
                self._budget = min(self._budget + self.policy.budget, max(self.policy.burst, 1))
        self.counters.add("calls")

    def mark_reached(self) -> None:
        """Note that a server has responded."""
        if not self._was_reached or self._unreachable_since is not None:
            with self._lock:
                self._was_reached = True
                self._unreachable_since = None

    def may_wait_for_server(self) -> bool:
        """Return True if a call that cannot reach the server waits for it. The first such call starts the wait."""
        with self._lock:
            now = time.monotonic()
            if self._unreachable_since is None:
                self._unreachable_since = now
            limit = self._wait_for_ready
            if limit is None:
                limit = RESTART_SECONDS if self._was_reached and self.policy is not None else 0.0
            return now - self._unreachable_since < limit

    def take_retry(self) -> bool:
        """Take one retry from the budget. Return False if the budget has none."""
        with self._lock:
            if self._budget < 1:
                return False
            self._budget -= 1
            return True


class Attempts:
    """The attempts of one call.

    Args:
        retries: what the call shares with the client's other calls.
        deadline: when the response is due, in seconds of time.monotonic; None for no limit.
        once: whether the call is never retried, as a health check, which asks for the state of the server now.
        raises_refusals: whether the call raises Refused if the server refuses a message and says when to send it again.
    """

    def __init__(
        self, retries: Retries, deadline: float | None, *, once: bool = False, raises_refusals: bool = False
    ) -> None:
        self._retries = retries
        self._deadline = deadline
        self._attempts = 1
        self._replacements = 0
        self._once = once
        self._raises_refusals = raises_refusals

    def pause_after(self, failure: Failure, *, other_is_up: bool = False) -> float:
        """Return the seconds to wait before the next attempt, which needs a new connection if `failure.is_silent`.

        Args:
            failure: how the last attempt failed.
            other_is_up: whether another connection is up.

        Raises:
            PoolError: the failure's own error, if there is no further attempt.
            Refused: the caller decides about the next attempt.
        """
        if self._raises_refusals and failure.retryable and failure.retry_after > 0 and self._retries.policy is not None:
            raise Refused(failure) from None
        pause = self._until_retry(failure) if failure.sent else self._until_connected(failure, other_is_up=other_is_up)
        if pause is None or (self._deadline is not None and time.monotonic() + pause >= self._deadline):
            raise failure.error from None
        if failure.sent:
            if not self._retries.take_retry():
                self._retries.counters.add("retry_budget_exhausted")
                raise failure.error from None
            self._retries.counters.add("retries")
            self._attempts += 1
        return pause

    def _until_connected(self, failure: Failure, *, other_is_up: bool) -> float | None:
        if failure.is_silent and not self._once:
            # Counted even if another connection is up: it may be the untried replacement of another call.
            self._replacements += 1
            if self._replacements <= _MAX_REPLACEMENTS:
                return 0.0
            other_is_up = False
        if other_is_up:
            return 0.0
        if self._retries.may_wait_for_server() and not self._once:
            return random.uniform(_RECONNECT_SECONDS / 2, _RECONNECT_SECONDS)  # noqa: S311 - as in backoff
        return None

    def _until_retry(self, failure: Failure) -> float | None:
        policy = self._retries.policy
        if policy is None or self._once or not failure.retryable or self._attempts >= policy.max_attempts:
            return None
        # The time that the server asks for is a minimum. The random part spreads the callers, and the backoff slows
        # them down for as long as the queue stays full.
        requested = failure.retry_after * random.uniform(1.0, 1.5)  # noqa: S311 - as in backoff
        return max(requested, policy.backoff(self._attempts))

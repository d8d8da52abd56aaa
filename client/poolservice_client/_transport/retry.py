"""When a call that failed is tried again, and when not.

gRPC's own retries (the service config's retryPolicy) are switched off, and this is done here instead: they know
nothing of RetryInfo, give up on messages larger than a buffer of 256 KiB, are invisible to a program that would count
them, and, in Python, are throttled by channel, where one client has several.
"""

import random
import threading
import time
from dataclasses import dataclass
from typing import NamedTuple

from poolservice.errors import InvalidRequest
from poolservice.specs.validation import integer
from poolservice_client._stats import Counters
from poolservice_client.errors import PoolError

#: How long a server that was there once is waited for, from the first call that misses it. Every call has its own
#: time-out beside this.
RESTART_SECONDS = 30.0

# Between two looks whether a server is there; nothing is sent, so this costs it nothing.
_LOOK_AGAIN_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How a client tries again what may succeed a little later: a lost connection, a server that stops, a full queue.

    Pooling changes nothing on a server, so that any call may be sent twice. What cannot succeed (a wrong request, a
    message over a limit, a token that is none) is never sent twice, and no try is made past the call's time-out.

    Args:
        max_attempts: how often a call is sent at most, the first time included; 1 to 20.
        first_backoff: seconds before the second try, halved by chance at most; doubled for each try after that.
            A server whose queue is full says itself how long to wait, and is asked no sooner.
        max_backoff: seconds that the pause between two tries grows to.
        budget: retries for each call that the client makes, so that a service in trouble is not hit harder by many
            who try again; 0.2 means that its load grows by a fifth at most.
        burst: retries that may be due at one time beyond that, as when a connection with many calls is lost.

    Raises:
        InvalidRequest: one of them is out of range.
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
            raise InvalidRequest(f"must be from 0 to 1 retries a call; got {self.budget!r}", field="budget")
        if integer("burst", self.burst) < 0:
            raise InvalidRequest(f"must be 0 or more retries; got {self.burst!r}", field="burst")

    def backoff(self, attempt: int) -> float:
        """Seconds between the try of that number, counted from 1, and the next."""
        longest = min(self.first_backoff * 2.0 ** (attempt - 1), self.max_backoff)
        return random.uniform(longest / 2, longest)  # noqa: S311 - to spread callers, not to hide anything


class Failure(NamedTuple):
    """How a try ended.

    Attributes:
        error: what the caller is told if it was the last.
        again: whether another try may succeed.
        wait: seconds that the server asks to wait before it.
        sent: whether a server may have had the call; not where there was no connection.
        is_lost: whether the connection, or the server at its end, is gone or going.
    """

    error: PoolError
    again: bool
    wait: float = 0.0
    sent: bool = True
    is_lost: bool = False


class Retries:
    """What the calls of one client have in common: the budget of retries, and whether its server was ever there."""

    def __init__(self, policy: RetryPolicy | None, wait_for_ready: float | None, counters: Counters) -> None:
        self.policy = policy
        self.counters = counters
        self._wait_for_ready = wait_for_ready
        self._lock = threading.Lock()
        self._tokens = float(policy.burst) if policy else 0.0
        self._answered = False
        self._missing_since: float | None = None

    def called(self) -> None:
        """A call begins: it earns its fraction of a retry."""
        if self.policy is not None:
            with self._lock:
                self._tokens = min(self._tokens + self.policy.budget, max(self.policy.burst, 1))
        self.counters.add("calls")

    def answered(self) -> None:
        """A server is there."""
        if not self._answered or self._missing_since is not None:
            with self._lock:
                self._answered = True
                self._missing_since = None

    def may_wait(self) -> bool:
        """Whether a server that is not there is waited for still, from the first call that misses it."""
        with self._lock:
            now = time.monotonic()
            if self._missing_since is None:
                self._missing_since = now
            limit = self._wait_for_ready
            if limit is None:
                limit = RESTART_SECONDS if self._answered and self.policy is not None else 0.0
            return now - self._missing_since < limit

    def spend(self) -> bool:
        """Take a retry from the budget: whether there was one."""
        with self._lock:
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True


class Attempts:
    """One call's way through its failures.

    Args:
        retries: what it shares with the client's other calls.
        deadline: when it must be answered, in seconds of time.monotonic; None for never.
        once: whether it is never sent twice: it asks how a server is just now.
    """

    def __init__(self, retries: Retries, deadline: float | None, *, once: bool = False) -> None:
        self._retries = retries
        self._deadline = deadline
        self._attempts = 1
        self._once = once

    def pause_after(self, failure: Failure, *, elsewhere: bool = False) -> float:
        """Seconds to wait before the next try.

        Args:
            failure: how the last one ended.
            elsewhere: whether there is another server, which has not failed.

        Raises:
            PoolError: there is no next try; it is the failure's own.
        """
        pause = self._until_retry(failure) if failure.sent else self._until_there(elsewhere=elsewhere)
        if pause is None or (self._deadline is not None and time.monotonic() + pause >= self._deadline):
            raise failure.error from None
        if failure.sent:
            if not self._retries.spend():
                self._retries.counters.add("retry_budget_exhausted")
                raise failure.error from None
            self._retries.counters.add("retries")
            self._attempts += 1
        return pause

    def _until_there(self, *, elsewhere: bool) -> float | None:
        if elsewhere:
            return 0.0
        if self._retries.may_wait() and not self._once:
            return random.uniform(_LOOK_AGAIN_SECONDS / 2, _LOOK_AGAIN_SECONDS)  # noqa: S311 - as in backoff
        return None

    def _until_retry(self, failure: Failure) -> float | None:
        policy = self._retries.policy
        if policy is None or self._once or not failure.again or self._attempts >= policy.max_attempts:
            return None
        # No sooner than the server asks, not all at once, and less often the longer its queue stays full.
        asked = failure.wait * random.uniform(1.0, 1.5)  # noqa: S311 - as in backoff
        return max(asked, policy.backoff(self._attempts))

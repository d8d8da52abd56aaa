"""RetryPolicy: how often and how fast a client retries its calls."""

import random
from dataclasses import dataclass

from poolservice.errors import InvalidRequest
from poolservice.specs.validation import integer


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How a client retries temporary failures: a lost connection, a server that is stopping, a full queue.

    Pooling changes no state on the server, so every call may safely be sent twice. Calls that cannot succeed (an
    invalid request, a message over a size limit, a wrong token) are never retried. No attempt starts after the call's
    timeout.

    Args:
        max_attempts: the most attempts of one call, the first one included; 1 to 20.
        first_backoff: seconds before the second attempt, reduced at random by up to half. The pause doubles for each
            further attempt. If the error of a full queue says when to retry, the client waits at least that long.
        max_backoff: the longest pause between two attempts, in seconds.
        budget: the fraction of a retry that each call adds to the client's budget, from 0 to 1. Each retry takes 1 from
            the budget, so 0.2 limits the extra load on a failing server to a fifth.
        burst: the retries in the budget at first, and the most that it holds; 0 or more. They are for many calls that
            fail at once, such as those of a lost connection.

    Raises:
        InvalidRequest: an argument is out of range.
    """

    max_attempts: int = 5
    first_backoff: float = 0.1
    max_backoff: float = 2.0
    budget: float = 0.2
    burst: int = 100

    def __post_init__(self) -> None:
        for name in ("first_backoff", "max_backoff", "budget"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise InvalidRequest(f"must be a number; got {value!r}", field=name)
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

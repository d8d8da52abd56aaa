"""Client counters: calls, retries, hedges, connections and coalesced calls."""

import threading
from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClientStats:
    """The counters of a client, from its creation or from the fork that created its process.

    Attributes:
        calls: messages sent, each counted once regardless of its retries.
        retries: attempts after the first, of calls that failed with a temporary error.
        retry_budget_exhausted: calls that failed because the client had no retries left in its budget.
        hedges: second attempts that were sent while the first was still running.
        hedges_won: hedges whose response was the first.
        reconnects: lost connections that work again.
        connections: connections that are open now.
        coalesced_calls: `pool` calls that were sent together with others in one message.
        coalesced_messages: messages with several `pool` calls.
    """

    calls: int = 0
    retries: int = 0
    retry_budget_exhausted: int = 0
    hedges: int = 0
    hedges_won: int = 0
    reconnects: int = 0
    connections: int = 0
    coalesced_calls: int = 0
    coalesced_messages: int = 0


class Counters:
    """Thread-safe counters, each named after a field of ClientStats."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Set all counters to zero and replace the lock, which another thread may have held during a fork."""
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, name: str, number: int = 1) -> None:
        """Increase a counter."""
        with self._lock:
            self._counts[name] += number

    def put(self, name: str, number: int) -> None:
        """Set a counter to a value."""
        with self._lock:
            self._counts[name] = number

    def get(self, name: str) -> int:
        """Return the current value of one counter."""
        return self._counts[name]

    def stats(self) -> ClientStats:
        """Return the current values."""
        with self._lock:
            return ClientStats(**self._counts)

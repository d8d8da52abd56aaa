"""What a client has done so far, in numbers."""

import threading
from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClientStats:
    """The counters of a client since it was made, or since the fork that made its process.

    Attributes:
        calls: messages sent for a caller, each counted once however often it was tried.
        retries: tries beyond the first, of calls that failed in a way that may pass.
        retry_budget_exhausted: calls that were given up because the client had retried too many already.
        hedges: second tries that were sent while the first was still under way.
        hedges_won: those of them that were answered first.
        reconnects: connections that were lost and answered again.
        connections: connections that are open now.
        coalesced_calls: calls that travelled with others in one message.
        coalesced_messages: the messages that carried them.
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
    """Counts for many threads; each name is a field of ClientStats."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start from nothing, with a lock that no thread holds."""
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, name: str, number: int = 1) -> None:
        """Count `number` more of what has that name."""
        with self._lock:
            self._counts[name] += number

    def put(self, name: str, number: int) -> None:
        """Say how many there are now of what has that name."""
        with self._lock:
            self._counts[name] = number

    def stats(self) -> ClientStats:
        """The counts so far."""
        with self._lock:
            return ClientStats(**self._counts)

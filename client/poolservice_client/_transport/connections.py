"""The connection pool: the connections of a client, and the choice of one for each call."""

import math
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from poolservice_client._settings.addresses import is_balanced_by_grpc
from poolservice_client._settings.settings import Settings
from poolservice_client._stats import Counters

# After a connection is lost, worker discovery checks soon whether it works again.
_DISCOVERY_AFTER_LOSS_SECONDS = 0.5


class Connection:
    """One connection to a server.

    Attributes:
        address: the server's address.
        channel: the gRPC channel.
        methods: the callables of the channel, by the method's path.
        outstanding: the number of its running calls.
        is_down: whether it was lost and has had no response since.
        was_up: whether it ever had a response.
        is_retired: whether it gets no more calls.
    """

    __slots__ = ("address", "channel", "is_down", "is_retired", "methods", "outstanding", "was_up")

    def __init__(self, address: str, channel: Any, methods: dict[str, Any]) -> None:
        self.address = address
        self.channel = channel
        self.methods = methods
        self.outstanding = 0
        self.is_down = False
        self.was_up = False
        self.is_retired = False


class Lease:
    """A connection for the duration of one call.

    Args:
        pool: the pool that the connection comes from.
        avoid: see `ConnectionPool.acquire`.
        close: closes a connection that was retired during the call and has no other call.
    """

    # A class, because a generator-based context manager would make a single call half a percent slower.
    __slots__ = ("_avoid", "_close", "_connection", "_pool")

    def __init__(self, pool: "ConnectionPool", avoid: Connection | None, close: Callable[[Connection], None]) -> None:
        self._pool = pool
        self._avoid = avoid
        self._close = close

    def __enter__(self) -> Connection:
        self._connection = self._pool.acquire(self._avoid)
        return self._connection

    def __exit__(self, *_error: object) -> None:
        if self._pool.release(self._connection):
            self._close(self._connection)


class ConnectionPool:
    """The connections of a client. Thread-safe.

    Args:
        connections: the first connections; at least one.
        counters: count the connections and the reconnects.
        discovers_workers: whether worker discovery opens one connection per worker.

    Attributes:
        discovery_due: the time at which worker discovery is due, in seconds of time.monotonic; math.inf for never.
    """

    def __init__(self, connections: Iterable[Connection], counters: Counters, *, discovers_workers: bool) -> None:
        self.discovers_workers = discovers_workers
        # The first response makes it due: the first call must not wait, and a single call needs one connection only.
        self.discovery_due = math.inf
        self._lock = threading.Lock()
        self._connections = list(connections)
        self._counters = counters
        self._next = 0
        self._is_closed = False
        self._update_count()

    @classmethod
    def open(
        cls, settings: Settings, counters: Counters, open_connection: Callable[[str], Connection]
    ) -> "ConnectionPool":
        """Return the pool that a client starts with: `connections` of the settings per address, or one."""
        per_address = settings.connections or 1
        connections = [open_connection(address) for _ in range(per_address) for address in settings.addresses]
        # If gRPC balances a connection over several machines, a response says nothing about the next call's worker.
        discovers = settings.connections is None and not any(map(is_balanced_by_grpc, settings.addresses))
        return cls(connections, counters, discovers_workers=discovers)

    def acquire(self, avoid: Connection | None = None) -> Connection:
        """Return the connection for a call: of those that are up, the one with the fewest calls, round robin if equal.

        Args:
            avoid: the connection over which this call has just failed. It is used only if there is no other.
        """
        with self._lock:
            if len(self._connections) == 1:
                connection = self._connections[0]
            else:
                self._next = (self._next + 1) % len(self._connections)
                rotated = self._connections[self._next :] + self._connections[: self._next]
                connection = min(rotated, key=lambda one: (one.is_down, one is avoid, one.outstanding))
            connection.outstanding += 1
            return connection

    def release(self, connection: Connection) -> bool:
        """End a call of `connection`. Return True if the caller must close it: it is retired and has no other call."""
        with self._lock:
            connection.outstanding -= 1
            return connection.is_retired and not connection.outstanding

    def mark_up(self, connection: Connection) -> None:
        """Note that the connection has had a response."""
        if connection.was_up and not connection.is_down:
            return
        with self._lock:
            if connection.was_up and connection.is_down:
                self._counters.add("reconnects")
            connection.was_up = True
            connection.is_down = False
            if self.discovers_workers:
                self.discovery_due = min(self.discovery_due, 0.0)

    def mark_down(self, connection: Connection) -> bool:
        """Note that the connection is lost. Return True if another one is up."""
        with self._lock:
            connection.is_down = True
            self.discovery_due = min(self.discovery_due, time.monotonic() + _DISCOVERY_AFTER_LOSS_SECONDS)
            return any(not one.is_down for one in self._connections)

    def schedule_discovery(self, seconds: float, seconds_if_down: float) -> None:
        """Make worker discovery due in `seconds` from now, or in `seconds_if_down` if a connection is down."""
        with self._lock:
            is_down = any(one.is_down for one in self._connections)
            self.discovery_due = time.monotonic() + (min(seconds, seconds_if_down) if is_down else seconds)

    def add(self, connection: Connection) -> None:
        """Add a connection that has had a response."""
        connection.was_up = True
        with self._lock:
            self._connections.append(connection)
        self._update_count()

    def retire(self, connection: Connection) -> bool:
        """Give the connection no more calls. Return True if the caller must close it, because it has none."""
        with self._lock:
            if connection.is_retired:
                # A call has replaced it meanwhile.
                return False
            self._connections.remove(connection)
            connection.is_retired = True
            is_idle = not connection.outstanding
        self._update_count()
        return is_idle

    def replace(self, connection: Connection, replacement: Connection) -> Connection | None:
        """Put another connection in the place of one, which gets no more calls.

        Returns:
            The connection that the caller must close: the old one if it has no calls, and the new one if the old one
            has been replaced or retired meanwhile, or the pool was closed. None if there is nothing to close.
        """
        with self._lock:
            if connection.is_retired or self._is_closed:
                return replacement
            if connection.was_up:
                # The first response of the replacement counts as a reconnect.
                replacement.was_up = replacement.is_down = True
            self._connections[self._connections.index(connection)] = replacement
            connection.is_retired = True
            return None if connection.outstanding else connection

    def all(self) -> list[Connection]:
        """Return all connections that are not retired."""
        with self._lock:
            return list(self._connections)

    def close(self) -> list[Connection]:
        """Stop counting the connections, and return them to be closed by the caller."""
        self._is_closed = True
        self._update_count()
        return self.all()

    def _update_count(self) -> None:
        self._counters.put("connections", 0 if self._is_closed else len(self._connections))

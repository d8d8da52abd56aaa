"""The connections of a client: which one carries a call, and whether together they reach every worker.

A server with several workers shares its port among them, and the kernel deals new connections out by chance. So each
connection is asked which worker it has reached, and further ones are opened until there is one to each; those that
reach a worker a second time are closed.
"""

import math
import threading
import time
from collections.abc import Callable, Generator, Iterable
from typing import Any, NamedTuple

from poolservice_client._stats import Counters

# gRPC makes a lost connection anew without a word, and it may reach another worker; so they are asked now and then.
_SURVEY_SECONDS = 10.0
_SURVEY_OF_ONE_WORKER_SECONDS = 60.0
_SURVEY_AGAIN_SECONDS = 2.0
# After so many times the expected tries, one worker in e^12 = 160,000 is still not reached.
_PATIENCE = 12.0


class Connection:
    """One connection.

    Attributes:
        address: where it goes.
        channel: gRPC's.
        methods: what it can call, by the method's path.
        outstanding: calls that it carries just now.
        is_down: whether the last thing known of it is that it was lost.
        was_up: whether it ever carried an answer.
        is_retired: whether it takes no more calls.
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


class Place(NamedTuple):
    """Who answered: the worker's number, and of how many."""

    worker: int
    workers: int


class Ask(NamedTuple):
    """A step of a survey: ask the connection for its Place; None is sent back where it does not answer."""

    connection: Connection


class Close(NamedTuple):
    """A step of a survey: close the connection, which carries nothing."""

    connection: Connection


Survey = Generator[Ask | Close, Place | None, None]


class Lease:
    """A connection while it carries a call.

    Args:
        connections: where it is taken from.
        avoid: as in `ConnectionPool.take`.
        close: ends a connection that was retired meanwhile and carries no more.
    """

    # Each call has one: a generator in its place would cost a lone call half a percent.
    __slots__ = ("_avoid", "_close", "_connection", "_connections")

    def __init__(
        self, connections: "ConnectionPool", avoid: Connection | None, close: Callable[[Connection], None]
    ) -> None:
        self._connections = connections
        self._avoid = avoid
        self._close = close

    def __enter__(self) -> Connection:
        self._connection = self._connections.take(self._avoid)
        return self._connection

    def __exit__(self, *_error: object) -> None:
        if self._connections.give_back(self._connection):
            self._close(self._connection)


class ConnectionPool:
    """The connections, for many threads.

    Args:
        connections: those to begin with; at least one.
        counters: where they are counted, and those that were lost and came back.
        seeks_workers: whether there shall be one to each worker of an address.
    """

    def __init__(self, connections: Iterable[Connection], counters: Counters, *, seeks_workers: bool) -> None:
        self._lock = threading.Lock()
        self._connections = list(connections)
        self._counters = counters
        self._seeks_workers = seeks_workers
        self._turn = 0
        self._workers = 1
        self._has_ended = False
        self._surveys = threading.Semaphore()
        # The first call finds its way without; a lone call needs no more than one connection.
        self._survey_due = math.inf
        self._count()

    def take(self, avoid: Connection | None = None) -> Connection:
        """The connection for a call: one that is up and has the least to carry, in turn among equals.

        Args:
            avoid: the one that failed this call before, taken only where there is no other.
        """
        with self._lock:
            if len(self._connections) == 1:
                connection = self._connections[0]
            else:
                self._turn = (self._turn + 1) % len(self._connections)
                in_turn = self._connections[self._turn :] + self._connections[: self._turn]
                connection = min(in_turn, key=lambda one: (one.is_down, one is avoid, one.outstanding))
            connection.outstanding += 1
            return connection

    def give_back(self, connection: Connection) -> bool:
        """A call is done: whether its connection was retired meanwhile, carries no more, and is to be closed."""
        with self._lock:
            connection.outstanding -= 1
            return connection.is_retired and not connection.outstanding

    def answered(self, connection: Connection) -> None:
        """The connection has carried an answer."""
        if connection.was_up and not connection.is_down:
            return
        with self._lock:
            if connection.was_up and connection.is_down:
                self._counters.add("reconnects")
            connection.was_up = True
            connection.is_down = False
            if self._seeks_workers:
                self._survey_due = min(self._survey_due, 0.0)

    def lost(self, connection: Connection) -> bool:
        """The connection was lost, or there is none: whether there is another that is up."""
        with self._lock:
            connection.is_down = True
            self._survey_due = min(self._survey_due, time.monotonic() + _SURVEY_AGAIN_SECONDS / 4)
            return any(not one.is_down for one in self._connections)

    def survey(self, open_connection: Callable[[str], Connection]) -> Survey | None:
        """What is to be asked and closed now, if anything; only one survey is under way at a time."""
        if time.monotonic() < self._survey_due or not self._surveys.acquire(blocking=False):
            return None
        return self._survey(open_connection)

    def all(self) -> list[Connection]:
        """Every connection."""
        with self._lock:
            return list(self._connections)

    def end(self) -> list[Connection]:
        """Every connection, to be closed; none counts any more."""
        self._has_ended = True
        self._count()
        return self.all()

    def _count(self) -> None:
        self._counters.put("connections", 0 if self._has_ended else len(self._connections))

    def _survey(self, open_connection: Callable[[str], Connection]) -> Survey:
        again = _SURVEY_AGAIN_SECONDS
        try:
            complete = True
            for address in dict.fromkeys(connection.address for connection in self.all()):
                complete = (yield from self._survey_of(address, open_connection)) and complete
            if complete and not self._seeks_workers:
                again = math.inf
            elif complete:
                again = _SURVEY_SECONDS if self._workers > 1 else _SURVEY_OF_ONE_WORKER_SECONDS
        finally:
            with self._lock:
                self._survey_due = time.monotonic() + again
            self._surveys.release()

    def _survey_of(
        self, address: str, open_connection: Callable[[str], Connection]
    ) -> Generator[Ask | Close, Place | None, bool]:
        """Look after the connections to one address: whether all is as it should be."""
        reached: dict[int, Connection] = {}
        silent: list[Connection] = []
        workers = 1
        for connection in [one for one in self.all() if one.address == address]:
            place = yield Ask(connection)
            if place is None:
                self.lost(connection)
                silent.append(connection)
                continue
            self.answered(connection)
            workers = self._workers = place.workers
            if self._seeks_workers and reached.setdefault(place.worker, connection) is not connection:
                yield from self._retire(connection)
        if not self._seeks_workers or not reached:
            return not silent
        yield from self._reach(address, workers, reached, open_connection)
        if len(reached) < workers:
            return False
        for connection in silent:
            yield from self._retire(connection)
        return True

    def _reach(
        self, address: str, workers: int, reached: dict[int, Connection], open_connection: Callable[[str], Connection]
    ) -> Generator[Ask | Close, Place | None, None]:
        """Open connections until every worker is reached, or so many that one is not there, most likely."""
        tries = math.ceil(workers * (math.log(workers) + _PATIENCE))
        while len(reached) < workers and tries:
            tries -= 1
            connection = open_connection(address)
            place = yield Ask(connection)
            if place is None or place.worker in reached:
                yield Close(connection)
                if place is None:
                    return
            else:
                reached[place.worker] = connection
                connection.was_up = True
                with self._lock:
                    self._connections.append(connection)
                self._count()

    def _retire(self, connection: Connection) -> Generator[Close, Any, None]:
        """Let a connection take no more calls, and close it as soon as it carries none."""
        with self._lock:
            self._connections.remove(connection)
            connection.is_retired = True
            is_idle = not connection.outstanding
        self._count()
        if is_idle:
            yield Close(connection)

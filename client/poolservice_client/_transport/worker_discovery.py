"""Worker discovery: finding the worker process that each connection reaches, until every worker has a connection.

The workers of a server share its port, and the kernel assigns each new connection to one of them at random. Worker
discovery asks over each connection which worker responds, opens connections until each worker has one, and closes
connections to workers that have another.

It also replaces connections that reach nobody by new ones. After a name could not be resolved several times, gRPC waits
up to two minutes before it asks again; a new connection asks immediately.
"""

import math
import threading
from collections.abc import Callable, Generator
from typing import NamedTuple, TypeAlias

from google.protobuf.message import DecodeError

from poolservice.v1 import pool_pb2
from poolservice_client._transport.connections import Connection, ConnectionPool

#: Seconds that a probe, a call of GetServerInfo, may take.
PROBE_SECONDS = 3.0

# gRPC reconnects without notice and may then reach another worker, so discovery is repeated.
_INTERVAL_SECONDS = 10.0
_INTERVAL_WITH_ONE_WORKER_SECONDS = 60.0
_INTERVAL_AFTER_FAILURE_SECONDS = 2.0
# After n (ln n + 12) attempts, the probability that one of n workers has no connection is about e^-12, 1 in 160,000.
_ATTEMPTS_MARGIN = 12.0
# No machine runs more worker processes.
_MAX_WORKERS = 1024


class WorkerIdentity(NamedTuple):
    """The number of the worker that responded, counted from 0, and the number of workers."""

    worker: int
    workers: int


#: The identity of a server that does not implement GetServerInfo.
SINGLE_WORKER = WorkerIdentity(0, 1)


class Probe(NamedTuple):
    """A step of discovery: ask which worker the connection reaches. None is sent back if it cannot be reached."""

    connection: Connection


class Close(NamedTuple):
    """A step of discovery: close the connection, which has no calls."""

    connection: Connection


#: One run of discovery. The transport carries out each step, since only it knows how to call and close.
DiscoveryRun: TypeAlias = Generator[Probe | Close, WorkerIdentity | None, None]


def read_worker_identity(message: bytes | None) -> WorkerIdentity:
    """Return the worker that sent a GetServerInfoResponse.

    A server whose response is missing, malformed or impossible counts as one worker. Discovery runs in the background,
    where nobody would see an error, and it opens a connection for each worker.
    """
    try:
        info = pool_pb2.GetServerInfoResponse.FromString(message or b"")
    except DecodeError:
        return SINGLE_WORKER
    if not 0 <= info.worker < info.workers <= _MAX_WORKERS:
        return SINGLE_WORKER
    return WorkerIdentity(info.worker, info.workers)


class WorkerDiscovery:
    """Finds the workers behind the connections of a pool. Thread-safe."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._workers = 1
        self._is_running = threading.Lock()

    def begin(self, open_connection: Callable[[str], Connection]) -> DiscoveryRun | None:
        """Return a run of discovery, or None if another one is in progress. The pool says when a run is due."""
        if not self._is_running.acquire(blocking=False):
            return None
        return self._run(open_connection)

    def _run(self, open_connection: Callable[[str], Connection]) -> DiscoveryRun:
        interval = _INTERVAL_AFTER_FAILURE_SECONDS
        try:
            is_complete = True
            for address in dict.fromkeys(connection.address for connection in self._pool.all()):
                is_complete = (yield from self._discover(address, open_connection)) and is_complete
            if is_complete and not self._pool.discovers_workers:
                interval = math.inf
            elif is_complete:
                interval = _INTERVAL_SECONDS if self._workers > 1 else _INTERVAL_WITH_ONE_WORKER_SECONDS
        finally:
            # A connection may have been lost after it was checked.
            self._pool.schedule_discovery(interval, _INTERVAL_AFTER_FAILURE_SECONDS)
            self._is_running.release()

    def _discover(
        self, address: str, open_connection: Callable[[str], Connection]
    ) -> Generator[Probe | Close, WorkerIdentity | None, bool]:
        """Check the connections to one address. Return True if all respond and every worker has one."""
        reached: dict[int, Connection] = {}
        unreachable: list[Connection] = []
        workers = 1
        for connection in [one for one in self._pool.all() if one.address == address]:
            identity = yield Probe(connection)
            if identity is None:
                self._pool.mark_down(connection)
                unreachable.append(connection)
                continue
            self._pool.mark_up(connection)
            workers = self._workers = identity.workers
            if self._pool.discovers_workers and reached.setdefault(identity.worker, connection) is not connection:
                yield from self._retire(connection)
        if not self._pool.discovers_workers or not reached:
            for connection in unreachable:
                if not (yield from self._replace(connection, open_connection)):
                    return False
            # A server that replaced another one may have several workers, which the next run finds.
            return not (unreachable and self._pool.discovers_workers)
        yield from self._open_missing(address, workers, reached, open_connection)
        if len(reached) < workers:
            return False
        for connection in unreachable:
            yield from self._retire(connection)
        return True

    def _open_missing(
        self, address: str, workers: int, reached: dict[int, Connection], open_connection: Callable[[str], Connection]
    ) -> Generator[Probe | Close, WorkerIdentity | None, None]:
        """Open connections until every worker is reached, or until an unreached one most likely does not exist."""
        attempts = math.ceil(workers * (math.log(workers) + _ATTEMPTS_MARGIN))
        while len(reached) < workers and attempts:
            attempts -= 1
            connection = open_connection(address)
            identity = yield Probe(connection)
            if identity is None or identity.worker in reached:
                yield Close(connection)
                if identity is None:
                    return
            else:
                reached[identity.worker] = connection
                self._pool.add(connection)

    def _replace(
        self, connection: Connection, open_connection: Callable[[str], Connection]
    ) -> Generator[Probe | Close, WorkerIdentity | None, bool]:
        """Replace a connection by a new one to the same address, and return True if the new one reaches a server."""
        replacement = open_connection(connection.address)
        if (yield Probe(replacement)) is None:
            yield Close(replacement)
            return False
        unused = self._pool.replace(connection, replacement)
        if unused is not replacement:
            self._pool.mark_up(replacement)
        if unused is not None:
            yield Close(unused)
        return True

    def _retire(self, connection: Connection) -> Generator[Close, WorkerIdentity | None, None]:
        if self._pool.retire(connection):
            yield Close(connection)

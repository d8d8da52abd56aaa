"""Worker discovery replaces connections that reach nobody, step by step."""

import time

import pytest

from poolservice_client._settings.settings import Settings
from poolservice_client._stats import Counters
from poolservice_client._transport.connections import Connection, ConnectionPool
from poolservice_client._transport.worker_discovery import (
    SINGLE_WORKER,
    Close,
    Probe,
    WorkerDiscovery,
    WorkerIdentity,
)


def connection(address: str = "dns:///pool:50051") -> Connection:
    return Connection(address, channel=None, methods={})


def pool_of(first: Connection) -> ConnectionPool:
    return ConnectionPool.open(Settings.of(first.address, 30.0, 1000), Counters(), lambda _address: first)


def test_a_connection_that_reaches_nobody_is_replaced_by_one_that_does() -> None:
    first, second = connection(), connection()
    pool = pool_of(first)
    run = WorkerDiscovery(pool).begin(lambda _address: second)
    assert run is not None
    assert next(run) == Probe(first)
    assert run.send(None) == Probe(second)
    assert run.send(SINGLE_WORKER) == Close(first)
    assert list(run) == []
    assert pool.all() == [second]


def test_the_workers_behind_a_replacement_are_found_soon() -> None:
    first, second, third = connection("pool:50051"), connection("pool:50051"), connection("pool:50051")
    pool = pool_of(first)
    discovery = WorkerDiscovery(pool)
    run = discovery.begin(lambda _address: second)
    assert run is not None
    assert next(run) == Probe(first)
    assert run.send(None) == Probe(second)
    assert run.send(WorkerIdentity(0, 2)) == Close(first)
    assert list(run) == []
    # As after a failure, although everything responded: the second worker has no connection yet.
    assert pool.discovery_due <= time.monotonic() + 2
    run = discovery.begin(lambda _address: third)
    assert run is not None
    assert next(run) == Probe(second)
    assert run.send(WorkerIdentity(0, 2)) == Probe(third)
    with pytest.raises(StopIteration):
        run.send(WorkerIdentity(1, 2))
    assert pool.all() == [second, third]


def test_a_connection_stays_if_a_new_one_reaches_nobody_either() -> None:
    first, second = connection(), connection()
    pool = pool_of(first)
    run = WorkerDiscovery(pool).begin(lambda _address: second)
    assert run is not None
    assert next(run) == Probe(first)
    assert run.send(None) == Probe(second)
    assert run.send(None) == Close(second)
    assert list(run) == []
    assert pool.all() == [first]


def test_a_replaced_connection_is_closed_with_its_last_call() -> None:
    first, second = connection(), connection()
    pool = pool_of(first)
    assert pool.acquire() is first
    run = WorkerDiscovery(pool).begin(lambda _address: second)
    assert run is not None
    assert next(run) == Probe(first)
    assert run.send(None) == Probe(second)
    # No further step closes the connection.
    with pytest.raises(StopIteration):
        run.send(SINGLE_WORKER)
    assert pool.all() == [second]
    assert pool.release(first)


def test_a_connection_that_is_lost_during_a_run_is_checked_again() -> None:
    first = connection()
    pool = pool_of(first)
    run = WorkerDiscovery(pool).begin(lambda _address: first)
    assert run is not None
    assert next(run) == Probe(first)
    second = connection()
    pool.add(second)
    pool.mark_down(second)
    with pytest.raises(StopIteration):
        run.send(SINGLE_WORKER)
    assert pool.discovery_due <= time.monotonic() + 2

"""Replicas of a service behind one name: a client shares its calls among them, and notices which of them serve."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from tests.client.name_server import NameServer
from tests.server.server_log import wait_for_log

from poolservice_client import AsyncPoolClient, GlobalAvgPool2d, PoolClient, PoolError, RetryPolicy, Unavailable
from poolservice_server.testing import Service

StartServer = Callable[..., Service]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the loopback address 127.0.0.2")

MAX_WAIT_SECONDS = 60
X = np.ones((3, 8, 8), np.float32)
FIRST, SECOND = "127.0.0.1", "127.0.0.2"
BLOCKING_SERVER = (sys.executable, str(Path(__file__).parents[1] / "server" / "server_that_blocks.py"))


@pytest.fixture
def names() -> Iterator[NameServer]:
    server = NameServer(FIRST)
    yield server
    server.close()


def port_of(server: Service) -> int:
    return int(server.address.rpartition(":")[2])


def start_second(start_server: StartServer, first: Service, *flags: str) -> Service:
    """Start a server at the other address with the port of the first one."""
    return start_server("--address", f"{SECOND}:{port_of(first)}", *flags)


@contextmanager
def stopping(server: Service, photograph: Path) -> Iterator[None]:
    """Stop a server of BLOCKING_SERVER, which goes on for as long as a call that never ends."""

    def call() -> None:
        # The end of the block ends the call with an error.
        with suppress(PoolError), PoolClient(server.address, timeout=MAX_WAIT_SECONDS, retries=None) as client:
            client.pool(photograph, GlobalAvgPool2d())

    caller = threading.Thread(target=call)
    caller.start()
    try:
        wait_for_log(server, "blocked")
        server.process.terminate()
        wait_for_log(server, "stopping")
        yield
    finally:
        server.kill()
        caller.join()


def image_limits_seen(client: PoolClient, expected: set[int]) -> None:
    """Make calls until servers with these limits have responded."""
    deadline = time.monotonic() + MAX_WAIT_SECONDS
    seen: set[int] = set()
    while seen != expected:
        assert time.monotonic() < deadline
        seen.add(client.server_info().limits.max_image_pixels)


def wait_for_not_serving(client: PoolClient) -> None:
    """Make calls until the client knows that no server is ready; the first of them may still reach one that stops."""
    deadline = time.monotonic() + MAX_WAIT_SECONDS
    error = ""
    while "NOT_SERVING" not in error:
        assert time.monotonic() < deadline
        try:
            client.pool(X, GlobalAvgPool2d())
        except Unavailable as unavailable:
            error = str(unavailable)


def test_the_calls_to_a_name_take_turns_over_its_machines(start_server: StartServer, names: NameServer) -> None:
    first = start_server("--max-image-pixels", "1001")
    start_second(start_server, first, "--max-image-pixels", "1002")
    names.hosts = [FIRST, SECOND]
    with PoolClient(names.target(port_of(first))) as client:
        image_limits_seen(client, {1001, 1002})
        pixels = [client.server_info().limits.max_image_pixels for _ in range(10)]
    assert pixels[0] != pixels[1]
    assert pixels == pixels[:2] * 5


async def test_a_replica_that_is_stopping_gets_no_calls(
    start_server: StartServer, names: NameServer, photograph: Path
) -> None:
    first = start_server("--grace-period", "3600", command=BLOCKING_SERVER, env={"FAULT": "thread"})
    start_second(start_server, first)
    names.hosts = [FIRST, SECOND]
    # Without the health checks, half of the calls would need a retry.
    retries = RetryPolicy(budget=0.0, burst=5)
    async with AsyncPoolClient(names.target(port_of(first)), retries=retries, coalesce=False) as client:
        await client.pool(X, GlobalAvgPool2d())
        with stopping(first, photograph):
            for _ in range(200):
                assert (await client.pool(X, GlobalAvgPool2d())).shape == (3, 1, 1)
        assert client.stats().retry_budget_exhausted == 0


def test_the_error_says_that_no_replica_is_ready_and_takes_no_retry(
    start_server: StartServer, names: NameServer, photograph: Path
) -> None:
    server = start_server("--grace-period", "3600", command=BLOCKING_SERVER, env={"FAULT": "thread"})
    with PoolClient(names.target(port_of(server)), wait_for_ready=0) as client:
        client.pool(X, GlobalAvgPool2d())
        with stopping(server, photograph):
            wait_for_not_serving(client)
            before = client.stats().retries
            with pytest.raises(Unavailable, match="is ready: the last one reports NOT_SERVING"):
                client.pool(X, GlobalAvgPool2d())
            assert client.stats().retries == before


def test_a_replica_is_found_at_its_new_address_when_the_old_one_is_gone(
    start_server: StartServer, names: NameServer
) -> None:
    first = start_server()
    # gRPC's own interval between two resolutions of a name is 30 s.
    with PoolClient(names.target(port_of(first)), timeout=20) as client:
        client.pool(X, GlobalAvgPool2d())
        start_second(start_server, first)
        names.hosts = [SECOND]
        assert first.stop() == 0
        assert client.pool(X, GlobalAvgPool2d()).shape == (3, 1, 1)


def test_an_additional_replica_is_found_when_a_connection_reaches_its_age(
    start_server: StartServer, names: NameServer
) -> None:
    first = start_server("--max-connection-age", "1", "--max-image-pixels", "1001")
    # A call that failed because its connection was closed would not be sent again.
    with PoolClient(names.target(port_of(first)), retries=None) as client:
        image_limits_seen(client, {1001})
        start_second(start_server, first, "--max-image-pixels", "1002")
        names.hosts = [FIRST, SECOND]
        image_limits_seen(client, {1001, 1002})

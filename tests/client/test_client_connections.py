"""Connections: one per worker, several addresses, names, Unix sockets, and servers that stop and restart."""

import asyncio
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from poolservice_client import MaxPool2d, PoolError, Unavailable

StartServer = Callable[..., Any]
MakeClient = Callable[..., Any]

X = np.random.default_rng(6).standard_normal((3, 8, 8)).astype(np.float32)
SPEC = MaxPool2d(2)
MAX_WAIT_SECONDS = 60


async def call_until(condition: Callable[[], bool], client: Any) -> None:
    """Make calls until the condition holds. Background work of the client starts with its calls."""
    deadline = time.monotonic() + MAX_WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        await client.pool()


async def workers_seen(client: Any, calls: int) -> list[int]:
    return [(await client.info()).worker for _ in range(calls)]


# Workers


async def test_a_client_connects_to_every_worker_and_calls_them_in_turn(
    start_server: StartServer, make_client: MakeClient
) -> None:
    address = start_server("--workers", "3").address
    async with make_client(address) as client:
        await client.pool()
        # The first call does not wait for worker discovery.
        assert client.client.stats().connections == 1
        await call_until(lambda: client.client.stats().connections == 3, client)
        assert (await client.info()).workers == 3
        assert sorted(set(await workers_seen(client, 6))) == [0, 1, 2]
        assert sorted(await workers_seen(client, 3)) == [0, 1, 2]


async def test_a_client_connects_to_the_successor_of_a_worker_that_died(
    start_server: StartServer, make_client: MakeClient
) -> None:
    server = start_server("--workers", "2")
    async with make_client(server.address) as client:
        await client.pool()
        await call_until(lambda: client.client.stats().connections == 2, client)
        worker = next(
            child
            for child in psutil.Process(server.process.pid).children()
            if "spawn_main" in " ".join(child.cmdline())
        )
        worker.send_signal(signal.SIGKILL)
        await asyncio.to_thread(worker.wait, MAX_WAIT_SECONDS)
        deadline = time.monotonic() + MAX_WAIT_SECONDS
        while sorted(await workers_seen(client, 2)) != [0, 1]:
            # No call fails meanwhile: the other worker takes them.
            assert (await client.pool()).shape == (3, 4, 4)
            assert time.monotonic() < deadline


def connections_to(address: str) -> list[Any]:
    return [
        one
        for one in psutil.Process().net_connections("tcp")
        if one.status == "ESTABLISHED" and f"127.0.0.1:{one.raddr.port}" == address
    ]


async def test_a_client_opens_the_given_number_of_connections(server_address: str, make_client: MakeClient) -> None:
    async with make_client(server_address, connections=3) as client:
        assert await client.healthy()
        assert client.client.stats().connections == 3
        before = len(connections_to(server_address))
        await client.pool()
        await client.pool()
        assert len(connections_to(server_address)) == before + 2
    assert client.client.stats().connections == 0


# Addresses


async def test_several_addresses_share_the_calls_even_if_one_has_no_server(
    start_server: StartServer, make_client: MakeClient
) -> None:
    first, second = start_server(), start_server()
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        unused = f"127.0.0.1:{reserved.getsockname()[1]}"
        async with make_client([unused, first.address, second.address]) as client:
            for _ in range(4):
                await client.pool()
            assert client.client.address == f"{unused}, {first.address}, {second.address}"
            first.kill()
            for _ in range(10):
                assert (await client.pool()).shape == (3, 4, 4)


async def test_a_dns_address_from_the_environment(
    server_address: str, monkeypatch: pytest.MonkeyPatch, make_client: MakeClient
) -> None:
    monkeypatch.setenv("POOLSERVICE_ADDRESS", f"dns:///{server_address}")
    async with make_client() as client:
        assert client.client.address == f"dns:///{server_address}"
        for _ in range(3):
            assert (await client.pool()).shape == (3, 4, 4)


async def test_a_unix_socket(start_server: StartServer, tmp_path: Path, make_client: MakeClient) -> None:
    address = start_server("--address", f"unix:{tmp_path}/pool.sock").address
    # A token is allowed, because a Unix socket does not leave the machine.
    async with make_client(address, token="abc") as client:
        assert (await client.pool()).shape == (3, 4, 4)


# Servers that stop and restart


async def test_calls_survive_a_restart_of_the_server(start_server: StartServer, make_client: MakeClient) -> None:
    server = start_server()
    async with make_client(server.address, coalesce=False) as client:
        await client.pool()
        stop = threading.Event()

        async def keep_calling() -> int:
            responses = 0
            while not stop.is_set():
                assert (await client.pool()).shape == (3, 4, 4)
                responses += 1
            return responses

        callers = [asyncio.create_task(keep_calling()) for _ in range(4)]
        await client.pool()
        server.kill()
        await asyncio.to_thread(start_server, "--address", server.address)
        await client.pool()
        stop.set()
        assert all(await asyncio.gather(*callers))
        assert client.client.stats().reconnects >= 1


async def test_a_stopped_server_is_reported_after_wait_for_ready(
    start_server: StartServer, make_client: MakeClient
) -> None:
    server = start_server()
    async with make_client(server.address, wait_for_ready=1.0, counts_attempts=True) as client:
        await client.pool()
        server.kill()
        started = time.monotonic()
        with pytest.raises(Unavailable, match="no server answers at"):
            await client.pool()
        assert 1.0 <= time.monotonic() - started < 20
        # The wait counts from the first call that found no server, so the next call makes a single attempt.
        before = client.attempts.count
        with pytest.raises(Unavailable, match="no server answers at"):
            await client.pool()
        assert client.attempts.count == before + 1


async def test_a_call_waits_for_a_server_that_is_starting(start_server: StartServer, make_client: MakeClient) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{reserved.getsockname()[1]}"
    async with make_client(address, wait_for_ready=MAX_WAIT_SECONDS, timeout=MAX_WAIT_SECONDS) as client:
        call = asyncio.create_task(client.pool())
        await asyncio.to_thread(start_server, "--address", address)
        assert (await call).shape == (3, 4, 4)
        assert client.client.stats().retries == 0


async def test_closing_ends_the_wait_for_a_server(make_client: MakeClient) -> None:
    client = make_client("127.0.0.1:1", wait_for_ready=MAX_WAIT_SECONDS, counts_attempts=True)
    call = asyncio.create_task(client.pool())
    # A second attempt shows that the call waits for the server.
    while client.attempts.count < 2 and not call.done():
        await asyncio.wait([call], timeout=0.01)
    await client.close()
    with pytest.raises(PoolError, match="closed"):
        await asyncio.wait_for(call, 10)

"""How a client reaches its servers: workers, several addresses, restarts, TLS, tokens, what travels with a call."""

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
Calling = Callable[..., Any]

X = np.random.default_rng(6).standard_normal((3, 8, 8)).astype(np.float32)
SPEC = MaxPool2d(2)
PATIENCE_SECONDS = 60


async def until(condition: Callable[[], bool], *, calling: Any) -> None:
    """Call until it is so; what is done in the background begins with calls."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        await calling.pool()


async def workers_seen(client: Any, calls: int) -> list[int]:
    return [(await client.info()).worker for _ in range(calls)]


# Workers


async def test_a_client_reaches_every_worker_and_calls_them_in_turn(
    start_server: StartServer, calling: Calling
) -> None:
    address = start_server("--workers", "3").address
    async with calling(address) as client:
        await client.pool()
        assert client.of.stats().connections == 1  # the first call waits for nothing
        await until(lambda: client.of.stats().connections == 3, calling=client)
        assert (await client.info()).workers == 3
        assert sorted(set(await workers_seen(client, 6))) == [0, 1, 2]
        assert sorted(await workers_seen(client, 3)) == [0, 1, 2]


async def test_a_worker_that_died_is_reached_again(start_server: StartServer, calling: Calling) -> None:
    server = start_server("--workers", "2")
    async with calling(server.address) as client:
        await client.pool()
        await until(lambda: client.of.stats().connections == 2, calling=client)
        worker = next(
            child
            for child in psutil.Process(server.process.pid).children()
            if "spawn_main" in " ".join(child.cmdline())
        )
        worker.send_signal(signal.SIGKILL)
        await asyncio.to_thread(worker.wait, PATIENCE_SECONDS)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while sorted(await workers_seen(client, 2)) != [0, 1]:
            # No call is lost meanwhile: the other worker takes them.
            assert (await client.pool()).shape == (3, 4, 4)
            assert time.monotonic() < deadline


def connections_to(address: str) -> list[Any]:
    return [
        one
        for one in psutil.Process().net_connections("tcp")
        if one.status == "ESTABLISHED" and f"127.0.0.1:{one.raddr.port}" == address
    ]


async def test_as_many_connections_as_asked_for(server_address: str, calling: Calling) -> None:
    async with calling(server_address, connections=3) as client:
        assert await client.healthy()
        assert client.of.stats().connections == 3
        before = len(connections_to(server_address))
        await client.pool()
        await client.pool()
        assert len(connections_to(server_address)) == before + 2
    assert client.of.stats().connections == 0


# Addresses


async def test_several_addresses_share_the_calls_and_one_that_is_not_there_harms_none(
    start_server: StartServer, calling: Calling
) -> None:
    first, second = start_server(), start_server()
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{reserved.getsockname()[1]}"
        async with calling([nobody, first.address, second.address]) as client:
            for _ in range(4):
                await client.pool()
            assert client.of.address == f"{nobody}, {first.address}, {second.address}"
            first.kill()
            for _ in range(10):
                assert (await client.pool()).shape == (3, 4, 4)


async def test_a_name_is_balanced_and_the_environment_gives_the_address(
    server_address: str, monkeypatch: pytest.MonkeyPatch, calling: Calling
) -> None:
    monkeypatch.setenv("POOLSERVICE_ADDRESS", f"dns:///{server_address}")
    async with calling() as client:
        assert client.of.address == f"dns:///{server_address}"
        for _ in range(3):
            assert (await client.pool()).shape == (3, 4, 4)


async def test_a_unix_socket(start_server: StartServer, tmp_path: Path, calling: Calling) -> None:
    address = start_server("--address", f"unix:{tmp_path}/pool.sock").address
    # A token never leaves the machine through it.
    async with calling(address, token="abc") as client:
        assert (await client.pool()).shape == (3, 4, 4)


# Servers that come and go


async def test_calls_outlive_a_restart_of_the_server(start_server: StartServer, calling: Calling) -> None:
    server = start_server()
    async with calling(server.address, coalesce=False) as client:
        await client.pool()
        stop = threading.Event()

        async def keep_calling() -> int:
            answered = 0
            while not stop.is_set():
                assert (await client.pool()).shape == (3, 4, 4)
                answered += 1
            return answered

        callers = [asyncio.create_task(keep_calling()) for _ in range(4)]
        await client.pool()
        server.kill()
        await asyncio.to_thread(start_server, "--address", server.address)
        await client.pool()
        stop.set()
        assert all(await asyncio.gather(*callers))
        assert client.of.stats().reconnects >= 1


async def test_a_server_that_is_gone_is_reported_when_the_wait_is_over(
    start_server: StartServer, calling: Calling
) -> None:
    server = start_server()
    async with calling(server.address, wait_for_ready=1.0) as client:
        await client.pool()
        server.kill()
        started = time.monotonic()
        with pytest.raises(Unavailable, match="no server answers at"):
            await client.pool()
        assert 0.5 < time.monotonic() - started < 10
        # The outage is waited out once, not by every call anew.
        started = time.monotonic()
        with pytest.raises(Unavailable, match="no server answers at"):
            await client.pool()
        assert time.monotonic() - started < 0.5


async def test_a_server_that_is_yet_to_come_is_waited_for(start_server: StartServer, calling: Calling) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{reserved.getsockname()[1]}"
    async with calling(address, wait_for_ready=PATIENCE_SECONDS, timeout=PATIENCE_SECONDS) as client:
        call = asyncio.create_task(client.pool())
        await asyncio.to_thread(start_server, "--address", address)
        assert (await call).shape == (3, 4, 4)
        assert client.of.stats().retries == 0


async def test_closing_ends_a_wait(calling: Calling) -> None:
    client = calling("127.0.0.1:1", wait_for_ready=PATIENCE_SECONDS)
    call = asyncio.create_task(client.pool())
    # It runs to its first wait, which is for the server.
    await asyncio.wait([call], timeout=0.5)
    await client.close()
    with pytest.raises(PoolError, match="closed"):
        await asyncio.wait_for(call, 10)

"""Two messages in flight to poolservice-server: several workers, a server that stops, and forks of the client."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.client.coalescing.real.conftest import Caller

NewCaller = Callable[..., "AbstractAsyncContextManager[Caller]"]
StartServer = Callable[..., Any]

FULL = 4
TIMEOUT_SECONDS = 60
# The server holds requests until they have waited this long for batch-mates, or until it stops.
HELD = ("--max-batch-delay", "10", "--grace-period", "60")


async def info(caller: "Caller") -> Any:
    """Return the server's information. The server has read every message that was sent before on the connection."""
    if asyncio.iscoroutinefunction(caller.client.server_info):
        return await caller.client.server_info()
    return await asyncio.to_thread(caller.client.server_info)


async def leases(caller: "Caller", count: int) -> list[int]:
    """Wait until so many messages are in flight, and return their number on each connection."""
    while True:
        await info(caller)
        leases = [connection.outstanding for connection in caller.client._transport._pool.all()]
        if sum(leases) >= count:
            return leases


async def test_messages_in_flight_go_to_different_workers(start_server: StartServer, new_caller: NewCaller) -> None:
    server = start_server("--workers", "2", *HELD)
    async with new_caller(server.address) as caller:
        # Discovery starts with the second call.
        while caller.client.stats().connections < 2:
            await info(caller)
        calls = [caller.call(number) for number in range(1 + FULL)]
        assert await leases(caller, 2) == [1, 1]
        await info(caller)
        server.process.send_signal(signal.SIGTERM)
        assert await asyncio.gather(*calls) == [True] * (1 + FULL)


async def test_a_server_that_stops_completes_both_messages(start_server: StartServer, new_caller: NewCaller) -> None:
    server = start_server(*HELD)
    async with new_caller(server.address) as caller:
        calls = [caller.call(number) for number in range(1 + FULL)]
        assert await leases(caller, 2) == [2]
        await info(caller)
        assert not any(call.done() for call in calls)
        server.process.send_signal(signal.SIGTERM)
        assert await asyncio.gather(*calls) == [True] * (1 + FULL)
    assert server.process.wait(TIMEOUT_SECONDS) == 0


FORKING = """
import multiprocessing, os, signal, sys, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)
import numpy as np
from poolservice_client import GlobalMaxPool2d, PoolClient
from poolservice_client._coalescing import limits
# Messages of four calls, so that several are in flight.
limits.TENSORS = limits.MessageLimits(2**20, 4)
client = PoolClient(sys.argv[1])

def check(number):
    x = np.full((2, 4, 4), number, np.float32)
    assert (client.pool(x, GlobalMaxPool2d()) == number).all()

def check_with_threads(first):
    failures = []
    def run(number):
        try:
            for again in range(20):
                check(number + again)
        except BaseException as error:
            failures.append(error)
    threads = [threading.Thread(target=run, args=(first + number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    return threads, failures

def join(threads, failures):
    for thread in threads:
        thread.join()
    assert not failures, failures

running = check_with_threads(100)
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        check(7)
        join(*check_with_threads(500))
        assert client.stats().coalesced_calls > 0
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
join(*running)
assert client.stats().coalesced_calls > 0
"""


def test_a_client_survives_forks_while_messages_are_in_flight(server_address: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKING, server_address],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=dict(os.environ),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == ["0", "0"]

"""Many event loops in one process: none gets errors from the AsyncPoolClient of an earlier one."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from poolservice_server.testing import serve

# In the second loop and later ones, gRPC reports what an earlier loop has left.
PROGRAM = """
import asyncio, sys
import numpy as np
from poolservice_client import AsyncPoolClient, MaxPool2d

address, form, loops = sys.argv[1], sys.argv[2], int(sys.argv[3])
small, large = np.ones((3, 8, 8), np.float32), np.ones((16, 200, 200), np.float32)

async def left_open():
    client = AsyncPoolClient(address)
    # The first response makes worker discovery due, and the second call starts it.
    for _ in range(3):
        await client.pool(small, MaxPool2d(2))

async def calls_in_flight():
    client = AsyncPoolClient(address)
    calls = [asyncio.create_task(client.pool(large, MaxPool2d(3))) for _ in range(3)]
    await client.pool(small, MaxPool2d(2))
    return calls

async def map_in_flight():
    client = AsyncPoolClient(address)
    results = client.map([large] * 20, MaxPool2d(3))
    await anext(results)
    return results

async def hedged():
    client = AsyncPoolClient(address, hedge_after=0.0005)
    await client.pool(large, MaxPool2d(3))

async def closed_during_calls():
    async with AsyncPoolClient(address) as client:
        calls = [asyncio.create_task(client.pool(large, MaxPool2d(3))) for _ in range(3)]
        await client.pool(small, MaxPool2d(2))
    await asyncio.gather(*calls, return_exceptions=True)

async def own_task_factory():
    loop = asyncio.get_running_loop()
    factory = lambda loop, coroutine, **keywords: asyncio.Task(coroutine, loop=loop, **keywords)
    loop.set_task_factory(factory)
    await left_open()
    assert loop.get_task_factory() is factory

for _ in range(loops):
    asyncio.run(globals()[form]())
print("done")
"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The address of a server with two workers: a client that is not closed is looking for the second one."""
    with serve("--device", "cpu", "--workers", "2") as service:
        yield service.address


@pytest.mark.parametrize(
    ("form", "loops"),
    [
        ("left_open", 50),
        ("calls_in_flight", 20),
        ("map_in_flight", 20),
        ("hedged", 50),
        ("closed_during_calls", 20),
        ("own_task_factory", 20),
    ],
)
def test_event_loops_that_end_while_a_client_works_leave_no_errors_to_later_ones(
    address: str, form: str, loops: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, address, form, str(loops)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")

"""A program always ends: open maps, running calls and background threads never keep the interpreter from exiting."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from poolservice_server.testing import Service

PRELUDE = """
import asyncio, itertools, os, signal, sys, threading
import numpy as np
from poolservice_client import AsyncPoolClient, GlobalAvgPool2d, PoolClient
X, S = np.ones((3, 200, 200), np.float32), GlobalAvgPool2d()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
address = sys.argv[1]
client, aclient = PoolClient(address), AsyncPoolClient(address)
"""

# The code that leaves something open when the program ends.
OPEN = {
    "a map": "results = client.map([X] * 200, S); next(results)",
    "a map with a progress bar": "results = client.map([X] * 200, S, progress=True); next(results)",
    "a map in a `with` block": """
with PoolClient(address) as other:
    results = other.map([X] * 200, S)
    next(results)
""",
    "a map of a closed client": "results = client.map([X] * 200, S); next(results); client.close()",
    "a map that a function keeps": """
def keep():
    keep.results = client.map([X] * 200, S)
    next(keep.results)
keep()
""",
    "a map in a generator": """
def generate():
    with PoolClient(address) as other:
        yield from other.map([X] * 200, S)
results = generate()
next(results)
""",
    "a map in a reference cycle": """
def make():
    cycle = [client.map([X] * 200, S)]
    next(cycle[0])
    cycle.append(cycle)
make()
""",
    "a map in a daemon thread": """
started = threading.Event()
def loop():
    for _ in client.map(itertools.repeat(X), S):
        started.set()
threading.Thread(target=loop, daemon=True).start()
assert started.wait(60)
""",
    "calls in daemon threads": """
started = threading.Event()
def loop():
    while True:
        client.pool(X[:, :8, :8], S)
        started.set()
for _ in range(8):
    threading.Thread(target=loop, daemon=True).start()
assert started.wait(60)
""",
    "worker discovery": "client.pool(X, S); client.pool(X, S)",
    "an asyncio map of a stopped loop": """
loop = asyncio.new_event_loop()
results = aclient.map([X] * 200, S)
loop.run_until_complete(anext(results))
""",
    "an asyncio map of a finished loop": """
results = aclient.map([X] * 200, S)
async def first():
    await anext(results)
asyncio.run(first())
""",
    "asyncio calls of a stopped loop": """
loop = asyncio.new_event_loop()
async def first():
    tasks.extend(asyncio.create_task(aclient.pool(X, S)) for _ in range(50))
    await tasks[0]
tasks = []
loop.run_until_complete(first())
""",
    "an asyncio map in a daemon thread": """
started = threading.Event()
async def loop():
    async for _ in aclient.map(itertools.repeat(X), S):
        started.set()
threading.Thread(target=asyncio.run, args=(loop(),), daemon=True).start()
assert started.wait(60)
""",
}
# The program's last line, and its exit status.
ENDS = {
    "its last line": ("", 0),
    "an exception": ("raise LookupError('enough')", 1),
    "sys.exit": ("sys.exit(3)", 3),
    "SIGTERM": ("os.kill(os.getpid(), signal.SIGTERM); signal.pause()", 5),
}


def run(program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a program; the test fails if the program does not end."""
    return subprocess.run(
        [sys.executable, "-c", PRELUDE + program, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("what", OPEN)
def test_a_program_ends_whatever_it_left_open(server_address: str, what: str) -> None:
    check_end(server_address, what, "its last line", runs=3)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("what", ["a map", "an asyncio map of a stopped loop"])
def test_a_program_ends_however_it_ends(server_address: str, what: str, end: str) -> None:
    check_end(server_address, what, end, runs=1)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("what", OPEN)
def test_a_program_ends_in_each_of_many_runs(server_address: str, what: str, end: str) -> None:
    check_end(server_address, what, end, runs=25)


def check_end(address: str, what: str, end: str, *, runs: int) -> None:
    """Check exit status and output of several runs, because a hang would not occur in each of them."""
    statement, status = ENDS[end]
    for _ in range(runs):
        done = run(f"{OPEN[what]}\n{statement}", address)
        assert done.returncode == status, done.stderr
        if what != "a map with a progress bar" and end != "an exception":
            # asyncio itself reports tasks that a program leaves behind.
            lines = [line for line in done.stderr.splitlines() if "Task was destroyed" not in line]
            assert [line for line in lines if not line.startswith("task: ")] == []


def test_a_map_in_a_thread_that_is_no_daemon_is_completed(server_address: str) -> None:
    program = """
def total():
    print(len(list(client.map([X] * 100, S))))
threading.Thread(target=total).start()
"""
    done = run(program, server_address)
    assert (done.returncode, done.stdout, done.stderr) == (0, "100\n", "")


BLOCKED = {
    "a map": """
results = client.map([fifo], S)
signal.signal(signal.SIGALRM, signal.default_int_handler)
signal.setitimer(signal.ITIMER_REAL, 0.5)
next(results)
""",
    "an asyncio map": """
async def interrupted():
    asyncio.get_running_loop().call_later(0.5, os.kill, os.getpid(), signal.SIGINT)
    async for _ in aclient.map([fifo], S):
        pass
asyncio.run(interrupted())
""",
    "an asyncio call": """
async def interrupted():
    asyncio.get_running_loop().call_later(0.5, os.kill, os.getpid(), signal.SIGINT)
    await aclient.pool(fifo, S)
asyncio.run(interrupted())
""",
}


@pytest.mark.parametrize("what", BLOCKED)
def test_ctrl_c_ends_a_program_that_reads_a_named_pipe_without_a_writer(
    server_address: str, tmp_path: Path, what: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    done = run(
        "fifo = sys.argv[2]\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n" + BLOCKED[what],
        server_address,
        str(tmp_path / "pipe"),
    )
    # Python ends itself by SIGINT after an uncaught KeyboardInterrupt.
    assert done.returncode == -signal.SIGINT, done.stderr
    assert "KeyboardInterrupt" in done.stderr


def test_many_event_loops_with_a_client_each_are_silent(start_server: Callable[..., Service]) -> None:
    program = """
async def pool():
    async with AsyncPoolClient(address) as client:
        # The second call starts worker discovery, which runs while the client is closed.
        for _ in range(3):
            await client.pool(X[:, :8, :8], S)
for _ in range(100):
    asyncio.run(pool())
"""
    done = run(program, start_server("--workers", "2").address)
    assert (done.returncode, done.stderr) == (0, "")

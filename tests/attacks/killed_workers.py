"""Kill a worker with SIGSEGV every four seconds, as a fault in a decoder or a kernel would.

A supervisor that pauses before it restarts a worker, and longer each time, would soon leave no worker alive.
"""

import asyncio
import signal
import time
from contextlib import suppress

import psutil

from target import Target

FLAGS = ("--workers", "2")
BEFORE = "336 of 5,000 calls were lost; the pause before a restart doubled to 30 s while no worker lived"

_INTERVAL_SECONDS = 4.0


async def attack(target: Target, seconds: float) -> str:
    """Kill the oldest worker at each interval."""
    end = time.monotonic() + seconds
    killed = 0
    while time.monotonic() < end:
        workers = _workers(target.pid)
        if workers:
            with suppress(psutil.NoSuchProcess):
                workers[0].send_signal(signal.SIGSEGV)
                killed += 1
        await asyncio.sleep(min(_INTERVAL_SECONDS, max(0.0, end - time.monotonic())))
    return f"killed {killed} workers; {len(_workers(target.pid))} alive at the end"


def _workers(supervisor: int) -> list[psutil.Process]:
    """Return the worker processes, oldest first."""
    children = psutil.Process(supervisor).children()
    workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
    return sorted(workers, key=psutil.Process.create_time)

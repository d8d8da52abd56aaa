"""Kill a worker with SIGSEGV at most every four seconds, as a fault in a decoder or a kernel would.

A supervisor that pauses before it restarts a worker, and longer each time, would soon leave no worker alive.
"""

import asyncio
import signal
import time
from contextlib import suppress

import psutil

from target import Target

FLAGS = ("--workers", "2")
# The calls in flight of a killed worker end as UNAVAILABLE, and clients repeat them.
RETRIES = True
BEFORE = "336 of 5,000 calls were lost; the pause before a restart doubled to 30 s while no worker lived"

_INTERVAL_SECONDS = 4.0
_POLL_SECONDS = 0.05


async def attack(target: Target, seconds: float) -> str:
    """Kill the oldest worker at each interval, once two serve: without any, there would be nothing to measure."""
    end = time.monotonic() + seconds
    killed = 0
    while time.monotonic() < end:
        serving = [worker for worker in _workers(target.pid) if _serves(worker)]
        if len(serving) > 1:
            with suppress(psutil.NoSuchProcess):
                serving[0].send_signal(signal.SIGSEGV)
                killed += 1
            await asyncio.sleep(min(_INTERVAL_SECONDS, max(0.0, end - time.monotonic())))
        else:
            await asyncio.sleep(_POLL_SECONDS)
    return f"killed {killed} workers; {len(_workers(target.pid))} alive at the end"


def _workers(supervisor: int) -> list[psutil.Process]:
    """Return the worker processes, oldest first."""
    workers = [child for child in psutil.Process(supervisor).children() if _is_worker(child)]
    return sorted(workers, key=psutil.Process.create_time)


def _is_worker(child: psutil.Process) -> bool:
    # A child may end meanwhile.
    with suppress(psutil.NoSuchProcess):
        return "spawn_main" in " ".join(child.cmdline())
    return False


def _serves(worker: psutil.Process) -> bool:
    """Return True if the worker accepts connections."""
    with suppress(psutil.NoSuchProcess):
        return any(one.status == psutil.CONN_LISTEN for one in worker.net_connections("tcp"))
    return False

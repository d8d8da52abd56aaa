"""Open 400 connections to the metrics server that send one byte, and open a new one for each that is closed.

A server with a thread per connection would run 400 threads, and would have none left for the scrapes of the operator.
"""

import asyncio
import re
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

from target import Target

FLAGS = ()
BEFORE = "400 idle connections cost 400 threads; there was no limit and no token"

_CONNECTIONS = 400


async def attack(target: Target, seconds: float) -> str:
    """Keep the connections open, and scrape the metrics meanwhile."""
    port = int(re.findall(r":(\d+)/", target.metrics_url)[0])
    end = time.monotonic() + seconds
    threads_before = _threads(target.pid)
    idle = [asyncio.create_task(_hold(port, end)) for _ in range(_CONNECTIONS)]
    threads, slowest, scrapes = 0, 0.0, 0
    while time.monotonic() < end:
        started = time.monotonic()
        await asyncio.to_thread(_scrape, target.metrics_url)
        slowest = max(slowest, time.monotonic() - started)
        scrapes += 1
        threads = max(threads, _threads(target.pid))
        await asyncio.sleep(0.1)
    opened = sum(await asyncio.gather(*idle))
    return (
        f"{opened} connections opened to keep {_CONNECTIONS} open; {scrapes} scrapes succeeded, the slowest in "
        f"{slowest:.2f} s; threads {threads_before} -> {threads}"
    )


async def _hold(port: int, end: float) -> int:
    """Keep one connection open until `end`, whatever the server closes; return how many were opened."""
    opened = 0
    while (remaining := end - time.monotonic()) > 0:
        with suppress(OSError, TimeoutError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            opened += 1
            try:
                writer.write(b"G")
                async with asyncio.timeout(remaining):
                    await reader.read(1)
            finally:
                writer.close()
        # A closed connection is replaced after a moment, as a hostile caller would.
        await asyncio.sleep(min(0.2, max(0.0, end - time.monotonic())))
    return opened


def _scrape(url: str) -> None:
    with urllib.request.urlopen(url, timeout=10) as page:
        page.read()


def _threads(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"^Threads:\s+(\d+)$", status, re.MULTILINE)[0])

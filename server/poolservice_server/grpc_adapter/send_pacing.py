"""The pace at which large responses are handed to gRPC.

gRPC copies a response on the event loop, which takes 30 ms for one of 60 MB. Several in succession would let all other
calls wait, health checks too. So the loop has as much time for others after each copy as the copy takes.
"""

import asyncio

#: Copying a smaller response takes no longer than other work on the event loop.
LARGE_BYTES = 2 * 2**20

# Twice the time of a copy into fresh memory.
_SECONDS_PER_BYTE = 1e-9


class SendPacing:
    """Gives each large response a time at which it may be handed to gRPC."""

    def __init__(self) -> None:
        self._next_time = 0.0

    async def wait(self, nbytes: int) -> None:
        """Wait until a response of `nbytes` may be handed to gRPC."""
        now = asyncio.get_running_loop().time()
        start = max(now, self._next_time)
        self._next_time = start + nbytes * _SECONDS_PER_BYTE
        if start > now:
            await asyncio.sleep(start - now)

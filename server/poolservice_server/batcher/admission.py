"""How much work may be here at one time, and how fast it is worked off."""

import asyncio
from collections.abc import Callable
from types import TracebackType

from poolservice.errors import InvalidRequest
from poolservice_server.batcher.request import Draining, QueueFull

# What a refused caller is told before anything has been measured.
_FIRST_RETRY_AFTER = 0.1
_SHORTEST_RETRY_AFTER = 0.001
_LONGEST_RETRY_AFTER = 30.0

# The pace is taken over spells of this many busy seconds, each worth as much as all before it together.
_PACE_SECONDS = 0.05


class Permit:
    """Room for one item, held from its admission until nobody needs its memory any more.

    As a context manager it is held until the end of the block and, beyond that, until the batch that it runs in ends.
    """

    __slots__ = ("_admission", "_holders", "nbytes")

    def __init__(self, admission: "Admission", nbytes: int) -> None:
        self._admission = admission
        self._holders = 1
        self.nbytes = nbytes

    def acquire(self) -> None:
        """One more holder."""
        self._holders += 1

    def release(self) -> None:
        """One holder less; the last one gives the room back."""
        self._holders -= 1
        if not self._holders:
            self._admission.release(self.nbytes)

    def __enter__(self) -> "Permit":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


class Admission:
    """Bounds what is here, waiting or running, by items and by bytes.

    Args:
        max_items: items that may be here at one time.
        max_bytes: bytes that they may acquire together.
        clock: seconds.
    """

    def __init__(self, *, max_items: int, max_bytes: int, clock: Callable[[], float]) -> None:
        self.items = 0
        self.nbytes = 0
        self.accepted = 0
        self.refused = 0
        self.draining = False
        #: Items and bytes that were worked off in a second while there was work; 0 until it is measured.
        self.requests_per_second = 0.0
        self.bytes_per_second = 0.0
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._clock = clock
        self._spell_start = 0.0
        self._spell_seconds = 0.0
        self._spell_items = 0
        self._spell_bytes = 0
        self._emptied: asyncio.Future[None] | None = None

    def admit(self, nbytes: int) -> Permit:
        """Take room for an item of `nbytes`.

        Raises:
            QueueFull: there is not that much room now.
            Draining: nothing is taken any more.
            InvalidRequest: there never will be that much room.
        """
        if self.draining:
            self.refused += 1
            raise Draining
        if self.items >= self._max_items or self.nbytes + nbytes > self._max_bytes:
            self.refused += 1
            if nbytes > self._max_bytes:
                raise InvalidRequest(
                    f"the request and its results take {nbytes} bytes, more than the {self._max_bytes} that this "
                    "server keeps for all its work; send less at a time, or start it with a larger --max-queue-bytes"
                )
            raise QueueFull(self._retry_after())
        if not self.items:
            self._spell_start = self._clock()
        self.items += 1
        self.nbytes += nbytes
        self.accepted += 1
        return Permit(self, nbytes)

    def release(self, nbytes: int) -> None:
        """Give an item's room back."""
        self.items -= 1
        self.nbytes -= nbytes
        self._spell_items += 1
        self._spell_bytes += nbytes
        if self.items:
            return
        self.measure_pace()
        if self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

    def measure_pace(self) -> None:
        """Take the pace of what was worked off since the last time, once a spell is long enough to tell."""
        now = self._clock()
        self._spell_seconds += now - self._spell_start
        self._spell_start = now
        if self._spell_seconds < _PACE_SECONDS:
            return
        weight = 0.5 if self.requests_per_second else 1.0
        self.requests_per_second += weight * (self._spell_items / self._spell_seconds - self.requests_per_second)
        self.bytes_per_second += weight * (self._spell_bytes / self._spell_seconds - self.bytes_per_second)
        self._spell_seconds = 0.0
        self._spell_items = 0
        self._spell_bytes = 0

    async def emptied(self) -> None:
        """Wait until nothing is here."""
        while self.items:
            if self._emptied is None or self._emptied.done():
                self._emptied = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._emptied)

    def _retry_after(self) -> float:
        if not self.requests_per_second or not self.bytes_per_second:
            return _FIRST_RETRY_AFTER
        # Half, so that those who come back find room and the device has not run dry.
        seconds = max(self.items / self.requests_per_second, self.nbytes / self.bytes_per_second) / 2
        return min(max(seconds, _SHORTEST_RETRY_AFTER), _LONGEST_RETRY_AFTER)

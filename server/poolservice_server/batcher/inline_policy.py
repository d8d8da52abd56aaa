"""What may run on the event loop itself, which everything else waits for meanwhile."""

from poolservice_server.batcher.cost_model import CostModel
from poolservice_server.batcher.request import Request

# What runs as it comes may take this many times what runs from the line in one go. Its message is in the processor's
# caches, and it would take up to twice as long later: at 32 callers of 602 kB each, who came faster than the line was
# worked off, calls took a tenth more of the processor with one share.
_SOONER_SHARES = 4


class InlinePolicy:
    """Says which items are so soon done that the event loop runs them itself.

    To hand them to a thread and back costs about as much as running them, and each step that they take there waits for
    its turn of Python's lock.

    Args:
        cost_model: what is known of each kind.
        inline_bytes: bytes up to which a batch of a kind that has not run yet runs on the event loop; 0 for never any.
        inline_seconds: seconds that a batch from the line may keep the event loop from everything else; items that take
            more than half of it each run on threads. What runs as it comes may take four times that in a turn.
        unbatched_bytes: bytes from which an item gains nothing by company, since to copy it beside others takes as long as a
            batch of its own: it runs as it comes, before it has left the processor's caches.
    """

    def __init__(
        self, cost_model: CostModel, *, inline_bytes: int, inline_seconds: float, unbatched_bytes: int
    ) -> None:
        self._cost_model = cost_model
        self._inline_bytes = inline_bytes
        self._inline_seconds = inline_seconds
        self._unbatched_bytes = unbatched_bytes
        # What came in this turn of the loop, and the seconds of what ran as it came.
        self._arrivals = 0
        self._seconds = 0.0
        # Whether the last turn in which anything came brought one item only.
        self._last_turn_was_single = False

    def room(self, work: Request) -> float:
        """How many bytes of its kind may run on the event loop in one go."""
        if not self._inline_bytes:
            return 0
        expected = self._cost_model.expect(work.key, work.nbytes)
        if expected is None:
            return self._inline_bytes
        return self._cost_model.fitting(work.key, self._inline_seconds) if 2 * expected < self._inline_seconds else 0

    def gains_from_batching(self, nbytes: int) -> bool:
        """Whether an item of this size is better run with others."""
        return not self._inline_bytes or nbytes < self._unbatched_bytes

    def arrive(self) -> bool:
        """An item came; whether it is the first in this turn of the loop, whose end is then to be told."""
        self._arrivals += 1
        return self._arrivals == 1

    def runs_immediately(self, work: Request) -> bool:
        """Whether the item that came last need not wait for others of the same turn.

        One that gains nothing by company need not, as long as the turn is not too long; another one if nobody came
        beside the one before it.
        """
        if not self.gains_from_batching(work.nbytes):
            return self._seconds <= _SOONER_SHARES * self._inline_seconds and work.nbytes <= self.room(work)
        return self._last_turn_was_single and self._arrivals == 1 and work.nbytes <= self.room(work)

    def spend(self, seconds: float) -> None:
        """An item ran as it came."""
        self._seconds += seconds

    def end_turn(self) -> None:
        """The loop is about to do everything else."""
        self._last_turn_was_single = self._arrivals == 1
        self._arrivals = 0
        self._seconds = 0.0

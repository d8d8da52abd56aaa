"""The limit of the log lines that callers can cause, with the number of those that are left out."""

from collections import Counter, OrderedDict
from collections.abc import Callable
from time import monotonic


class LineLimit:
    """Lines that may be logged: a number at once, and then so many per second; half of it for one caller.

    It is a token bucket for all lines, and one for each of the callers that have logged lines lately.

    Args:
        at_once: the lines that may be logged at once.
        per_second: the lines per second after that.
        clock: seconds.

    Attributes:
        left_out: the lines that were left out since `take_left_out`, by the code of their call.
    """

    # Callers above this number, which have logged nothing for the longest time, start anew. The limit of all lines
    # holds for them, too.
    _MAX_CALLERS = 256

    def __init__(self, at_once: int, per_second: float, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._at_once = at_once
        self._per_second = per_second
        self._all = _Bucket(at_once, clock())
        self._callers: OrderedDict[str, _Bucket] = OrderedDict()
        self.left_out: Counter[str] = Counter()

    def take(self, caller: str, code: str) -> bool:
        """Return True if a line about a call may be logged now, and count it."""
        now = self._clock()
        own = self._callers.get(caller)
        if own is None:
            own = self._callers[caller] = _Bucket(self._at_once / 2, now)
            if len(self._callers) > self._MAX_CALLERS:
                self._callers.popitem(last=False)
        else:
            self._callers.move_to_end(caller)
        own.refill(now, self._per_second / 2, self._at_once / 2)
        self._all.refill(now, self._per_second, self._at_once)
        if own.lines < 1 or self._all.lines < 1:
            self.left_out[code] += 1
            return False
        own.lines -= 1
        self._all.lines -= 1
        return True

    def take_left_out(self) -> dict[str, int]:
        """Return the lines that were left out since the last time, by code."""
        left_out = dict(self.left_out)
        self.left_out.clear()
        return left_out


class _Bucket:
    """The lines that may be logged now."""

    __slots__ = ("lines", "since")

    def __init__(self, lines: float, now: float) -> None:
        self.lines = lines
        self.since = now

    def refill(self, now: float, per_second: float, largest: float) -> None:
        """Add the lines of the time that has passed."""
        self.lines = min(largest, self.lines + (now - self.since) * per_second)
        self.since = now

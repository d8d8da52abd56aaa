"""The intervals of a timeline: recording them in a process, and adding them up.

Times are nanoseconds of time.monotonic, which all processes of a machine share on Linux.
"""

import time
from array import array
from collections.abc import Callable, Coroutine
from enum import IntEnum
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: An array of shape (N, 2): the start and the end of N intervals, which are sorted and do not overlap.
Intervals = NDArray[np.int64]


class Step(IntEnum):
    """What a recorded interval shows. The last four are moments, with no duration."""

    CLIENT_LOOP = 0
    CLIENT_ENCODE = 1
    CLIENT_SEND = 2
    CLIENT_DECODE = 3
    SERVER_LOOP = 4
    SERVER_DECODE = 5
    SERVER_COMPUTE = 6
    SERVER_ENCODE = 7
    REQUEST_SENT = 8
    REQUEST_RECEIVED = 9
    RESPONSE_SENT = 10
    RESPONSE_RECEIVED = 11


class Recorder:
    """Records the intervals of one process. Threads may share it."""

    def __init__(self) -> None:
        # Numbers and not tuples, because Python's garbage collector would traverse these.
        self._numbers = array("q")

    def add(self, step: Step, started: int) -> None:
        """Record an interval that ends now."""
        self._numbers.extend((step, started, time.monotonic_ns()))

    def mark(self, step: Step) -> None:
        """Record a moment."""
        now = time.monotonic_ns()
        self._numbers.extend((step, now, now))

    def timed(self, step: Step, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function` with each call recorded as an interval."""
        clock, extend = time.monotonic_ns, self._numbers.extend

        @wraps(function)
        def call(*arguments: Any, **keywords: Any) -> Any:
            started = clock()
            try:
                return function(*arguments, **keywords)
            finally:
                extend((step, started, clock()))

        return call

    def time_calls(self, step: Step, owner: Any, *names: str) -> None:
        """Record each call of these functions of a class or a module."""
        for name in names:
            setattr(owner, name, self.timed(step, getattr(owner, name)))

    def mark_calls(self, before: Step, after: Step, owner: Any, name: str) -> None:
        """Record the moments when a method begins and when the awaitable that it returns has its result."""
        original: Callable[..., Coroutine[Any, Any, Any]] = getattr(owner, name)

        @wraps(original)
        async def call(*arguments: Any) -> Any:
            self.mark(before)
            try:
                return await original(*arguments)
            finally:
                self.mark(after)

        setattr(owner, name, call)

    def recorded(self) -> NDArray[np.int64]:
        """Return what is recorded so far: an array of rows (step, start, end)."""
        return np.array(self._numbers, np.int64).reshape(-1, 3)

    def save(self, path: Path) -> None:
        """Write what is recorded to a file of numpy (.npy)."""
        np.save(path, self.recorded())


class Recording:
    """What client and server recorded between two moments.

    Args:
        rows: (step, start, end).
        start: the first moment.
        end: the last moment.
    """

    def __init__(self, rows: NDArray[np.int64], start: int, end: int) -> None:
        self._rows = rows[(rows[:, 2] > start) & (rows[:, 1] < end)]
        self._start, self._end = start, end

    def within(self, start: int, end: int) -> "Recording":
        """Return the part between two other moments."""
        return Recording(self._rows, start, end)

    def union(self, *steps: Step) -> Intervals:
        """Return when at least one of these steps ran."""
        spans = self._rows[np.isin(self._rows[:, 0], steps)][:, 1:]
        return _clipped(_covered(spans[:, 0], spans[:, 1]), self._start, self._end)

    def between(self, first: Step, second: Step) -> Intervals:
        """Return when a message was between these two moments of its way.

        It does not matter which message it was, and so their order does not matter either: between the moments are as
        many messages as had the first one and not yet the second one.

        Raises:
            ValueError: some message had one of the moments only. Call this for a recording of a complete load.
        """
        starts, ends = self.moments(first), self.moments(second)
        if len(starts) != len(ends):
            raise ValueError(f"{len(starts)} messages had the moment {first.name}, {len(ends)} had {second.name}")
        return _covered(starts, ends)

    def moments(self, step: Step) -> NDArray[np.int64]:
        """Return the moments of this kind."""
        moments: NDArray[np.int64] = self._rows[self._rows[:, 0] == step][:, 1]
        return moments


def both(first: Intervals, second: Intervals) -> Intervals:
    """Return the intervals that both have."""
    spans = np.concatenate((first, second))
    return _covered(spans[:, 0], spans[:, 1], least=2)


def outside(intervals: Intervals, start: int, end: int) -> Intervals:
    """Return the intervals between `start` and `end` that these leave out."""
    edges = np.concatenate(([start], _clipped(intervals, start, end).ravel(), [end])).reshape(-1, 2)
    return edges[edges[:, 1] > edges[:, 0]]


def fraction(intervals: Intervals, start: int, end: int) -> float:
    """Return the fraction of the time between two moments that the intervals fill."""
    return float(np.diff(_clipped(intervals, start, end)).sum() / (end - start))


def _covered(starts: NDArray[np.int64], ends: NDArray[np.int64], *, least: int = 1) -> Intervals:
    """Return when at least so many of the intervals between these starts and ends run."""
    times, inverse = np.unique(np.concatenate((starts, ends)), return_inverse=True)
    changes = np.zeros(len(times), np.int64)
    np.add.at(changes, inverse, np.repeat((1, -1), (len(starts), len(ends))))
    is_covered = np.concatenate(([False], np.cumsum(changes) >= least))
    turns = np.flatnonzero(np.diff(is_covered))
    return times[turns[: len(turns) // 2 * 2]].reshape(-1, 2)


def _clipped(intervals: Intervals, start: int, end: int) -> Intervals:
    clipped = np.clip(intervals, start, end)
    return clipped[clipped[:, 1] > clipped[:, 0]]

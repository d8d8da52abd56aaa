"""The connections of a client: which one carries a call, and whether together they reach every worker.

A server with several workers shares its port among them, and the kernel deals new connections out by chance. So each
connection is asked which worker it has reached, and further ones are opened until there is one to each; those that
reach a worker a second time are closed.
"""

import math
import threading
import time
from collections.abc import Callable, Generator, Iterable
from typing import Any, NamedTuple

from poolservice_client._stats import Counters

# gRPC makes a lost connection anew without a word, and it may reach another worker; so they are asked now and then.
_SURVEY_SECONDS = 10.0
_SURVEY_OF_ONE_WORKER_SECONDS = 60.0
_SURVEY_AGAIN_SECONDS = 2.0
# After so many times the expected tries, one worker in e^12 = 160,000 is still not reached.
_PATIENCE = 12.0


class Lane:
    """One connection.

    Attributes:
        address: where it goes.
        channel: gRPC's.
        methods: what it can call, by the method's path.
        outstanding: calls that it carries just now.
        is_down: whether the last thing known of it is that it was lost.
        was_up: whether it ever carried an answer.
        is_retired: whether it takes no more calls.
    """

    __slots__ = ("address", "channel", "is_down", "is_retired", "methods", "outstanding", "was_up")

    def __init__(self, address: str, channel: Any, methods: dict[str, Any]) -> None:
        self.address = address
        self.channel = channel
        self.methods = methods
        self.outstanding = 0
        self.is_down = False
        self.was_up = False
        self.is_retired = False


class Place(NamedTuple):
    """Who answered: the worker's number, and of how many."""

    worker: int
    workers: int


class Ask(NamedTuple):
    """A step of a survey: ask the lane for its Place; None is sent back where it does not answer."""

    lane: Lane


class Close(NamedTuple):
    """A step of a survey: close the lane, which carries nothing."""

    lane: Lane


Survey = Generator[Ask | Close, Place | None, None]


class Taken:
    """A lane while it carries a call.

    Args:
        lanes: where it is taken from.
        avoid: as in `Lanes.take`.
        close: ends a lane that was retired meanwhile and carries no more.
    """

    # Each call has one: a generator in its place would cost a lone call half a percent.
    __slots__ = ("_avoid", "_close", "_lane", "_lanes")

    def __init__(self, lanes: "Lanes", avoid: Lane | None, close: Callable[[Lane], None]) -> None:
        self._lanes = lanes
        self._avoid = avoid
        self._close = close

    def __enter__(self) -> Lane:
        self._lane = self._lanes.take(self._avoid)
        return self._lane

    def __exit__(self, *_error: object) -> None:
        if self._lanes.give_back(self._lane):
            self._close(self._lane)


class Lanes:
    """The connections, for many threads.

    Args:
        lanes: those to begin with; at least one.
        counters: where they are counted, and those that were lost and came back.
        seeks_workers: whether there shall be one to each worker of an address.
    """

    def __init__(self, lanes: Iterable[Lane], counters: Counters, *, seeks_workers: bool) -> None:
        self._lock = threading.Lock()
        self._lanes = list(lanes)
        self._counters = counters
        self._seeks_workers = seeks_workers
        self._turn = 0
        self._workers = 1
        self._has_ended = False
        self._surveys = threading.Semaphore()
        # The first call finds its way without; a lone call needs no more than one connection.
        self._survey_due = math.inf
        self._count()

    def take(self, avoid: Lane | None = None) -> Lane:
        """The connection for a call: one that is up and has the least to carry, in turn among equals.

        Args:
            avoid: the one that failed this call before, taken only where there is no other.
        """
        with self._lock:
            if len(self._lanes) == 1:
                lane = self._lanes[0]
            else:
                self._turn = (self._turn + 1) % len(self._lanes)
                in_turn = self._lanes[self._turn :] + self._lanes[: self._turn]
                lane = min(in_turn, key=lambda one: (one.is_down, one is avoid, one.outstanding))
            lane.outstanding += 1
            return lane

    def give_back(self, lane: Lane) -> bool:
        """A call is done: whether its connection was retired meanwhile, carries no more, and is to be closed."""
        with self._lock:
            lane.outstanding -= 1
            return lane.is_retired and not lane.outstanding

    def answered(self, lane: Lane) -> None:
        """The connection has carried an answer."""
        if lane.was_up and not lane.is_down:
            return
        with self._lock:
            if lane.was_up and lane.is_down:
                self._counters.add("reconnects")
            lane.was_up = True
            lane.is_down = False
            if self._seeks_workers:
                self._survey_due = min(self._survey_due, 0.0)

    def lost(self, lane: Lane) -> bool:
        """The connection was lost, or there is none: whether there is another that is up."""
        with self._lock:
            lane.is_down = True
            self._survey_due = min(self._survey_due, time.monotonic() + _SURVEY_AGAIN_SECONDS / 4)
            return any(not one.is_down for one in self._lanes)

    def survey(self, open_lane: Callable[[str], Lane]) -> Survey | None:
        """What is to be asked and closed now, if anything; only one survey is under way at a time."""
        if time.monotonic() < self._survey_due or not self._surveys.acquire(blocking=False):
            return None
        return self._survey(open_lane)

    def all(self) -> list[Lane]:
        """Every connection."""
        with self._lock:
            return list(self._lanes)

    def end(self) -> list[Lane]:
        """Every connection, to be closed; none counts any more."""
        self._has_ended = True
        self._count()
        return self.all()

    def _count(self) -> None:
        self._counters.put("connections", 0 if self._has_ended else len(self._lanes))

    def _survey(self, open_lane: Callable[[str], Lane]) -> Survey:
        again = _SURVEY_AGAIN_SECONDS
        try:
            complete = True
            for address in dict.fromkeys(lane.address for lane in self.all()):
                complete = (yield from self._survey_of(address, open_lane)) and complete
            if complete and not self._seeks_workers:
                again = math.inf
            elif complete:
                again = _SURVEY_SECONDS if self._workers > 1 else _SURVEY_OF_ONE_WORKER_SECONDS
        finally:
            with self._lock:
                self._survey_due = time.monotonic() + again
            self._surveys.release()

    def _survey_of(self, address: str, open_lane: Callable[[str], Lane]) -> Generator[Ask | Close, Place | None, bool]:
        """Look after the connections to one address: whether all is as it should be."""
        reached: dict[int, Lane] = {}
        silent: list[Lane] = []
        workers = 1
        for lane in [one for one in self.all() if one.address == address]:
            place = yield Ask(lane)
            if place is None:
                self.lost(lane)
                silent.append(lane)
                continue
            self.answered(lane)
            workers = self._workers = place.workers
            if self._seeks_workers and reached.setdefault(place.worker, lane) is not lane:
                yield from self._retire(lane)
        if not self._seeks_workers or not reached:
            return not silent
        yield from self._reach(address, workers, reached, open_lane)
        if len(reached) < workers:
            return False
        for lane in silent:
            yield from self._retire(lane)
        return True

    def _reach(
        self, address: str, workers: int, reached: dict[int, Lane], open_lane: Callable[[str], Lane]
    ) -> Generator[Ask | Close, Place | None, None]:
        """Open connections until every worker is reached, or so many that one is not there, most likely."""
        tries = math.ceil(workers * (math.log(workers) + _PATIENCE))
        while len(reached) < workers and tries:
            tries -= 1
            lane = open_lane(address)
            place = yield Ask(lane)
            if place is None or place.worker in reached:
                yield Close(lane)
                if place is None:
                    return
            else:
                reached[place.worker] = lane
                lane.was_up = True
                with self._lock:
                    self._lanes.append(lane)
                self._count()

    def _retire(self, lane: Lane) -> Generator[Close, Any, None]:
        """Let a connection take no more calls, and close it as soon as it carries none."""
        with self._lock:
            self._lanes.remove(lane)
            lane.is_retired = True
            is_idle = not lane.outstanding
        self._count()
        if is_idle:
            yield Close(lane)

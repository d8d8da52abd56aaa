"""What of a map is under way: which item is read, sent, sent again and given, and when. It does none of it itself.

It knows neither threads nor tasks, so that both twins share it; the blocking one holds a lock around every use.
"""

import heapq
import math
import random
import time
from collections import Counter, deque
from collections.abc import Iterable

from poolservice.errors import PoolError
from poolservice_client._map.items import Item, MapOptions, Outcome
from poolservice_client._map.messages import Message
from poolservice_client._request.template import RequestTemplate
from poolservice_client.errors import DeadlineExceeded, Overloaded, Unauthenticated, Unavailable

#: Calls under way at one time.
MAX_CALLS = 16
#: Bytes under way beyond which large items wait while so many calls are: more of them wait at the server, in memory.
_BUSY_BYTES, _BUSY_CALLS = 4 * 2**20, 4
#: What one message carries. Measured with tests/bench/map.py: beyond these a longer one is no faster.
_STACK_ITEMS, _BATCH_ITEMS, _PACK_BYTES = 256, 32, 2**20
#: Packs under way before one that is not full is sent: the next is filled while the server works on these.
_PARTIAL_PACKS = 2
#: What is read and not yet given, unless the caller says otherwise. One item has room always, however large.
_MAX_ITEMS, _MAX_BYTES = 1024, 64 * 2**20
#: How soon an item is sent again that a restarting server did not take, at first and at most, in seconds.
_FIRST_DELAY, _LONGEST_DELAY = 0.1, 1.0


class InFlight:
    """The items of one map that are read and not yet given.

    Args:
        options: how results are given.
        timeout: seconds that an item has from when it is first sent; None for ever.

    Attributes:
        ended: whether no more items come; set by who reads them.
        fatal: what ends the whole map, whatever `on_error` says.
    """

    def __init__(self, options: MapOptions, timeout: float | None) -> None:
        self._ordered = options.ordered
        self._stops_at_failure = options.on_error == "raise"
        self._timeout = math.inf if timeout is None else timeout
        self._max_items = _MAX_ITEMS if options.in_flight is None else options.in_flight
        # At most half of what may be in flight, so that a pack is filled while another is under way.
        self._pack_items = min(_STACK_ITEMS, math.ceil(self._max_items / 2))
        self._read = self._given = self._unanswered = 0
        # To be given: all items in order, or those that are settled.
        self._line: deque[Item] = deque()
        # To be sent.
        self._unprepared: deque[Item] = deque()
        self._large: deque[Item] = deque()
        self._small: deque[Item] = deque()
        self._small_bytes = 0
        self._kinds: Counter[RequestTemplate | None] = Counter()
        self._delayed: list[tuple[float, int, Item]] = []
        # Under way.
        self._packs = 0
        self._calls = 0
        self._sent_bytes = 0
        # What is held, and what an answer has held so far, on average.
        self._held_bytes = 0
        self._answer_bytes = 0.0
        self._answered = False
        self.ended = False
        self.fatal: PoolError | None = None

    @property
    def room(self) -> bool:
        """Whether one more item is to be read: what keeps the server busy, no more."""
        held = self._read - self._given
        if self.ended or held == 0:
            return not self.ended
        return (
            held < self._max_items
            and self._held_bytes + self._unanswered * self._answer_bytes < _MAX_BYTES
            and len(self._small) < 2 * self._pack_items
            and self._small_bytes < 2 * _PACK_BYTES
            and len(self._large) < 2
            and len(self._unprepared) < MAX_CALLS
        )

    @property
    def ready(self) -> bool:
        """Whether a result can be given."""
        return bool(self._line) and self._line[0].outcome is not None

    @property
    def finished(self) -> bool:
        """Whether all that was read is given, and no more comes."""
        return self.ended and self._read == self._given

    @property
    def read(self) -> int:
        """How many items were read: the index of the next one."""
        return self._read

    def admit(self, item: Item) -> None:
        """Take in an item that was just read; prepared already, or to be prepared by whom `take` gives it."""
        self._read += 1
        self._unanswered += 1
        if self._ordered:
            self._line.append(item)
        if item.prepared:
            self.line_up(item)
        else:
            self._unprepared.append(item)

    def line_up(self, item: Item) -> None:
        """Take in what preparing made of an item."""
        self._held_bytes += item.nbytes
        if item.refusal is not None:
            self._settle(item, item.refusal)
        else:
            self._append(item)

    @property
    def has_work(self) -> bool:
        """Whether `take` would give something now."""
        return bool(self._sends_large or self._unprepared or self._sends_pack or self.due_in() == 0)

    def take(self) -> Item | Message | None:
        """What is to be done next: an item to prepare, a message to send, or nothing now."""
        self._wake_delayed()
        if self._sends_large:
            return self._sent(Message((self._large.popleft(),)))
        if self._sends_pack:
            self._packs += 1
            return self._sent(self._pack())
        return self._unprepared.popleft() if self._unprepared else None

    def due_in(self) -> float | None:
        """Seconds until an item is to be sent again; None where none waits for that."""
        return max(0.0, self._delayed[0][0] - time.monotonic()) if self._delayed else None

    def time_left(self, message: Message) -> float | None:
        """The seconds that a message has for its answer; None for ever."""
        left = min(item.deadline for item in message.items) - time.monotonic()
        return None if left == math.inf else max(left, 1e-3)

    def answered(self, message: Message, outcomes: Iterable[Outcome]) -> None:
        """Take in what came back for each item of a message."""
        self._answered = True
        self._back(message)
        for item, outcome in zip(message.items, outcomes, strict=True):
            if isinstance(outcome, PoolError):
                self._fail(item, outcome)
            else:
                self._settle(item, outcome)

    def failed(self, message: Message, error: PoolError) -> None:
        """Take in that a message got no answer."""
        self._back(message)
        if type(error) is PoolError:
            # Not the server, nor what was sent: the client is closed, or unfit for this process.
            self.fatal = error
        if len(message.items) == 1 or isinstance(error, _NOT_BY_CONTENT):
            for item in message.items:
                self._fail(item, error)
            return
        # One of them may be the cause, so each is asked by itself.
        for item in reversed(message.items):
            item.travel_alone()
            self._large.appendleft(item)

    def give(self) -> Item:
        """The next result; only where one is `ready`."""
        item = self._line.popleft()
        self._given += 1
        self._held_bytes -= item.nbytes
        return item

    @property
    def _sends_large(self) -> bool:
        return bool(self._large) and (self._calls < _BUSY_CALLS or self._sent_bytes < _BUSY_BYTES)

    @property
    def _sends_pack(self) -> bool:
        full = len(self._small) >= self._pack_items or self._small_bytes >= _PACK_BYTES
        return bool(self._small) and (full or self._packs < _PARTIAL_PACKS)

    def _append(self, item: Item) -> None:
        if not item.small:
            self._large.append(item)
            return
        self._small.append(item)
        self._small_bytes += item.nbytes
        self._kinds[item.kind] += 1

    def _pack(self) -> Message:
        """A message of those that wait longest: stacked where most of those that wait can be."""
        kind = self._small[0].kind
        alike = self._kinds[kind]
        stacked = (
            kind is not None and kind.can_stack and alike > 1 and min(self._pack_items, len(self._small)) <= 2 * alike
        )
        most = self._pack_items if stacked else min(self._pack_items, _BATCH_ITEMS)
        items: list[Item] = []
        passed: list[Item] = []
        taken = 0
        while self._small and len(items) < most and taken < _PACK_BYTES:
            item = self._small.popleft()
            if stacked and item.kind != kind:
                passed.append(item)
                continue
            items.append(item)
            taken += item.nbytes
            self._kinds[item.kind] -= 1
        self._small.extendleft(reversed(passed))
        self._small_bytes -= taken
        self._kinds += Counter()
        return Message(items, stacked=stacked and len(items) > 1)

    def _sent(self, message: Message) -> Message:
        now = time.monotonic()
        self._calls += 1
        for item in message.items:
            item.deadline = min(item.deadline, now + self._timeout)
            self._sent_bytes += item.nbytes
        return message

    def _back(self, message: Message) -> None:
        self._calls -= 1
        self._packs -= message.items[0].small
        self._sent_bytes -= sum(item.nbytes for item in message.items)

    def _fail(self, item: Item, error: PoolError) -> None:
        """Send an item again where that may help and there is time; else it has failed."""
        now = time.monotonic()
        delay = self._delay(item, error, now)
        if delay is None or now + delay >= item.deadline:
            self._settle(item, error)
            return
        item.tries += 1
        heapq.heappush(self._delayed, (now + delay, item.index, item))

    def _delay(self, item: Item, error: PoolError, now: float) -> float | None:
        """Seconds until it is worth another try; None for never."""
        if isinstance(error, Overloaded):
            return float(error.retry_after) * random.uniform(1.0, 1.5)  # noqa: S311 - it spreads tries, it hides nothing
        if isinstance(error, Unavailable) and self._answered:
            # A server that has answered is restarting; one that never has is told at once.
            return min(_FIRST_DELAY * float(2**item.tries), _LONGEST_DELAY) * random.uniform(0.5, 1.5)  # noqa: S311
        # The message was given up for the item in it that has the least time.
        return 0.0 if isinstance(error, DeadlineExceeded) and now < item.deadline else None

    def _wake_delayed(self) -> None:
        now = time.monotonic()
        while self._delayed and self._delayed[0][0] <= now:
            self._append(heapq.heappop(self._delayed)[2])

    def _settle(self, item: Item, outcome: Outcome) -> None:
        held = 0 if isinstance(outcome, PoolError) else bytes_of(outcome.result)
        self._unanswered -= 1
        self._answer_bytes += (held - self._answer_bytes) / 16
        self._held_bytes += held - item.nbytes
        item.settle(outcome, held)
        if not self._ordered:
            self._line.append(item)
        if isinstance(outcome, PoolError) and self._stops_at_failure:
            self.ended = True


#: Failures of a whole message that say nothing of what was in it.
_NOT_BY_CONTENT = (Unavailable, DeadlineExceeded, Overloaded, Unauthenticated)


def bytes_of(result: object) -> int:
    """The bytes of a result's arrays."""
    if isinstance(result, tuple | list):
        return sum(map(bytes_of, result))
    nbytes: int = getattr(result, "nbytes", 0)
    return nbytes

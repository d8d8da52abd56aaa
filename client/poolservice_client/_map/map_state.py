"""The state of a map: which items are read, sent and yielded, and which work is next.

The blocking and the asyncio runner share this module, which uses neither threads nor tasks. The runners do the work,
and the blocking runner holds a lock around every use.
"""

import math
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any

from poolservice.errors import PoolError
from poolservice_client._map.item import Item, Outcome, bytes_of
from poolservice_client._map.message import Message
from poolservice_client._map.options import MapOptions
from poolservice_client._map.send_window import SendWindow
from poolservice_client._request.template import RequestTemplate
from poolservice_client._settings.retry_policy import RetryPolicy
from poolservice_client._transport.retry import Failure, Refused, combine_failures, retryable_failure
from poolservice_client.errors import DeadlineExceeded, Overloaded, Unauthenticated, Unavailable

#: The most concurrent calls of one map.
MAX_CALLS = 16
#: Large items wait while at least so many bytes are being sent in at least so many calls. More calls would only take up
#: memory of the server.
_BUSY_BYTES, _BUSY_CALLS = 4 * 2**20, 4
#: The limits of one message. Measured with tests/bench/map.py: larger messages are no faster.
_STACK_ITEMS, _BATCH_ITEMS, _MESSAGE_BYTES = 256, 32, 2**20
#: The items of a message with a backbone, which takes up to 20 ms for each of them: all of the `MAX_CALLS` messages
#: must end long before their timeout.
_BACKBONE_ITEMS = 8
#: While this many messages of small items are being sent, the next one waits until it is full.
_PARTIAL_MESSAGES = 2
#: The default limits of the items that are read and not yet yielded. One item of any size is always allowed.
_MAX_ITEMS, _MAX_BYTES = 1024, 64 * 2**20

#: Errors of a message that none of its items can have caused.
_UNRELATED_TO_CONTENT = (Unavailable, DeadlineExceeded, Overloaded, Unauthenticated)


class InFlight:
    """The items of one map that are read and not yet yielded.

    Args:
        options: the options of the map.
        timeout: seconds that an item has from when it is first sent; None for no limit. If the server refuses an item
            and says when to send it again, the item counts as not sent yet, unless the server has refused items for so
            long and none has succeeded meanwhile.
        retries: the client's retry policy; None if items fail with their first error.

    Attributes:
        ended: whether no more items are read; set by the runner, and by an error that ends the map.
        fatal: the error that ends the map whatever the options say; None if there is none.
    """

    def __init__(self, options: MapOptions, timeout: float | None, retries: RetryPolicy | None) -> None:
        self._ordered = options.ordered
        self._stops_at_failure = options.on_error == "raise"
        self._keeps_inputs = options.items
        self._timeout = math.inf if timeout is None else timeout
        self._window = SendWindow(retries, self._timeout)
        self._max_items = _MAX_ITEMS if options.in_flight is None else options.in_flight
        # At most half of the limit, so that one message fills while another is being sent.
        self._message_items = min(_STACK_ITEMS, (self._max_items + 1) // 2)
        self._read = self._yielded = self._unsettled = 0
        # All items if they are yielded in order, else those that are settled.
        self._to_yield: deque[Item] = deque()
        # To be prepared or sent.
        self._unprepared: deque[Item] = deque()
        self._large: deque[Item] = deque()
        self._small: deque[Item] = deque()
        self._small_bytes = 0
        self._small_by_template: Counter[RequestTemplate | None] = Counter()
        # Being sent.
        self._calls = 0
        self._small_messages = 0
        self._sent_bytes = 0
        # The memory that the items hold, and the average size of a result so far.
        self._held_bytes = 0
        self._result_bytes = 0.0
        self.ended = False
        self.fatal: PoolError | None = None

    @property
    def should_read(self) -> bool:
        """True if one more item should be read: the items in flight are not enough yet to keep the server busy."""
        held = self._read - self._yielded
        if self.ended or held == 0:
            return not self.ended
        return (
            held < self._max_items
            and self._held_bytes + self._unsettled * self._result_bytes < _MAX_BYTES
            and len(self._small) < 2 * self._message_items
            and self._small_bytes < 2 * _MESSAGE_BYTES
            and len(self._large) < 2
            and len(self._unprepared) < MAX_CALLS
        )

    @property
    def has_result(self) -> bool:
        """True if a result can be yielded."""
        return bool(self._to_yield) and self._to_yield[0].outcome is not None

    @property
    def finished(self) -> bool:
        """True if everything that was read is yielded, and no more is read."""
        return self.ended and self._read == self._yielded

    @property
    def has_work(self) -> bool:
        """True if `next_work` would return something now."""
        return bool(self._can_send_large or self._unprepared or self._can_send_small)

    @property
    def wait_seconds(self) -> float | None:
        """The seconds until items that the server refused may be sent again; None if no item waits for that."""
        return self._window.seconds_until_open if self._small or self._large else None

    def new_item(self, x: Any) -> Item:
        """Return the item for the next input."""
        return Item(self._read, x, self._keeps_inputs)

    def admit(self, item: Item) -> None:
        """Add a new item, whether it is prepared or not."""
        self._read += 1
        self._unsettled += 1
        if self._ordered:
            self._to_yield.append(item)
        if item.prepared:
            self.enqueue(item)
        else:
            self._unprepared.append(item)

    def enqueue(self, item: Item) -> None:
        """Queue a prepared item to be sent."""
        self._held_bytes += item.content_bytes + item.held_bytes
        if item.input_error is not None:
            self._settle(item, item.input_error)
        elif item.small:
            self._small.append(item)
            self._small_bytes += item.content_bytes
            self._small_by_template[item.template] += 1
        else:
            self._large.append(item)

    def next_work(self) -> Item | Message | None:
        """Return an item to prepare or a message to send; None if there is nothing to do now."""
        if self._can_send_large:
            return self._start(Message((self._large.popleft(),)))
        if self._can_send_small:
            self._small_messages += 1
            return self._start(self._message_of_small())
        return self._unprepared.popleft() if self._unprepared else None

    def time_left(self, message: Message) -> float | None:
        """Return the seconds until the response to a message is due; None for no limit."""
        # All items of a message were first sent together, so they have one deadline.
        left = message.items[0].deadline - time.monotonic()
        return None if left == math.inf else max(left, 1e-3)

    def settle_response(self, message: Message, outcomes: Iterable[Outcome]) -> Failure | None:
        """Settle the items of a message by their outcomes.

        Items that can be retried stay in the message. The client's retry policy decides whether they are sent again
        together, which counts as one retry. Items that the server asks to send later return to the queue.

        Returns:
            The failure of the items that stay in the message; None if there are none.
        """
        retried: list[Item] = []
        failures: list[Failure] = []
        refused: list[Item] = []
        refusals: list[Failure] = []
        for item, outcome in zip(message.items, outcomes, strict=True):
            failure = retryable_failure(outcome) if isinstance(outcome, PoolError) else None
            if failure is None:
                self._settle(item, outcome)
            elif failure.retry_after > 0:
                refused.append(item)
                refusals.append(failure)
            else:
                retried.append(item)
                failures.append(failure)
        if settled := len(message.items) - len(refused) - len(retried):
            self._window.succeed(min(settled, message.requests))
        if refused:
            self._refuse(refused, [one.error for one in refusals], combine_failures(refusals).retry_after)
        message.items = retried
        message.errors = [failure.error for failure in failures]
        if failures:
            return combine_failures(failures)
        self._finish(message)
        return None

    def settle_refusal(self, message: Message, refusal: Refused) -> None:
        """Return the items of a message that the server refused to the queue, or settle them."""
        self._refuse(message.items, [refusal.error] * len(message.items), refusal.retry_after)
        self._finish(message)

    def settle_failure(self, message: Message, error: PoolError) -> None:
        """Settle the items of a message that failed and is not retried."""
        self._finish(message)
        if type(error) is PoolError:
            # Neither the server nor the content is the cause: the client is closed, or cannot work in this process.
            self.fatal = error
        if len(message.items) == 1 or isinstance(error, _UNRELATED_TO_CONTENT):
            gave_up = bool(message.errors) and error is message.errors[0]
            errors = message.errors if gave_up else repeat(error, len(message.items))
            for item, own in zip(message.items, errors, strict=True):
                self._settle(item, own)
            return
        # One item may be the cause, so each is sent separately. This is no retry: no item has its own outcome yet.
        for item in reversed(message.items):
            item.send_separately()
            self._large.appendleft(item)

    def next_result(self) -> Item:
        """Remove and return the item to yield next; only if `has_result`."""
        item = self._to_yield.popleft()
        self._yielded += 1
        self._held_bytes -= item.held_bytes
        return item

    @property
    def _can_send_large(self) -> bool:
        return (
            bool(self._large)
            and (self._calls < _BUSY_CALLS or self._sent_bytes < _BUSY_BYTES)
            and self._window.available >= 1
        )

    @property
    def _can_send_small(self) -> bool:
        if not self._small:
            return False
        available = self._window.available
        full = len(self._small) >= min(self._full_items, available) or self._small_bytes >= _MESSAGE_BYTES
        return available >= 1 and (full or self._small_messages < _PARTIAL_MESSAGES)

    @property
    def _full_items(self) -> int:
        """The number of small items that fill a message."""
        template = self._small[0].template
        has_backbone = template is not None and template.has_backbone
        return min(_BACKBONE_ITEMS, self._message_items) if has_backbone else self._message_items

    def _message_of_small(self) -> Message:
        """Return a message of the oldest small items, stacked if at least half of them have the same template."""
        template = self._small[0].template
        same_template = self._small_by_template[template]
        stacked = (
            template is not None
            and template.can_stack
            and same_template > 1
            and min(self._message_items, len(self._small)) <= 2 * same_template
        )
        limit = self._message_items if stacked else min(self._full_items, _BATCH_ITEMS, self._window.available)
        items: list[Item] = []
        others: list[Item] = []
        nbytes = 0
        while self._small and len(items) < limit and nbytes < _MESSAGE_BYTES:
            item = self._small.popleft()
            if stacked and item.template != template:
                others.append(item)
                continue
            items.append(item)
            nbytes += item.content_bytes
            self._small_by_template[item.template] -= 1
        self._small.extendleft(reversed(others))
        self._small_bytes -= nbytes
        self._small_by_template += Counter()
        return Message(items, stacked=stacked and len(items) > 1)

    def _start(self, message: Message) -> Message:
        now = time.monotonic()
        self._calls += 1
        self._window.start(message.requests)
        self._sent_bytes += message.content_bytes
        for item in message.items:
            item.deadline = min(item.deadline, now + self._timeout)
        return message

    def _finish(self, message: Message) -> None:
        self._calls -= 1
        self._window.finish(message.requests)
        self._small_messages -= message.small
        self._sent_bytes -= message.content_bytes

    def _refuse(self, items: Sequence[Item], errors: Sequence[PoolError], retry_after: float) -> None:
        """Queue items again that the server refused, before all others, or settle them with their errors."""
        if not self._window.refuse(retry_after):
            for item, error in zip(items, errors, strict=True):
                self._settle(item, error)
            return
        for item in reversed(items):
            item.deadline = math.inf
            if item.small:
                self._small.appendleft(item)
                self._small_bytes += item.content_bytes
                self._small_by_template[item.template] += 1
            else:
                self._large.appendleft(item)

    def _settle(self, item: Item, outcome: Outcome) -> None:
        result_bytes = 0 if isinstance(outcome, PoolError) else bytes_of(outcome.result)
        self._unsettled -= 1
        self._result_bytes += (result_bytes - self._result_bytes) / 16
        self._held_bytes += result_bytes - item.content_bytes
        item.settle(outcome, result_bytes)
        if not self._ordered:
            self._to_yield.append(item)
        if isinstance(outcome, PoolError) and self._stops_at_failure:
            self.ended = True

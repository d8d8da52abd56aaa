"""The asyncio runner of `map`: one task reads, further tasks prepare and send, the caller's task yields."""

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Coroutine, Iterable
from functools import partial
from typing import Any

from poolservice.errors import PoolError
from poolservice_client._map.item import Item
from poolservice_client._map.map_state import MAX_CALLS, InFlight
from poolservice_client._map.message import Message
from poolservice_client._map.options import MapOptions
from poolservice_client._map.yielded_values import Results
from poolservice_client._request.query import PoolQuery
from poolservice_client._request.reader_threads import reader_threads
from poolservice_client._settings.retry_policy import RetryPolicy
from poolservice_client._transport.aio import AsyncTransport
from poolservice_client._transport.retry import Failure, Refused

# While a synchronous iterable is read, other tasks get a turn after each of this many items.
_ITEMS_PER_TURN = 16


async def map_async(
    source: Iterable[Any] | AsyncIterable[Any],
    query: PoolQuery,
    options: MapOptions,
    transport: AsyncTransport,
    timeout: float | None,  # noqa: ASYNC109 - it becomes the deadline of each item
    retries: RetryPolicy | None,
    results: Results,
) -> AsyncGenerator[Any, None]:
    """Yield the results of one map; see AsyncPoolClient.map."""
    runner = AsyncMapRunner(query, options, transport, timeout, retries)
    with results:
        try:
            async for item in runner.run(_asynchronous(source)):
                for result in results.of(item):
                    yield result
        finally:
            await runner.stop()


class AsyncMapRunner:
    """The tasks of one map, and the state that they share."""

    def __init__(
        self,
        query: PoolQuery,
        options: MapOptions,
        transport: AsyncTransport,
        timeout: float | None,
        retries: RetryPolicy | None,
    ) -> None:
        self._query = query
        self._transport = transport
        self._in_flight = InFlight(options, timeout, retries)
        self._changed = asyncio.Event()
        self._may_read = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        # The number of tasks that prepare or send.
        self._busy = 0
        # Runs when items that the server refused may be sent again.
        self._timer: asyncio.TimerHandle | None = None
        self._failure: BaseException | None = None
        self._unexpected_error: BaseException | None = None

    async def run(self, source: AsyncIterator[Any]) -> AsyncGenerator[Item, None]:
        """Yield the settled items in the order in which the caller gets them."""
        in_flight = self._in_flight
        self._start(self._read(source))
        while not in_flight.finished:
            self._changed.clear()
            if self._unexpected_error is not None:
                raise self._unexpected_error
            if in_flight.fatal is not None:
                raise in_flight.fatal
            if in_flight.has_result:
                item = in_flight.next_result()
                self._may_read.set()
                yield item
            else:
                await self._changed.wait()
        if self._failure is not None:
            raise self._failure

    async def stop(self) -> None:
        """Cancel the running calls, and wait for every task to end."""
        if sys.is_finalizing():
            # The event loop runs no more tasks.
            return
        if self._timer is not None:
            self._timer.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _read(self, source: AsyncIterator[Any]) -> None:
        in_flight = self._in_flight
        try:
            while not in_flight.ended:
                while not in_flight.should_read and not in_flight.ended:
                    self._may_read.clear()
                    await self._may_read.wait()
                item = in_flight.new_item(await anext(source))
                if not item.is_slow:
                    item.prepare(self._query)
                in_flight.admit(item)
                self._notify()
        except StopAsyncIteration:
            pass
        except Exception as error:  # noqa: BLE001 - the caller's own error, raised after the results before it
            self._failure = error
        finally:
            in_flight.ended = True
            if isinstance(source, AsyncGenerator):
                await source.aclose()
        self._notify()

    def _notify(self) -> None:
        """Start tasks for the work that is next, and wake the tasks that read and yield."""
        while self._busy < MAX_CALLS and (work := self._in_flight.next_work()) is not None:
            self._busy += 1
            self._start(self._prepare(work) if isinstance(work, Item) else self._send(work))
        if self._timer is None and (seconds := self._in_flight.wait_seconds) is not None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._send_again)
        self._changed.set()
        self._may_read.set()

    def _send_again(self) -> None:
        self._timer = None
        self._notify()

    async def _prepare(self, item: Item) -> None:
        try:
            await reader_threads.run(item.prepare, self._query)
            self._in_flight.enqueue(item)
        finally:
            self._busy -= 1
        self._notify()

    async def _send(self, message: Message) -> None:
        try:
            await self._transport.call(
                message.method,
                message.encode(),
                self._in_flight.time_left(message),
                partial(self._receive, message),
            )
        except Refused as refusal:
            self._in_flight.settle_refusal(message, refusal)
        except PoolError as error:
            self._in_flight.settle_failure(message, error)
        finally:
            self._busy -= 1
        self._notify()

    def _receive(self, message: Message, response: bytes) -> tuple[bytes, Failure] | None:
        failure = self._in_flight.settle_response(message, message.outcomes(response, self._query))
        if failure is None:
            return None
        # The settled items are yielded before the others are sent again.
        self._notify()
        return message.encode(), failure

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._unexpected_error = error
            self._changed.set()


async def _asynchronous(source: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    """Yield the inputs of a synchronous or asynchronous iterable."""
    if isinstance(source, AsyncIterable):
        async for x in source:
            yield x
        return
    for number, x in enumerate(source):
        yield x
        if number % _ITEMS_PER_TURN == 0:
            await asyncio.sleep(0)

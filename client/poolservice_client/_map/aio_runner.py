"""The map for asyncio: one task reads, others prepare and send, the caller's gives."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from typing import Any

from poolservice.errors import PoolError
from poolservice_client._map.in_flight import MAX_CALLS, InFlight
from poolservice_client._map.items import Item, MapOptions
from poolservice_client._map.messages import Message
from poolservice_client._map.results import Results
from poolservice_client._request.payload import is_slow
from poolservice_client._request.query import PoolQuery
from poolservice_client._transport.aio import AsyncTransport

# So many items of an iterable that is not asynchronous are read before others have a turn.
_READ_AT_ONCE = 16


async def map_async(
    source: Iterable[Any] | AsyncIterable[Any],
    query: PoolQuery,
    options: MapOptions,
    transport: AsyncTransport,
    timeout: float | None,  # noqa: ASYNC109 - it travels with each call
    results: Results,
) -> AsyncGenerator[Any, None]:
    """See AsyncPoolClient.map."""
    runner = AsyncMapRunner(query, options, transport, timeout)
    with results:
        try:
            async for item in runner.run(_read(source)):
                for given in results.of(item):
                    yield given
        finally:
            await runner.leave()


class AsyncMapRunner:
    """The tasks of one map, and what they share."""

    def __init__(self, query: PoolQuery, options: MapOptions, transport: AsyncTransport, timeout: float | None) -> None:
        self._query = query
        self._transport = transport
        self._window = InFlight(options, timeout)
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._calls = 0
        self._alarm: asyncio.TimerHandle | None = None
        self._failure: BaseException | None = None
        self._broken: BaseException | None = None

    async def run(self, source: AsyncIterator[Any]) -> AsyncGenerator[Item, None]:
        """The items in the order that they are given in."""
        window = self._window
        self._start(self._read(source))
        while not window.finished:
            self._news.clear()
            if self._broken is not None:
                raise self._broken
            if window.fatal is not None:
                raise window.fatal
            if window.ready:
                item = window.give()
                self._room.set()
                yield item
            else:
                await self._news.wait()
        if self._failure is not None:
            raise self._failure

    async def leave(self) -> None:
        """End what is under way, and every task."""
        if self._alarm is not None:
            self._alarm.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _read(self, source: AsyncIterator[Any]) -> None:
        window = self._window
        try:
            while not window.ended:
                while not window.room and not window.ended:
                    self._room.clear()
                    await self._room.wait()
                x = await anext(source)
                item = Item(window.read, x)
                if not is_slow(x):
                    item.prepare(self._query)
                window.admit(item)
                self._changed()
        except StopAsyncIteration:
            pass
        except Exception as error:  # noqa: BLE001 - the caller's own, which it gets after what was read before
            self._failure = error
        finally:
            window.ended = True
            if isinstance(source, AsyncGenerator):
                await source.aclose()
        self._changed()

    def _changed(self) -> None:
        """Give out what there is to do, and tell who waits."""
        while self._calls < MAX_CALLS and (work := self._window.take()) is not None:
            self._calls += 1
            self._start(self._prepare(work) if isinstance(work, Item) else self._send(work))
        due = self._window.due_in()
        if due is not None and self._calls < MAX_CALLS:
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm = asyncio.get_running_loop().call_later(due, self._changed)
        self._news.set()
        self._room.set()

    async def _prepare(self, item: Item) -> None:
        try:
            await asyncio.to_thread(item.prepare, self._query)
            self._window.line_up(item)
        finally:
            self._calls -= 1
        self._changed()

    async def _send(self, message: Message) -> None:
        try:
            answer = await self._transport.call(message.method, message.encode(), self._window.time_left(message))
            self._window.answered(message, message.outcomes(answer, self._query))
        except PoolError as error:
            self._window.failed(message, error)
        finally:
            self._calls -= 1
        self._changed()

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._broken = error
            self._news.set()


async def _read(source: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    if isinstance(source, AsyncIterable):
        async for x in source:
            yield x
        return
    for number, x in enumerate(source):
        yield x
        if number % _READ_AT_ONCE == 0:
            await asyncio.sleep(0)

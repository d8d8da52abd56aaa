"""The blocking map: the caller's thread reads and gives, threads of its own prepare and send."""

import os
import threading
import time
from collections.abc import Generator, Iterator
from typing import Any

from poolservice.errors import PoolError
from poolservice_client._map.in_flight import MAX_CALLS, InFlight
from poolservice_client._map.items import Item, MapOptions
from poolservice_client._map.messages import Message
from poolservice_client._map.results import Results
from poolservice_client._request.payload import is_slow
from poolservice_client._request.query import PoolQuery
from poolservice_client._transport.blocking import Transport
from poolservice_client._transport.cancellation import Cancellation, Cancelled

# An iterable that makes us wait longer than this is asked again only once there is nothing to give.
_SLOW_SECONDS = 0.01


def map_blocking(
    source: Iterator[Any],
    query: PoolQuery,
    options: MapOptions,
    transport: Transport,
    timeout: float | None,
    results: Results,
) -> Generator[Any, None, None]:
    """See PoolClient.map."""
    runner = MapRunner(query, options, transport, timeout)
    with results:
        try:
            yield from runner.run(source, results)
        finally:
            runner.leave()


class MapRunner:
    """The threads of one map, and what they share."""

    def __init__(self, query: PoolQuery, options: MapOptions, transport: Transport, timeout: float | None) -> None:
        self._query = query
        self._transport = transport
        self._window = InFlight(options, timeout)
        # Guards the window, and all below.
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._news = threading.Condition(self._lock)
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._left = False
        self._broken: BaseException | None = None
        self._cancellation = Cancellation()
        self._process = os.getpid()

    def run(self, source: Iterator[Any], results: Results) -> Iterator[Any]:
        """Read, and give what is there, until there is no more.

        Where a result can be given, at most one item is read before it, so that the window stays full while the
        caller takes what is in it.
        """
        window = self._window
        failure: Exception | None = None
        slow = fresh = False
        while True:
            item: Item | None = None
            with self._lock:
                self._check()
                ready = window.ready
                reads = window.room and not (ready and (slow or fresh))
                if ready and not reads:
                    item = window.give()
                elif not reads:
                    if window.finished:
                        break
                    self._news.wait()
                    continue
            if item is not None:
                fresh = False
                yield from results.of(item)
                continue
            started = time.perf_counter()
            try:
                x = next(source)
            except StopIteration:
                self._end()
            except Exception as error:  # noqa: BLE001 - the caller's own, which it gets after what was read before
                failure = error
                self._end()
            else:
                self._admit(x)
            slow = time.perf_counter() - started > _SLOW_SECONDS
            fresh = True
        if failure is not None:
            raise failure

    def leave(self) -> None:
        """End what is under way, and every thread."""
        if os.getpid() != self._process:
            # A fork has none of the threads, and perhaps a lock that one of them held.
            return
        with self._lock:
            self._left = True
            self._work.notify_all()
        self._cancellation.cancel()
        for thread in self._threads:
            thread.join()

    def _check(self) -> None:
        if self._broken is not None:
            raise self._broken
        if self._window.fatal is not None:
            raise self._window.fatal

    def _end(self) -> None:
        with self._lock:
            self._window.ended = True
            self._call()

    def _admit(self, x: Any) -> None:
        item = Item(self._window.read, x)
        if not is_slow(x):
            item.prepare(self._query)
        with self._lock:
            self._window.admit(item)
            self._call()

    def _call(self) -> None:
        """Have somebody look for work. The lock is held."""
        if self._idle:
            self._work.notify()
        elif len(self._threads) < MAX_CALLS and self._window.has_work:
            thread = threading.Thread(target=self._serve, name=f"poolservice-map-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self) -> None:
        try:
            while (work := self._next_work()) is not None:
                if isinstance(work, Item):
                    work.prepare(self._query)
                    with self._lock:
                        self._window.line_up(work)
                        self._tell()
                else:
                    self._send(work)
        except Cancelled:
            return
        except BaseException as error:  # noqa: BLE001 - whatever it is, the caller's thread raises it
            with self._lock:
                self._broken = error
                self._news.notify()

    def _next_work(self) -> Item | Message | None:
        with self._lock:
            while not self._left:
                work = self._window.take()
                if work is not None:
                    # What was taken makes room for more to be read.
                    self._tell()
                    return work
                self._idle += 1
                self._work.wait(self._window.due_in())
                self._idle -= 1
        return None

    def _send(self, message: Message) -> None:
        try:
            answer = self._transport.call(
                message.method, message.encode(), self._window.time_left(message), self._cancellation
            )
            outcomes = message.outcomes(answer, self._query)
        except Cancelled:
            raise
        except PoolError as error:
            with self._lock:
                self._window.failed(message, error)
                self._tell()
        else:
            with self._lock:
                self._window.answered(message, outcomes)
                self._tell()

    def _tell(self) -> None:
        """Tell the caller's thread and the others what is new. The lock is held."""
        self._news.notify()
        if self._window.has_work:
            self._call()

"""The blocking runner of `map`: the caller's thread reads and yields, further threads prepare and send."""

import contextvars
import os
import sys
import threading
import time
from collections.abc import Generator, Iterator
from functools import partial
from typing import Any

from poolservice.errors import PoolError
from poolservice_client._map.item import Item
from poolservice_client._map.map_state import MAX_CALLS, InFlight
from poolservice_client._map.message import Message
from poolservice_client._map.options import MapOptions
from poolservice_client._map.yielded_values import Results
from poolservice_client._request.query import PoolQuery
from poolservice_client._settings.retry_policy import RetryPolicy
from poolservice_client._transport.blocking import Transport
from poolservice_client._transport.cancellation import Cancellation, Cancelled
from poolservice_client._transport.retry import Failure, Refused

# If the iterable takes longer than this for an item, all results that are ready are yielded before it is read again.
_SLOW_SECONDS = 0.01
# The time that threads get to end when the map is left. A cancelled call ends within milliseconds, and so does reading
# a file; but a named pipe without a writer, or a network drive that is gone, blocks its reader for ever.
_SEND_SECONDS = 10.0
_PREPARE_SECONDS = 1.0


def map_blocking(
    source: Iterator[Any],
    query: PoolQuery,
    options: MapOptions,
    transport: Transport,
    timeout: float | None,
    retries: RetryPolicy | None,
    results: Results,
) -> Generator[Any, None, None]:
    """Yield the results of one map; see PoolClient.map."""
    runner = MapRunner(query, options, transport, timeout, retries)
    with results:
        try:
            yield from runner.run(source, results)
        finally:
            runner.stop()


class MapRunner:
    """The threads of one map, and the state that they share."""

    def __init__(
        self,
        query: PoolQuery,
        options: MapOptions,
        transport: Transport,
        timeout: float | None,
        retries: RetryPolicy | None,
    ) -> None:
        self._query = query
        self._transport = transport
        self._in_flight = InFlight(options, timeout, retries)
        # Guards `_in_flight` and everything below.
        self._lock = threading.Lock()
        self._work_available = threading.Condition(self._lock)
        self._changed = threading.Condition(self._lock)
        self._threads: list[threading.Thread] = []
        self._preparing: set[threading.Thread] = set()
        self._idle = 0
        self._stopped = False
        self._unexpected_error: BaseException | None = None
        self._cancellation = Cancellation()
        self._process = os.getpid()

    def run(self, source: Iterator[Any], results: Results) -> Iterator[Any]:
        """Read the source and yield results until both have ended.

        Between two results that are ready, at most one item is read, so that results are not delayed and the server
        stays busy.
        """
        in_flight = self._in_flight
        failure: Exception | None = None
        source_is_slow = just_read = False
        while True:
            item: Item | None = None
            with self._lock:
                self._check()
                has_result = in_flight.has_result
                reads = in_flight.should_read and not (has_result and (source_is_slow or just_read))
                if has_result and not reads:
                    item = in_flight.next_result()
                elif not reads:
                    if in_flight.finished:
                        break
                    self._changed.wait()
                    continue
            if item is not None:
                just_read = False
                yield from results.of(item)
                continue
            started = time.perf_counter()
            try:
                x = next(source)
            except StopIteration:
                self._end()
            except Exception as error:  # noqa: BLE001 - the caller's own error, raised after the results before it
                failure = error
                self._end()
            else:
                self._admit(x)
            source_is_slow = time.perf_counter() - started > _SLOW_SECONDS
            just_read = True
        if failure is not None:
            raise failure

    def stop(self) -> None:
        """Cancel the running calls, and wait for the threads to end, for a limited time."""
        if os.getpid() != self._process or sys.is_finalizing():
            # In a forked process, and while the interpreter shuts down, none of the threads runs, and one of them may
            # have held the lock.
            return
        with self._lock:
            self._stopped = True
            self._work_available.notify_all()
        self._cancellation.cancel()
        started = time.monotonic()
        for thread in self._threads:
            # No thread begins to prepare an item any more.
            limit = _PREPARE_SECONDS if thread in self._preparing else _SEND_SECONDS
            thread.join(max(started + limit - time.monotonic(), 0.0))

    def _check(self) -> None:
        if self._unexpected_error is not None:
            raise self._unexpected_error
        if self._in_flight.fatal is not None:
            raise self._in_flight.fatal

    def _end(self) -> None:
        with self._lock:
            self._in_flight.ended = True
            self._wake_worker()

    def _admit(self, x: Any) -> None:
        item = self._in_flight.new_item(x)
        if not item.is_slow:
            item.prepare(self._query)
        with self._lock:
            self._in_flight.admit(item)
            self._wake_worker()

    def _wake_worker(self) -> None:
        """Let a thread look for work, or wait until refused items may be sent again. The lock is held."""
        if not self._in_flight.has_work and self._in_flight.wait_seconds is None:
            return
        if self._idle:
            self._work_available.notify()
        elif len(self._threads) < MAX_CALLS:
            # In the caller's context, so that the calls belong to its span.
            run = contextvars.copy_context().run
            thread = threading.Thread(
                target=run, args=(self._work,), name=f"poolservice-map-{len(self._threads)}", daemon=True
            )
            thread.start()
            # Afterwards, because Ctrl-C may come before it is started, and such a thread cannot be joined.
            self._threads.append(thread)

    def _work(self) -> None:
        try:
            while (work := self._next_work()) is not None:
                if isinstance(work, Item):
                    work.prepare(self._query)
                    with self._lock:
                        self._preparing.discard(threading.current_thread())
                        self._in_flight.enqueue(work)
                        self._notify()
                else:
                    self._send(work)
        except Cancelled:
            return
        except BaseException as error:  # noqa: BLE001 - the caller's thread raises it, whatever it is
            with self._lock:
                self._unexpected_error = error
                self._changed.notify()

    def _next_work(self) -> Item | Message | None:
        with self._lock:
            while not self._stopped:
                work = self._in_flight.next_work()
                if work is not None:
                    if isinstance(work, Item):
                        self._preparing.add(threading.current_thread())
                    # Another item may be read now.
                    self._notify()
                    return work
                self._idle += 1
                self._work_available.wait(self._in_flight.wait_seconds)
                self._idle -= 1
        return None

    def _send(self, message: Message) -> None:
        try:
            self._transport.call(
                message.method,
                message.encode(),
                self._in_flight.time_left(message),
                self._cancellation,
                partial(self._receive, message),
            )
        except Cancelled:
            raise
        except Refused as refusal:
            with self._lock:
                self._in_flight.settle_refusal(message, refusal)
                self._notify()
        except PoolError as error:
            with self._lock:
                self._in_flight.settle_failure(message, error)
                self._notify()

    def _receive(self, message: Message, response: bytes) -> tuple[bytes, Failure] | None:
        outcomes = message.outcomes(response, self._query)
        with self._lock:
            failure = self._in_flight.settle_response(message, outcomes)
            self._notify()
        return None if failure is None else (message.encode(), failure)

    def _notify(self) -> None:
        """Wake the caller's thread, and a worker if there is work. The lock is held."""
        self._changed.notify()
        self._wake_worker()

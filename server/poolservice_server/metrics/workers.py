"""The metrics of all workers, which the supervisor collects when it is scraped."""

import asyncio
import socket
from collections import Counter
from collections.abc import Container

from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from poolservice_server.file_watch import FileWatch
from poolservice_server.metrics.families import Families, labelled, merged
from poolservice_server.metrics.process import FileMetrics
from poolservice_server.metrics.scrape_channel import ScrapeChannel

# The longest time that a scrape waits for the workers, all together. Prometheus gives a scrape ten seconds by default.
_SCRAPE_SECONDS = 1.0


class WorkerMetrics:
    """The metrics of all workers and of the supervisor.

    A worker that is starting, has ended, or does not answer in time is left out, and `poolservice_worker_up` is 0.

    Args:
        workers: the number of workers.
        watch: the supervisor's files, whose counters are shown.

    Attributes:
        loop: the event loop on which `collect` runs. The other methods are called on another thread.
    """

    def __init__(self, workers: int, watch: FileWatch) -> None:
        self.loop = asyncio.new_event_loop()
        self._workers = workers
        self._own = CollectorRegistry()
        self._own.register(FileMetrics(watch))
        ProcessCollector(registry=self._own)
        self._channels: dict[int, ScrapeChannel] = {}
        self._restarts: Counter[int] = Counter()

    def add(self, number: int, pid: int | None, channel: socket.socket) -> None:
        """Ask a worker, which serves from now on, in each scrape."""
        self.loop.call_soon_threadsafe(self._add, number, pid, channel)

    def end(self, number: int) -> None:
        """Stop asking a worker, which has ended, and count its restart."""
        self._restarts[number] += 1
        self.loop.call_soon_threadsafe(self._remove, number)

    async def collect(self) -> Families:
        """Return the metrics as they are now."""
        numbers = sorted(self._channels)
        responses = await asyncio.gather(*(self._channels[number].collect(_SCRAPE_SECONDS) for number in numbers))
        answered = {
            number: response for number, response in zip(numbers, responses, strict=True) if response is not None
        }
        pages = [labelled(families, str(number)) for number, families in answered.items()]
        return merged([self._state(answered), labelled(self._own.collect(), "supervisor"), *pages])

    def _state(self, answered: Container[int]) -> list[Metric]:
        restarts = {number: self._restarts[number] for number in range(self._workers)}
        return worker_state({number: number in answered for number in restarts}, restarts)

    def _add(self, number: int, pid: int | None, channel: socket.socket) -> None:
        self._channels[number] = ScrapeChannel(number, pid, channel)

    def _remove(self, number: int) -> None:
        if (channel := self._channels.pop(number, None)) is not None:
            channel.close()


def worker_state(up: dict[int, bool], restarts: dict[int, int]) -> list[Metric]:
    """Return the metrics of the state of the workers.

    Args:
        up: by worker, whether it has answered.
        restarts: by worker, how often it was restarted.
    """
    ups = GaugeMetricFamily(
        "poolservice_worker_up", "1 if the worker answered this scrape, otherwise 0.", labels=["worker"]
    )
    counts = CounterMetricFamily(
        "poolservice_worker_restarts", "Restarts of a worker that had ended.", labels=["worker"]
    )
    for number, is_up in up.items():
        ups.add_metric([str(number)], float(is_up))
        counts.add_metric([str(number)], restarts[number])
    return [ups, counts]

"""Metrics of requests: how long they and each of their stages took."""

from collections.abc import Iterable

from prometheus_client import Metric
from prometheus_client.registry import Collector

from poolservice_server.core.request_record import RequestRecord
from poolservice_server.error_status import code_name
from poolservice_server.histogram import Histogram
from poolservice_server.metrics.callers import CallerMetrics
from poolservice_server.metrics.families import histogram_family


class RequestMetrics(Collector):
    """The metrics of the requests that have ended. The event loop updates them.

    Args:
        callers: counts the requests of each caller.
    """

    def __init__(self, callers: CallerMetrics) -> None:
        self._callers = callers
        self._durations = Histogram()
        self._decode = Histogram()
        self._preprocess = Histogram()
        self._queue = Histogram()
        self._compute = Histogram()
        self._encode = Histogram()

    def observe(self, record: RequestRecord, error: BaseException | None) -> None:
        """Count a request that ended; see `RequestObserver`."""
        completed = record.completed
        if error is not None or completed is None:
            self._callers.count(record.call.caller, code_name(error), 0.0 if completed is None else completed.share)
            return
        ended = record.ended
        self._durations.observe(ended - record.started)
        self._queue.observe(completed.queue_seconds)
        self._compute.observe(completed.compute_seconds)
        self._encode.observe(ended - record.encode_started)
        if record.prepared is not None:
            preprocess_seconds = record.prepared.preprocess_seconds
            if preprocess_seconds:
                self._preprocess.observe(preprocess_seconds)
            if record.prepared.is_image:
                self._decode.observe(completed.prepare_seconds - preprocess_seconds)
        self._callers.count(record.call.caller, "OK", completed.share)

    def collect(self) -> Iterable[Metric]:
        """Return the metrics as they are now."""
        yield histogram_family(
            "poolservice_request_duration_seconds",
            "Time from a request's arrival to its response.",
            [],
            {(): self._durations},
        )
        yield histogram_family(
            "poolservice_request_stage_duration_seconds",
            "The part of this time in each stage.",
            ["stage"],
            {
                ("decode",): self._decode,
                ("preprocess",): self._preprocess,
                ("queue",): self._queue,
                ("compute",): self._compute,
                ("encode",): self._encode,
            },
        )

"""Metrics of admission and the queue: how many requests there are, what they need, which were refused or dropped."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from poolservice_server.batcher import Batcher, Limits, Snapshot

_OUTCOMES = ("accepted", "refused", "completed", "failed", "expired", "cancelled")

_DROPS = ("deadline", "cancelled", "stopping")

#: The limits because of which requests and calls are refused, and the stop of the server.
REFUSAL_REASONS = (
    "queue_requests",
    "queue_bytes",
    "validation_bytes",
    "caller_requests",
    "caller_bytes",
    "caller_seconds",
    "caller_rate",
    "caller_calls",
    "calls",
    "unread_bytes",
    "message_bytes",
    "image_pixels",
    "request_bytes",
    "request_seconds",
    "stopping",
)


class AdmissionMetrics(Collector):
    """The batcher's counters, the refusals and the unsent responses, read when they are scraped.

    Args:
        batcher: its counters are shown.
        refusals: the numbers of refusals by reason, of the batcher, the core and the calls.
        unsent_bytes: returns the memory of the large responses that are built and not sent yet.
    """

    def __init__(
        self, batcher: Batcher, refusals: Sequence[Mapping[str, int]], unsent_bytes: Callable[[], int]
    ) -> None:
        self._batcher = batcher
        self._refusals = refusals
        self._unsent_bytes = unsent_bytes

    def collect(self) -> Iterable[Metric]:
        """Return the metrics as they are now."""
        now = self._batcher.snapshot()
        requests = CounterMetricFamily(
            "poolservice_requests",
            "Requests that were accepted or refused, and how they ended.",
            labels=["outcome"],
        )
        for outcome in _OUTCOMES:
            requests.add_metric([outcome], getattr(now, outcome))
        yield requests
        refusals = CounterMetricFamily(
            "poolservice_refusals",
            "Requests, or whole calls, that were refused because of a limit, or because the server is stopping.",
            labels=["reason"],
        )
        for reason in REFUSAL_REASONS:
            refusals.add_metric([reason], sum(counts.get(reason, 0) for counts in self._refusals))
        yield refusals
        drops = CounterMetricFamily(
            "poolservice_drops",
            "Requests that were dropped while they waited, before they cost anything.",
            labels=["reason"],
        )
        for reason in _DROPS:
            drops.add_metric([reason], now.drops.get(reason, 0))
        yield drops
        yield from self._gauges(now, self._batcher.limits)
        yield CounterMetricFamily(
            "poolservice_stopped_work",
            "Batches and decodings that ended early, because nobody waited for them any more.",
            now.stopped,
        )

    def _gauges(self, now: Snapshot, limits: Limits) -> Iterable[Metric]:
        for name, documentation, value in (
            ("queue_entries", "Requests that wait for a thread to decode them, or for a batch.", now.queue_entries),
            ("queue_bytes", "Payloads and results of the requests that wait.", now.queue_bytes),
            (
                "admitted_requests",
                "Requests that the server has admitted: they wait, run, or have a response that is not built yet.",
                now.admitted_requests,
            ),
            ("admitted_requests_limit", "The limit of these requests.", limits.requests),
            (
                "admitted_bytes",
                "Memory that admitted requests need, and that responses take until they are sent.",
                now.admitted_bytes,
            ),
            ("admitted_bytes_limit", "The limit of this memory.", limits.nbytes),
            (
                "admitted_seconds",
                "Estimated computing time of the admitted requests' work that has not ended.",
                now.admitted_seconds,
            ),
            (
                "unsent_bytes",
                "Memory of the large responses that are built and that their callers have not read yet.",
                self._unsent_bytes(),
            ),
        ):
            yield GaugeMetricFamily(f"poolservice_{name}", documentation, value)

"""What is counted, in Prometheus' terms, and where it is read."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from google.rpc import code_pb2, status_pb2
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Outcome:
    """How a call ended: OK unless told otherwise."""

    def __init__(self) -> None:
        self.code = "OK"

    def failed(self, status: status_pb2.Status) -> status_pb2.Status:
        """Note the status of a call that failed, and hand it on."""
        self.code = code_pb2.Code.Name(status.code)
        return status


class CallMetrics:
    """Calls by method and status, their time, and how many run."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._finished = Counter(
            "poolservice_calls_total", "Calls that ended, by method and status.", ["method", "code"], registry=registry
        )
        self._seconds = Histogram(
            "poolservice_call_seconds",
            "Seconds from a call's arrival to its outcome, by method.",
            ["method"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._running = Gauge("poolservice_calls_running", "Calls that have no outcome yet.", registry=registry)

    @contextmanager
    def call(self, method: str) -> Iterator[Outcome]:
        """Count one call from here to the end of the block; one whose caller left counts as CANCELLED."""
        outcome = Outcome()
        started = time.perf_counter()
        self._running.inc()
        try:
            yield outcome
        except BaseException:
            outcome.code = "CANCELLED"
            raise
        finally:
            self._running.dec()
            self._seconds.labels(method).observe(time.perf_counter() - started)
            self._finished.labels(method, outcome.code).inc()

"""The provider of this process's tracers: resource, sampler and exporter, which OpenTelemetry's variables configure."""

import logging
import os
import time

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

import poolservice

_SERVICE = "poolservice-server"
# The loggers of the exporter. With a collector that is down, it logs several lines per batch of spans.
_EXPORTER_LOGGERS = ("opentelemetry.exporter.otlp.proto.grpc.exporter", "opentelemetry.sdk._shared_internal")
_INTERVAL_SECONDS = 60.0


def create_provider(endpoint: str | None, worker: int) -> TracerProvider:
    """Return the provider.

    The standard variables set everything else: the service's name, further attributes, the sampler, which honours the
    parent's decision by default, headers, certificates, timeouts and the sizes of queue and batches.

    Args:
        endpoint: the URL of the collector; None for that of the environment.
        worker: the number of this process among the workers.
    """
    for name in _EXPORTER_LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(one, _OncePerInterval) for one in logger.filters):
            logger.addFilter(_OncePerInterval())
    # Attributes given here would override those of the environment.
    detected = Resource.create()
    own: dict[str, str | int] = {SERVICE_VERSION: poolservice.__version__, "poolservice.worker": worker}
    if not os.environ.get("OTEL_SERVICE_NAME") and f"{SERVICE_NAME}=" not in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    ):
        own[SERVICE_NAME] = _SERVICE
    # The process decides when it stops tracing, because its grace period also bounds the last export.
    provider = TracerProvider(resource=detected.merge(Resource(own)), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    return provider


class _OncePerInterval(logging.Filter):
    """Lets each kind of line pass once per interval, and adds how many were left out."""

    def __init__(self) -> None:
        super().__init__()
        self._passed: dict[tuple[int, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True if the line is to be logged."""
        kind = record.levelno, str(record.msg)
        now = time.monotonic()
        passed, left_out = self._passed.get(kind, (-_INTERVAL_SECONDS, 0))
        if now - passed < _INTERVAL_SECONDS:
            self._passed[kind] = passed, left_out + 1
            return False
        self._passed[kind] = now, 0
        if left_out:
            record.msg = f"{record.getMessage()} ({left_out} more lines like this before)"
            record.args = ()
        return True

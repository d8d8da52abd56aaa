"""The spans of batches, which several requests of different traces share."""

import asyncio

from opentelemetry.trace import Span, SpanContext, Tracer

from poolservice_server.batcher import Completed
from poolservice_server.tracing.clock import Clock
from poolservice_server.tracing.contexts import below

# The members of a batch end one after the other, as their responses are encoded. Those that take longer than this after
# the first one are not linked from the batch; their own link to the batch does not depend on it.
_LINK_SECONDS = 1.0

# A batch that the backend has split has several devices or sizes.
_Key = tuple[int, str, int]


class BatchSpans:
    """The spans of the batches of several requests. Each is in the trace of its first member and links to all members.

    Args:
        tracer: starts the spans.
        clock: converts their times.
    """

    def __init__(self, tracer: Tracer, clock: Clock) -> None:
        self._tracer = tracer
        self._clock = clock
        self._open: dict[_Key, tuple[Span, int, asyncio.TimerHandle]] = {}

    def add(self, completed: Completed, member: Span) -> SpanContext:
        """Add a request to the span of its batch.

        Args:
            completed: the outcome of the request.
            member: the span of the request.

        Returns:
            The context of the batch's span, to which the request links.
        """
        key = completed.batch, completed.device, completed.batch_size
        context = member.get_span_context()
        found = self._open.get(key)
        if found is None:
            span = self._tracer.start_span(
                "batch",
                below(context),
                attributes={"poolservice.device": completed.device, "poolservice.batch_size": completed.batch_size},
                start_time=self._clock.of_monotonic(completed.compute_started),
            )
            ended = self._clock.of_monotonic(completed.compute_started + completed.compute_seconds)
            timer = asyncio.get_running_loop().call_later(_LINK_SECONDS, self._end, key)
            self._open[key] = span, ended, timer
        else:
            span = found[0]
        span.add_link(context)
        return span.get_span_context()

    def close(self) -> None:
        """End all spans."""
        for key, (_, _, timer) in list(self._open.items()):
            timer.cancel()
            self._end(key)

    def _end(self, key: _Key) -> None:
        span, ended, _ = self._open.pop(key)
        span.end(ended)

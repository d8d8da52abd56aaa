"""Contexts of spans that are elsewhere: in the caller's program, or in the span of a call."""

from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState, set_span_in_context

from poolservice_server.core.call_ids import CallIds, SpanId

# An explicit context, because no span of this process is ever the current one.
_NO_PARENT = Context()


def remote_context(span: SpanId, trace_state: str = "") -> SpanContext:
    """Return the context of a span of the caller's."""
    return SpanContext(
        int(span.trace_id, 16),
        int(span.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED if span.is_sampled else TraceFlags.DEFAULT),
        trace_state=TraceState.from_header([trace_state]) if trace_state else None,
    )


def below(parent: SpanContext) -> Context:
    """Return the context for a child of a span."""
    return set_span_in_context(NonRecordingSpan(parent), _NO_PARENT)


def below_caller(ids: CallIds) -> Context:
    """Return the context for the span of a call, which is a child of the caller's, if the caller traces."""
    return _NO_PARENT if ids.parent is None else below(remote_context(ids.parent, ids.trace_state))

"""Trace context: the OpenTelemetry span in which a call is made, sent with the call in W3C's headers.

A program that traces has loaded opentelemetry already, so this module never imports it. In other programs, a call
costs one lookup in `sys.modules`.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast

from poolservice_client._settings.credentials import MAX_METADATA_BYTES, header_bytes

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]

# W3C's headers, and ours for the further callers of a coalesced message: their traceparents, separated by commas.
_PARENT_KEY, _STATE_KEY, _LINKS_KEY = "traceparent", "tracestate", "x-trace-links"

# Further callers above this number share a message without a link. Each takes 56 bytes of its headers.
_MAX_LINKS = 16
# By W3C's specification, everyone passes on a header of up to this size.
_MAX_STATE_BYTES = 512


class TraceContext(NamedTuple):
    """The span in which a call is made.

    Attributes:
        parent: the value of the header traceparent.
        state: the value of the header tracestate; empty for none.
        is_sampled: whether the span is recorded.
    """

    parent: str
    state: str
    is_sampled: bool


def current_trace() -> TraceContext | None:
    """Return the context of the current thread's or task's span; None without one."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    # Another thread may be importing the module just now.
    current_span = getattr(trace, "get_current_span", None)
    if current_span is None:
        return None
    context = cast("SpanContext", current_span().get_span_context())
    if not context.is_valid:
        return None
    state = context.trace_state.to_header() if context.trace_state else ""
    return TraceContext(
        f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & 0xFF:02x}",
        state if len(state) <= _MAX_STATE_BYTES and state.isascii() and state.isprintable() else "",
        context.trace_flags.sampled,
    )


class CallMetadata:
    """The metadata of a client's calls.

    Args:
        metadata: what the client sends with every call. With a traceparent, it is sent as it is.
    """

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self._spare_bytes = MAX_METADATA_BYTES - header_bytes(metadata)
        self._has_own_context = any(key == _PARENT_KEY for key, _ in metadata)

    def of_call(self, traces: Sequence[TraceContext] | None = None) -> Metadata | None:
        """Return the metadata of a call; None for none.

        Args:
            traces: the trace contexts of its callers. The first one that is recorded becomes the parent of the server's
                span, and those of other recorded spans become links. Default: that of the current thread or task.
        """
        if traces is None:
            current = current_trace()
            traces = () if current is None else (current,)
        if not traces or self._has_own_context:
            return self._metadata or None
        recorded = [one for one in dict.fromkeys(traces) if one.is_sampled]
        parent = recorded[0] if recorded else traces[0]
        added: list[tuple[str, str | bytes]] = [(_PARENT_KEY, parent.parent)]
        if parent.state:
            added.append((_STATE_KEY, parent.state))
        if len(recorded) > 1:
            added.append((_LINKS_KEY, ",".join(one.parent for one in recorded[1 : _MAX_LINKS + 1])))
        # A call must not fail because it is traced.
        while added and header_bytes(added) > self._spare_bytes:
            added.pop()
        return (*self._metadata, *added) or None

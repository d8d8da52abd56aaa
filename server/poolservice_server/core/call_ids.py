"""The ids of a call: its request id and its trace, from the metadata of its caller, and the id in its status."""

import itertools
import os
import re
from collections.abc import Iterable
from typing import NamedTuple

from google.rpc import error_details_pb2, status_pb2

#: The metadata in which callers send, and get, the id of a call.
REQUEST_ID_KEY = "x-request-id"

# W3C's headers, and ours for the further callers of a coalesced message: their traceparents, separated by commas.
_PARENT_KEY, _STATE_KEY, _LINKS_KEY = "traceparent", "tracestate", "x-trace-links"

# Ids end up in the log, so they are short, visible and without spaces.
_REQUEST_ID = re.compile(r"[!-~]{1,128}")
# A later version of W3C's specification may append further parts.
_PARENT = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-(?P<trace>(?!0{32})[0-9a-f]{32})-(?P<span>(?!0{16})[0-9a-f]{16})-"
    r"(?P<flags>[0-9a-f]{2})(?P<rest>-[!-~]*)?"
)
_MAX_STATE_BYTES = 512
# Each costs the server a span.
_MAX_LINKS = 16

# Ids of this process: a random prefix and a number. They tell callers nothing but how many calls the log names.
_PREFIX = os.urandom(6).hex()
_numbers = itertools.count(1)


class SpanId(NamedTuple):
    """A span of the caller's.

    Attributes:
        trace_id: 32 hexadecimal digits.
        span_id: 16 hexadecimal digits.
        is_sampled: whether the span is recorded.
    """

    trace_id: str
    span_id: str
    is_sampled: bool


class CallIds(NamedTuple):
    """The ids of a call.

    Attributes:
        request_id: the caller's id, if it sent a valid one, otherwise a new one.
        parent: the caller's span; None if it sent none.
        trace_state: the header tracestate, which goes with the parent; empty for none.
        links: the spans of further callers, if their calls are coalesced.
    """

    request_id: str
    parent: SpanId | None = None
    trace_state: str = ""
    links: tuple[SpanId, ...] = ()


def read_call_ids(metadata: Iterable[tuple[str, str | bytes]]) -> CallIds:
    """Return the ids of a call with this metadata. What is wrong in it is ignored."""
    request_id, parent, trace_state = "", None, ""
    links: tuple[SpanId, ...] = ()
    for key, value in metadata:
        if not isinstance(value, str):
            continue
        if key == REQUEST_ID_KEY and not request_id and _REQUEST_ID.fullmatch(value):
            request_id = value
        elif key == _PARENT_KEY:
            parent = _span_id(value)
        elif key == _STATE_KEY and len(value) <= _MAX_STATE_BYTES:
            trace_state = value
        elif key == _LINKS_KEY:
            found = map(_span_id, value.split(",", _MAX_LINKS)[:_MAX_LINKS])
            links = tuple(dict.fromkeys(one for one in found if one is not None))
    return CallIds(
        request_id or f"{_PREFIX}-{next(_numbers):x}", parent, trace_state if parent else "", links if parent else ()
    )


def with_request_id(status: status_pb2.Status, request_id: str) -> status_pb2.Status:
    """Return a copy of a status with the id of the call in a RequestInfo."""
    named = status_pb2.Status()
    named.CopyFrom(status)
    named.details.add().Pack(error_details_pb2.RequestInfo(request_id=request_id))
    return named


def _span_id(text: str) -> SpanId | None:
    found = _PARENT.fullmatch(text)
    if found is None or (found["version"] == "00" and found["rest"] is not None):
        return None
    return SpanId(found["trace"], found["span"], bool(int(found["flags"], 16) & 1))

"""The fields of a log line about a call or a request: who, what, how it ended and where its time went."""

from typing import Any

from poolservice_server.core.call_record import CallRecord
from poolservice_server.core.request_record import RequestRecord
from poolservice_server.core.request_stages import stages
from poolservice_server.core.request_summary import summarize

# The identity in a client certificate can be a long text, and a reason quotes what the caller wrote.
_MAX_CALLER = 100
_MAX_REASON = 300


def call_fields(record: CallRecord) -> dict[str, Any]:
    """Return what identifies a call."""
    ids = record.ids
    fields: dict[str, Any] = {"request_id": ids.request_id}
    if ids.parent is not None:
        fields["trace_id"] = ids.parent.trace_id
    fields["method"] = record.method
    if record.caller:
        fields["caller"] = record.caller[:_MAX_CALLER]
    return fields


def outcome_fields(code: str, reason: str, seconds: float) -> dict[str, Any]:
    """Return how a call or a request ended, and how long it took."""
    fields: dict[str, Any] = {"code": code}
    if reason:
        fields["reason"] = reason if len(reason) <= _MAX_REASON else f"{reason[:_MAX_REASON]}..."
    fields["milliseconds"] = _milliseconds(seconds)
    return fields


def request_fields(record: RequestRecord) -> dict[str, Any]:
    """Return what a request asked for, where it ran, and the milliseconds of each of its stages."""
    specs, shape, dtype, backbone, tap = summarize(record)
    fields: dict[str, Any] = {}
    if specs:
        fields["specs"] = ", ".join(specs)
    if shape:
        fields["shape"] = list(shape)
    texts = {"dtype": dtype, "backbone": backbone, "tap": tap}
    fields |= {name: text for name, text in texts.items() if text}
    if record.completed is not None:
        fields["device"] = record.completed.device
        fields["batch_size"] = record.completed.batch_size
    for stage in stages(record):
        name = f"{stage.name}_milliseconds"
        fields[name] = round(fields.get(name, 0.0) + _milliseconds(stage.seconds), 3)
    return fields


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)

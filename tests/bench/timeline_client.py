"""The recording of what the client does, for tests/bench/timeline.py.

Functions of the client are replaced with recording ones for as long as this process lives.
"""

import selectors
import time
from functools import wraps
from typing import Any

from poolservice_client._coalescing.call import BaseCall
from poolservice_client._coalescing.request import CoalescedRequest
from poolservice_client._map.item import Item
from poolservice_client._map.message import Message
from poolservice_client._request.query import PoolQuery
from poolservice_client._request.template import RequestTemplate
from poolservice_client._transport import aio, blocking
from poolservice_client._transport.channels import open_connection
from poolservice_client._transport.connections import Connection
from poolservice_client._transport.methods import POOL, POOL_BATCH
from timeline_spans import Recorder, Step


def record(recorder: Recorder) -> None:
    """Replace functions of the client with recording ones."""
    recorder.time_calls(Step.CLIENT_ENCODE, PoolQuery, "payload_of", "template_for")
    recorder.time_calls(Step.CLIENT_ENCODE, RequestTemplate, "request")
    recorder.time_calls(Step.CLIENT_ENCODE, CoalescedRequest, "__init__")
    recorder.time_calls(Step.CLIENT_ENCODE, Item, "prepare")
    recorder.time_calls(Step.CLIENT_ENCODE, Message, "encode")
    recorder.time_calls(Step.CLIENT_DECODE, CoalescedRequest, "set_response")
    recorder.time_calls(Step.CLIENT_DECODE, BaseCall, "result")
    recorder.time_calls(Step.CLIENT_DECODE, Message, "outcomes")
    recorder.time_calls(Step.CLIENT_SEND, aio.AsyncGrpcTransport, "_start")
    recorder.mark_calls(Step.REQUEST_SENT, Step.RESPONSE_RECEIVED, aio.AsyncGrpcTransport, "_send")
    _record_blocking_calls(recorder)


def _record_blocking_calls(recorder: Recorder) -> None:
    send = blocking.GrpcTransport._send

    @wraps(send)
    def recorded_send(*arguments: Any) -> Any:
        recorder.mark(Step.REQUEST_SENT)
        try:
            return send(*arguments)
        finally:
            recorder.mark(Step.RESPONSE_RECEIVED)

    @wraps(open_connection)
    def open_recorded(*arguments: Any) -> Connection:
        connection = open_connection(*arguments)
        for method in (POOL, POOL_BATCH):
            # `map` sends with `future`. A blocking call would be recorded until its response has arrived.
            recorder.time_calls(Step.CLIENT_SEND, connection.methods[method], "future")
        return connection

    for owner, name, replacement in (
        (blocking.GrpcTransport, "_send", recorded_send),
        (blocking, "open_connection", open_recorded),
    ):
        setattr(owner, name, replacement)


class RecordingSelector(selectors.DefaultSelector):
    """The selector of an event loop, which is busy from the end of one `select` to the start of the next one."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder
        self._busy_since = time.monotonic_ns()

    def select(self, timeout: float | None = None) -> Any:
        """See selectors.BaseSelector."""
        self._recorder.add(Step.CLIENT_LOOP, self._busy_since)
        try:
            return super().select(timeout)
        finally:
            self._busy_since = time.monotonic_ns()

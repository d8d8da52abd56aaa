"""Decides which calls and requests are logged, at which level, and how many lines."""

import asyncio
import logging
import time
from functools import partial
from math import inf

from poolservice_server.batcher import QuotaExceeded
from poolservice_server.call_log.fields import call_fields, outcome_fields, request_fields
from poolservice_server.call_log.line_limit import LineLimit
from poolservice_server.call_log.line_writer import LineWriter
from poolservice_server.core.call_record import CallRecord
from poolservice_server.core.request_record import RequestRecord
from poolservice_server.error_status import code_name

# Codes that are faults of the server, and codes that say that it is too busy or about to stop. All others are the
# caller's own doing, and so is RESOURCE_EXHAUSTED for the caller's own quota.
_OUR_FAULTS = frozenset({"INTERNAL", "UNKNOWN", "DATA_LOSS"})
_TOO_BUSY = frozenset({"RESOURCE_EXHAUSTED", "UNAVAILABLE"})

# Callers can cause such lines as fast as they call, so each level has its limit: 50 MB a day.
_LINES_AT_ONCE, _LINES_PER_SECOND = 100, 2.0
_LEVELS = (logging.INFO, logging.WARNING, logging.ERROR)
# How long lines are left out before their number is logged.
_LEFT_OUT_SECONDS = 10.0
# A call can only be slow because of a request that took at least this part of the limit.
_PART_OF_SLOW = 0.1
# The longest time for the last lines when the process stops.
_CLOSE_SECONDS = 1.0


class CallLog:
    """The log of the calls of one process. Use it on the event loop.

    Args:
        slow_seconds: calls and requests that take longer are logged; 0: none.
        logs_all: whether every call is logged. Such lines are not limited in number.
        logger: says which levels are logged.
    """

    def __init__(self, slow_seconds: float, *, logs_all: bool, logger: logging.Logger) -> None:
        self._level = logging.INFO if logs_all else logging.DEBUG
        self._logs_all = logger.isEnabledFor(self._level)
        self._slow_seconds = slow_seconds or inf
        # Faster calls, and calls of faster requests, have nothing to log.
        self._call_seconds = -1.0 if self._logs_all else self._slow_seconds
        self._request_seconds = -1.0 if self._logs_all else self._slow_seconds * _PART_OF_SLOW
        self._logger = logger
        self._limits = {level: LineLimit(_LINES_AT_ONCE, _LINES_PER_SECOND) for level in _LEVELS}
        self._writer = LineWriter()
        self._left_out_timer: asyncio.TimerHandle | None = None

    def observe_request(self, record: RequestRecord, error: BaseException | None) -> None:
        """Log a request of a batch or a stream, or keep what its call's line will say; see `RequestObserver`."""
        seconds = record.ended - record.started
        if error is None and seconds < self._request_seconds:
            return
        call = record.call
        if call.record is None:
            return
        if call.position is None:
            if error is None:
                # Made now, because the record has the result, which would stay in memory until the response is sent.
                fields = request_fields(record)
                call.record.details = lambda: fields
            else:
                # Made only if the line is written, because most refusals of a full server are left out.
                call.record.details = partial(request_fields, record)
            return
        if error is None and seconds < self._slow_seconds:
            return
        code = code_name(error)
        level = _level(code, is_over_quota=isinstance(error, QuotaExceeded))
        if not self._may_write(level, call.caller, code):
            return
        # The message of an internal error may contain anything. The log has it under the request id.
        reason = "" if error is None or code in _OUR_FAULTS else str(error)
        position = "index" if call.method == "PoolBatch" else "correlation_id"
        self._writer.write(
            level,
            "slow request" if error is None else "failed request",
            call_fields(call.record)
            | {position: call.position}
            | outcome_fields(code, reason, seconds)
            | request_fields(record),
        )

    def observe_call(self, record: CallRecord) -> None:
        """Log a call that ended, if it failed or was slow, or if every call is logged; see `CallObserver`."""
        code = record.code
        seconds = time.perf_counter() - record.started
        if code == "OK" and seconds < self._call_seconds:
            return
        # They refer to the record of the request, which refers to this one.
        details, record.details = record.details, None
        if code == "OK" and seconds < self._slow_seconds:
            level, event = self._level, "call"
        else:
            level = _level(code, is_over_quota=record.is_over_quota)
            event = "slow call" if code == "OK" else "failed call"
            if not self._logs_all and not self._may_write(level, record.caller, code):
                return
        self._writer.write(
            level,
            event,
            call_fields(record)
            | outcome_fields(code, record.reason, seconds)
            | {"received_bytes": record.received_bytes, "sent_bytes": record.sent_bytes}
            | (dict(details()) if details else {}),
        )

    def close(self) -> None:
        """Write the last lines."""
        if self._left_out_timer is not None:
            self._left_out_timer.cancel()
            self._log_left_out()
        self._writer.close(_CLOSE_SECONDS)

    def _may_write(self, level: int, caller: str, code: str) -> bool:
        if not self._logger.isEnabledFor(level):
            return False
        if self._limits[level].take(caller, code):
            return True
        if self._left_out_timer is None:
            loop = asyncio.get_running_loop()
            self._left_out_timer = loop.call_later(_LEFT_OUT_SECONDS, self._log_left_out)
        return False

    def _log_left_out(self) -> None:
        self._left_out_timer = None
        for level, limit in self._limits.items():
            if left_out := limit.take_left_out():
                total = sum(left_out.values())
                self._writer.write(level, "left out lines about calls", {"lines": total, "codes": left_out})


def _level(code: str, *, is_over_quota: bool) -> int:
    """Return the level of a line about a call that failed, or about a slow one, whose code is OK."""
    if code in _OUR_FAULTS:
        return logging.ERROR
    is_too_busy = code in _TOO_BUSY and not is_over_quota
    return logging.WARNING if code == "OK" or is_too_busy else logging.INFO

"""The call log's decisions: levels, limits and what a stop still writes."""

import logging
from typing import Any

import pytest
import structlog

from poolservice_server.batcher import QuotaExceeded
from poolservice_server.call_log import CallLog
from poolservice_server.core.call_record import CallRecord
from poolservice_server.error_status import to_status

LOGGER = logging.getLogger("tests.call_log")


def ended(code: str, reason: str = "") -> CallRecord:
    """Return the record of a call that has just ended."""
    record = CallRecord("Pool", 0.0, lambda: (("x-request-id", "job-7"),))
    record.code, record.reason = code, reason
    return record


def lines(*records: CallRecord, level: int = logging.INFO, logs_all: bool = False) -> list[Any]:
    """Return the lines of calls, which all have taken long."""
    LOGGER.setLevel(level)
    with structlog.testing.capture_logs() as found:
        log = CallLog(1.0, logs_all=logs_all, logger=LOGGER)
        for record in records:
            log.observe_call(record)
        log.close()
    return found


@pytest.mark.parametrize(
    ("code", "level"),
    [
        ("CANCELLED", "info"),
        ("DEADLINE_EXCEEDED", "info"),
        ("INVALID_ARGUMENT", "info"),
        ("UNAUTHENTICATED", "info"),
        ("RESOURCE_EXHAUSTED", "warning"),
        ("UNAVAILABLE", "warning"),
        ("INTERNAL", "error"),
        ("UNKNOWN", "error"),
    ],
)
async def test_the_level_says_whose_fault_it_is(code: str, level: str) -> None:
    (line,) = lines(ended(code))
    assert (line["event"], line["log_level"], line["code"]) == ("failed call", level, code)
    assert line["request_id"] == "job-7"


async def test_a_refusal_for_the_callers_own_quota_is_no_warning() -> None:
    error = QuotaExceeded("9 requests", "8", "requests", 0.1)
    record = ended("OK")
    record.fail(error, to_status(error))
    (line,) = lines(record)
    assert (line["event"], line["log_level"], line["code"]) == ("failed call", "info", "RESOURCE_EXHAUSTED")
    assert "--caller-max-requests" in line["reason"]


async def test_a_slow_call_is_a_warning() -> None:
    (line,) = lines(ended("OK"))
    assert (line["event"], line["log_level"]) == ("slow call", "warning")


async def test_levels_that_are_not_logged_cost_no_lines() -> None:
    codes = [line["code"] for line in lines(ended("CANCELLED"), ended("INTERNAL"), level=logging.ERROR)]
    assert codes == ["INTERNAL"]


async def test_errors_of_callers_leave_room_for_those_of_the_server() -> None:
    found = lines(*[ended("INVALID_ARGUMENT")] * 1000, ended("INTERNAL"))
    assert [line["code"] for line in found if line["log_level"] == "error"] == ["INTERNAL"]
    assert found[-1]["event"] == "left out lines about calls"
    assert found[-1]["codes"] == {"INVALID_ARGUMENT": found[-1]["lines"]}
    assert len(found) < 150


async def test_the_access_log_leaves_nothing_out() -> None:
    assert len(lines(*[ended("INVALID_ARGUMENT")] * 1000, logs_all=True)) == 1000


async def test_a_long_reason_is_cut() -> None:
    (line,) = lines(ended("INVALID_ARGUMENT", "x" * 10_000))
    assert len(line["reason"]) < 400

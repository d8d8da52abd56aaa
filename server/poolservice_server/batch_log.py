"""Logs each batch at level debug."""

import logging
import time
from collections.abc import Sequence
from typing import Any

import structlog

from poolservice_server.batcher.request import Runner, RunResult

_log = structlog.get_logger(__name__)


def logged(run: Runner) -> Runner:
    """Return a runner that also logs each batch, or `run` itself if level debug is not logged."""
    if not logging.getLogger(__name__).isEnabledFor(logging.DEBUG):
        return run

    def run_and_log(key: Any, payloads: list[Any], /, *further: Any) -> Sequence[RunResult | Exception]:
        started = time.perf_counter()
        outcomes = run(key, payloads, *further)
        failed = sum(isinstance(outcome, Exception) for outcome in outcomes)
        devices = sorted({outcome.device for outcome in outcomes if not isinstance(outcome, Exception)})
        milliseconds = round((time.perf_counter() - started) * 1000, 3)
        _log.debug("batch", requests=len(payloads), failed=failed, devices=devices, milliseconds=milliseconds)
        return outcomes

    return run_and_log

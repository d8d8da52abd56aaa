"""Runs a batch so that every request gets an outcome, whatever the runner does."""

import time
from collections.abc import Callable
from typing import Any

from poolservice.errors import PoolError
from poolservice_server.batcher.outcomes import BatchOutcomes
from poolservice_server.batcher.request import Runner
from poolservice_server.stop import Stop, WorkStopped


def run_batch(
    run: Runner, key: Any, payloads: list[Any], stop: Stop, *, caught: type[BaseException] = Exception
) -> tuple[BatchOutcomes, float]:
    """Run a batch.

    Args:
        run: the runner.
        key: the batch's key.
        payloads: what the runner receives.
        stop: returns True once nobody waits for any of the outcomes.
        caught: the exceptions that become outcomes. On a thread all of them must, or the batch would never be settled.

    Returns:
        The outcome of each payload, in order, and the seconds that the batch took.
    """
    started = time.perf_counter()
    try:
        outcomes = run(key, payloads, stop)
        if len(outcomes) != len(payloads):
            raise RuntimeError(f"the runner returned {len(outcomes)} outcomes for a batch of {len(payloads)}")
    except caught as error:
        return [_as_outcome(error)] * len(payloads), time.perf_counter() - started
    return outcomes, time.perf_counter() - started


def prepare(payload: Callable[[Stop], Any], stop: Stop) -> tuple[Any, float]:
    """Call `payload`, which returns the runner's payload.

    Returns:
        The runner's payload, or the exception that is the request's outcome, and the seconds that the call took.
    """
    started = time.perf_counter()
    try:
        prepared = payload(stop)
    except BaseException as error:  # noqa: BLE001 - even after SystemExit the request needs an outcome
        return _as_outcome(error), time.perf_counter() - started
    return prepared, time.perf_counter() - started


def _as_outcome(error: BaseException) -> Exception:
    """Return the exception that is a request's outcome."""
    if isinstance(error, PoolError | WorkStopped):
        # Its message explains it without a traceback. The traceback's frames refer to the request and so back to the
        # exception; that cycle would keep the request's memory until Python's garbage collector runs.
        error.__traceback__ = error.__context__ = None
    if isinstance(error, Exception):
        return error
    return RuntimeError(f"the batch's runner ended with {error!r}")

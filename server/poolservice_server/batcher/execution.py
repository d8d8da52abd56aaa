"""A batch run: whatever the runner does, each item has an outcome."""

import time
from typing import Any

from poolservice.errors import PoolError
from poolservice_server.batcher.outcomes import BatchOutcomes
from poolservice_server.batcher.request import Request, Runner


def ran(
    run: Runner, key: Any, payloads: list[Any], *, caught: type[BaseException] = Exception
) -> tuple[BatchOutcomes, float]:
    """Run a batch.

    Args:
        run: the runner.
        key: the batch's key.
        payloads: what it is given.
        caught: what may not get out: on a thread nothing may, since the batch would be left without an end.

    Returns:
        For each payload, in order, what became of it, and the seconds that it took.
    """
    started = time.perf_counter()
    try:
        outcomes = run(key, payloads)
        if len(outcomes) != len(payloads):
            raise RuntimeError(f"a batch of {len(payloads)} came back with {len(outcomes)} outcomes")
    except caught as error:
        return [_told(error)] * len(payloads), time.perf_counter() - started
    return outcomes, time.perf_counter() - started


def run_unbatched(run: Runner, work: Request) -> tuple[BatchOutcomes, float]:
    """Prepare an item on this thread, whose payload's call gives the runner's, and run it by itself.

    Returns:
        As `ran`, without the seconds that preparing took.
    """
    try:
        payload = work.payload()
    except BaseException as error:  # noqa: BLE001 - SystemExit and such would leave the item without an end
        return [_told(error)], 0.0
    return ran(run, work.key, [payload], caught=BaseException)


def _told(error: BaseException) -> Exception:
    """The exception that is an item's outcome."""
    if isinstance(error, PoolError):
        # It speaks for itself. Its traceback's frames lead back to the item and so to itself, a circle that would keep
        # the item's memory until Python's collector comes by.
        error.__traceback__ = error.__context__ = None
    if isinstance(error, Exception):
        return error
    return RuntimeError(f"the batch's runner ended with {error!r}")

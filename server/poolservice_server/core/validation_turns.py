"""Validation in turns: a new head or image header takes milliseconds, and the event loop must serve others, too."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, TypeVar

from poolservice_server.batcher import QueueFull

# How long one loop iteration may validate. It is exceeded by one validation at most, of up to a few milliseconds.
_MAX_SECONDS = 0.002

# Some of the waiting requests are validated within this time. A retry that comes too early is refused at little cost.
_RETRY_AFTER_SECONDS = 0.1

# The memory of a waiting request in addition to its message: its task, its call and the state that gRPC keeps of it.
_OVERHEAD_BYTES = 8 * 1024

_T = TypeVar("_T")


class _Validation(asyncio.Future[Any]):
    """A validation that waits for its turn."""

    __slots__ = ("nbytes", "validate")

    nbytes: int
    validate: Callable[[], Any]


class _Waiting(deque[_Validation]):
    """The validations of one caller that wait, and the memory that their requests take."""

    nbytes = 0


class ValidationTurns:
    """Runs validations on the event loop, for a short time in each iteration.

    A thousand requests with new heads arrive in one message, or at the same time in many. Validating all of them at
    once would stop the loop for seconds. Callers take turns, so that a caller with a thousand of them does not delay
    another caller's first.

    Args:
        max_bytes: the memory from which the waiting requests of a caller are limited to an equal share of it, so that
            no caller can exclude the others. All callers together take at most twice as much, apart from one request of
            any size for each caller.
        refusals: counts the refusals, under "validation_bytes".
    """

    def __init__(self, max_bytes: int, refusals: Counter[str]) -> None:
        self._refusals = refusals
        self._max_bytes = max_bytes
        self._nbytes = 0
        # Seconds of validation in this loop iteration.
        self._seconds = 0.0
        # By caller, in the order of their turns.
        self._waiting: dict[str, _Waiting] = {}

    async def run(self, caller: str, validate: Callable[[], _T], nbytes: int) -> _T:
        """Return what `validate` returns, or raise what it raises: immediately, or when it is the caller's turn.

        Args:
            caller: who sent the request.
            validate: validates it.
            nbytes: the size of its message, which stays in memory while it waits.

        Raises:
            QueueFull: the waiting requests would take more than `max_bytes`, and the caller's more than its share.
        """
        loop = asyncio.get_running_loop()
        if not self._waiting and self._seconds < _MAX_SECONDS:
            if not self._seconds:
                loop.call_soon(self._begin_iteration, loop)
            started = time.perf_counter()
            try:
                return validate()
            finally:
                self._seconds += time.perf_counter() - started
        nbytes += _OVERHEAD_BYTES
        waiting = self._waiting.get(caller)
        if waiting is None:
            waiting = self._waiting[caller] = _Waiting()
        elif self._nbytes + nbytes > self._max_bytes:
            share = self._max_bytes / len(self._waiting)
            if waiting.nbytes + nbytes > share:
                self._refusals["validation_bytes"] += 1
                raise QueueFull(_RETRY_AFTER_SECONDS)
        validation = _Validation(loop=loop)
        validation.validate = validate
        validation.nbytes = nbytes
        waiting.append(validation)
        waiting.nbytes += nbytes
        self._nbytes += nbytes
        result: _T = await validation
        return result

    def _begin_iteration(self, loop: asyncio.AbstractEventLoop) -> None:
        started = time.perf_counter()
        self._seconds = 0.0
        while self._waiting and self._seconds < _MAX_SECONDS:
            caller, waiting = next(iter(self._waiting.items()))
            del self._waiting[caller]
            validation = waiting.popleft()
            waiting.nbytes -= validation.nbytes
            self._nbytes -= validation.nbytes
            _settle(validation)
            if waiting:
                # Behind the other callers.
                self._waiting[caller] = waiting
            self._seconds = time.perf_counter() - started
        if self._seconds:
            loop.call_soon(self._begin_iteration, loop)


def _settle(validation: _Validation) -> None:
    # The caller may have left.
    if validation.done():
        return
    try:
        validation.set_result(validation.validate())
    except Exception as error:  # noqa: BLE001 - it is the outcome of the request, whatever it is
        # The frames of the traceback refer to the validation, and so back to the error.
        error.__traceback__ = None
        validation.set_exception(error)

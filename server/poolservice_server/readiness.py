"""Readiness: whether this process can compute now.

The batches of callers show it as long as they succeed. While there are none, a small computation shows it: through the
backend's policy, like a batch, and on a thread of its own, so that neither callers nor the event loop wait for it.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Protocol

import structlog

_log = structlog.get_logger(__name__)

_TICK_SECONDS = 1.0

# Without a successful batch for so many ticks, a small computation is due.
_IDLE_TICKS = 5

# A small computation that takes so many ticks is stuck. Ticks are counted, and not seconds: a process that was stopped
# and goes on would blame the device for the time in which it was stopped itself.
_STUCK_TICKS = 10

# A backbone is checked at most once in so many ticks, because a run can cost much.
_BACKBONE_TICKS = 10

_NOT_STARTED = "it has not computed anything yet"
_STOPPING = "it is stopping"


class Checked(Protocol):
    """What readiness asks the backend for."""

    suspected_backbones: set[str]
    """Names of backbones of which a run has failed."""

    @property
    def payloads(self) -> int:
        """The payloads of callers that have succeeded."""
        ...

    @property
    def is_available(self) -> bool:
        """False while all devices are suspended."""
        ...

    def check(self) -> None:
        """Compute a known result; raise if that fails."""
        ...

    def check_backbone(self, name: str) -> None:
        """Compute the known result of a backbone; raise if that fails."""
        ...


class Readiness:
    """The readiness of a process and of its backbones. Create and use it in the event loop.

    - The process is ready if its devices have computed something right recently: a batch, or a known result.
    - It is not ready before the first known result, while no device computes it, while its computation does not end,
      and from `drain` on. A full queue changes nothing: the callers' retries are for that.
    - A backbone serves while the process is ready, unless it fails on its known input, too, after a caller's run of it
      has failed. A caller's input alone cannot make a backbone unready.

    Args:
        backend: runs the batches and computes the known results.
        tick_seconds: the interval between two looks at the devices.

    Attributes:
        on_change: called in the event loop after each change.
        check_seconds: how long the last computation of the known result took; 0 before the first one.
    """

    def __init__(self, backend: Checked, *, tick_seconds: float = _TICK_SECONDS) -> None:
        self.on_change: Callable[[], None] = lambda: None
        self.check_seconds = 0.0
        self._backend = backend
        self._tick_seconds = tick_seconds
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="readiness")
        self._backbone_thread = ThreadPoolExecutor(1, thread_name_prefix="readiness-backbones")
        self._problem = _NOT_STARTED
        self._failed_backbones: set[str] = set()
        # The ticks since the last check of each backbone that was checked.
        self._backbone_ticks: dict[str, int] = {}
        self._check: Future[float] | None = None
        self._backbone_check: Future[float] | None = None
        self._first_check_ended = asyncio.Event()
        self._payloads = 0
        self._idle_ticks = self._check_ticks = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_ready(self) -> bool:
        """True if the process can compute and accepts requests."""
        return not self._problem

    @property
    def is_checking(self) -> bool:
        """True while a known result is computed, or its outcome is on the way to the event loop."""
        return self._check is not None or self._backbone_check is not None

    def serves(self, backbone: str) -> bool:
        """Return True if the process is ready and its backbone of this name works."""
        return self.is_ready and backbone not in self._failed_backbones

    async def start(self) -> None:
        """Compute the known result, wait until that has ended or is stuck, and look at the devices from then on."""
        self._start_check()
        self._schedule_tick()
        await self._first_check_ended.wait()

    def drain(self) -> None:
        """Be unready from now on, because the process stops."""
        if self._timer is not None:
            self._timer.cancel()
        for thread in (self._thread, self._backbone_thread):
            thread.shutdown(wait=False, cancel_futures=True)
        self._problem = _STOPPING
        self.on_change()

    def tick(self) -> None:
        """Look at the devices. The event loop does this once per `tick_seconds`."""
        payloads = self._backend.payloads
        self._idle_ticks = self._idle_ticks + 1 if payloads == self._payloads else 0
        self._payloads = payloads
        if self._check is not None:
            self._check_ticks += 1
            # The check may have ended in a moment that the event loop has not heard of yet.
            if self._check_ticks >= _STUCK_TICKS and not self._check.done():
                self._set_problem(f"a small computation has not ended for {_STUCK_TICKS * self._tick_seconds:g} s")
        elif self._problem or self._idle_ticks >= _IDLE_TICKS or not self._backend.is_available:
            self._start_check()
        self._tick_backbones()

    def _schedule_tick(self) -> None:
        def tick() -> None:
            self._schedule_tick()
            self.tick()

        self._timer = self._loop.call_later(self._tick_seconds, tick)

    def _start_check(self) -> None:
        self._idle_ticks = self._check_ticks = 0
        self._check = self._submit(self._thread, self._backend.check, self._end_check)

    def _end_check(self, check: "Future[float]") -> None:
        self._check = None
        error = check.exception()
        if error is None:
            self.check_seconds = check.result()
        self._set_problem("" if error is None else str(error) or type(error).__name__)

    def _tick_backbones(self) -> None:
        for name in self._backbone_ticks:
            self._backbone_ticks[name] += 1
        if self._backbone_check is not None:
            return
        suspected = self._backend.suspected_backbones
        # Copied, because runs that fail on other threads add names.
        for name in suspected.copy() | self._failed_backbones:
            if self._backbone_ticks.get(name, _BACKBONE_TICKS) >= _BACKBONE_TICKS:
                # Before the check: a run that fails during it makes the backbone suspected again.
                suspected.discard(name)
                self._backbone_ticks[name] = 0
                check = partial(self._backend.check_backbone, name)
                self._backbone_check = self._submit(
                    self._backbone_thread, check, partial(self._end_backbone_check, name)
                )
                return

    def _end_backbone_check(self, name: str, check: "Future[float]") -> None:
        self._backbone_check = None
        error = check.exception()
        if (error is not None) == (name in self._failed_backbones):
            return
        if error is None:
            self._failed_backbones.remove(name)
            _log.warning("a backbone works again", backbone=name)
        else:
            self._failed_backbones.add(name)
            _log.error("a backbone does not work", backbone=name, reason=str(error))
        self.on_change()

    def _submit(
        self, thread: ThreadPoolExecutor, check: Callable[[], None], end: Callable[["Future[float]"], None]
    ) -> "Future[float]":
        """Run `check` on a thread, and then `end` in the event loop, with the seconds that it took."""

        def end_soon(done: "Future[float]") -> None:
            # If the loop is closed, the process is about to end.
            if not done.cancelled():
                with suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(end, done)

        future = thread.submit(_timed, check)
        future.add_done_callback(end_soon)
        return future

    def _set_problem(self, problem: str) -> None:
        self._first_check_ended.set()
        before = self._problem
        if before == _STOPPING:
            return
        self._problem = problem
        if problem and before in ("", _NOT_STARTED):
            _log.error("not ready", reason=problem)
        elif before and not problem and before != _NOT_STARTED:
            _log.warning("ready again")
        if bool(before) != bool(problem):
            self.on_change()


def _timed(check: Callable[[], None]) -> float:
    started = time.perf_counter()
    check()
    return time.perf_counter() - started

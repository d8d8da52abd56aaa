"""A device that is left alone while it fails, and given no more at a time than it had room for."""

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import structlog

from poolservice_server.backend.device import (
    Device,
    DeviceFailed,
    DeviceOutOfMemory,
    DeviceState,
)
from poolservice_server.stages import BatchKey, PoolStage, SpecResult

_log = structlog.get_logger(__name__)

# A device that failed is tried again after the first of these seconds, then after twice as long each time.
_FIRST_PROBE_SECONDS = 1.0
_LONGEST_PROBE_SECONDS = 300.0

# What a device had no room for is tried again at twice the size after this long without running out of memory.
_GROW_SECONDS = 30.0

# Kinds whose ceiling is remembered; beyond that the one that was lowered first is forgotten, and learnt again.
_CEILINGS_KEPT = 256


class _Ceiling(NamedTuple):
    nbytes: int
    grows_at: float


class CircuitBreaker:
    """A device with a memory of its failures. Its methods may be called from several threads.

    Args:
        device: where batches run.
        clock: seconds.
    """

    def __init__(self, device: Device, clock: Callable[[], float]) -> None:
        self.name = device.name
        self.items = 0
        self.out_of_memory = 0
        self.failures = 0
        self.suspensions = 0
        self.probes = 0
        self._device = device
        self._clock = clock
        self._lock = threading.Lock()
        self._reason = ""
        self._probing = False
        self._probe_at = 0.0
        self._probe_seconds = _FIRST_PROBE_SECONDS
        self._ceilings: dict[BatchKey, _Ceiling] = {}

    @property
    def state(self) -> DeviceState:
        """The device as it is now."""
        return DeviceState(self.name, self._device.description, bool(self._reason), self._reason)

    def serves(self) -> bool:
        """Whether it takes work. If it failed and the time has come to try it again, it is tried here."""
        if not self._reason:
            return True
        with self._lock:
            if not self._reason:
                return True
            if self._probing or self._clock() < self._probe_at:
                return False
            self._probing = True
            self.probes += 1
        right = self._device.probe()
        with self._lock:
            self._probing = False
            if right:
                self._reason = ""
                self._probe_seconds = _FIRST_PROBE_SECONDS
            else:
                self._probe_seconds = min(2 * self._probe_seconds, _LONGEST_PROBE_SECONDS)
                self._probe_at = self._clock() + self._probe_seconds
        if right:
            _log.warning("device computes rightly again, taking it back", device=self.name)
        return right

    def run(self, stage: PoolStage, items: Sequence[np.ndarray]) -> list[tuple[SpecResult, ...]]:
        """Run a batch, a second time if the device fails, and suspend the device if it fails again.

        Raises:
            DeviceOutOfMemory: what torch kept has been given back; a smaller batch may fit.
            DeviceFailed: the device is suspended.
            Exception: anything else is an item's fault.
        """
        try:
            results = self._device.run(stage, items)
        except DeviceOutOfMemory:
            self._ran_out_of_memory()
            raise
        except DeviceFailed as error:
            _log.warning("device failed, trying once more", device=self.name, error=str(error))
            results = self._run_again(stage, items)
        with self._lock:
            self.items += len(items)
        return results

    def ceiling(self, kind: BatchKey) -> int | None:
        """The bytes of a batch of this kind that fit, as far as is known; None if any do."""
        if not self._ceilings:
            return None
        with self._lock:
            ceiling = self._ceilings.get(kind)
            if ceiling is None:
                return None
            now = self._clock()
            if now >= ceiling.grows_at:
                ceiling = _Ceiling(2 * ceiling.nbytes, now + _GROW_SECONDS)
                self._ceilings[kind] = ceiling
            return ceiling.nbytes

    def lower_ceiling(self, kind: BatchKey, nbytes: int) -> None:
        """Remember that no more than `nbytes` of this kind fit."""
        with self._lock:
            self._ceilings.pop(kind, None)
            self._ceilings[kind] = _Ceiling(nbytes, self._clock() + _GROW_SECONDS)
            if len(self._ceilings) > _CEILINGS_KEPT:
                del self._ceilings[next(iter(self._ceilings))]

    def forget_ceiling(self, kind: BatchKey) -> None:
        """It has grown beyond any batch."""
        with self._lock:
            self._ceilings.pop(kind, None)

    def _run_again(self, stage: PoolStage, items: Sequence[np.ndarray]) -> list[tuple[SpecResult, ...]]:
        with self._lock:
            self.failures += 1
        try:
            return self._device.run(stage, items)
        except DeviceOutOfMemory:
            self._ran_out_of_memory()
            raise
        except DeviceFailed as again:
            with self._lock:
                self.failures += 1
            self._suspend(str(again))
            raise

    def _ran_out_of_memory(self) -> None:
        with self._lock:
            self.out_of_memory += 1
        self._device.free_memory()

    def _suspend(self, reason: str) -> None:
        with self._lock:
            if self._reason:
                return
            self._reason = reason or "it failed without a word"
            self._probe_at = self._clock() + self._probe_seconds
            self.suspensions += 1
        _log.error("device failed twice, leaving it alone", device=self.name, reason=self._reason)

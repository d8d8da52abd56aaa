"""The circuit breaker: suspends a device that keeps failing, and limits its batches to what fits into its memory."""

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import numpy as np
import structlog

from poolservice_server.backbone_stage import BackboneInput, BackboneResult
from poolservice_server.backend import probe
from poolservice_server.backend.device import (
    Device,
    DeviceFailed,
    DeviceOutOfMemory,
    DeviceState,
    Payload,
    Result,
    Stage,
)
from poolservice_server.histogram import SIZE_BOUNDS, Histogram
from poolservice_server.pool_stage import BatchKey, PoolStage, SpecResult, Stop
from poolservice_server.stop import never

_log = structlog.get_logger(__name__)

# A suspended device is probed after the first interval, then after twice the previous interval, up to the maximum.
_FIRST_PROBE_SECONDS = 1.0
_MAX_PROBE_SECONDS = 300.0

# A memory limit doubles after this time without running out of memory.
_MEMORY_LIMIT_SECONDS = 30.0

_WRONG_RESULT = "it computed a known result wrongly"

# Batch keys whose memory limit is remembered. Beyond that, the limit that was lowered first is forgotten; the device
# then runs out of memory once more.
_MAX_MEMORY_LIMITS = 256


class _MemoryLimit(NamedTuple):
    nbytes: int
    grows_at: float


class CircuitBreaker:
    """A device and the record of its failures. Its methods are thread-safe.

    Args:
        device: the device that runs the batches.
        clock: returns the time in seconds.

    Attributes:
        device: the device.
        name, payloads, batch_sizes, out_of_memory, failures, suspensions, probes, fallbacks: as in
            `policy.DeviceCounts`.
    """

    def __init__(self, device: Device, clock: Callable[[], float]) -> None:
        self.name = device.name
        self.payloads = 0
        self.batch_sizes = Histogram(SIZE_BOUNDS)
        self.out_of_memory = 0
        self.failures = 0
        self.suspensions = 0
        self.probes = 0
        self.fallbacks = 0
        self.device = device
        self._clock = clock
        self._lock = threading.Lock()
        self._reason = ""
        self._probing = False
        self._probe_at = 0.0
        self._probe_seconds = _FIRST_PROBE_SECONDS
        self._memory_limits: dict[BatchKey, _MemoryLimit] = {}

    @property
    def state(self) -> DeviceState:
        """The current state of the device."""
        return DeviceState(self.name, self.device.description, bool(self._reason), self._reason)

    def is_available(self) -> bool:
        """Return True if the device accepts batches. This probes a suspended device if its interval has passed."""
        if not self._reason:
            return True
        with self._lock:
            if not self._reason:
                return True
            if self._probing or self._clock() < self._probe_at:
                return False
            self._probing = True
            self.probes += 1
        correct = self.device.probe()
        with self._lock:
            self._probing = False
            if correct:
                self._reason = ""
                self._probe_seconds = _FIRST_PROBE_SECONDS
            else:
                self._probe_seconds = min(2 * self._probe_seconds, _MAX_PROBE_SECONDS)
                self._probe_at = self._clock() + self._probe_seconds
        if correct:
            _log.warning("device computes correctly again, resuming it", device=self.name)
        return correct

    def run(self, stage: Stage, payloads: Sequence[Payload], stop: Stop, *, counted: bool = True) -> Sequence[Result]:
        """Run a batch. If the device fails, run it once more; if it fails again, suspend the device.

        Args:
            stage: what to run.
            payloads: its payloads.
            stop: returns True once nobody waits for any of the results.
            counted: False if no caller has sent the payloads.

        Raises:
            DeviceOutOfMemory: a smaller batch may fit; torch's cached memory has been released.
            DeviceFailed: the device is suspended.
            WorkStopped: `stop` returned True.
            Exception: any other error is the fault of a payload.
        """
        try:
            results = _run(self.device, stage, payloads, stop)
        except DeviceOutOfMemory:
            self._handle_out_of_memory()
            raise
        except DeviceFailed as error:
            _log.warning("device failed, running the batch once more", device=self.name, error=str(error))
            results = self._run_again(stage, payloads, stop)
        if counted:
            with self._lock:
                self.payloads += len(payloads)
                self.batch_sizes.observe(len(payloads))
        return results

    def count_fallback(self) -> None:
        """Count a batch that the next device is given instead."""
        with self._lock:
            self.fallbacks += 1

    def check(self) -> str:
        """Compute a known result of pooling; return what went wrong, or "". A wrong result suspends the device."""
        try:
            (pooled,) = self.run(probe.STAGE, [probe.PLANES], never, counted=False)
        except Exception as error:  # noqa: BLE001 - whatever the error is, the device does not work
            return str(error) or type(error).__name__
        if probe.is_correct(cast("tuple[SpecResult, ...]", pooled)):
            return ""
        self._suspend(_WRONG_RESULT, "device computes wrongly, suspending it")
        return _WRONG_RESULT

    def check_backbone(self, name: str) -> str:
        """Compute the known result of a backbone of this device; return what went wrong, or ""."""
        known = self.device.networks[name].known_result
        if known is None:
            return ""
        try:
            (result,) = self.run(known.stage, [known.payload], never, counted=False)
        except Exception as error:  # noqa: BLE001 - whatever the error is, the backbone does not work
            return str(error) or type(error).__name__
        return "" if probe.is_close(cast(BackboneResult, result), known) else _WRONG_RESULT

    def memory_limit(self, key: BatchKey) -> int | None:
        """Return how many bytes of a batch with this key fit; None if no batch has run out of memory."""
        if not self._memory_limits:
            return None
        with self._lock:
            limit = self._memory_limits.get(key)
            if limit is None:
                return None
            now = self._clock()
            if now >= limit.grows_at:
                limit = _MemoryLimit(2 * limit.nbytes, now + _MEMORY_LIMIT_SECONDS)
                self._memory_limits[key] = limit
            return limit.nbytes

    def lower_memory_limit(self, key: BatchKey, nbytes: int) -> None:
        """Remember that at most `nbytes` of a batch with this key fit."""
        with self._lock:
            self._memory_limits.pop(key, None)
            self._memory_limits[key] = _MemoryLimit(nbytes, self._clock() + _MEMORY_LIMIT_SECONDS)
            if len(self._memory_limits) > _MAX_MEMORY_LIMITS:
                del self._memory_limits[next(iter(self._memory_limits))]

    def forget_memory_limit(self, key: BatchKey) -> None:
        """Remove the limit of this key, because it exceeds every batch."""
        with self._lock:
            self._memory_limits.pop(key, None)

    def _run_again(self, stage: Stage, payloads: Sequence[Payload], stop: Stop) -> Sequence[Result]:
        with self._lock:
            self.failures += 1
        try:
            return _run(self.device, stage, payloads, stop)
        except DeviceOutOfMemory:
            self._handle_out_of_memory()
            raise
        except DeviceFailed as error:
            with self._lock:
                self.failures += 1
            self._suspend(str(error), "device failed twice, suspending it")
            raise

    def _handle_out_of_memory(self) -> None:
        with self._lock:
            self.out_of_memory += 1
        self.device.free_memory()

    def _suspend(self, reason: str, event: str) -> None:
        with self._lock:
            if self._reason:
                return
            self._reason = reason or "it failed without an error message"
            self._probe_at = self._clock() + self._probe_seconds
            self.suspensions += 1
        _log.error(event, device=self.name, reason=self._reason)


def _run(device: Device, stage: Stage, payloads: Sequence[Payload], stop: Stop) -> Sequence[Result]:
    if isinstance(stage, PoolStage):
        return device.run(stage, cast("Sequence[np.ndarray]", payloads), stop)
    return device.run_backbone(stage, cast("Sequence[BackboneInput]", payloads), stop)

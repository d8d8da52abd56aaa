"""The backend's policy: which device runs a batch, and what happens if it cannot."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from poolservice_server.backbone_stage import BackboneFailed, BackboneResult, BackboneStage
from poolservice_server.backend.circuit_breaker import CircuitBreaker
from poolservice_server.backend.device import (
    Device,
    DeviceFailed,
    DeviceOutOfMemory,
    DeviceResult,
    DeviceState,
    NoDevice,
    Payload,
    Result,
)
from poolservice_server.histogram import Histogram
from poolservice_server.pool_stage import BatchKey, PoolStage, SpecResult
from poolservice_server.stop import Stop, WorkStopped, never

Outcome = DeviceResult | Exception

# A batch of this many bytes, results included, takes the CPU 20 to 200 us, and passing it to a thread and back takes
# 50 to 100 us. With 128 KiB, small and medium-sized requests of the benchmark are faster than with 32 KiB, and no
# slower than with 1024 KiB, which would block the event loop for milliseconds.
_INLINE_BYTES = 128 * 1024

# While one batch is copied in, another is computed and a third is copied out. More concurrent batches would only be
# smaller, because fewer requests would wait for a free slot, and each batch takes 130 to 180 us of Python on its
# path to the GPU (measured in November 2026 on an H100 with torch 2.11).
_GPU_CONCURRENCY = 3


@dataclass(frozen=True, slots=True)
class DeviceCounts:
    """The event counters of one device.

    Attributes:
        payloads: payloads that it ran; a large one that ran in parts counts once per part.
        batch_sizes: the number of payloads of each batch that it ran.
        out_of_memory: batches that did not fit into its memory.
        failures: batches during which it failed.
        suspensions: times that it was suspended.
        probes: times that it was probed while suspended.
        fallbacks: batches that the next device was given instead, because this one failed, is suspended, is short of
            memory or does not support them.
    """

    payloads: int
    batch_sizes: Histogram
    out_of_memory: int
    failures: int
    suspensions: int
    probes: int
    fallbacks: int


class Backend:
    """Runs each batch on the first available device; a backbone, on the first that has it. Thread-safe.

    - A batch that exceeds the device's memory or `max_batch_bytes` is halved, down to the planes or samples of a single
      payload. The backend remembers the size that fits per batch key, and lets it grow back slowly.
    - A device that fails twice in a row is suspended, and the next device runs its batches. It is probed at growing
      intervals and used again once it computes a known result correctly.
    - A batch that fails for another reason is bisected down to the payload at fault. That payload is tried once on
      each remaining device, which may support what this one lacks, before the exception becomes its outcome.

    Args:
        devices: in order of preference; without the CPU at the end, nothing ever runs there.
        max_batch_bytes: the most bytes that run in one batch.
        clock: returns the time in seconds.

    Attributes:
        suspected_backbones: names of backbones of which a run has failed, and perhaps not because of its input. Whoever
            checks one removes it.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        *,
        max_batch_bytes: int = 64 * 2**20,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._devices = tuple(CircuitBreaker(device, clock) for device in devices)
        self._of_backbones: dict[str, tuple[CircuitBreaker, ...]] = {}
        self._max_batch_bytes = max_batch_bytes
        self.suspected_backbones: set[str] = set()

    def run(self, key: BatchKey, payloads: Sequence[Payload], stop: Stop = never) -> list[Outcome]:
        """Run a batch.

        Args:
            key: the stage, and the payloads' spatial shape and dtype.
            payloads: planes (P, *spatial) of that shape and dtype, any strides, or inputs of the backbone.
            stop: returns True once nobody waits for any of the results.

        Returns:
            For each payload, in order, its result or its exception; NoDevice if no device is available.

        Raises:
            WorkStopped: the work ended early, because `stop` returned True. This is no fault of a device or a payload.
        """
        stage = key.stage
        if isinstance(stage, BackboneStage):
            outcomes = self._run(key, payloads, self._of_backbones[stage.backbone], stop)
            if any(isinstance(one, Exception) and not isinstance(one, BackboneFailed) for one in outcomes):
                self.suspected_backbones.add(stage.backbone)
            return outcomes
        return self._run(key, payloads, self._devices, stop)

    @property
    def payloads(self) -> int:
        """The payloads that the devices have run, those of probes and checks excluded."""
        return sum(device.payloads for device in self._devices)

    @property
    def is_available(self) -> bool:
        """False while all devices are suspended."""
        return not all(device.state.suspended for device in self._devices)

    def check(self) -> None:
        """Compute a known result on the first device that can, as for a batch. This counts as no payload.

        Raises:
            NoDevice: no device computes it; the message says why.
        """
        _check(self._devices, CircuitBreaker.check)

    def check_backbone(self, name: str) -> None:
        """Compute the known result of a backbone on the first device that can, as for a batch.

        Raises:
            NoDevice: no device computes it; the message says why.
        """
        _check(self._of_backbones[name], lambda device: device.check_backbone(name))

    def add_backbone(self, name: str) -> None:
        """Run a backbone on those devices that have a network of this name now."""
        self._of_backbones[name] = tuple(one for one in self._devices if name in one.device.networks)

    def batches_backbone(self, name: str) -> bool:
        """Return True if a device that gains by batches would run the backbone now: a GPU that is not suspended."""
        return any(one.name != "cpu" and not one.state.suspended for one in self._of_backbones[name])

    def device(self, name: str) -> Device:
        """Return a device by its name, for work that must not run on another one."""
        return next(one.device for one in self._devices if one.name == name)

    def concurrency(self, cores: int) -> int:
        """Return how many batches to run concurrently: one per core on the CPU, one per overlapping step on a GPU."""
        return cores if self._devices[0].name == "cpu" else _GPU_CONCURRENCY

    @property
    def inline_bytes(self) -> int:
        """The size up to which a batch is faster inline than on a thread, in bytes; 0 on a GPU, whose batches block."""
        return _INLINE_BYTES if self._devices[0].name == "cpu" else 0

    def devices(self) -> list[DeviceState]:
        """Return the state of each device, in order of preference."""
        return [device.state for device in self._devices]

    def counts(self) -> dict[str, DeviceCounts]:
        """Return the event counters by device name."""
        return {
            device.name: DeviceCounts(
                device.payloads,
                device.batch_sizes,
                device.out_of_memory,
                device.failures,
                device.suspensions,
                device.probes,
                device.fallbacks,
            )
            for device in self._devices
        }

    def _run(
        self, key: BatchKey, payloads: Sequence[Payload], devices: Sequence[CircuitBreaker], stop: Stop
    ) -> list[Outcome]:
        index = _first_available(devices)
        if index is None:
            return [self._no_device() for _ in payloads]
        device, others = devices[index], devices[index + 1 :]
        # Plain loops and few calls, because this runs for every batch and most batches take only microseconds.
        nbytes = 0
        for payload in payloads:
            nbytes += payload.nbytes
        if nbytes > self._max_bytes(device, key) and _can_be_halved(key, payloads):
            return self._run_halves(key, payloads, devices, stop)
        if index:
            devices[0].count_fallback()
        try:
            results = device.run(key.stage, payloads, stop)
        except DeviceOutOfMemory as error:
            device.lower_memory_limit(key, nbytes // 2)
            return (
                self._run_halves(key, payloads, devices, stop)
                if _can_be_halved(key, payloads)
                else self._fall_back(key, payloads, device, others, stop, error)
            )
        except DeviceFailed:
            return self._fall_back(key, payloads, device, others, stop, None)
        except WorkStopped:
            raise
        except Exception as error:  # noqa: BLE001 - any error becomes the outcome of the payload at fault
            if len(payloads) > 1:
                # The traceback would keep the tensors of the batch while its halves run.
                error.__traceback__ = None
                return self._run_halves(key, payloads, devices, stop)
            return self._fall_back(key, payloads, device, others, stop, error)
        return [DeviceResult(result, device.name, len(payloads)) for result in results]

    def _fall_back(
        self,
        key: BatchKey,
        payloads: Sequence[Payload],
        device: CircuitBreaker,
        others: Sequence[CircuitBreaker],
        stop: Stop,
        error: Exception | None,
    ) -> list[Outcome]:
        """Run a batch on the other devices, because a device could not.

        Args:
            key: as for `run`.
            payloads: as for `run`.
            device: the device.
            others: those that come after it.
            stop: as for `run`.
            error: the outcome of the only payload if there is no other device; None if the device is to blame.
        """
        if others:
            device.count_fallback()
        elif error is not None:
            return [error]
        return self._run(key, payloads, others, stop)

    def _max_bytes(self, device: CircuitBreaker, key: BatchKey) -> int:
        """Return the most bytes with this key that run on the device in one batch."""
        limit = device.memory_limit(key)
        if limit is None:
            return self._max_batch_bytes
        if limit >= self._max_batch_bytes:
            device.forget_memory_limit(key)
            return self._max_batch_bytes
        return limit

    def _run_halves(
        self, key: BatchKey, payloads: Sequence[Payload], devices: Sequence[CircuitBreaker], stop: Stop
    ) -> list[Outcome]:
        if stop():
            raise WorkStopped
        if len(payloads) > 1:
            middle = len(payloads) // 2
            outcomes = self._run(key, payloads[:middle], devices, stop)
            if stop():
                raise WorkStopped
            return outcomes + self._run(key, payloads[middle:], devices, stop)
        (payload,) = payloads
        middle = _middle(key, payload)
        (first,) = self._run(key, [payload[:middle]], devices, stop)
        if isinstance(first, Exception):
            return [first]
        if stop():
            raise WorkStopped
        (second,) = self._run(key, [payload[middle:]], devices, stop)
        return [second if isinstance(second, Exception) else _join(first, second)]

    def _no_device(self) -> NoDevice:
        reasons = "; ".join(f"{state.name}: {state.reason}" for state in self.devices() if state.suspended)
        return NoDevice(
            f"no device is available now ({reasons}), and this server was started to compute on a GPU only; retry later"
        )


def _first_available(devices: Sequence[CircuitBreaker]) -> int | None:
    """Return the index of the first available device."""
    for index, device in enumerate(devices):
        if device.is_available():
            return index
    return None


def _check(devices: Sequence[CircuitBreaker], check: Callable[[CircuitBreaker], str]) -> None:
    problems = []
    for device in devices:
        problem = check(device) if device.is_available() else device.state.reason
        if not problem:
            return
        problems.append(f"{device.name}: {problem}")
    raise NoDevice("; ".join(problems))


def _can_be_halved(key: BatchKey, payloads: Sequence[Payload]) -> bool:
    """Return True if there are several payloads, or several parts in the only one."""
    return len(payloads) > 1 or _middle(key, payloads[0]) > 0


def _middle(key: BatchKey, payload: Payload) -> int:
    """Return the number of planes, or of samples for a backbone, in the first half of a payload; 0 if it has none."""
    unit = key.stage.indivisible if isinstance(key.stage, PoolStage) else 1
    return len(payload) // unit // 2 * unit if unit else 0


def _join(first: DeviceResult, second: DeviceResult) -> DeviceResult:
    """Return the result of a payload from the results of its first and its second half."""
    device = first.device if first.device == second.device else f"{first.device}+{second.device}"
    return DeviceResult(_joined(first.result, second.result), device, 1)


def _joined(first: Result, second: Result) -> Result:
    # Classes are for a single sample, which has no halves.
    if isinstance(first, BackboneResult) and isinstance(second, BackboneResult):
        seconds = first.backbone_seconds + second.backbone_seconds
        return BackboneResult(_joined_specs(first.specs, second.specs), None, seconds)
    return _joined_specs(cast("tuple[SpecResult, ...]", first), cast("tuple[SpecResult, ...]", second))


def _joined_specs(first: tuple[SpecResult, ...], second: tuple[SpecResult, ...]) -> tuple[SpecResult, ...]:
    return tuple(_concatenate(*pair) for pair in zip(first, second, strict=True))


def _concatenate(first: SpecResult, second: SpecResult) -> SpecResult:
    indices = None
    if first.indices is not None and second.indices is not None:
        indices = np.concatenate((first.indices, second.indices))
    return SpecResult(np.concatenate((first.values, second.values)), indices)

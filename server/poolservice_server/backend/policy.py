"""Which device runs a batch, and what happens when it cannot."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from poolservice_server.backend.circuit_breaker import CircuitBreaker
from poolservice_server.backend.device import (
    Device,
    DeviceFailed,
    DeviceOutOfMemory,
    DeviceResult,
    DeviceState,
    NoDevice,
)
from poolservice_server.stages import BatchKey, SpecResult

Outcome = DeviceResult | Exception

# A batch of so many bytes, results included, takes the CPU 20 to 200 us, and handing it to a thread and back 50 to
# 100. At 128 KiB the small and the middle-sized calls of the benchmark are faster than at 32, and no slower than at
# 1024, where the event loop would stand still for milliseconds.
_INLINE_BYTES = 128 * 1024

# While one batch is copied in, another computes and a third is copied out. More would only make batches smaller, since
# what waits for a free slot gathers.
_GPU_CONCURRENCY = 3


@dataclass(frozen=True, slots=True)
class DeviceCounts:
    """What has been counted of one device.

    Attributes:
        items: items, or parts of large ones, that it ran.
        out_of_memory: batches that it had no room for.
        failures: batches during which it failed.
        suspensions: times that it was left alone.
        probes: times that it was tried again.
    """

    items: int
    out_of_memory: int
    failures: int
    suspensions: int
    probes: int


class Backend:
    """Runs batches on the first of its devices that can. Called from several threads at a time.

    - A batch too large for the device's memory, or for `max_batch_bytes`, is run in halves, an item of many planes
      among them; what fitted is remembered for its kind, and grows back slowly.
    - A device that fails twice in a row is suspended and what it ran goes to the next device; it is tried again at
      growing intervals, and taken back once it computes a known answer rightly.
    - A batch that fails for another reason is bisected until the guilty item is alone; that one gets a last chance
      on the next device, which may offer what this one lacks, before its exception becomes its outcome.

    Args:
        devices: in the order of preference; without the CPU at its end nothing ever runs there.
        max_batch_bytes: bytes that run in one go at most.
        clock: seconds.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        *,
        max_batch_bytes: int = 64 * 2**20,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._devices = tuple(CircuitBreaker(device, clock) for device in devices)
        self._max_batch_bytes = max_batch_bytes

    def run(self, kind: BatchKey, items: Sequence[np.ndarray]) -> list[Outcome]:
        """Run a batch.

        Args:
            kind: the stages, and the items' spatial shape and type.
            items: planes (P, *spatial) of that shape and type, any strides.

        Returns:
            For each item, in order, its results or its exception: NoDevice where no device takes work now.
        """
        return self._run(kind, items, self._devices)

    def concurrency(self, cores: int) -> int:
        """How many batches are best run at a time: one a core, or on a GPU as many as there are steps to overlap."""
        return cores if self._devices[0].name == "cpu" else _GPU_CONCURRENCY

    @property
    def inline_bytes(self) -> int:
        """Bytes up to which a batch is better run by whoever has it than by another thread.

        None on a GPU, which has to be waited for.
        """
        return _INLINE_BYTES if self._devices[0].name == "cpu" else 0

    def devices(self) -> list[DeviceState]:
        """Each device's state, in the order of preference."""
        return [device.state for device in self._devices]

    def counts(self) -> dict[str, DeviceCounts]:
        """What has been counted until now, by the device's name."""
        return {
            device.name: DeviceCounts(
                device.items, device.out_of_memory, device.failures, device.suspensions, device.probes
            )
            for device in self._devices
        }

    def _run(self, kind: BatchKey, items: Sequence[np.ndarray], devices: Sequence[CircuitBreaker]) -> list[Outcome]:
        serving = _serving(devices)
        if serving is None:
            return [self._no_device() for _ in items]
        device, others = devices[serving], devices[serving + 1 :]
        # Plain loops and few calls: this runs for every batch, and most are over in some microseconds.
        nbytes = 0
        for item in items:
            nbytes += item.nbytes
        if nbytes > self._most_bytes(device, kind) and _halves(items):
            return self._run_halves(kind, items, devices)
        try:
            results = device.run(kind.stage, items)
        except DeviceOutOfMemory as error:
            device.lower_ceiling(kind, nbytes // 2)
            if _halves(items):
                return self._run_halves(kind, items, devices)
            return self._run(kind, items, others) if others else [error]
        except DeviceFailed:
            return self._run(kind, items, others)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the outcome of the item whose fault it is
            if len(items) > 1:
                # It would keep the batch's tensors while the halves run.
                error.__traceback__ = None
                return self._run_halves(kind, items, devices)
            return self._run(kind, items, others) if others else [error]
        return [DeviceResult(result, device.name, len(items)) for result in results]

    def _most_bytes(self, device: CircuitBreaker, kind: BatchKey) -> int:
        """How much of a kind runs on a device in one go."""
        ceiling = device.ceiling(kind)
        if ceiling is None:
            return self._max_batch_bytes
        if ceiling >= self._max_batch_bytes:
            device.forget_ceiling(kind)
            return self._max_batch_bytes
        return ceiling

    def _run_halves(
        self, kind: BatchKey, items: Sequence[np.ndarray], devices: Sequence[CircuitBreaker]
    ) -> list[Outcome]:
        if len(items) > 1:
            middle = len(items) // 2
            return self._run(kind, items[:middle], devices) + self._run(kind, items[middle:], devices)
        (item,) = items
        middle = len(item) // 2
        (upper,) = self._run(kind, [item[:middle]], devices)
        if isinstance(upper, Exception):
            return [upper]
        (lower,) = self._run(kind, [item[middle:]], devices)
        return [lower if isinstance(lower, Exception) else _joined(upper, lower)]

    def _no_device(self) -> NoDevice:
        reasons = "; ".join(f"{state.name}: {state.reason}" for state in self.devices() if state.suspended)
        return NoDevice(
            f"no device takes work now ({reasons}), and this server was started to compute on a GPU only; retry later"
        )


def _serving(devices: Sequence[CircuitBreaker]) -> int | None:
    """The first that takes work."""
    for number, device in enumerate(devices):
        if device.serves():
            return number
    return None


def _halves(items: Sequence[np.ndarray]) -> bool:
    """Whether there is anything to halve: items, or the planes of a single one."""
    return len(items) > 1 or len(items[0]) > 1


def _joined(upper: DeviceResult, lower: DeviceResult) -> DeviceResult:
    """An item's result from those of its upper and its lower planes."""
    device = upper.device if upper.device == lower.device else f"{upper.device}+{lower.device}"
    return DeviceResult(tuple(_stacked(*pair) for pair in zip(upper.result, lower.result, strict=True)), device, 1)


def _stacked(upper: SpecResult, lower: SpecResult) -> SpecResult:
    indices = None
    if upper.indices is not None and lower.indices is not None:
        indices = np.concatenate((upper.indices, lower.indices))
    return SpecResult(np.concatenate((upper.values, lower.values)), indices)

"""The backend's check: which device computes the known result, and what a device that cannot is good for."""

from collections.abc import Sequence

import numpy as np
import pytest

from poolservice_server.backend import Backend
from poolservice_server.backend.cpu import CpuDevice
from poolservice_server.backend.device import DeviceFailed, DeviceOutOfMemory, NoDevice
from poolservice_server.pool_stage import PoolStage, SpecResult
from poolservice_server.stop import Stop, never


class FakeGpu(CpuDevice):
    """Computes on the CPU, with errors on request."""

    name = "cuda:0"

    def __init__(self) -> None:
        super().__init__()
        self.runs = 0
        self.error: Exception | None = None
        self.computes_correctly = True

    def run(self, stage: PoolStage, payloads: Sequence[np.ndarray], stop: Stop = never) -> list[tuple[SpecResult, ...]]:
        """Run a batch, or raise the error."""
        self.runs += 1
        if self.error is not None:
            raise self.error
        if not self.computes_correctly:
            payloads = [payload + 1 for payload in payloads]
        return super().run(stage, payloads, stop)


@pytest.fixture
def gpu() -> FakeGpu:
    """A fake GPU that works."""
    return FakeGpu()


def test_a_check_computes_on_the_preferred_device_and_counts_no_payload(gpu: FakeGpu) -> None:
    backend = Backend([gpu, CpuDevice()])
    backend.check()
    assert gpu.runs == 1
    assert backend.payloads == 0
    assert all(counts.payloads == 0 for counts in backend.counts().values())


def test_a_gpu_that_fails_is_suspended_and_the_cpu_passes_the_check(gpu: FakeGpu) -> None:
    backend = Backend([gpu, CpuDevice()])
    gpu.error = DeviceFailed("it fell off the bus")
    backend.check()
    assert [state.suspended for state in backend.devices()] == [True, False]
    assert backend.is_available


def test_without_the_cpu_a_gpu_that_fails_fails_the_check_until_it_works(gpu: FakeGpu) -> None:
    time = 0.0
    backend = Backend([gpu], clock=lambda: time)
    gpu.error = DeviceFailed("it fell off the bus")
    with pytest.raises(NoDevice, match="cuda:0: it fell off the bus"):
        backend.check()
    assert not backend.is_available
    gpu.error = None
    # Until its next probe, the device stays suspended.
    with pytest.raises(NoDevice, match="cuda:0: it fell off the bus"):
        backend.check()
    time = 2.0
    backend.check()
    assert backend.is_available


def test_a_gpu_that_computes_wrongly_is_suspended(gpu: FakeGpu) -> None:
    backend = Backend([gpu, CpuDevice()])
    gpu.computes_correctly = False
    backend.check()
    state = backend.devices()[0]
    assert state.suspended
    assert state.reason == "it computed a known result wrongly"


@pytest.mark.parametrize(
    "error", [DeviceOutOfMemory("the machine is out of memory"), RuntimeError("unsupported")], ids=["memory", "other"]
)
def test_a_device_with_another_error_fails_the_check_and_is_not_suspended(gpu: FakeGpu, error: Exception) -> None:
    backend = Backend([gpu])
    gpu.error = error
    with pytest.raises(NoDevice, match=f"cuda:0: {error}"):
        backend.check()
    assert backend.is_available

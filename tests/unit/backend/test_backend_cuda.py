"""A CUDA GPU as a device: its errors on any machine, and its results on a machine that has one."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from poolservice.dtypes import NUMPY_DTYPES
from poolservice.specs import (
    AvgPool2d,
    GlobalAvgPool2d,
    GlobalMaxPool2d,
    LPPool2d,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    MinPool2d,
    PoolSpec,
)
from poolservice_server.backend import Backend, choose_backend
from poolservice_server.backend.cpu import CpuDevice
from poolservice_server.backend.cuda import CudaDevice, device_error
from poolservice_server.backend.device import DeviceFailed, DeviceOutOfMemory, DeviceResult, NoDevice
from poolservice_server.pool_stage import BatchKey, PoolStage, SpecResult

on_a_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device on this machine"),
]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), DeviceOutOfMemory),
        (RuntimeError("CUDA error: out of memory"), DeviceOutOfMemory),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), DeviceOutOfMemory),
        (RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors"), DeviceFailed),
        (RuntimeError("CUDA error: unspecified launch failure"), DeviceFailed),
        (RuntimeError("CUDA error: no kernel image is available for execution on the device"), DeviceFailed),
        (RuntimeError("CUDA driver error: unknown error"), DeviceFailed),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), DeviceFailed),
        (RuntimeError("No CUDA GPUs are available"), DeviceFailed),
        (RuntimeError("\"max_pool2d\" not implemented for 'Half'"), None),
        (RuntimeError("pad should be at most half of effective kernel size"), None),
        (RuntimeError("shape '[2, 3]' is invalid\nCUDA error: only in the second line"), None),
    ],
    ids=lambda value: str(value)[:40],
)
def test_errors_of_the_device_are_distinguished_from_errors_of_a_payload(
    error: RuntimeError, expected: type[Exception] | None
) -> None:
    converted = device_error(error)
    assert type(converted) is (expected or type(None))
    if converted is not None:
        assert str(converted) == str(error).partition("\n")[0]


@pytest.mark.skipif(not hasattr(torch, "AcceleratorError"), reason="this torch has no type for errors of a device")
def test_torchs_accelerator_error_means_that_the_device_failed() -> None:
    assert isinstance(device_error(torch.AcceleratorError("something new")), DeviceFailed)


@pytest.fixture
def gpu() -> CudaDevice:
    return CudaDevice(0)


def key_of(payloads: list[np.ndarray], *specs: PoolSpec) -> BatchKey:
    return BatchKey(PoolStage(specs), payloads[0].shape[1:], payloads[0].dtype)


def assert_close(got: tuple[SpecResult, ...], expected: tuple[SpecResult, ...]) -> None:
    for on_gpu, on_cpu in zip(got, expected, strict=True):
        assert on_gpu.values.dtype == on_cpu.values.dtype
        rounding = 2**-7 if on_cpu.values.dtype.itemsize == 2 else 1e-6
        np.testing.assert_allclose(
            on_gpu.values.astype(np.float64), on_cpu.values.astype(np.float64), rtol=rounding, atol=rounding
        )
        if on_cpu.indices is not None:
            np.testing.assert_array_equal(on_gpu.indices, on_cpu.indices)


class TestOnAGpu:
    pytestmark = on_a_gpu

    @pytest.mark.parametrize("dtype", NUMPY_DTYPES.values(), ids=lambda dtype: dtype.name)
    @pytest.mark.parametrize(
        "spec",
        [
            MaxPool1d(2),
            MaxPool2d(3, stride=2, padding=1),
            MaxPool2d(2, return_indices=True),
            MaxPool3d(2),
            MinPool2d(2),
            AvgPool2d(2),
            LPPool2d(2.0, 2),
            GlobalAvgPool2d(),
            GlobalMaxPool2d(),
        ],
        ids=lambda spec: type(spec).__name__,
    )
    def test_results_match_the_cpu_and_do_not_depend_on_the_batch(
        self, gpu: CudaDevice, spec: PoolSpec, dtype: np.dtype
    ) -> None:
        random = np.random.default_rng(7)
        spatial = {1: (64,), 2: (16, 15), 3: (6, 6, 6)}[spec.spatial_dims]
        payloads = [(random.random((1 + number % 3, *spatial)) * 100).astype(dtype) for number in range(64)]
        stage = PoolStage((spec,))
        batched = gpu.run(stage, payloads)
        for got, expected in zip(batched, CpuDevice().run(stage, payloads), strict=True):
            assert_close(got, expected)
        for number in (0, 1, 63):
            (unbatched,) = gpu.run(stage, [payloads[number]])
            assert unbatched[0].values.tobytes() == batched[number][0].values.tobytes()

    def test_concurrent_threads_get_their_own_results(self, gpu: CudaDevice) -> None:
        stage = PoolStage((GlobalMaxPool2d(), MaxPool2d(2)))
        wrong: list[int] = []

        def run_batches(thread: int) -> None:
            for batch in range(200):
                value = 1000 * thread + batch
                payloads = [np.full((planes, 56, 56), value + planes, np.float32) for planes in (1, 64, 3)]
                for planes, (plane_maxima, window_maxima) in zip((1, 64, 3), gpu.run(stage, payloads), strict=True):
                    if not (
                        (plane_maxima.values == value + planes).all() and (window_maxima.values == value + planes).all()
                    ):
                        wrong.append(value)

        threads = [threading.Thread(target=run_batches, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(100)
        assert wrong == []

    @pytest.fixture
    def little_memory(self) -> Iterator[None]:
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(256 * 2**20 / total)
        yield
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()

    @pytest.mark.usefixtures("little_memory")
    def test_a_batch_that_does_not_fit_into_memory_is_halved(self, gpu: CudaDevice) -> None:
        payloads = [np.full((8, 1024, 1024), number, np.float32) for number in range(16)]
        backend = Backend([gpu], max_batch_bytes=2**40)
        outcomes = backend.run(key_of(payloads, MaxPool2d(2)), payloads)
        for number, outcome in enumerate(outcomes):
            assert isinstance(outcome, DeviceResult)
            assert (outcome.result[0].values == number).all()
        assert backend.counts()["cuda:0"].out_of_memory > 0

    def test_an_error_of_torch_is_the_fault_of_the_payload(self, gpu: CudaDevice) -> None:
        # Validation would refuse this kernel size; here torch does.
        with pytest.raises(RuntimeError, match="Output size is too small"):
            gpu.run(PoolStage((MaxPool2d(5),)), [np.zeros((1, 4, 4), np.float32)])
        assert gpu.probe()

    def test_the_gpu_is_chosen_by_auto_and_by_name(self) -> None:
        assert [device.name for device in choose_backend("auto").devices()] == ["cuda:0", "cpu"]
        assert [device.name for device in choose_backend("cuda", require_gpu=True).devices()] == ["cuda:0"]
        with pytest.raises(NoDevice, match=r"there is no device cuda:99; this machine has \d+, numbered from 0"):
            choose_backend("cuda:99")

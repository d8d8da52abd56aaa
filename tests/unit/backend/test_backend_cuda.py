"""A CUDA card as a device: what can be told without one, and, where there is one, that it answers as the CPU does."""

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
from poolservice_server.stages import BatchKey, PoolStage, SpecResult

on_a_card = [
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
def test_whose_fault_an_error_is(error: RuntimeError, expected: type[Exception] | None) -> None:
    told = device_error(error)
    assert type(told) is (expected or type(None))
    if told is not None:
        assert str(told) == str(error).partition("\n")[0]


@pytest.mark.skipif(not hasattr(torch, "AcceleratorError"), reason="this torch tells a card's errors by words only")
def test_torchs_own_word_for_a_cards_error_is_enough() -> None:
    assert isinstance(device_error(torch.AcceleratorError("something new")), DeviceFailed)


@pytest.fixture
def card() -> CudaDevice:
    return CudaDevice(0)


def kind_of(items: list[np.ndarray], *specs: PoolSpec) -> BatchKey:
    return BatchKey(PoolStage(specs), items[0].shape[1:], items[0].dtype)


def assert_close(got: tuple[SpecResult, ...], expected: tuple[SpecResult, ...]) -> None:
    for one, other in zip(got, expected, strict=True):
        assert one.values.dtype == other.values.dtype
        rounding = 2**-7 if other.values.dtype.itemsize == 2 else 1e-6
        np.testing.assert_allclose(
            one.values.astype(np.float64), other.values.astype(np.float64), rtol=rounding, atol=rounding
        )
        if other.indices is not None:
            np.testing.assert_array_equal(one.indices, other.indices)


class TestOnACard:
    pytestmark = on_a_card

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
    def test_it_answers_as_the_cpu_does_alone_and_in_company(
        self, card: CudaDevice, spec: PoolSpec, dtype: np.dtype
    ) -> None:
        random = np.random.default_rng(7)
        spatial = {1: (64,), 2: (16, 15), 3: (6, 6, 6)}[spec.spatial_dims]
        items = [(random.random((1 + number % 3, *spatial)) * 100).astype(dtype) for number in range(64)]
        stage = PoolStage((spec,))
        together = card.run(stage, items)
        for got, expected in zip(together, CpuDevice().run(stage, items), strict=True):
            assert_close(got, expected)
        for number in (0, 1, 63):
            (alone,) = card.run(stage, [items[number]])
            assert alone[0].values.tobytes() == together[number][0].values.tobytes()

    def test_several_threads_get_their_own(self, card: CudaDevice) -> None:
        stage = PoolStage((GlobalMaxPool2d(), MaxPool2d(2)))
        wrong: list[int] = []

        def call(number: int) -> None:
            for turn in range(200):
                value = 1000 * number + turn
                items = [np.full((planes, 56, 56), value + planes, np.float32) for planes in (1, 64, 3)]
                for planes, (largest, halved) in zip((1, 64, 3), card.run(stage, items), strict=True):
                    if not ((largest.values == value + planes).all() and (halved.values == value + planes).all()):
                        wrong.append(value)

        threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
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
    def test_a_batch_without_room_is_halved(self, card: CudaDevice) -> None:
        items = [np.full((8, 1024, 1024), number, np.float32) for number in range(16)]
        backend = Backend([card], max_batch_bytes=2**40)
        outcomes = backend.run(kind_of(items, MaxPool2d(2)), items)
        for number, outcome in enumerate(outcomes):
            assert isinstance(outcome, DeviceResult)
            assert (outcome.result[0].values == number).all()
        assert backend.counts()["cuda:0"].out_of_memory > 0

    def test_an_item_that_fails_is_not_the_cards_fault(self, card: CudaDevice) -> None:
        # Validation would refuse this kernel, and torch does too.
        with pytest.raises(RuntimeError, match="Output size is too small"):
            card.run(PoolStage((MaxPool2d(5),)), [np.zeros((1, 4, 4), np.float32)])
        assert card.probe()

    def test_it_is_chosen_by_itself_and_by_name(self) -> None:
        assert [device.name for device in choose_backend("auto").devices()] == ["cuda:0", "cpu"]
        assert [device.name for device in choose_backend("cuda", require_gpu=True).devices()] == ["cuda:0"]
        with pytest.raises(NoDevice, match=r"there is no device cuda:99; this machine has \d+, numbered from 0"):
            choose_backend("cuda:99")

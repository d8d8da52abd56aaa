"""The CPU as a device, its selection, and results that do not depend on batch-mates."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import MISSING, fields
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from poolservice.dtypes import NUMPY_DTYPES
from poolservice.specs import LAYERS, AvgPool2d, GlobalAvgPool2d, GlobalMaxPool1d, GlobalMaxPool2d, MaxPool2d, PoolSpec
from poolservice_server.backend import Backend, choose_backend, torch_version
from poolservice_server.backend.cpu import CpuDevice
from poolservice_server.backend.device import DeviceOutOfMemory, DeviceResult, NoDevice
from poolservice_server.backend.stacking import stack
from poolservice_server.pool_stage import BatchKey, PoolStage, SpecResult
from poolservice_server.pooling import run_on_arrays
from poolservice_server.pooling.dispatch import KERNELS
from poolservice_server.stop import Stop

# A value for each parameter that has no default.
_PARAMETERS: dict[str, Any] = {"kernel_size": 2, "output_size": 2, "norm_type": 2.0, "alpha": 0.25}
LAYER_SPECS = [
    layer(**{field.name: _PARAMETERS[field.name] for field in fields(layer) if field.default is MISSING})
    for layer in LAYERS.values()
    if layer.operator in KERNELS
]


def run(backend: Backend, payloads: list[np.ndarray], *specs: PoolSpec) -> list[tuple[SpecResult, ...]]:
    key = BatchKey(PoolStage(specs), payloads[0].shape[1:], payloads[0].dtype)
    results = []
    for outcome in backend.run(key, payloads):
        assert isinstance(outcome, DeviceResult), outcome
        results.append(outcome.result)
    return results


def same_bits(got: tuple[SpecResult, ...], expected: tuple[SpecResult, ...]) -> bool:
    return all(
        first.values.dtype == second.values.dtype
        and first.values.shape == second.values.shape
        and first.values.tobytes() == second.values.tobytes()
        and (first.indices is None) == (second.indices is None)
        and (first.indices is None or second.indices is None or first.indices.tobytes() == second.indices.tobytes())
        for first, second in zip(got, expected, strict=True)
    )


@pytest.mark.parametrize("dtype", NUMPY_DTYPES.values(), ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("spec", LAYER_SPECS, ids=lambda spec: type(spec).__name__)
def test_a_result_does_not_depend_on_its_batch(spec: PoolSpec, dtype: np.dtype) -> None:
    backend = choose_backend("cpu")
    random = np.random.default_rng(7)
    spatial = {1: (67,), 2: (9, 14), 3: (5, 6, 7)}[spec.spatial_dims]
    payloads = [(random.random((1 + number % 3, *spatial)) * 200 - 100).astype(dtype) for number in range(64)]
    batched = run(backend, payloads, spec)
    unbatched = [run(backend, [payload], spec)[0] for payload in payloads[:6]]
    for number, result in enumerate(unbatched):
        assert same_bits(batched[number], result)
    concurrent: list[list[tuple[SpecResult, ...]]] = []
    threads = [threading.Thread(target=lambda: concurrent.append(run(backend, payloads, spec))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(concurrent) == 2
    for results in concurrent:
        assert all(map(same_bits, results, batched))


def test_indices_and_several_specs_do_not_depend_on_the_batch_either() -> None:
    backend = choose_backend("cpu")
    random = np.random.default_rng(7)
    payloads = [random.integers(0, 5, (3, 16, 16)).astype(np.float32) for _ in range(64)]
    specs = (MaxPool2d(3, return_indices=True), GlobalMaxPool2d(), AvgPool2d(2))
    batched = run(backend, payloads, *specs)
    assert batched[0][0].indices is not None
    assert batched[0][0].indices.dtype == np.int64
    for number in (0, 1, 63):
        assert same_bits(batched[number], run(backend, [payloads[number]], *specs)[0])


@pytest.mark.parametrize("sizes", [[1], [3, 1], [2] * 40, [700, 1, 700], [0, 2, 0]])
def test_payloads_with_any_number_of_planes_get_their_own_results(sizes: list[int]) -> None:
    # A plane takes 8 KiB, so some of these run one by one, some stacked, some in several stacks.
    payloads = [np.full((planes, 32, 64), number, np.float32) for number, planes in enumerate(sizes)]
    results = run(choose_backend("cpu"), payloads, GlobalMaxPool2d())
    for number, (planes, (pooled,)) in enumerate(zip(sizes, results, strict=True)):
        np.testing.assert_array_equal(pooled.values, np.full((planes, 1, 1), number, np.float32))


@pytest.mark.parametrize("dtype", [np.dtype(np.uint8), np.dtype(ml_dtypes.bfloat16)], ids=str)
def test_payloads_with_strides_of_any_sign_are_stacked(dtype: np.dtype) -> None:
    image = np.arange(60).reshape(4, 5, 3).astype(dtype)
    for planes in (image.transpose(2, 0, 1), image.transpose(2, 0, 1)[:, ::-1], image.transpose(2, 0, 1)[:, ::2]):
        np.testing.assert_array_equal(stack([planes, planes]), np.concatenate((planes, planes)))


def test_the_cpu_has_a_description_and_passes_its_probe() -> None:
    device = CpuDevice()
    assert device.description
    assert device.probe()
    (state,) = choose_backend("auto").devices()[-1:]
    assert (state.name, state.suspended) == ("cpu", False)
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(("spec", "field"), [(0, "values"), (0, "indices"), (1, "values")])
def test_a_single_wrong_value_fails_the_probe(spec: int, field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    device = CpuDevice()
    run = device.run

    def run_wrongly(stage: PoolStage, payloads: Sequence[np.ndarray]) -> list[tuple[SpecResult, ...]]:
        results = run(stage, payloads)
        getattr(results[0][spec], field)[-1, -1, -1] += 1
        return results

    monkeypatch.setattr(device, "run", run_wrongly)
    assert not device.probe()


def test_an_error_fails_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("gone")

    device = CpuDevice()
    monkeypatch.setattr(device, "run", fail)
    assert not device.probe()


@pytest.fixture
def memory_for_two_planes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pooling ask torch for more memory than any machine has, for batches of more than two planes."""

    def run(stage: PoolStage, planes: np.ndarray, _stop: Stop) -> tuple[SpecResult, ...]:
        if len(planes) > 2:
            torch.empty(2**60, dtype=torch.uint8)
        return run_on_arrays(stage, planes)

    monkeypatch.setattr("poolservice_server.backend.cpu.run_on_arrays", run)


@pytest.mark.usefixtures("memory_for_two_planes")
def test_a_batch_that_does_not_fit_into_memory_is_halved() -> None:
    backend = choose_backend("cpu")
    payloads = [np.full((1, 4), number, np.float32) for number in range(8)]
    outcomes = backend.run(BatchKey(PoolStage((GlobalMaxPool1d(),)), (4,), payloads[0].dtype), payloads)
    for number, outcome in enumerate(outcomes):
        assert isinstance(outcome, DeviceResult)
        assert outcome.batch_size == 2
        np.testing.assert_array_equal(outcome.result[0].values, [[number]])
    assert backend.counts()["cpu"].out_of_memory == 2


@pytest.mark.usefixtures("memory_for_two_planes")
def test_an_out_of_memory_error_does_not_keep_the_memory_of_the_batch() -> None:
    with pytest.raises(DeviceOutOfMemory) as caught:
        CpuDevice().run(PoolStage((GlobalMaxPool1d(),)), [np.zeros((3, 4), np.float32)])
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None


def test_an_error_of_torch_is_the_fault_of_the_payload() -> None:
    with pytest.raises(IndexError):
        CpuDevice().run(PoolStage((MaxPool2d(2),)), [np.zeros((), np.float32)])


@pytest.mark.parametrize(
    ("device", "require_gpu", "message"),
    [
        ("tpu", False, "there is no device 'tpu'; choose auto, cpu, cuda, cuda:N or mps"),
        ("cuda:x", False, "there is no device 'cuda:x'"),
        ("cpu", True, "a GPU is required, but the device is cpu"),
    ],
)
def test_an_unknown_device_gives_a_helpful_error(device: str, require_gpu: bool, message: str) -> None:
    with pytest.raises(NoDevice, match=message):
        choose_backend(device, require_gpu=require_gpu)


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize(
    ("device", "require_gpu", "message"),
    [
        ("auto", True, "a GPU is required, but none can be used: "),
        ("cuda", False, "built without CUDA|torch finds no CUDA device on this machine"),
        ("cuda:7", False, "built without CUDA|torch finds no CUDA device on this machine"),
        ("mps", False, "torch finds no Apple GPU on this machine"),
    ],
)
def test_a_missing_gpu_gives_a_helpful_error(device: str, require_gpu: bool, message: str) -> None:
    with pytest.raises(NoDevice, match=message):
        choose_backend(device, require_gpu=require_gpu)


def test_concurrency_and_inline_size_depend_on_the_device() -> None:
    class FakeGpu(CpuDevice):
        name = "cuda:0"

    cpu, gpu = choose_backend("cpu"), Backend([FakeGpu(), CpuDevice()])
    assert cpu.inline_bytes > 0
    assert gpu.inline_bytes == 0
    assert cpu.concurrency(7) == 7
    assert gpu.concurrency(7) == 3


def test_torch_uses_one_thread_for_a_batch_on_any_thread() -> None:
    choose_backend("cpu")
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(torch.get_num_threads).result() == 1


def test_torch_version_returns_the_installed_version() -> None:
    assert torch_version() == str(torch.__version__)


def test_a_payload_without_planes_gives_a_result_without_planes() -> None:
    (result,) = run(choose_backend("cpu"), [np.zeros((0, 4, 4), np.float32)], GlobalAvgPool2d())
    assert result[0].values.shape == (0, 1, 1)

"""The CPU as a device, how it is chosen, and that company changes nothing."""

import threading
import warnings
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
from poolservice_server.pooling import run_on_arrays
from poolservice_server.pooling.interop import to_array, to_tensor
from poolservice_server.stages import BatchKey, PoolStage, SpecResult

# A value for each parameter that has no default.
_PARAMETERS: dict[str, Any] = {"kernel_size": 2, "output_size": 2, "norm_type": 2.0, "alpha": 0.25}
LAYER_SPECS = [
    layer(**{one.name: _PARAMETERS[one.name] for one in fields(layer) if one.default is MISSING})
    for layer in LAYERS.values()
]


def run(backend: Backend, items: list[np.ndarray], *specs: PoolSpec) -> list[tuple[SpecResult, ...]]:
    kind = BatchKey(PoolStage(specs), items[0].shape[1:], items[0].dtype)
    results = []
    for outcome in backend.run(kind, items):
        assert isinstance(outcome, DeviceResult), outcome
        results.append(outcome.result)
    return results


def same_bits(got: tuple[SpecResult, ...], expected: tuple[SpecResult, ...]) -> bool:
    return all(
        one.values.dtype == other.values.dtype
        and one.values.shape == other.values.shape
        and one.values.tobytes() == other.values.tobytes()
        and (one.indices is None) == (other.indices is None)
        and (one.indices is None or other.indices is None or one.indices.tobytes() == other.indices.tobytes())
        for one, other in zip(got, expected, strict=True)
    )


@pytest.mark.parametrize("dtype", NUMPY_DTYPES.values(), ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("spec", LAYER_SPECS, ids=lambda spec: type(spec).__name__)
def test_an_answer_does_not_depend_on_company(spec: PoolSpec, dtype: np.dtype) -> None:
    backend = choose_backend("cpu")
    random = np.random.default_rng(7)
    spatial = {1: (67,), 2: (9, 14), 3: (5, 6, 7)}[spec.spatial_dims]
    items = [(random.random((1 + number % 3, *spatial)) * 200 - 100).astype(dtype) for number in range(64)]
    together = run(backend, items, spec)
    alone = [run(backend, [item], spec)[0] for item in items[:6]]
    for number, result in enumerate(alone):
        assert same_bits(together[number], result)
    beside: list[list[tuple[SpecResult, ...]]] = []
    threads = [threading.Thread(target=lambda: beside.append(run(backend, items, spec))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(beside) == 2
    for results in beside:
        assert all(map(same_bits, results, together))


def test_indices_and_several_specs_do_not_depend_on_company_either() -> None:
    backend = choose_backend("cpu")
    random = np.random.default_rng(7)
    items = [random.integers(0, 5, (3, 16, 16)).astype(np.float32) for _ in range(64)]
    specs = (MaxPool2d(3, return_indices=True), GlobalMaxPool2d(), AvgPool2d(2))
    together = run(backend, items, *specs)
    assert together[0][0].indices is not None
    assert together[0][0].indices.dtype == np.int64
    for number in (0, 1, 63):
        assert same_bits(together[number], run(backend, [items[number]], *specs)[0])


@pytest.mark.parametrize("sizes", [[1], [3, 1], [2] * 40, [700, 1, 700], [0, 2, 0]])
def test_items_of_any_number_of_planes_get_their_own(sizes: list[int]) -> None:
    # 8 KiB a plane: some of these run one by one, some in one call, some in several.
    items = [np.full((planes, 32, 64), number, np.float32) for number, planes in enumerate(sizes)]
    results = run(choose_backend("cpu"), items, GlobalMaxPool2d())
    for number, (planes, (pooled,)) in enumerate(zip(sizes, results, strict=True)):
        np.testing.assert_array_equal(pooled.values, np.full((planes, 1, 1), number, np.float32))


@pytest.mark.parametrize("dtype", NUMPY_DTYPES.values(), ids=lambda dtype: dtype.name)
def test_arrays_become_tensors_and_back_without_a_copy(dtype: np.dtype) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    tensor = to_tensor(array)
    assert tensor.dtype == getattr(torch, dtype.name)
    back = to_array(tensor)
    assert back.dtype == dtype
    assert np.shares_memory(back, array)
    np.testing.assert_array_equal(back, array)


def test_received_bytes_are_read_where_they_lie() -> None:
    array = np.frombuffer(bytes(range(24)), np.uint8).reshape(2, 3, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = to_tensor(array)
    assert tensor.data_ptr() == array.__array_interface__["data"][0]


@pytest.mark.parametrize("dtype", [np.dtype(np.uint8), np.dtype(ml_dtypes.bfloat16)], ids=str)
def test_strides_of_any_sign_are_followed(dtype: np.dtype) -> None:
    picture = np.arange(60).reshape(4, 5, 3).astype(dtype)
    for planes in (picture.transpose(2, 0, 1), picture.transpose(2, 0, 1)[:, ::-1], picture.transpose(2, 0, 1)[:, ::2]):
        np.testing.assert_array_equal(to_array(to_tensor(planes)), planes)
        row = planes[:, :1][:, ::-1]
        np.testing.assert_array_equal(to_array(to_tensor(row)), row)
        np.testing.assert_array_equal(stack([planes, planes]), np.concatenate((planes, planes)))


def test_the_cpu_knows_what_it_is_and_computes_rightly() -> None:
    device = CpuDevice()
    assert device.description
    assert device.probe()
    (state,) = choose_backend("auto").devices()[-1:]
    assert (state.name, state.suspended) == ("cpu", False)
    assert torch.get_num_threads() == 1


def test_a_probe_that_comes_out_wrong_or_not_at_all_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    device = CpuDevice()
    monkeypatch.setattr(device, "run", lambda stages, items: [(SpecResult(np.zeros((3, 2, 2), np.float32)),)])
    assert not device.probe()

    def fail(*_: object) -> None:
        raise OSError("gone")

    monkeypatch.setattr(device, "run", fail)
    assert not device.probe()


@pytest.fixture
def memory_for_two_planes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pooling ask torch for more memory than any machine has, for batches of more than two planes."""

    def run(stage: PoolStage, planes: np.ndarray) -> tuple[SpecResult, ...]:
        if len(planes) > 2:
            torch.empty(2**60, dtype=torch.uint8)
        return run_on_arrays(stage, planes)

    monkeypatch.setattr("poolservice_server.backend.cpu.run_on_arrays", run)


@pytest.mark.usefixtures("memory_for_two_planes")
def test_a_batch_that_does_not_fit_into_memory_is_halved() -> None:
    backend = choose_backend("cpu")
    items = [np.full((1, 4), number, np.float32) for number in range(8)]
    outcomes = backend.run(BatchKey(PoolStage((GlobalMaxPool1d(),)), (4,), items[0].dtype), items)
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


def test_a_stage_that_fails_is_the_items_fault() -> None:
    with pytest.raises(IndexError):
        CpuDevice().run(PoolStage((MaxPool2d(2),)), [np.zeros((), np.float32)])


@pytest.mark.parametrize(
    ("asked", "require_gpu", "sentence"),
    [
        ("tpu", False, "there is no device 'tpu'; choose auto, cpu, cuda, cuda:N or mps"),
        ("cuda:x", False, "there is no device 'cuda:x'"),
        ("cpu", True, "a GPU is required, and the CPU was asked for"),
    ],
)
def test_a_device_that_does_not_exist_is_refused_in_words(asked: str, require_gpu: bool, sentence: str) -> None:
    with pytest.raises(NoDevice, match=sentence):
        choose_backend(asked, require_gpu=require_gpu)


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize(
    ("asked", "require_gpu", "sentence"),
    [
        ("auto", True, "a GPU is required, and there is none to use: "),
        ("cuda", False, "built without CUDA|torch finds no CUDA device here"),
        ("cuda:7", False, "built without CUDA|torch finds no CUDA device here"),
        ("mps", False, "there is no Apple GPU here"),
    ],
)
def test_a_gpu_that_is_not_there_is_refused_in_words(asked: str, require_gpu: bool, sentence: str) -> None:
    with pytest.raises(NoDevice, match=sentence):
        choose_backend(asked, require_gpu=require_gpu)


def test_a_device_says_how_it_is_best_used() -> None:
    class Card(CpuDevice):
        name = "cuda:0"

    processor, card = choose_backend("cpu"), Backend([Card(), CpuDevice()])
    assert processor.inline_bytes > 0
    assert card.inline_bytes == 0
    assert processor.concurrency(7) == 7
    assert card.concurrency(7) == 3


def test_each_batch_runs_on_one_thread_wherever_it_was_started() -> None:
    choose_backend("cpu")
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(torch.get_num_threads).result() == 1


def test_the_version_of_torch_is_told() -> None:
    assert torch_version() == str(torch.__version__)


def test_a_mean_of_nothing_is_nobodys_fault() -> None:
    (result,) = run(choose_backend("cpu"), [np.zeros((0, 4, 4), np.float32)], GlobalAvgPool2d())
    assert result[0].values.shape == (0, 1, 1)

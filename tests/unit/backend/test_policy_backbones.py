"""The backend's policy for backbones: a GPU that fails or lacks memory, and samples at fault.

The GPU is a fake one, which runs the network as a GPU does but in the CPU's memory. The CPU is a real one.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from tests.backbones.models import TinyBackbone, tiny_backbone

from poolservice.specs import GlobalAvgPool2d, GlobalMaxPool2d
from poolservice_server.backbone_stage import BackboneFailed, BackboneInput, BackboneResult, BackboneStage, ClassChoice
from poolservice_server.backbones.engines.choice import open_engine
from poolservice_server.backbones.engines.core_budget import CoreBudget
from poolservice_server.backbones.engines.network import KnownResult, Network
from poolservice_server.backbones.engines.onnx_gpu_engine import OnnxGpuEngine
from poolservice_server.backbones.folder import read_folder
from poolservice_server.backend import Backend
from poolservice_server.backend.cpu import CpuDevice
from poolservice_server.backend.device import DeviceResult, NoDevice
from poolservice_server.backend.probe import computes_correctly
from poolservice_server.pool_stage import BatchKey
from poolservice_server.stop import WorkStopped

if TYPE_CHECKING:
    from tests.unit.backend.conftest import Clock, FakeDevice

MakeDevice = Callable[..., "FakeDevice"]

KEY = BatchKey(BackboneStage("tiny", "features"), (32, 32), np.dtype(np.uint8))
#: The bytes of a sample.
SAMPLE = 3 * 32 * 32
BLACK = np.zeros((1, 3, 32, 32), np.uint8)


@pytest.fixture
def tiny(tmp_path: Path) -> TinyBackbone:
    """A backbone that gives NaN for black samples."""
    return tiny_backbone(tmp_path / "tiny", nan_below=-1.9)


@pytest.fixture
def on_gpu(tiny: TinyBackbone, gpu: MakeDevice) -> MakeDevice:
    """Return a function that makes a fake GPU that runs the backbone."""
    device = torch.device("cpu")
    engine = OnnxGpuEngine((tiny.path / "model.onnx").read_bytes(), device=device, input_shape=tiny.input)
    network = Network(read_folder(tiny.path, allow_code_models=False), engine, device, CoreBudget(1))

    def make(**options: Any) -> "FakeDevice":
        return gpu(networks={"tiny": network}, **options)

    return make


@pytest.fixture
def on_cpu(tiny: TinyBackbone) -> CpuDevice:
    """The CPU, which runs the backbone with onnxruntime."""
    folder = read_folder(tiny.path, allow_code_models=False)
    device = CpuDevice()
    engine = open_engine(folder, device, threads=1, allow_code_models=False)
    assert engine is not None
    device.networks["tiny"] = Network(folder, engine, torch.device("cpu"), CoreBudget(2))
    return device


def backend_of(*devices: Any, **options: Any) -> Backend:
    backend = Backend(devices, **options)
    backend.add_backbone("tiny")
    return backend


def payloads_of(*counts: int) -> list[BackboneInput]:
    random = np.random.default_rng(7)
    return [
        BackboneInput(random.integers(0, 256, (count, 3, 32, 32), np.uint8), (GlobalAvgPool2d(), GlobalMaxPool2d()))
        for count in counts
    ]


def assert_right(tiny: TinyBackbone, payloads: Sequence[BackboneInput], outcomes: Sequence[object]) -> list[str]:
    """Compare each outcome with the network in numpy; return the devices."""
    devices = []
    for payload, outcome in zip(payloads, outcomes, strict=True):
        assert isinstance(outcome, DeviceResult), outcome
        result = outcome.result
        assert isinstance(result, BackboneResult)
        features = tiny.numpy_reference(tiny.normalized(payload.samples))["features"]
        mean, maximum = result.specs
        np.testing.assert_allclose(mean.values.ravel(), features.mean((2, 3)).ravel(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(maximum.values.ravel(), features.max((2, 3)).ravel(), rtol=1e-4, atol=1e-5)
        devices.append(outcome.device)
    return devices


def test_a_backbone_runs_on_the_first_device_that_has_it(
    tiny: TinyBackbone, on_gpu: MakeDevice, on_cpu: CpuDevice, gpu: MakeDevice
) -> None:
    payloads = payloads_of(1, 2, 1)
    with_backbone, without = on_gpu(), gpu()
    assert assert_right(tiny, payloads, backend_of(with_backbone, on_cpu).run(KEY, payloads)) == ["cuda:0"] * 3
    assert with_backbone.batches == [[1, 2, 1]]
    assert assert_right(tiny, payloads, backend_of(without, on_cpu).run(KEY, payloads)) == ["cpu"] * 3
    assert without.batches == []


def test_a_gpu_that_dies_under_load_leaves_every_response_right(
    tiny: TinyBackbone, on_gpu: MakeDevice, on_cpu: CpuDevice
) -> None:
    fake_gpu = on_gpu()
    backend = backend_of(fake_gpu, on_cpu)

    def call(number: int) -> list[str]:
        if number == 60:
            fake_gpu.fails_every = 1
        payloads = payloads_of(1 + number % 3, 1)
        return assert_right(tiny, payloads, backend.run(KEY, payloads))

    with ThreadPoolExecutor(8) as threads:
        devices = [device for devices in threads.map(call, range(200)) for device in devices]
    assert devices[0] == "cuda:0"
    assert devices[-1] == "cpu"
    assert backend.devices()[0].suspended


def test_a_batch_that_exceeds_the_gpus_memory_is_halved_down_to_samples(
    tiny: TinyBackbone, on_gpu: MakeDevice, on_cpu: CpuDevice
) -> None:
    fake_gpu = on_gpu(capacity=2 * SAMPLE)
    backend = backend_of(fake_gpu, on_cpu)
    payloads = payloads_of(1, 5, 1)
    for _ in range(2):
        assert assert_right(tiny, payloads, backend.run(KEY, payloads)) == ["cuda:0"] * 3
    assert fake_gpu.freed > 0


def test_halves_of_a_payload_add_their_times(on_cpu: CpuDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(seconds)))
    backend = backend_of(on_cpu, max_batch_bytes=SAMPLE)
    (outcome,) = backend.run(KEY, payloads_of(4))
    (unsplit,) = backend_of(on_cpu).run(KEY, payloads_of(4))
    assert isinstance(outcome, DeviceResult)
    assert isinstance(unsplit, DeviceResult)
    assert outcome.result.backbone_seconds == unsplit.result.backbone_seconds == 4
    for halves, whole in zip(outcome.result.specs, unsplit.result.specs, strict=True):
        np.testing.assert_array_equal(halves.values, whole.values)


@pytest.mark.parametrize("devices", ["gpu and cpu", "cpu"])
def test_a_sample_for_which_the_network_gives_nan_fails_alone(
    devices: str, tiny: TinyBackbone, on_gpu: MakeDevice, on_cpu: CpuDevice
) -> None:
    backend = backend_of(on_gpu(), on_cpu) if devices == "gpu and cpu" else backend_of(on_cpu)
    payloads = payloads_of(1, 1, 1, 1, 1)
    payloads[3] = BackboneInput(BLACK, (GlobalAvgPool2d(),))
    outcomes = backend.run(KEY, payloads)
    assert isinstance(outcomes[3], BackboneFailed)
    assert_right(tiny, payloads[:3] + payloads[4:], outcomes[:3] + outcomes[4:])
    assert not backend.devices()[0].suspended


def test_the_cpu_runs_a_sample_that_overflows_on_the_gpu(
    tiny: TinyBackbone, on_gpu: MakeDevice, on_cpu: CpuDevice
) -> None:
    overflow = BackboneFailed("the network gives infinity in half precision")
    backend = backend_of(on_gpu(unsupported=overflow), on_cpu)
    payloads = payloads_of(1, 1)
    assert assert_right(tiny, payloads, backend.run(KEY, payloads)) == ["cpu"] * 2


def test_classes_of_requests_in_a_batch_are_their_own(tiny: TinyBackbone, on_gpu: MakeDevice) -> None:
    payloads = [BackboneInput(one.samples, (), ClassChoice(5, (), True)) for one in payloads_of(*[1] * 4)]
    for payload, outcome in zip(payloads, backend_of(on_gpu()).run(KEY, payloads), strict=True):
        assert isinstance(outcome, DeviceResult)
        classes = outcome.result.classes
        logits = tiny.numpy_reference(tiny.normalized(payload.samples))["logits"][0]
        np.testing.assert_allclose(classes.logits, logits[classes.indices], rtol=1e-4, atol=1e-5)
        means = classes.activation_maps.mean((1, 2)) + tiny.weights["head.bias"][classes.indices]
        np.testing.assert_allclose(means, classes.logits, rtol=1e-4, atol=1e-5)


def test_without_a_cpu_a_suspended_gpu_leaves_no_device(on_gpu: MakeDevice, clock: "Clock") -> None:
    fake_gpu = on_gpu(fails_every=1)
    backend = backend_of(fake_gpu, clock=clock)
    assert isinstance(backend.run(KEY, payloads_of(1))[0], NoDevice)
    fake_gpu.fails_every = None
    clock.now = 1
    assert isinstance(backend.run(KEY, payloads_of(1))[0], DeviceResult)
    assert fake_gpu.probes == 1


def test_work_that_nobody_waits_for_stops(on_cpu: CpuDevice) -> None:
    with pytest.raises(WorkStopped):
        backend_of(on_cpu).run(KEY, payloads_of(1), lambda: True)


@pytest.mark.parametrize("wrong", [False, True])
def test_a_probe_computes_the_known_result_of_each_backbone(wrong: bool, on_cpu: CpuDevice) -> None:
    stage = BackboneStage("tiny", "embedding")
    payload = BackboneInput(payloads_of(1)[0].samples, ())
    (result,) = on_cpu.run_backbone(stage, [payload])
    values = result.specs[0].values.copy()
    if wrong:
        values[0, 3] += np.abs(values).max()
    on_cpu.networks["tiny"].known_result = KnownResult(stage, payload, values)
    assert computes_correctly(on_cpu) is not wrong


def with_known_result(device: CpuDevice) -> KnownResult:
    """Let the device compute the known result of its backbone, as when a server starts."""
    stage = BackboneStage("tiny", "embedding")
    payload = BackboneInput(payloads_of(1)[0].samples, ())
    (result,) = device.run_backbone(stage, [payload])
    known = KnownResult(stage, payload, result.specs[0].values.copy())
    device.networks["tiny"].known_result = known
    return known


def test_the_check_of_a_backbone_computes_its_known_result(on_cpu: CpuDevice) -> None:
    known = with_known_result(on_cpu)
    backend = backend_of(on_cpu)
    backend.check_backbone("tiny")
    assert backend.payloads == 0
    known.values[0, 3] += np.abs(known.values).max()
    with pytest.raises(NoDevice, match="cpu: it computed a known result wrongly"):
        backend.check_backbone("tiny")


def test_the_check_of_a_backbone_passes_on_the_device_that_can(on_gpu: MakeDevice, on_cpu: CpuDevice) -> None:
    known = with_known_result(on_cpu)
    fake_gpu = on_gpu(fails_every=1)
    fake_gpu.networks["tiny"].known_result = known
    backend_of(fake_gpu, on_cpu).check_backbone("tiny")
    with pytest.raises(NoDevice, match="cuda:0: the fake GPU fell off the bus"):
        backend_of(fake_gpu).check_backbone("tiny")


def test_a_backbone_is_suspected_after_a_run_that_fails_for_another_reason_than_its_input(
    on_gpu: MakeDevice, on_cpu: CpuDevice
) -> None:
    backend = backend_of(on_cpu)
    backend.run(KEY, [BackboneInput(BLACK, (GlobalAvgPool2d(),))])
    assert not backend.suspected_backbones
    backend = backend_of(on_gpu(unsupported=RuntimeError("the engine is broken")))
    backend.run(KEY, payloads_of(1))
    assert backend.suspected_backbones == {"tiny"}

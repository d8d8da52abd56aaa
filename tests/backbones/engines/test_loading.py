"""Backbones are loaded on the devices of a server, run once and measured, or refused in one sentence."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from tests.backbones.models import TinyBackbone

from poolservice_server.backbone_stage import BackboneInput, BackboneResult, BackboneStage
from poolservice_server.backbones.backbone import Backbones, BrokenBackbone
from poolservice_server.backbones.engines.loading import load
from poolservice_server.backbones.engines.onnx_engine import OnnxEngine
from poolservice_server.backbones.folder import BackboneFolder
from poolservice_server.backbones.linear import Linear
from poolservice_server.backend import Backend
from poolservice_server.backend.backbone_batch import BackboneBatch
from poolservice_server.backend.cpu import CpuDevice
from poolservice_server.backend.device import DeviceResult
from poolservice_server.pool_stage import BatchKey
from poolservice_server.settings import SettingsError
from poolservice_server.stop import Stop, never

Write = Callable[..., tuple[TinyBackbone, BackboneFolder]]


class FakeGpu(CpuDevice):
    """Runs batches as a GPU does, with torch tensors, but in the CPU's memory."""

    name = "cuda:0"

    def run_backbone(
        self, stage: BackboneStage, payloads: Sequence[BackboneInput], stop: Stop = never
    ) -> list[BackboneResult]:
        batch = BackboneBatch(self.networks[stage.backbone], stage, payloads)
        samples = torch.from_numpy(np.concatenate([payload.samples for payload in payloads]))
        return batch.results(batch.compute(samples), 0.001)


def load_on(
    devices: list[CpuDevice], *folders: BackboneFolder, broken: tuple[BrokenBackbone, ...] = (), **options: Any
) -> tuple[Backbones, Backend]:
    backend = Backend(devices)
    settings: dict[str, Any] = {"threads": 1, "cores": 2, "allow_code_models": True, "skip_broken": False}
    return load(folders, broken, backend, **(settings | options)), backend


def change(folder: BackboneFolder, **outputs: dict[str, Any]) -> BackboneFolder:
    """Return the folder with other values of some keys of its outputs."""
    tables = {name: output.model_copy(update=outputs.get(name, {})) for name, output in folder.manifest.outputs.items()}
    manifest = folder.manifest.model_copy(update={"outputs": tables})
    return replace(folder, manifest=manifest)


def test_a_backbone_is_described_as_its_folder_and_its_first_runs_say(write: Write) -> None:
    tiny, folder = write()
    backbones, backend = load_on([CpuDevice()], folder)
    backbone = backbones.serving["tiny"]
    assert {name: (output.kind, output.shape) for name, output in backbone.outputs.items()} == {
        "features": ("map", (16, 8, 8)),
        "embedding": ("vector", (16,)),
        "channels_last": ("map", (16, 8, 8)),
        "tokens": ("map", (16, 8, 8)),
        "projected": ("vector", (4,)),
        "whitened": ("vector", (4,)),
    }
    assert backbone.engines == ("onnxruntime on cpu",)
    assert (backbone.default_output, backbone.head_output) == ("features", "features")
    assert backbone.labels == ("class0", "class1", "class2", "class3", "class4")
    assert (backbone.fingerprint, backbone.licence) == (folder.fingerprint, "Apache-2.0")
    assert 0 < backbone.seconds < 1
    assert backbone.memory_bytes > 0
    samples = np.full((1, 3, 32, 32), 200, np.uint8)
    key = BatchKey(BackboneStage("tiny", "embedding"), (32, 32), samples.dtype)
    (outcome,) = backend.run(key, [BackboneInput(samples, ())])
    assert isinstance(outcome, DeviceResult)
    expected = tiny.numpy_reference(tiny.normalized(samples))["embedding"]
    np.testing.assert_allclose(outcome.result.specs[0].values, expected, rtol=1e-4, atol=1e-5)
    assert backend.device("cpu").probe()


@pytest.mark.parametrize(
    ("engines", "expected"),
    [
        (("onnx",), ("onnxruntime on cpu",)),
        (("torch",), ("torch on cuda:0", "torch on cpu")),
        (("onnx", "torch"), ("torch on cuda:0", "onnxruntime on cpu")),
    ],
)
def test_each_device_has_the_engine_that_suits_it(
    engines: tuple[str, ...], expected: tuple[str, ...], write: Write
) -> None:
    _, folder = write(engines=engines)
    backbones, _ = load_on([FakeGpu(), CpuDevice()], folder)
    assert backbones.serving["tiny"].engines == expected


def test_torch_takes_the_module_of_an_output_and_onnxruntime_its_tensor(write: Write) -> None:
    tiny, folder = write(engines=("onnx", "torch"))
    devices = [FakeGpu(), CpuDevice()]
    load_on(devices, change(folder, embedding={"module": "embedding.1"}))
    samples = np.full((1, 3, 32, 32), 200, np.uint8)
    expected = tiny.numpy_reference(tiny.normalized(samples))["embedding"]
    for device in devices:
        (result,) = device.run_backbone(BackboneStage("tiny", "embedding"), [BackboneInput(samples, ())])
        np.testing.assert_allclose(result.specs[0].values, expected, rtol=1e-4, atol=1e-5)


def test_models_whose_outputs_have_different_shapes_are_refused(write: Write) -> None:
    _, folder = write(engines=("onnx", "torch"))
    devices = [FakeGpu(), CpuDevice()]
    with pytest.raises(SettingsError, match=r"different shapes \(torch on cuda:0, onnxruntime on cpu\)"):
        load_on(devices, change(folder, channels_last={"module": "hidden.1"}))
    assert [device.networks for device in devices] == [{}, {}]


def test_the_memory_of_a_backbone_is_that_on_the_preferred_device(write: Write) -> None:
    class Hungry(FakeGpu):
        used = 0

        def used_bytes(self) -> int:
            self.used += 2**40
            return self.used

    _, folder = write(engines=("torch",))
    backbones, _ = load_on([Hungry(), CpuDevice()], folder)
    assert backbones.serving["tiny"].memory_bytes >= 2**40


def test_the_engine_of_a_backbone_that_cannot_run_is_closed(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[OnnxEngine] = []
    monkeypatch.setattr(OnnxEngine, "close", lambda engine: closed.append(engine))
    _, folder = write()
    with pytest.raises(SettingsError):
        load_on([CpuDevice()], change(folder, embedding={"tensor": "pool5"}))
    assert len(closed) == 1


def test_a_backbone_that_no_gpu_can_run_is_an_error_if_a_gpu_is_required(write: Write) -> None:
    _, folder = write()
    with pytest.raises(
        SettingsError, match="it has no model for the devices of this server, cuda:0: a GPU needs torch"
    ):
        load_on([FakeGpu()], folder)


BROKEN = [
    (
        {"embedding": {"tensor": "pool5"}},
        "outputs.embedding needs the tensor pool5, which onnxruntime does not find in the network; it finds features, "
        "embedding, channels_last, tokens",
    ),
    ({"embedding": {"tensor": "features"}}, r"outputs.embedding is a vector, .* gives \[1, 16, 8, 8\]"),
    ({"features": {"tensor": "embedding"}}, r"outputs.features is a map, .* 4 dimensions; the network gives \[1, 16\]"),
    ({"tokens": {"grid": (7, 8)}}, r"outputs.tokens is a grid of 7 x 8 tokens after 1 others, .* gives \[1, 65, 16\]"),
    (
        {"projected": {"source": "channels_last"}, "channels_last": {"layout": "NCHW"}},
        "outputs.projected projects channels_last, whose vectors have 8 values, .* takes 16",
    ),
]


@pytest.mark.parametrize(("outputs", "message"), BROKEN)
def test_an_output_that_the_network_does_not_have_is_refused_in_one_sentence(
    outputs: dict[str, Any], message: str, write: Write
) -> None:
    _, folder = write()
    with pytest.raises(SettingsError, match=message) as caught:
        load_on([CpuDevice()], change(folder, **outputs))
    assert str(caught.value).startswith(f"the backbone tiny in {folder.path} cannot run: ")
    assert "\n" not in str(caught.value)


def add_tensors(folder: BackboneFolder) -> BackboneFolder:
    """Let the network also give its features as float16, as integers, and twice for each sample."""
    path = folder.path / "model.onnx"
    model = onnx.load_model(path)
    for name, kind, node in (
        ("half", TensorProto.FLOAT16, helper.make_node("Cast", ["features"], ["half"], to=TensorProto.FLOAT16)),
        ("integers", TensorProto.INT64, helper.make_node("Cast", ["features"], ["integers"], to=TensorProto.INT64)),
        ("twice", TensorProto.FLOAT, helper.make_node("Concat", ["features", "features"], ["twice"], axis=0)),
    ):
        model.graph.node.append(node)
        model.graph.output.append(helper.make_tensor_value_info(name, kind, None))
    data = model.SerializeToString()
    path.write_bytes(data)
    assert folder.manifest.onnx is not None
    table = folder.manifest.onnx.model_copy(update={"sha256": hashlib.sha256(data).hexdigest()})
    return replace(folder, manifest=folder.manifest.model_copy(update={"onnx": table}))


def test_an_output_in_half_precision_becomes_float32(write: Write) -> None:
    _, folder = write()
    device = CpuDevice()
    load_on([device], change(add_tensors(folder), features={"tensor": "half"}))
    samples = np.full((1, 3, 32, 32), 200, np.uint8)
    (result,) = device.run_backbone(BackboneStage("tiny", "features"), [BackboneInput(samples, ())])
    assert result.specs[0].values.dtype == np.float32


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ("integers", "outputs.features must be a tensor of floats; the network gives torch.int64"),
        ("twice", "the network gives 2 of outputs.features for 1 sample"),
    ],
)
def test_a_tensor_that_is_no_output_is_refused(tensor: str, message: str, write: Write) -> None:
    _, folder = write()
    with pytest.raises(SettingsError, match=message):
        load_on([CpuDevice()], change(add_tensors(folder), features={"tensor": tensor}))


def test_a_head_of_another_network_is_refused(write: Write) -> None:
    _, small = write(name="small")
    assert small.head is not None
    head = Linear(small.head.weight[:, :9], small.head.bias)
    wrong = replace(small, head=head)
    with pytest.raises(SettingsError, match="features, which has 16 channels, and the head's weight takes 9"):
        load_on([CpuDevice()], wrong)


def test_a_network_that_gives_nan_for_any_image_is_refused(write: Write) -> None:
    _, folder = write(nan_below=10)
    with pytest.raises(SettingsError, match=r"the network cannot run a test image on cpu: .* gives NaN or infinity"):
        load_on([CpuDevice()], folder)


def test_a_head_whose_logits_overflow_is_refused(write: Write) -> None:
    _, folder = write()
    assert folder.head is not None
    wrong = replace(folder, head=Linear(np.full_like(folder.head.weight, 3e38), folder.head.bias))
    with pytest.raises(SettingsError, match="cannot run a test image on cpu: the logits of this input are too large"):
        load_on([CpuDevice()], wrong)


def test_a_network_that_runs_no_batches_is_refused_on_a_gpu(write: Write) -> None:
    class WithoutBatches(FakeGpu):
        def run_backbone(
            self, stage: BackboneStage, payloads: Sequence[BackboneInput], stop: Stop = never
        ) -> list[BackboneResult]:
            if len(payloads) > 1:
                raise RuntimeError("got 2 samples, expected 1")
            return super().run_backbone(stage, payloads, stop)

    _, folder = write(engines=("torch",))
    with pytest.raises(SettingsError, match="cannot run a test image on cuda:0: got 2 samples, expected 1"):
        load_on([WithoutBatches()], folder)


def test_the_memory_of_a_backbone_covers_a_sample_and_its_largest_output(write: Write) -> None:
    class Silent(CpuDevice):
        def used_bytes(self) -> int:
            return 0

    _, folder = write()
    backbones, _ = load_on([Silent()], folder)
    assert backbones.serving["tiny"].memory_bytes == 4 * (3 * 32 * 32) + 4 * (16 * 8 * 8)


def test_a_file_that_changes_while_the_server_starts_is_refused(write: Write) -> None:
    _, folder = write()
    (folder.path / "model.onnx").write_bytes(b"another file")
    with pytest.raises(SettingsError, match=r"model\.onnx"):
        load_on([CpuDevice()], folder)


def test_the_server_can_start_without_broken_backbones(write: Write) -> None:
    (_, good), (_, bad) = write(name="good"), write(name="bad")
    device = CpuDevice()
    earlier = BrokenBackbone("earlier", "its folder is empty")
    backbones, _ = load_on(
        [device], change(bad, embedding={"tensor": "pool5"}), good, broken=(earlier,), skip_broken=True
    )
    assert list(backbones.serving) == ["good"]
    assert [one.name for one in backbones.broken] == ["earlier", "bad"]
    assert "needs the tensor pool5" in backbones.broken[1].reason
    assert list(device.networks) == ["good"]


class TestThreads:
    def test_the_number_of_threads_in_the_settings_is_used(self, write: Write) -> None:
        _, folder = write()
        device = CpuDevice()
        load_on([device], folder, threads=2)
        assert device.networks["tiny"].engine.threads == 2

    def test_by_default_the_number_is_measured(self, write: Write) -> None:
        _, folder = write()
        device = CpuDevice()
        backbones, _ = load_on([device], folder, threads=0, cores=2)
        assert device.networks["tiny"].engine.threads in (1, 2)
        assert backbones.serving["tiny"].seconds > 0


def test_folders_are_needed_for_nothing_after_loading(write: Write, tmp_path: Path) -> None:
    tiny, folder = write()
    _, backend = load_on([CpuDevice()], folder)
    for file in tiny.path.iterdir():
        file.unlink()
    assert backend.device("cpu").probe()
    assert list(tmp_path.iterdir()) == [tiny.path]

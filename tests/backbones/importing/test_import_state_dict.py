"""`backbone import` of state dicts."""

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.backbones.importing.conftest import Command
from torch import nn

from poolservice_server.backbones.engines.architectures import Architecture
from poolservice_server.backbones.engines.architectures import table as architectures
from poolservice_server.backbones.folder import read_folder
from poolservice_server.backbones.importing import state_dict
from poolservice_server.backbones.importing.errors import ImportFailed
from poolservice_server.backbones.importing.state_dict import convert_state_dict


class TinyNetwork(nn.Module):
    """A convolution, batch normalization and a classifier, at a sixteenth of the image's resolution."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, 16, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.fc = nn.Linear(6, num_classes)

    def forward(self, x: torch.Tensor) -> Any:
        return self.fc(self.features(x).mean((2, 3)))


TINY = Architecture(TinyNetwork, "features", "fc", "fc", 64, "torchvision", "none")


@pytest.fixture(autouse=True)
def _tiny_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add the tiny network to the table of architectures: exporting a real one takes long."""
    monkeypatch.setitem(architectures.ARCHITECTURES, "tiny", TINY)


def _network(classes: int = 4) -> TinyNetwork:
    torch.manual_seed(0)
    network = TinyNetwork(classes)
    nn.init.uniform_(network.get_buffer("features.1.running_mean"))
    return network.eval()


def _error(backbone: Command, path: Path, architecture: str = "tiny") -> str:
    target = path.parent / "new"
    done = backbone("import", path, "--architecture", architecture, "-o", target)
    assert done.status == 2
    assert not target.exists()
    return done.error


def test_a_state_dict_becomes_an_onnx_file_and_torch_weights(backbone: Command, tmp_path: Path) -> None:
    network = _network()
    torch.save(network.state_dict(), tmp_path / "w.pth")
    done = backbone("import", tmp_path / "w.pth", "--architecture", "tiny", "-o", tmp_path / "t")
    assert done.status == 0, done.stderr
    folder = read_folder(tmp_path / "t", allow_code_models=False)
    images = torch.randn(3, 3, 64, 64)
    session = onnxruntime.InferenceSession(str(tmp_path / "t" / "model.onnx"), providers=["CPUExecutionProvider"])
    features, logits = session.run(["features", "fc"], {"input": images.numpy()})
    with torch.inference_mode():
        np.testing.assert_allclose(features, network.features(images).numpy(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(logits, network(images).numpy(), rtol=1e-4, atol=1e-5)
    manifest = folder.manifest
    assert manifest.torch is not None
    assert manifest.torch.architecture == "poolservice:tiny"
    assert manifest.torch.arguments == {"num_classes": 4}
    written = load_file(tmp_path / "t" / manifest.torch.file)
    assert written.keys() == network.state_dict().keys()
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(written[name], tensor, rtol=0, atol=0)
    assert folder.head is not None
    np.testing.assert_array_equal(folder.head.weight, network.fc.weight.detach().numpy())
    assert (manifest.preprocessing.size, manifest.preprocessing.filter) == (73, "bilinear")


def test_an_exported_model_names_no_files_of_this_machine(backbone: Command, tmp_path: Path) -> None:
    # Otherwise the fingerprint of the same weights would depend on where poolservice is installed.
    torch.save(_network().state_dict(), tmp_path / "w.pth")
    assert backbone("import", tmp_path / "w.pth", "--architecture", "tiny", "-o", tmp_path / "t").status == 0
    model = (tmp_path / "t" / "model.onnx").read_bytes()
    assert b".py" not in model
    assert b"poolservice_server" not in model


def test_the_weights_of_a_checkpoint_are_found(backbone: Command, tmp_path: Path) -> None:
    wrapped = {f"module.{name}": tensor.half() for name, tensor in _network().state_dict().items()}
    checkpoint = {"epoch": 3, "state_dict": wrapped, "optimizer": {"lr": 0.1}}
    torch.save(checkpoint, tmp_path / "w.pth")
    convert_state_dict(tmp_path / "w.pth", tmp_path / "w.safetensors")
    assert set(load_file(tmp_path / "w.safetensors")) == set(_network().state_dict())


def test_the_old_format_of_torch_is_read(tmp_path: Path) -> None:
    state = _network().state_dict()
    torch.save(state, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    convert_state_dict(tmp_path / "w.pth", tmp_path / "w.safetensors")
    for name, tensor in load_file(tmp_path / "w.safetensors").items():
        assert torch.equal(tensor, state[name])


def test_a_safetensors_file_needs_no_conversion(backbone: Command, tmp_path: Path) -> None:
    save_file(_network().state_dict(), tmp_path / "w.safetensors")
    done = backbone("import", tmp_path / "w.safetensors", "--architecture", "tiny", "-o", tmp_path / "t")
    assert done.status == 0, done.stderr


class _WritesAFile:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._path),)


@pytest.mark.parametrize("new_format", [True, False])
def test_code_in_a_pickle_does_not_run(backbone: Command, tmp_path: Path, new_format: bool) -> None:
    torch.save({"a": _WritesAFile(tmp_path / "ran")}, tmp_path / "w.pth", _use_new_zipfile_serialization=new_format)
    error = _error(backbone, tmp_path / "w.pth")
    assert "needs posix.mkdir to be loaded, which is code and not weights" in error
    assert not (tmp_path / "ran").exists()


def test_a_pickle_of_a_whole_network_is_refused(backbone: Command, tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "w.pth")
    assert "needs torch.nn.modules.linear.Linear to be loaded" in _error(backbone, tmp_path / "w.pth")


@pytest.mark.parametrize("contents", [b"", b"\x80\x02.", b"not a pickle", pickle.dumps([1, 2])])
def test_a_file_that_is_no_state_dict(backbone: Command, tmp_path: Path, contents: bytes) -> None:
    (tmp_path / "w.pth").write_bytes(contents)
    assert _error(backbone, tmp_path / "w.pth").startswith(f"{tmp_path / 'w.pth'}: ")


def test_a_truncated_state_dict(backbone: Command, tmp_path: Path) -> None:
    torch.save(_network().state_dict(), tmp_path / "w.pth")
    whole = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(whole[: len(whole) // 2])
    assert "is damaged, or is no state dict" in _error(backbone, tmp_path / "w.pth")


def test_other_contents_than_tensors(backbone: Command, tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"a": 1}, tmp_path / "number.pth")
    torch.save({}, tmp_path / "empty.pth")
    assert "contains a list instead of a state dict" in _error(backbone, tmp_path / "list.pth")
    assert "contains 'a': int where a state dict has tensors" in _error(backbone, tmp_path / "number.pth")
    assert "contains no tensors" in _error(backbone, tmp_path / "empty.pth")


def test_a_small_file_cannot_take_much_memory(backbone: Command, tmp_path: Path) -> None:
    # One number in the file, which strides of 0 make a tensor of 16 GB.
    torch.save({"a": torch.zeros(1).expand(1 << 32)}, tmp_path / "w.pth")
    assert "of memory, several times its own size" in _error(backbone, tmp_path / "w.pth")


def test_a_truncated_safetensors_file(backbone: Command, tmp_path: Path) -> None:
    save_file(_network().state_dict(), tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:-10])
    assert "is no safetensors file" in _error(backbone, tmp_path / "w.safetensors")


def test_the_conversion_has_no_network_where_the_kernel_permits_that(tmp_path: Path) -> None:
    unshare = "import ctypes; raise SystemExit(ctypes.CDLL(None).unshare(0x50000000) != 0)"
    permitted = subprocess.run([sys.executable, "-c", unshare], check=False).returncode == 0
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pth")
    assert convert_state_dict(tmp_path / "w.pth", tmp_path / "w.safetensors").without_network == permitted


def test_weights_of_another_network(backbone: Command, tmp_path: Path) -> None:
    state = _network().state_dict()
    torch.save(state, tmp_path / "w.pth")
    error = _error(backbone, tmp_path / "w.pth", "mobilenet_v2")
    assert error.endswith("is no state dict of mobilenet_v2: it has no classifier.1.weight; it fits tiny")
    torch.save({**state, "fc.scale": torch.ones(1)}, tmp_path / "w.pth")
    assert _error(backbone, tmp_path / "w.pth").endswith("it has 1 unknown tensor, fc.scale")
    torch.save({name: tensor for name, tensor in state.items() if name != "fc.bias"}, tmp_path / "w.pth")
    assert _error(backbone, tmp_path / "w.pth").endswith("it lacks 1 tensor, fc.bias")
    torch.save({**state, "features.0.weight": torch.ones(6, 3, 5, 5)}, tmp_path / "w.pth")
    assert "features.0.weight has the shape (6, 3, 5, 5) instead of (6, 3, 3, 3)" in _error(
        backbone, tmp_path / "w.pth"
    )


def test_an_unknown_architecture_gets_a_suggestion(backbone: Command, tmp_path: Path) -> None:
    torch.save(_network().state_dict(), tmp_path / "w.pth")
    assert _error(backbone, tmp_path / "w.pth", "resnet5").endswith("got resnet5; did you mean resnet50?")
    done = backbone("import", tmp_path / "w.pth", "-o", tmp_path / "new")
    assert done.error.endswith("name its network with --architecture NAME")


def test_other_modules_can_be_outputs(backbone: Command, tmp_path: Path) -> None:
    torch.save(_network().state_dict(), tmp_path / "w.pth")
    arguments = ("import", tmp_path / "w.pth", "--architecture", "tiny", "-o", tmp_path / "t", "--output")
    assert backbone(*arguments, "early=feature").error.endswith("did you mean features?")
    done = backbone(*arguments, "early=features.0")
    assert done.status == 0, done.stderr
    manifest = read_folder(tmp_path / "t", allow_code_models=False).manifest
    assert [(name, output.tensor) for name, output in manifest.outputs.items()] == [
        ("early", "features.0"),
        ("features", "features"),
    ]


def test_an_activation_in_place_does_not_change_another_output(backbone: Command, tmp_path: Path) -> None:
    network = _network()
    torch.save(network.state_dict(), tmp_path / "w.pth")
    # The module behind this one is a ReLU in place.
    flags = ("--architecture", "tiny", "-o", tmp_path / "t", "--output", "normalized=features.1")
    assert backbone("import", tmp_path / "w.pth", *flags).status == 0
    images = torch.randn(2, 3, 64, 64)
    session = onnxruntime.InferenceSession(str(tmp_path / "t" / "model.onnx"), providers=["CPUExecutionProvider"])
    (found,) = session.run(["features.1"], {"input": images.numpy()})
    with torch.inference_mode():
        expected = network.features[1](network.features[0](images)).numpy()
    assert expected.min() < 0
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_conversion_ends_when_its_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_dict, "_MIN_SECONDS", 0)
    # The child process can never read this file, because nobody writes to the pipe.
    os.mkfifo(tmp_path / "w.pth")
    with pytest.raises(ImportFailed, match=r"w\.pth: was not converted within 0 s"):
        convert_state_dict(tmp_path / "w.pth", tmp_path / "w.safetensors")


@pytest.mark.parametrize("shape", [(), (10**9, 0)])
def test_a_last_layer_of_a_wrong_shape_takes_no_memory(
    backbone: Command, tmp_path: Path, shape: tuple[int, ...]
) -> None:
    save_file({**_network().state_dict(), "fc.weight": torch.ones(shape)}, tmp_path / "w.safetensors")
    error = _error(backbone, tmp_path / "w.safetensors")
    assert error.endswith(f"is no state dict of tiny: fc.weight has the shape {shape} instead of (10, 6)")


def test_an_error_of_writing_is_not_called_damage(tmp_path: Path) -> None:
    torch.save(_network().state_dict(), tmp_path / "w.pth")
    with pytest.raises(ImportFailed, match=r"the process that converts it ended with status 1: .*No such file"):
        convert_state_dict(tmp_path / "w.pth", tmp_path / "missing" / "w.safetensors")

"""`backbone import timm:NAME`, with a module that stands in for timm."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from tests.backbones.importing.conftest import Command
from torch import nn

from poolservice_server.backbones.folder import read_folder

CONFIG: dict[str, Any] = {
    "input_size": (3, 64, 64),
    "interpolation": "bicubic",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.25, 0.25, 0.25),
    "crop_pct": 0.9,
    "crop_mode": "center",
}


class _TimmNetwork(nn.Module):
    """A network with the interface of timm's."""

    default_cfg: ClassVar[dict[str, str]] = {"classifier": "head.fc"}

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 16, 1)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Sequential()
        self.head.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
        self.head.add_module("fc", nn.Linear(6, num_classes))

    def forward_features(self, x: torch.Tensor) -> Any:
        return self.norm(self.stem(x))

    def forward(self, x: torch.Tensor) -> Any:
        return self.head(self.forward_features(x))


def _create_model(name: str, *, pretrained: bool, **arguments: Any) -> nn.Module:
    assert not pretrained
    return _TimmNetwork(**arguments).eval()


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Install the stand-in; return the data configuration that it reports."""
    config = dict(CONFIG)
    module = SimpleNamespace(
        is_model=lambda name: name == "tiny_net",
        list_models=lambda: ["tiny_net"],
        create_model=_create_model,
        data=SimpleNamespace(resolve_model_data_config=lambda network: config),
    )
    monkeypatch.setitem(sys.modules, "timm", module)
    return config


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    torch.save(_TimmNetwork(7).state_dict(), tmp_path / "w.pth")
    return tmp_path / "w.pth"


@pytest.mark.usefixtures("timm")
def test_a_network_of_timm_becomes_a_complete_folder(backbone: Command, tmp_path: Path, weights: Path) -> None:
    done = backbone("import", "timm:tiny_net.in1k", "--weights", weights, "-o", tmp_path / "t")
    assert done.status == 0, done.stderr
    folder = read_folder(tmp_path / "t", allow_code_models=False)
    manifest = folder.manifest
    assert manifest.torch is not None
    assert manifest.torch.architecture == "timm:tiny_net"
    assert manifest.torch.arguments == {"num_classes": 7}
    # The names are those of modules, because torch runs them, too.
    assert {name: output.tensor for name, output in manifest.outputs.items()} == {"features": "norm", "logits": "head"}
    assert folder.head is not None
    assert folder.head.weight.shape == (7, 6)
    preprocessing = manifest.preprocessing
    assert (preprocessing.resize, preprocessing.size, preprocessing.filter) == ("shortest", 71, "bicubic")
    assert preprocessing.std == (0.25, 0.25, 0.25)


def test_squashed_images(backbone: Command, tmp_path: Path, weights: Path, timm: dict[str, Any]) -> None:
    timm["crop_mode"] = "squash"
    done = backbone("import", "timm:tiny_net", "--weights", weights, "-o", tmp_path / "t")
    assert done.status == 0, done.stderr
    preprocessing = read_folder(tmp_path / "t", allow_code_models=False).manifest.preprocessing
    assert (preprocessing.resize, preprocessing.size) == ("squash", (71, 71))


def test_unknown_values_are_refused(backbone: Command, tmp_path: Path, weights: Path, timm: dict[str, Any]) -> None:
    arguments = ("import", "timm:tiny_net", "--weights", weights, "-o", tmp_path / "t")
    timm["crop_mode"] = "random"
    assert backbone(*arguments).error == "the crop_mode random of timm's tiny_net is not supported"
    timm |= {"crop_mode": "center", "interpolation": "random"}
    assert backbone(*arguments).error == "the interpolation random of timm's tiny_net is not supported"


@pytest.mark.usefixtures("timm")
def test_an_unknown_network_gets_a_suggestion(backbone: Command, tmp_path: Path, weights: Path) -> None:
    error = backbone("import", "timm:tinynet", "--weights", weights, "-o", tmp_path / "t").error
    assert error == "timm has no network tinynet; did you mean tiny_net?"
    error = backbone("import", "timm:tiny_net", "-o", tmp_path / "t").error
    assert error == "timm:NAME needs --weights FILE, because nothing is downloaded"


def test_without_timm_the_error_says_what_to_install(
    backbone: Command, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    error = backbone("import", "timm:tiny_net", "--weights", weights, "-o", tmp_path / "t").error
    assert error == "timm:NAME needs timm, which is not installed; install it with: pip install timm"


def test_a_crop_fraction_overrides_the_one_of_timm(
    backbone: Command, tmp_path: Path, weights: Path, timm: dict[str, Any]
) -> None:
    timm["crop_mode"] = "squash"
    flags = ("--weights", weights, "-o", tmp_path / "t", "--crop-fraction", "0.5")
    done = backbone("import", "timm:tiny_net", *flags)
    assert done.status == 0, done.stderr
    assert read_folder(tmp_path / "t", allow_code_models=False).manifest.preprocessing.size == (128, 128)


@pytest.mark.usefixtures("timm")
def test_weights_of_another_network_are_refused(backbone: Command, tmp_path: Path) -> None:
    torch.save({**_TimmNetwork(7).state_dict(), "head.fc.weight": torch.ones(7, 5)}, tmp_path / "w.pth")
    done = backbone("import", "timm:tiny_net", "--weights", tmp_path / "w.pth", "-o", tmp_path / "t")
    assert done.status == 2
    assert done.error == (
        f"{tmp_path}/w.pth: does not fit timm's tiny_net: head.fc.weight has the shape (7, 5) instead of (1000, 6)"
    )

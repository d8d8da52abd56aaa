"""`backbone check`."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from tests.backbones.importing.conftest import Command
from tests.backbones.models import tiny_backbone

from poolservice_server.backbones.folder import read_folder
from poolservice_server.backbones.loading import load_backbones
from poolservice_server.backend import choose_backend
from poolservice_server.settings import SettingsError, load

BOTH = ("onnx", "torch")


def test_a_good_backbone_is_described_and_measured(backbone: Command, tmp_path: Path) -> None:
    tiny_backbone(tmp_path / "t", name="tiny", classes=3)
    done = backbone("check", tmp_path / "t")
    assert (done.status, done.stderr) == (0, "")
    fingerprint = read_folder(tmp_path / "t", allow_code_models=False).fingerprint
    assert f"fingerprint: {fingerprint}\n" in done.stdout
    assert "input: 3 x 32 x 32\n" in done.stdout
    assert "preprocessing: shortest side to 36 by bilinear, center 32x32, RGB, " in done.stdout
    # Of 640 columns, 48 remain, of which the middle 32 are seen.
    assert "region of a 640x480 image: 106.667,26.6667 to 533.333,453.333\n" in done.stdout
    assert "features       map     16 x 8 x 8" in done.stdout
    assert "projected      vector  4" in done.stdout
    assert "onnxruntime on cpu: " in done.stdout
    assert "images per second" in done.stdout


def test_two_engines_that_agree_are_compared(backbone: Command, tmp_path: Path) -> None:
    tiny_backbone(tmp_path / "t", engines=BOTH)
    done = backbone("check", tmp_path / "t", "--allow-code-models")
    assert (done.status, done.stderr) == (0, "")
    assert "torch on cpu differs from onnxruntime on cpu by " in done.stdout


def test_two_engines_that_disagree_fail_the_check(backbone: Command, tmp_path: Path) -> None:
    tiny_backbone(tmp_path / "t", engines=BOTH)
    weights = tmp_path / "t" / "weights.safetensors"
    before = hashlib.sha256(weights.read_bytes()).hexdigest()
    tensors = load_file(weights)
    tensors["features.0.bias"] += np.float32(0.1)
    save_file(tensors, weights)
    manifest = tmp_path / "t" / "backbone.toml"
    manifest.write_text(manifest.read_text().replace(before, hashlib.sha256(weights.read_bytes()).hexdigest()))
    done = backbone("check", tmp_path / "t", "--allow-code-models")
    assert done.status == 1
    assert done.stdout == ""
    assert "torch on cpu and onnxruntime on cpu give different results for " in done.error


def test_results_that_are_no_numbers_fail_the_check(backbone: Command, tmp_path: Path) -> None:
    # The server verifies the network with noise, whose mean is 0. Black pixels surround the small built-in image.
    tiny_backbone(tmp_path / "t", nan_below=-1, preprocessing='resize = "longest"\nsize = 8\n')
    done = backbone("check", tmp_path / "t")
    assert (done.status, done.stdout) == (1, "")
    assert "onnxruntime on cpu gives values that are no numbers" in done.error


@pytest.mark.parametrize("engines", [("onnx",), ("torch",)])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('tensor = "embedding"', 'tensor = "missing"'),
        ('kind = "vector"\ntensor = "embedding"', 'kind = "map"\ntensor = "embedding"'),
        ('tensor = "embedding"', 'tensor = "features"'),
        ("grid = [8, 8]", "grid = [8, 7]"),
        ('source = "features"', 'source = "embedding"'),
        ('name = "tiny"', 'name = "a b"'),
        ("mean =", "mena ="),
        ("height = 32", "height = 48"),
    ],
)
def test_the_check_fails_with_the_reason_for_which_the_server_refuses_the_folder(
    backbone: Command, tmp_path: Path, engines: tuple[str, ...], old: str, new: str
) -> None:
    tiny_backbone(tmp_path / "t", engines=engines)
    manifest = tmp_path / "t" / "backbone.toml"
    manifest.write_text(manifest.read_text().replace(old, new, 1))
    done = backbone("check", tmp_path / "t", "--allow-code-models")
    with pytest.raises(SettingsError) as refused:
        load_backbones(load(["--backbone", f"{tmp_path}/t", "--allow-code-models"]), choose_backend("cpu"), cores=1)
    assert (done.status, done.stdout) == (1, "")
    assert done.error == str(refused.value).partition(" (--")[0]
    assert f"{tmp_path}/t" in done.error


@pytest.mark.parametrize("model", ["onnx", "torch"])
def test_each_model_of_a_folder_is_verified(backbone: Command, tmp_path: Path, model: str) -> None:
    tiny_backbone(tmp_path / "t", engines=BOTH)
    manifest = tmp_path / "t" / "backbone.toml"
    wrong = "tensor" if model == "onnx" else "module"
    keys = {"tensor": "embedding", "module": "embedding"} | {wrong: "missing"}
    lines = "\n".join(f'{key} = "{value}"' for key, value in keys.items())
    manifest.write_text(manifest.read_text().replace('tensor = "embedding"', lines))
    done = backbone("check", tmp_path / "t", "--allow-code-models")
    assert (done.status, done.stdout) == (1, "")
    assert f"the backbone tiny in {tmp_path}/t cannot run: outputs.embedding needs the tensor missing" in done.error


def test_models_whose_outputs_have_different_shapes_fail_the_check(backbone: Command, tmp_path: Path) -> None:
    tiny_backbone(tmp_path / "t", engines=BOTH)
    manifest = tmp_path / "t" / "backbone.toml"
    manifest.write_text(
        manifest.read_text().replace('tensor = "channels_last"', 'tensor = "channels_last"\nmodule = "features"')
    )
    done = backbone("check", tmp_path / "t", "--allow-code-models")
    assert (done.status, done.stdout) == (1, "")
    assert done.error == (
        f"the backbone tiny in {tmp_path}/t cannot run: its models give outputs of different shapes (onnxruntime on "
        "cpu, torch on cpu)"
    )


def test_a_program_names_the_node_of_each_output(backbone: Command, tmp_path: Path) -> None:
    network = torch.nn.Conv2d(3, 16, 4, stride=4).eval()
    torch.export.save(torch.export.export(network, (torch.zeros(1, 3, 32, 32),)), tmp_path / "program.pt2")
    digest = hashlib.sha256((tmp_path / "program.pt2").read_bytes()).hexdigest()
    text = (
        'schema = 1\nname = "tiny"\nlicence = "MIT"\nsource = "here"\ndefault_output = "features"\n'
        f'[program]\nfile = "program.pt2"\nsha256 = "{digest}"\n[input]\nheight = 32\nwidth = 32\n'
        '[preprocessing]\nsize = 36\n[outputs.features]\nkind = "map"\ntensor = "conv2d"\n'
    )
    (tmp_path / "backbone.toml").write_text(text)
    done = backbone("check", tmp_path, "--allow-code-models")
    assert (done.status, done.stderr) == (0, "")
    (tmp_path / "backbone.toml").write_text(text.replace("conv2d", "features"))
    done = backbone("check", tmp_path, "--allow-code-models")
    assert done.status == 1
    assert done.error == (
        f"the backbone tiny in {tmp_path} cannot run: outputs.features needs the tensor features, which torch does not "
        "find in the network; it finds conv2d; in a [program], tensor is the name of a graph node that is an output, "
        "such as conv2d"
    )


def test_a_folder_of_backbones_is_answered_with_their_names(backbone: Command, tmp_path: Path) -> None:
    tiny_backbone(tmp_path / "b", name="b")
    tiny_backbone(tmp_path / "a", name="a")
    done = backbone("check", tmp_path)
    assert done.status == 1
    assert done.error == f"{tmp_path}/backbone.toml is missing; check one of {tmp_path}/a, {tmp_path}/b"


def test_a_missing_folder(backbone: Command, tmp_path: Path) -> None:
    done = backbone("check", tmp_path / "missing")
    assert done.status == 1
    assert str(tmp_path / "missing") in done.error


def test_code_runs_only_if_it_is_allowed(backbone: Command, tmp_path: Path) -> None:
    tiny_backbone(tmp_path / "t", engines=BOTH)
    done = backbone("check", tmp_path / "t")
    assert done.status == 1
    assert "--allow-code-models" in done.error

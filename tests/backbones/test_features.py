"""The features of imported networks are those of torch behind the reference pipeline, for images of every kind."""

import random
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tests.backbones.preprocessing.image_files import image, save, turned
from tests.backbones.preprocessing.reference import reference_image, reference_samples, reference_values

from poolservice_client import GlobalAvgPool2d, PoolClient
from poolservice_server.backbones.command.app import main
from poolservice_server.backbones.engines.architectures import ARCHITECTURES
from poolservice_server.backbones.folder import read_folder
from poolservice_server.backbones.manifest import Manifest
from poolservice_server.testing import Service

MODES = ("RGB", "L", "P", "RGBA", "LA", "1", "I;16", "CMYK")


def files(photograph: Path) -> list[bytes]:
    """Return 210 images of all modes, sizes and orientations, a quarter of them parts of a photograph."""
    seed = random.Random(18)
    photo = Image.open(photograph)
    made = [photograph.read_bytes()]
    while len(made) < 210:
        width, height = seed.randint(1, 700), seed.randint(1, 700)
        if max(width, height) > 28 * min(width, height):
            continue
        kind = len(made) % 12
        if kind < 3:
            left, top = seed.randint(0, photo.width - 1), seed.randint(0, photo.height - 1)
            part = photo.crop((left, top, min(photo.width, left + width), min(photo.height, top + height)))
            if max(part.size) > 28 * min(part.size):
                continue
            made.append(save(part, seed.choice(("JPEG", "PNG", "WEBP"))))
        elif kind == 3:
            made.append(turned(seed.randint(2, 8), width, height))
        else:
            mode = MODES[kind - 4]
            made.append(save(image(mode, width, height, seed.randint(0, 999)), "TIFF" if mode == "CMYK" else "PNG"))
    return made


def shortest_side(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return the size to which torchvision and timm resize an image."""
    width, height = size
    return (side, int(side * height / width)) if width <= height else (int(side * width / height), side)


def network_of(architecture: str) -> torch.nn.Module:
    """Return a network whose random weights keep the scale of their inputs through all layers."""
    torch.manual_seed(18)
    network = ARCHITECTURES[architecture].build(num_classes=10)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


def features_of(network: torch.nn.Module, architecture: str, file: bytes, manifest: Manifest) -> np.ndarray:
    """Return the mean of the last feature map of a float64 network behind the reference pipeline."""
    preprocessing = manifest.preprocessing
    assert isinstance(preprocessing.size, int)
    upright = reference_image(file, "RGB")
    samples = reference_samples(upright, manifest.input, preprocessing, shortest_side(upright.size, preprocessing.size))
    maps: list[torch.Tensor] = []
    module = network.get_submodule(ARCHITECTURES[architecture].feature_map)
    hook = module.register_forward_hook(lambda _module, _inputs, output: maps.append(output))
    with torch.inference_mode():
        network(torch.from_numpy(reference_values(samples, preprocessing)[None]).double())
    hook.remove()
    features: np.ndarray = maps[0].mean(dim=(2, 3))[0].numpy()
    return features


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("architecture", ["mobilenet_v2", "resnet18", "efficientnet_lite0"])
def test_features_equal_torch_behind_the_reference_pipeline(
    architecture: str, tmp_path: Path, photograph: Path, start_server: Callable[..., Service]
) -> None:
    network = network_of(architecture)
    weights = tmp_path / "weights.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, weights)
    folder = tmp_path / "net"
    assert main(["import", str(weights), "--architecture", architecture, "-o", str(folder)]) == 0
    manifest = read_folder(folder, allow_code_models=False).manifest
    # Without the rounding of a second float32 engine, the difference is that of the server alone.
    network.double()
    server = start_server("--backbone", str(folder))
    with PoolClient(server.address) as client:
        options: Any = {"backbone": "net", "output": "features"}
        for number, (file, features) in enumerate(
            zip(files(photograph), client.map(files(photograph), GlobalAvgPool2d(), **options), strict=True)
        ):
            expected = features_of(network, architecture, file, manifest)
            difference = np.linalg.norm(features - expected) / np.linalg.norm(expected)
            assert difference <= 1e-5, (number, Image.open(BytesIO(file)), difference)

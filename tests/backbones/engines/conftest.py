"""Backbones that are loaded on the CPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.backbones.models import TinyBackbone, tiny_backbone

from poolservice_server.backbones.engines.choice import open_engine
from poolservice_server.backbones.engines.core_budget import CoreBudget
from poolservice_server.backbones.engines.network import Network
from poolservice_server.backbones.engines.onnx_gpu_engine import OnnxGpuEngine
from poolservice_server.backbones.folder import BackboneFolder, read_folder
from poolservice_server.backend.cpu import CpuDevice


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., tuple[TinyBackbone, BackboneFolder]]:
    """Return a function that writes a folder and reads it; it takes the options of `tiny_backbone`."""

    def write_and_read(**options: Any) -> tuple[TinyBackbone, BackboneFolder]:
        backbone = tiny_backbone(tmp_path / options.get("name", "tiny"), **options)
        return backbone, read_folder(backbone.path, allow_code_models=True)

    return write_and_read


@pytest.fixture
def load(write: Callable[..., tuple[TinyBackbone, BackboneFolder]]) -> Callable[..., tuple[TinyBackbone, Network]]:
    """Return a function that writes a folder and loads its network on the CPU."""

    def load_on_cpu(**options: Any) -> tuple[TinyBackbone, Network]:
        backbone, folder = write(**options)
        engine = open_engine(folder, CpuDevice(), threads=1, allow_code_models=True)
        assert engine is not None
        return backbone, Network(folder, engine, torch.device("cpu"), CoreBudget(2))

    return load_on_cpu


@pytest.fixture
def load_for_tensors(
    write: Callable[..., tuple[TinyBackbone, BackboneFolder]],
) -> Callable[..., tuple[TinyBackbone, Network]]:
    """Return a function that writes a folder and loads it as for a GPU, but in the CPU's memory."""

    def load_on_cpu(**options: Any) -> tuple[TinyBackbone, Network]:
        backbone, folder = write(**options)
        device = torch.device("cpu")
        engine = OnnxGpuEngine((backbone.path / "model.onnx").read_bytes(), device=device, input_shape=backbone.input)
        return backbone, Network(folder, engine, device, CoreBudget(2))

    return load_on_cpu


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    """Six samples of noise, (6, 3, 32, 32), uint8."""
    return np.random.default_rng(7).integers(0, 256, (6, 3, 32, 32), np.uint8)

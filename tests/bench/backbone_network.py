"""The networks of `make bench-backbone`: exported once with random weights, with the image and the reference pipeline.

No contestant's speed depends on the values of the weights. The folders are kept in the virtual environment.
"""

import fcntl
import io
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnxruntime
import torch
from PIL import Image

from jobs import photograph
from poolservice_server.backbones.engines.architectures import ARCHITECTURES
from poolservice_server.backbones.folder import BrokenFolder, read_folder
from poolservice_server.backbones.importing.new_folder import new_folder
from poolservice_server.backbones.importing.torch_export import export_onnx

#: The architecture of each network.
NETWORKS: Mapping[str, str] = MappingProxyType({"mobilenetv2": "mobilenet_v2", "resnet50": "resnet50"})

MODEL = "model.onnx"
FEATURES = "features"

SIDE = 224
_SHORTEST = 256
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# The file then has about 83 KB.
_QUALITY = 90

_CACHE = Path(sys.prefix, "bench-backbones")


def folder_of(network: str) -> Path:
    """Return the backbone folder of a network; write it unless an earlier run did."""
    path = _CACHE / network
    _CACHE.mkdir(exist_ok=True)
    with (_CACHE / "lock").open("w") as lock:
        # Two processes must not write it at the same time.
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            read_folder(path, allow_code_models=False)
        except BrokenFolder:
            shutil.rmtree(path, ignore_errors=True)
            _write(path, network)
    return path


def _write(path: Path, name: str) -> None:
    architecture = ARCHITECTURES[NETWORKS[name]]
    torch.manual_seed(18)
    network = architecture.build().eval()
    tensor = architecture.feature_map
    model = export_onnx(network, [tensor], (3, SIDE, SIDE))
    with new_folder(path) as folder:
        weights = {key: value.numpy() for key, value in network.state_dict().items()}
        folder.add_manifest(
            {
                "schema": 1,
                "name": name,
                "description": f"{name} with random weights, for benchmarks",
                "licence": "Apache-2.0",
                "source": "random weights",
                "default_output": FEATURES,
                "input": {"height": SIDE, "width": SIDE},
                "preprocessing": {"size": _SHORTEST, "filter": "bicubic", "mean": _MEAN, "std": _STD},
                "onnx": folder.add(MODEL, model.SerializeToString()),
                "torch": {
                    **folder.add_tensors("model.safetensors", weights),
                    "architecture": f"poolservice:{NETWORKS[name]}",
                },
                "outputs": {FEATURES: {"kind": "map", "tensor": tensor}},
            }
        )


def image_file() -> bytes:
    """Return a photograph as a JPEG file of 640x480 pixels."""
    return photograph(640, 480, quality=_QUALITY)


def preprocess(file: bytes) -> np.ndarray:
    """Decode, resize, crop and normalize an image as torchvision does, with Pillow and numpy; float32 (3, H, W)."""
    image = Image.open(io.BytesIO(file)).convert("RGB")
    scale = _SHORTEST / min(image.size)
    image = image.resize((int(image.width * scale), int(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = round((image.width - SIDE) / 2), round((image.height - SIDE) / 2)
    pixels: Any = np.asarray(image.crop((left, top, left + SIDE, top + SIDE)), np.float32)
    values = (pixels / np.float32(255) - np.array(_MEAN, np.float32)) / np.array(_STD, np.float32)
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def embeddings(features: np.ndarray) -> np.ndarray:
    """Return the normalized global averages of feature maps (N, C, H, W): float32 (N, C)."""
    means: np.ndarray = features.mean(axis=(2, 3))
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    return means


def open_session(folder: Path, *, threads: int = 0) -> onnxruntime.InferenceSession:
    """Open the ONNX model: with so many threads per run, or with onnxruntime's defaults."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(folder / MODEL, options, providers=["CPUExecutionProvider"])


def run(session: onnxruntime.InferenceSession, samples: np.ndarray) -> np.ndarray:
    """Return the embeddings (N, C) of samples (N, 3, H, W)."""
    (features,) = session.run(None, {session.get_inputs()[0].name: samples})
    return embeddings(features)

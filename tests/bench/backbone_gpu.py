"""The part of `make bench-backbone` for GPUs: poolservice's device against torch alone, with copies, without decoding.

torch        the network in channels_last on one stream: pinned copy in, normalization, network, mean, copy out
poolservice  one batch of so many requests on poolservice's device
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load as load_safetensors

from backbone_network import FEATURES, NETWORKS
from poolservice.specs import GlobalAvgPool2d
from poolservice_server.backbone_stage import BackboneInput, BackboneStage
from poolservice_server.backbones.engines.architectures import ARCHITECTURES
from poolservice_server.backbones.engines.choice import open_engine
from poolservice_server.backbones.engines.core_budget import CoreBudget
from poolservice_server.backbones.engines.network import Network
from poolservice_server.backbones.folder import BackboneFolder, read_folder
from poolservice_server.backend.cuda import CudaDevice
from poolservice_server.backend.device import Device

#: The images of a batch, and the least throughput over that of torch alone.
BATCH = 64
RATIO = 0.9

_TOLERANCE = 1e-3


class Rates(NamedTuple):
    """Images per second of each round.

    Attributes:
        torch: of torch alone.
        poolservice: of the device.
    """

    torch: list[float]
    poolservice: list[float]

    @property
    def ratio(self) -> float:
        """The median ratio of a round."""
        return statistics.median(ours / theirs for theirs, ours in zip(self.torch, self.poolservice, strict=True))


def missing_gpu() -> str:
    """Return why nothing can be measured on a GPU; empty if it can."""
    if torch.cuda.is_available():
        return ""
    return f"nothing ran on a GPU: torch {torch.__version__} finds none on this machine"


def measure_gpu(path: Path, *, seconds: float, rounds: int) -> tuple[str, Rates]:
    """Return the name of the first GPU, and how fast the network of a folder is on it."""
    device = CudaDevice(0)
    return device.description, compare(device, path, batch=BATCH, seconds=seconds, rounds=rounds)


def compare(device: Device, path: Path, *, batch: int, seconds: float, rounds: int) -> Rates:
    """Measure both on the same device.

    Raises:
        ValueError: they give different values.
    """
    folder = read_folder(path, allow_code_models=False)
    samples = np.random.default_rng(18).integers(0, 256, (batch, 3, 224, 224), np.uint8)
    alone, served = _torch_alone(folder, device.torch_device, samples), _served(folder, device, samples)
    if not np.allclose(alone(), served(), rtol=_TOLERANCE, atol=_TOLERANCE):
        raise ValueError(f"{folder.manifest.name}: the device and torch alone give different values")
    rates = Rates([], [])
    for _ in range(rounds):
        rates.torch.append(batch * _calls_per_second(alone, seconds))
        rates.poolservice.append(batch * _calls_per_second(served, seconds))
    return rates


def _torch_alone(folder: BackboneFolder, device: torch.device, samples: np.ndarray) -> Callable[[], np.ndarray]:
    manifest = folder.manifest
    architecture = ARCHITECTURES[NETWORKS[manifest.name]]
    network: Any = architecture.build().eval()
    assert manifest.torch is not None
    network.load_state_dict(load_safetensors(folder.read(manifest.torch)))
    kept: list[torch.Tensor] = []
    features = network.get_submodule(architecture.feature_map)
    features.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    network.to(device, memory_format=torch.channels_last)
    mean, std = (
        torch.tensor(values, device=device).reshape(-1, 1, 1)
        for values in (manifest.preprocessing.mean, manifest.preprocessing.std)
    )
    source = torch.from_numpy(samples)
    if device.type == "cuda":
        source = source.pin_memory()

    @torch.inference_mode()
    def run() -> np.ndarray:
        values = source.to(device, non_blocking=True).to(torch.float32).div_(255).sub_(mean).div_(std)
        network(values.contiguous(memory_format=torch.channels_last))
        means: np.ndarray = kept.pop().mean((2, 3)).cpu().numpy()
        return means

    return run


def _served(folder: BackboneFolder, device: Device, samples: np.ndarray) -> Callable[[], np.ndarray]:
    name = folder.manifest.name
    engine = open_engine(folder, device, threads=1, allow_code_models=False)
    assert engine is not None
    device.networks[name] = Network(folder, engine, device.torch_device, CoreBudget(1))
    stage = BackboneStage(name, FEATURES)
    payloads = [BackboneInput(one[None], (GlobalAvgPool2d(),)) for one in samples]

    def run() -> np.ndarray:
        results = device.run_backbone(stage, payloads)
        return np.stack([result.specs[0].values.reshape(-1) for result in results])

    return run


def _calls_per_second(run: Callable[[], object], seconds: float) -> float:
    count = 0
    started = time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds or not count:
        run()
        count += 1
    return count / elapsed

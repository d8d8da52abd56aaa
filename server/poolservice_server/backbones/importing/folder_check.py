"""Runs the network of a backbone's folder with each engine that can run it here, and compares and measures them."""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from poolservice_server.backbones.engines.engine import Engine
from poolservice_server.backbones.engines.loading import Loader, check_shapes
from poolservice_server.backbones.engines.network import Network
from poolservice_server.backbones.folder import BackboneFolder
from poolservice_server.backbones.importing.network_run import relative_difference
from poolservice_server.backbones.manifest import MODELS
from poolservice_server.backbones.preprocessing import normalized, region, to_samples
from poolservice_server.backend import choose_backend
from poolservice_server.backend.device import Device
from poolservice_server.cpu_count import usable_cpus

_IMAGE_HEIGHT, _IMAGE_WIDTH = 480, 640
_SECONDS = 1.0


class EngineRun(NamedTuple):
    """What an engine computed.

    Attributes:
        engine: its name and its device.
        outputs: the outputs for the built-in image by name, with N = 1.
        images_per_second: with as many threads as cores on the CPU, each with one image at a time.
        threads: how many threads these were.
    """

    engine: str
    outputs: Mapping[str, np.ndarray]
    images_per_second: float
    threads: int


def built_in_image(channels: int) -> np.ndarray:
    """Return the planes (C, 480, 640), uint8, of an image with edges, gradients and textures."""
    rows, columns = np.mgrid[:_IMAGE_HEIGHT, :_IMAGE_WIDTH].astype(np.float32)
    distance = np.hypot(rows - 200, columns - 260)
    red = 255 * columns / _IMAGE_WIDTH
    green = np.where(distance < 120, 220, 60 + 40 * np.sin(columns / 9) * np.sin(rows / 7))
    blue = np.where((rows // 40 + columns // 40) % 2 == 0, 200, 255 * rows / _IMAGE_HEIGHT)
    return np.stack((red, green, blue))[:channels].clip(0, 255).astype(np.uint8)


def region_of_image(folder: BackboneFolder) -> tuple[float, float, float, float]:
    """Return the part of the built-in image that the network sees: left, top, right, bottom."""
    manifest = folder.manifest
    return region(_IMAGE_WIDTH, _IMAGE_HEIGHT, manifest.input, manifest.preprocessing)


def run_engines(folder: BackboneFolder, *, allow_code_models: bool) -> list[EngineRun]:
    """Load each model on each device as the server does, then run the built-in image with each of them.

    Returns:
        The runs, those on the CPU first, with which the others are compared.

    Raises:
        CannotRun: the server would refuse the folder, on this or another machine.
        EngineError: an engine cannot run the network.
    """
    manifest = folder.manifest
    planes = built_in_image(manifest.input.channels)
    samples = normalized(to_samples(planes, manifest.input, manifest.preprocessing), manifest.preprocessing)
    with ExitStack() as engines:
        loaded = list(_load_models(folder, engines, allow_code_models=allow_code_models))
        loaded.sort(key=lambda one: one[0].name != "cpu")
        return [_run(folder, device, network, samples) for device, network in loaded]


def largest_difference(run: EngineRun, reference: EngineRun) -> tuple[float, str]:
    """Return the largest relative difference between the outputs of two engines, and the output's name."""
    return max((relative_difference(run.outputs[name], reference.outputs[name]), name) for name in reference.outputs)


def _load_models(
    folder: BackboneFolder, engines: ExitStack, *, allow_code_models: bool
) -> Iterator[tuple[Device, Network]]:
    """Load and verify each model on each device that can run it; `engines` closes them."""
    manifest = folder.manifest
    backend = choose_backend()
    devices = [backend.device(state.name) for state in backend.devices()]
    loader = Loader(backend, threads=1, cores=usable_cpus(), allow_code_models=allow_code_models)
    models = []
    for model in MODELS:
        if getattr(manifest, model) is None:
            continue
        # The engine is chosen among the models that the folder has; so each is loaded alone.
        others = {other: None for other in MODELS if other != model}
        backbone = loader.load(replace(folder, manifest=manifest.model_copy(update=others)))
        models.append((", ".join(backbone.engines), backbone.outputs))
        for device in devices:
            # The next model takes the place of this one.
            if network := device.networks.pop(manifest.name, None):
                engines.callback(network.engine.close)
                yield device, network
    check_shapes(folder, models)


def _run(folder: BackboneFolder, device: Device, network: Network, samples: np.ndarray) -> EngineRun:
    is_cpu = device.name == "cpu"
    engine, outputs = network.engine, network.outputs
    placed = samples if is_cpu else torch.from_numpy(samples).to(device.torch_device)
    computed = {}
    for name in folder.manifest.outputs:
        (tensor,) = engine.run(placed, [outputs.tensor_of(name)])
        computed[name] = outputs.compute(name, torch.as_tensor(tensor)).float().cpu().numpy()
    wanted = [outputs.tensor_of(folder.manifest.default_output)]
    threads = usable_cpus() if is_cpu else 1
    speed = _images_per_second(engine, placed, wanted, threads)
    return EngineRun(f"{engine.name} on {device.name}", computed, speed, threads)


def _images_per_second(engine: Engine, samples: object, tensors: Sequence[str], threads: int) -> float:
    end = time.monotonic() + _SECONDS

    def count_runs() -> int:
        runs = 0
        while runs < 3 or time.monotonic() < end:
            # On a GPU, copying the result waits for it.
            for output in engine.run(samples, tensors):
                np.asarray(output.cpu() if isinstance(output, torch.Tensor) else output)
            runs += 1
        return runs

    started = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        total = sum(pool.map(lambda _: count_runs(), range(threads)))
    return total / (time.monotonic() - started)

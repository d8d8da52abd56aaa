"""The choice of the engine that runs a backbone on a device."""

from typing import TYPE_CHECKING

import structlog
import torch

from poolservice_server.backbones.backbone import sample_shape
from poolservice_server.backbones.engines.engine import Engine
from poolservice_server.backbones.engines.program_engine import load_program
from poolservice_server.backbones.engines.torch_engine import load_torch
from poolservice_server.backbones.folder import BackboneFolder
from poolservice_server.backbones.manifest import Onnx, Torch

if TYPE_CHECKING:
    from poolservice_server.backend.device import Device

_log = structlog.get_logger(__name__)


def open_engine(folder: BackboneFolder, device: "Device", *, threads: int, allow_code_models: bool) -> Engine | None:
    """Load the model of a folder on a device.

    The CPU runs an ONNX file if there is one, else torch weights, else a program. A GPU runs torch weights if there are
    any, else an ONNX file if onnxruntime has its CUDA provider.

    Args:
        folder: the backbone's folder.
        device: the device.
        threads: the number of threads that onnxruntime computes one run with on the CPU.
        allow_code_models: whether the model may be one that can run any code.

    Returns:
        The engine; None if the folder has no model that this device can run.

    Raises:
        EngineError: the model cannot be loaded.
    """
    manifest = folder.manifest
    if device.name != "cpu":
        if manifest.torch is not None:
            return _open_torch(folder, manifest.torch, device.torch_device, allow_code_models)
        if manifest.onnx is not None and device.torch_device.type == "cuda":
            return _open_onnx_on_cuda(folder, manifest.onnx, device.torch_device)
        return None
    if manifest.onnx is not None:
        return open_onnx(folder, manifest.onnx, threads)
    if manifest.torch is not None:
        return _open_torch(folder, manifest.torch, device.torch_device, allow_code_models)
    if manifest.program is not None:
        return load_program(folder.read(manifest.program), manifest.name, allow_code_models=allow_code_models)
    return None


def open_onnx(folder: BackboneFolder, table: Onnx, threads: int) -> Engine:
    """Load the ONNX file of a folder on the CPU, with this number of threads per run."""
    # Imported here because a server whose folders have torch weights only needs neither the time nor the memory.
    from poolservice_server.backbones.engines.onnx_engine import OnnxEngine

    return OnnxEngine(
        folder.read(table),
        threads=threads,
        input_shape=sample_shape(folder.manifest.input),
        input_name=table.input,
        external_data={file.file: folder.read(file) for file in table.external_data},
    )


def _open_onnx_on_cuda(folder: BackboneFolder, table: Onnx, device: torch.device) -> Engine | None:
    import onnxruntime

    from poolservice_server.backbones.engines.onnx_gpu_engine import CUDA_PROVIDER, OnnxGpuEngine

    if CUDA_PROVIDER not in onnxruntime.get_available_providers():
        return None
    engine = OnnxGpuEngine(
        folder.read(table),
        device=device,
        input_shape=sample_shape(folder.manifest.input),
        input_name=table.input,
        external_data={file.file: folder.read(file) for file in table.external_data},
    )
    if engine.takes_batches:
        return engine
    engine.close()
    _log.warning(
        "a backbone does not run on the GPU, because its ONNX file takes one sample at a time",
        backbone=folder.manifest.name,
        remedy="export it with a batch dimension of any size",
    )
    return None


def _open_torch(folder: BackboneFolder, table: Torch, device: torch.device, allow_code_models: bool) -> Engine:
    return load_torch(table, folder.read(table), device, allow_code_models=allow_code_models)

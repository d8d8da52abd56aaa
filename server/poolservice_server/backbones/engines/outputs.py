"""The outputs of a backbone: which tensors of the network they need, and how those become maps and vectors."""

from typing import NamedTuple

import torch

from poolservice_server.backbones import manifest
from poolservice_server.backbones.engines.engine import EngineError
from poolservice_server.backbones.folder import BackboneFolder
from poolservice_server.backbones.linear import Linear
from poolservice_server.pooling.interop import to_tensor


class LinearMap(NamedTuple):
    """A linear map on the device of the backbone: weight (D, C), bias (D,)."""

    weight: torch.Tensor
    bias: torch.Tensor

    @classmethod
    def of(cls, linear: Linear, device: torch.device) -> "LinearMap":
        """Return the map on a device."""
        return cls(to_tensor(linear.weight).to(device), to_tensor(linear.bias).to(device))

    def apply(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the results (N, D) of vectors (N, C)."""
        return torch.addmm(self.bias, vectors, self.weight.T)


class Outputs:
    """The outputs of one backbone on one device, by name.

    Args:
        folder: the backbone's folder.
        device: where the tensors are.
        engine: the name of the engine. Torch names the modules of an architecture, and the ONNX graph its tensors.
    """

    def __init__(self, folder: BackboneFolder, device: torch.device, engine: str) -> None:
        self._outputs = folder.manifest.outputs
        self._has_modules = engine == "torch" and folder.manifest.torch is not None
        self._projections = {name: LinearMap.of(linear, device) for name, linear in folder.projections.items()}

    def tensor_of(self, name: str) -> str:
        """Return the name of the network's tensor that an output is computed from."""
        output = self._outputs[name]
        if output.source is not None:
            return self.tensor_of(output.source)
        if self._has_modules and output.module is not None:
            return output.module
        return name if output.tensor is None else output.tensor

    def compute(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Return an output, (N, C, H, W) of a map or (N, D) of a vector, float32.

        Args:
            name: the name of the output.
            tensor: the network's tensor that `tensor_of` names.

        Raises:
            EngineError: the tensor does not have the shape that the manifest declares.
        """
        output = self._outputs[name]
        if output.source is None:
            if not tensor.is_floating_point():
                raise EngineError(f"outputs.{name} must be a tensor of floats; the network gives {tensor.dtype}")
            return _reshaped(name, output, tensor.to(torch.float32))
        vectors = _pooled(output, self.compute(output.source, tensor))
        if output.projection is None:
            return vectors
        projection = self._projections[output.projection]
        if vectors.shape[1] != projection.weight.shape[1]:
            raise EngineError(
                f"outputs.{name} projects {output.source}, whose vectors have {vectors.shape[1]} values, with "
                f"{output.projection}, which takes {projection.weight.shape[1]}"
            )
        return projection.apply(vectors)


def _reshaped(name: str, output: manifest.Output, tensor: torch.Tensor) -> torch.Tensor:
    shape = list(tensor.shape)
    if output.kind == "vector":
        # (N, D, 1, 1) is what a global average gives.
        if tensor.ndim == 2 or (tensor.ndim == 4 and shape[2:] == [1, 1]):
            return tensor.flatten(1)
        raise EngineError(f"outputs.{name} is a vector, so its tensor must be (N, D); the network gives {shape}")
    if output.kind == "map":
        if tensor.ndim != 4:
            raise EngineError(
                f"outputs.{name} is a map, so its tensor must have 4 dimensions; the network gives {shape}"
            )
        return tensor if output.layout == "NCHW" else tensor.movedim(-1, 1)
    rows, columns = output.grid or (0, 0)
    if tensor.ndim != 3 or shape[1] != output.prefix_tokens + rows * columns:
        raise EngineError(
            f"outputs.{name} is a grid of {rows} x {columns} tokens after {output.prefix_tokens} others, so its tensor "
            f"must be (N, {output.prefix_tokens + rows * columns}, C); the network gives {shape}"
        )
    grid = tensor[:, output.prefix_tokens :].movedim(-1, 1)
    return grid.reshape(*grid.shape[:2], rows, columns)


def _pooled(output: manifest.Output, source: torch.Tensor) -> torch.Tensor:
    """Return the vectors of a source, pooled if it is a map."""
    if source.ndim == 2:
        return source
    return source.amax((2, 3)) if output.pool == "max" else source.mean((2, 3))

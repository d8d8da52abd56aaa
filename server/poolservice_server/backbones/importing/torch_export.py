"""Exports a torch network with the outputs of chosen modules to ONNX."""

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
from google.protobuf.message import Message
from torch import nn

from poolservice_server.backbones.engines.engine import first_line
from poolservice_server.backbones.importing.errors import ImportFailed
from poolservice_server.foreign_text import quote

_INPUT = "input"

_NOTES = ("metadata_props", "doc_string")


class _WithModuleOutputs(nn.Module):
    """A network that returns the outputs of some of its modules."""

    def __init__(self, network: nn.Module, modules: Sequence[str]) -> None:
        super().__init__()
        self._network = network
        self._names = tuple(modules)
        self._outputs: dict[str, torch.Tensor] = {}
        module: Any
        for module in network.modules():
            # An activation in place would change the output of the module before it.
            if getattr(module, "inplace", False) is True:
                module.inplace = False
        for name in modules:
            network.get_submodule(name).register_forward_hook(self._remember(name))

    def _remember(self, name: str) -> Any:
        def remember(_module: nn.Module, _arguments: object, output: torch.Tensor) -> None:
            self._outputs[name] = output

        return remember

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        self._network(x)
        return tuple(self._outputs[name] for name in self._names)


def module_outputs(network: nn.Module, modules: Sequence[str], images: np.ndarray) -> dict[str, np.ndarray]:
    """Return the outputs of modules for images (N, C, H, W)."""
    with torch.inference_mode():
        outputs = _WithModuleOutputs(network, modules)(torch.from_numpy(images))
    return {name: output.numpy() for name, output in zip(modules, outputs, strict=True)}


def export_onnx(network: nn.Module, modules: Sequence[str], shape: tuple[int, int, int]) -> onnx.ModelProto:
    """Return the ONNX model of a network in evaluation mode.

    Args:
        network: the network.
        modules: the names of the modules whose outputs the model has, under the same names.
        shape: the shape (C, H, W) of an image.

    Raises:
        ImportFailed: torch cannot export the network.
    """
    wrapped = _WithModuleOutputs(network, modules).eval()
    # The number of images must not be 1, which torch.export would take for a constant.
    example = torch.zeros(2, *shape)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # torch's exporter warns about its own code.
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                wrapped,
                (example,),
                dynamo=True,
                verbose=False,
                input_names=[_INPUT],
                output_names=list(modules),
                dynamic_shapes=({0: torch.export.Dim("N", min=1)},),
                external_data=False,
            )
    except Exception as error:  # noqa: BLE001 - torch's exporter has no common base of its errors
        raise ImportFailed(f"torch cannot export the network to ONNX: {quote(first_line(error))}") from None
    finally:
        logger.setLevel(level)
    if program is None:
        raise AssertionError("torch.onnx.export returns a program with dynamo=True")
    model = program.model_proto
    _remove_notes(model)
    return model


def _remove_notes(message: Message) -> None:
    """Remove the exporter's notes from a model.

    They hold the paths of this machine's Python files. With them, the same network would have another hash and another
    fingerprint on each machine.
    """
    for field, value in message.ListFields():
        if field.name in _NOTES:
            message.ClearField(field.name)
        elif field.message_type is not None:
            for inner in (value,) if isinstance(value, Message) else value:
                _remove_notes(inner)

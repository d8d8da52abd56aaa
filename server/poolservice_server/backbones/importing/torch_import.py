"""Imports a state dict of one of the architectures in `engines.architectures`."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from poolservice_server.backbones.counted import counted
from poolservice_server.backbones.engines.architectures import ARCHITECTURES
from poolservice_server.backbones.importing.errors import ImportFailed
from poolservice_server.backbones.importing.graph import Graph
from poolservice_server.backbones.importing.imported import ImportedBackbone, write_backbone
from poolservice_server.backbones.importing.network_run import MAX_DIFFERENCE, NetworkRun, relative_difference
from poolservice_server.backbones.importing.new_folder import NewFolder
from poolservice_server.backbones.importing.options import ImportOptions
from poolservice_server.backbones.importing.output_choice import FEATURES, LOGITS, choose
from poolservice_server.backbones.importing.presets import PRESETS, Preset, preprocessing_of
from poolservice_server.backbones.importing.state_dict import convert_state_dict
from poolservice_server.backbones.importing.torch_export import export_onnx, module_outputs
from poolservice_server.foreign_text import quote
from poolservice_server.settings.errors import did_you_mean

_WEIGHTS_FILE = "model.safetensors"


class WrongWeights(Exception):
    """A file has other tensors than the network. The message says which."""


def import_state_dict(path: Path, architecture: str, target: Path, options: ImportOptions) -> ImportedBackbone:
    """Make a backbone's folder, with an ONNX file and torch weights, of the weights of a known architecture.

    Args:
        path: a state dict that torch.save wrote, or a safetensors file.
        architecture: a name in `ARCHITECTURES`.
        target: the folder.
        options: what the user says about the backbone.

    Raises:
        ImportFailed: the file or an option is wrong.
    """
    known = ARCHITECTURES.get(architecture)
    if known is None:
        raise ImportFailed(
            f"--architecture must be one of {', '.join(ARCHITECTURES)}; got {quote(architecture)}"
            f"{did_you_mean(architecture, ARCHITECTURES)}"
        )
    tensors, notes = read_tensors(path)
    try:
        with torch.device("meta"):
            arguments = class_arguments(known.build(), f"{known.last_layer}.weight", tensors)
        network = known.build(**arguments)
        load_weights(network, tensors)
    except WrongWeights as error:
        raise ImportFailed(f"{path}: is no state dict of {architecture}: {error}{_fitting(tensors)}") from None
    size = options.image_size or (known.input_size, known.input_size)
    imported = write_network(
        network,
        {FEATURES: known.feature_map, LOGITS: known.classifier},
        (3, *size),
        target,
        options,
        torch_table={"architecture": f"poolservice:{architecture}", "arguments": arguments},
        preset=PRESETS[known.preprocessing],
    )
    return imported._replace(notes=(*notes, *imported.notes))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors of a state dict or a safetensors file, and notes about the conversion.

    Raises:
        ImportFailed: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise ImportFailed(f"{path}: {error.strerror}") from None
    notes: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        safe = path
        # A safetensors file starts with the length of its JSON header.
        if start[8:9] != b"{":
            safe = Path(folder, _WEIGHTS_FILE)
            if not convert_state_dict(path, safe).without_network:
                notes.append(
                    "the process that read the pickle could have used the network, because the kernel permits no "
                    "network namespace to this user"
                )
        try:
            # Copies, because the file is removed.
            return {name: tensor.clone() for name, tensor in load_file(safe).items()}, notes
        except SafetensorError as error:
            raise ImportFailed(f"{path}: is no safetensors file: {quote(str(error))}") from None


def class_arguments(network: nn.Module, weight: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the argument that builds a network again with as many classes as the weights have.

    Args:
        network: the network with any number of classes.
        weight: the name of the weight of its last layer.
        tensors: the weights.

    Raises:
        WrongWeights: the last layer has no weight, or takes another number of features. Without this check, a small
            file could name so many classes that the network fills the memory.
    """
    found = tensors.get(weight)
    if found is None:
        raise WrongWeights(f"it has no {weight}")
    expected = network.get_parameter(weight).shape
    if found.shape[1:] != expected[1:] or found.dim() != len(expected):
        raise _wrong_shape(weight, found.shape, expected)
    return {"num_classes": len(found)}


def load_weights(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load weights that must fit exactly, and put the network into evaluation mode.

    Raises:
        WrongWeights: a parameter is missing, unknown or of another shape.
    """
    expected = network.state_dict()
    missing = [name for name in expected if name not in tensors and not name.endswith("num_batches_tracked")]
    unknown = [name for name in tensors if name not in expected]
    if missing or unknown:
        problems = [
            f"it {verb} {counted(len(names), noun)}{', such as' if len(names) > 1 else ','} {quote(names[0])}"
            for verb, noun, names in (("lacks", "tensor", missing), ("has", "unknown tensor", unknown))
            if names
        ]
        raise WrongWeights(" and ".join(problems))
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise _wrong_shape(name, tensor.shape, expected[name].shape)
    network.load_state_dict(tensors, strict=False)
    network.eval()


def _wrong_shape(name: str, found: torch.Size, expected: torch.Size) -> WrongWeights:
    return WrongWeights(f"{quote(name)} has the shape {tuple(found)} instead of {tuple(expected)}")


def write_network(
    network: nn.Module,
    modules: Mapping[str, str],
    shape: tuple[int, int, int],
    target: Path,
    options: ImportOptions,
    *,
    torch_table: Mapping[str, Any],
    preset: Preset,
) -> ImportedBackbone:
    """Write the folder of a torch network: its ONNX export and its weights.

    Args:
        network: the network in evaluation mode.
        modules: the modules that are its outputs, by the outputs' names; `options.outputs` overrides them.
        shape: the shape (C, H, W) of its input.
        target: the folder.
        options: what the user says about the backbone.
        torch_table: architecture and arguments in `backbone.toml`.
        preset: the preprocessing of the published weights.

    Raises:
        ImportFailed: the network cannot be exported, or an option is wrong.
    """
    wanted = options.outputs or tuple(f"{name}={module}" for name, module in modules.items())
    names = [_module_of(network, output) for output in wanted]
    graph = Graph(export_onnx(network, list(dict.fromkeys([*names, *modules.values()])), shape))
    outputs = choose(graph, wanted)
    image = preprocessing_of(options.preprocessing, shape, preset)

    def add_torch(folder: NewFolder, run: NetworkRun) -> Mapping[str, Any]:
        _compare(network, list(run.outputs), run)
        weights = {name: tensor.contiguous().numpy() for name, tensor in network.state_dict().items()}
        return {"torch": {**folder.add_tensors(_WEIGHTS_FILE, weights), **torch_table}}

    return write_backbone(target, graph, outputs, image, options, add_engine=add_torch)


def _compare(network: nn.Module, modules: Sequence[str], run: NetworkRun) -> None:
    for name, expected in module_outputs(network, modules, run.images).items():
        difference = relative_difference(run.outputs[name], expected)
        if not difference <= MAX_DIFFERENCE:
            raise ImportFailed(
                f"onnxruntime and torch differ in the output of {name} by {difference:.1e} of its largest value; at "
                f"most {MAX_DIFFERENCE} is accepted"
            )


def _module_of(network: nn.Module, output: str) -> str:
    name = output.partition("=")[2]
    modules = dict(network.named_modules())
    if name and name not in modules:
        raise ImportFailed(f"the network has no module {quote(name)}{did_you_mean(name, modules)}")
    return name


def _fitting(tensors: Mapping[str, Tensor]) -> str:
    """Return a suggestion of the architecture whose parameters these are; "" if there is none."""
    shapes = {name: tensor.shape for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
    for name, architecture in ARCHITECTURES.items():
        weight = shapes.get(f"{architecture.last_layer}.weight")
        # None, or a number without a shape.
        if not weight:
            continue
        with torch.device("meta"):
            expected = architecture.build(num_classes=weight[0]).state_dict()
        if shapes == {key: tensor.shape for key, tensor in expected.items() if not key.endswith("num_batches_tracked")}:
            return f"; it fits {name}"
    return ""

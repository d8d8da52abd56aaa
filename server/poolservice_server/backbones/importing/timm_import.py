"""Imports a network of timm with local weights. timm is used if the user installed it."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from poolservice_server.backbones.importing.errors import ImportFailed
from poolservice_server.backbones.importing.imported import ImportedBackbone
from poolservice_server.backbones.importing.network_run import test_images
from poolservice_server.backbones.importing.options import ImportOptions
from poolservice_server.backbones.importing.output_choice import FEATURES, LOGITS
from poolservice_server.backbones.importing.presets import Preset
from poolservice_server.backbones.importing.torch_import import (
    WrongWeights,
    class_arguments,
    load_weights,
    read_tensors,
    write_network,
)
from poolservice_server.foreign_text import quote
from poolservice_server.settings.errors import did_you_mean

_INTERPOLATIONS = ("bilinear", "bicubic", "lanczos", "box", "hamming", "nearest")


def import_timm(name: str, weights: Path, target: Path, options: ImportOptions) -> ImportedBackbone:
    """Make a backbone's folder, with an ONNX file and torch weights, of a network of timm.

    Args:
        name: the network's name in timm.
        weights: a state dict that torch.save wrote, or a safetensors file.
        target: the folder.
        options: what the user says about the backbone.

    Raises:
        ImportFailed: timm is missing, or the name, the file or an option is wrong.
    """
    timm = _timm()
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        known = timm.list_models()
        raise ImportFailed(f"timm has no network {quote(architecture)}{did_you_mean(architecture, known)}")
    tensors, notes = read_tensors(weights)
    # The full name also selects the preprocessing of these weights.
    network: Any = timm.create_model(name, pretrained=False)
    arguments: dict[str, Any] = {}
    try:
        weight = f"{network.default_cfg.get('classifier')}.weight"
        # Some networks have several classifiers, or none.
        if weight in tensors and weight in network.state_dict():
            arguments = class_arguments(network, weight, tensors)
            network = timm.create_model(name, pretrained=False, **arguments)
        load_weights(network, tensors)
    except WrongWeights as error:
        raise ImportFailed(f"{weights}: does not fit timm's {architecture}: {error}") from None
    config = timm.data.resolve_model_data_config(network)
    size = options.image_size or (int(config["input_size"][1]), int(config["input_size"][2]))
    shape = (int(config["input_size"][0]), *size)
    imported = write_network(
        network,
        _find_modules(network, shape, architecture),
        shape,
        target,
        options,
        torch_table={"architecture": f"timm:{architecture}", "arguments": arguments},
        preset=timm_preset(config, size, name),
    )
    return imported._replace(notes=(*notes, *imported.notes))


def _timm() -> Any:
    try:
        return import_module("timm")
    except ImportError as error:
        reason = "is not installed" if error.name == "timm" else f"cannot be imported: {quote(str(error))}"
        raise ImportFailed(f"timm:NAME needs timm, which {reason}; install it with: pip install timm") from None
    except RuntimeError as error:
        # torchvision, which timm imports, raises this if it was built for another torch.
        raise ImportFailed(f"timm cannot be imported: {quote(str(error))}") from None


def timm_preset(config: Mapping[str, Any], size: tuple[int, int], name: str) -> Preset:
    """Return the preprocessing of timm's evaluation transform.

    Args:
        config: what timm's `resolve_model_data_config` returns.
        size: the height and width of the network's input.
        name: the name of the network.

    Raises:
        ImportFailed: a value is not supported.
    """
    mode, interpolation = config.get("crop_mode", "center"), config["interpolation"]
    if mode not in ("center", "squash", "border"):
        raise ImportFailed(f"the crop_mode {quote(str(mode))} of timm's {name} is not supported")
    if interpolation not in _INTERPOLATIONS:
        raise ImportFailed(f"the interpolation {quote(str(interpolation))} of timm's {name} is not supported")
    fraction = float(config.get("crop_pct", 0.875))
    resized = (int(size[0] / fraction), int(size[1] / fraction))
    is_square = size[0] == size[1]
    mean = tuple(map(float, config["mean"]))
    fields: dict[str, Any] = {"filter": interpolation, "mean": mean, "std": tuple(map(float, config["std"]))}
    if mode == "squash":
        fields |= {"resize": "squash", "size": resized}
    else:
        # timm has a class of its own for all but the most frequent case, which rounds differently from torchvision's.
        is_torchvision = mode == "center" and is_square
        fields |= {
            "resize": "shortest" if mode == "center" else "longest",
            "size": resized[0] if is_square else resized,
            "rounding": "floor" if is_torchvision else "round",
        }
    if mode == "border":
        fields["fill"] = tuple(round(255 * value) for value in mean)
    return Preset(f"timm's {name}", fraction, fields)


def _find_modules(network: Any, shape: tuple[int, int, int], name: str) -> dict[str, str]:
    """Return the names of the modules that return the features and the logits."""
    images = torch.from_numpy(test_images(shape, 2))
    modules = {FEATURES: _module_that_returns(network, network.forward_features, images)}
    if modules[FEATURES] == "":
        raise ImportFailed(
            f"no module of timm's {name} returns its features; export the network to ONNX and import that"
        )
    if logits := _module_that_returns(network, network, images):
        modules[LOGITS] = logits
    return modules


def _module_that_returns(network: nn.Module, forward: Any, images: Tensor) -> str:
    """Return the name of the last module whose output is what `forward` returns; "" if there is none."""
    outputs: list[tuple[str, Tensor]] = []

    def remember(name: str) -> Any:
        def hook(_module: nn.Module, _arguments: object, output: object) -> None:
            if isinstance(output, Tensor):
                outputs.append((name, output))

        return hook

    handles = [module.register_forward_hook(remember(name)) for name, module in network.named_modules() if name]
    try:
        with torch.inference_mode():
            expected = forward(images)
    finally:
        for handle in handles:
            handle.remove()
    for name, output in reversed(outputs):
        if output.shape == expected.shape and torch.equal(output, expected):
            return name
    return ""

"""Networks in torch: an architecture of an installed library with weights in a safetensors file.

`torch.compile` and CUDA graphs are left out. Both cost tens of seconds at start for each shape of a batch, and no
measurement on a GPU has shown a gain.
"""

import importlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import nn

from poolservice_server.backbones.engines.engine import EngineError, first_line, listed
from poolservice_server.backbones.manifest import Torch
from poolservice_server.pooling.interop import to_array, to_tensor

#: The tensor that is the result of the whole network.
FINAL = ""
#: The tensor that is the result of the method of this name, which every network of timm has.
FORWARD_FEATURES = "forward_features"

_PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class TorchEngine:
    """A torch network on one device. On the CPU it computes with one thread.

    Hooks keep the outputs of the modules that runs want. They copy nothing, but hooks on all 212 modules of MobileNetV2
    cost a run 1 to 2 ms of Python (November 2026, two cores). So a module gets its hook when a run first wants it. The
    first runs, before the server serves, want all outputs of the backbone.

    Args:
        network: the network, with its weights.
        device: the device that runs it.
        precision: on a GPU, the dtype of the network. There it is in channels_last, too.
    """

    name = "torch"
    threads = 1

    def __init__(self, network: nn.Module, device: torch.device, precision: torch.dtype = torch.float32) -> None:
        on_gpu = device.type != "cpu"
        self._dtype = precision if on_gpu else torch.float32
        network = network.eval().requires_grad_(False)
        if on_gpu:
            if self._dtype is torch.float32:
                # By default, convolutions on a CUDA GPU round float32 to 10 bits of mantissa. A folder that wants such
                # speed says float16 or bfloat16.
                torch.backends.cudnn.allow_tf32 = False
            network = network.to(device, self._dtype)
            _to_channels_last(network)
        self._network: Any = network
        self._run = threading.local()
        # The modules without a hook.
        self._unhooked = dict(network.named_modules())
        del self._unhooked[FINAL]
        self._hooking = threading.Lock()
        for module in self._unhooked.values():
            # An activation in place would change the output of the module before it after its hook kept it.
            if getattr(module, "inplace", False) is True:
                module.inplace = False
        methods = [FORWARD_FEATURES] if hasattr(network, FORWARD_FEATURES) else []
        self.tensors: Sequence[str] = [FINAL, *methods, *self._unhooked]

    def run(self, samples: Any, tensors: Sequence[str]) -> list[Any]:
        """Run the network; see `Engine`."""
        with torch.inference_mode():
            if isinstance(samples, np.ndarray):
                return [to_array(output.contiguous()) for output in self._outputs(to_tensor(samples), tensors)]
            converted = samples.to(dtype=self._dtype, memory_format=torch.channels_last)
            return [output.to(torch.float32) for output in self._outputs(converted, tensors)]

    def close(self) -> None:
        """Release the memory."""
        del self._network

    def _outputs(self, samples: torch.Tensor, tensors: Sequence[str]) -> list[torch.Tensor]:
        self._add_hooks(tensors)
        wanted: dict[str, Any] = dict.fromkeys(tensors)
        self._run.wanted = wanted
        try:
            if FORWARD_FEATURES in wanted:
                features = self._network.forward_features(samples)
                wanted[FORWARD_FEATURES] = features
                if FINAL in wanted:
                    wanted[FINAL] = self._network.forward_head(features)
            else:
                final = self._network(samples)
                if FINAL in wanted:
                    wanted[FINAL] = final
        finally:
            self._run.wanted = {}
        for name, output in wanted.items():
            if not isinstance(output, torch.Tensor):
                kind = "is not run" if output is None else f"gives a {type(output).__name__}, not a tensor"
                raise EngineError(f"the module {name or 'at the end'} {kind}")
        return [wanted[name] for name in tensors]

    def _add_hooks(self, tensors: Sequence[str]) -> None:
        if self._unhooked.keys().isdisjoint(tensors):
            return
        with self._hooking:
            for name in tensors:
                module = self._unhooked.pop(name, None)
                if module is not None:
                    module.register_forward_hook(self._hook(name))

    def _hook(self, name: str) -> Any:
        run = self._run

        def keep(_module: nn.Module, _args: object, output: object) -> None:
            wanted = run.wanted
            if name in wanted:
                wanted[name] = output

        return keep


def _to_channels_last(network: Any) -> None:
    # torch's annotations lack this argument.
    network.to(memory_format=torch.channels_last)


def load_torch(table: Torch, weights: bytes, device: torch.device, *, allow_code_models: bool) -> TorchEngine:
    """Build the architecture and load its weights.

    Raises:
        EngineError: the architecture does not exist, or the weights are not its own.
    """
    network = _architecture(table, allow_code_models=allow_code_models)
    try:
        state = load_safetensors(weights)
    except SafetensorError as error:
        raise EngineError(f"{table.file} is not a safetensors file: {error}") from None
    _load_weights(network, state, table)
    try:
        return TorchEngine(network, device, _PRECISIONS[table.gpu_precision])
    except Exception as error:  # noqa: BLE001 - torch raises errors of several types if a GPU lacks memory or fails
        raise EngineError(f"torch cannot load {table.architecture} on {device}: {first_line(error)}") from None


def _architecture(table: Torch, *, allow_code_models: bool) -> nn.Module:
    library, _, name = table.architecture.partition(":")
    try:
        if library == "poolservice":
            return cast("nn.Module", _own(name)(**table.arguments))
        if library == "timm":
            return _of_timm(name, table.arguments)
        network = _of_module(library, name, allow_code_models=allow_code_models)(**table.arguments)
    except EngineError:
        raise
    except Exception as error:  # noqa: BLE001 - libraries raise errors of any type for wrong arguments
        raise EngineError(
            f"the architecture {table.architecture} does not take torch.arguments: {first_line(error)}"
        ) from None
    if not isinstance(network, nn.Module):
        raise EngineError(f"{table.architecture} gives a {type(network).__name__}; it must give a torch.nn.Module")
    return network


def _own(name: str) -> Any:
    from poolservice_server.backbones.engines.architectures import ARCHITECTURES

    if name not in ARCHITECTURES:
        raise EngineError(f"there is no architecture poolservice:{name}; there are {listed(sorted(ARCHITECTURES))}")
    return ARCHITECTURES[name].build


def _of_timm(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    try:
        timm = importlib.import_module("timm")
    except ImportError as error:
        raise EngineError(f"the architecture timm:{name} needs timm, which cannot be imported ({error})") from None
    if not timm.is_model(name):
        raise EngineError(f"the installed timm has no architecture {name}")
    network: nn.Module = timm.create_model(name, pretrained=False, **arguments)
    return network


def _of_module(module: str, name: str, *, allow_code_models: bool) -> Any:
    if not allow_code_models:
        raise EngineError(
            f"the architecture {module}:{name} is neither of poolservice nor of timm, and its module can run any code; "
            "start the server with --allow-code-models if you trust the folder like the server's own code"
        )
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise EngineError(f"the architecture {module}:{name} cannot be imported: {error}") from None


def _load_weights(network: nn.Module, state: Mapping[str, torch.Tensor], table: Torch) -> None:
    wanted = network.state_dict()
    missing = [name for name in wanted if name not in state]
    unknown = [name for name in state if name not in wanted]
    wrong = [
        f"{name} {list(state[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    reasons = [
        f"{what} {listed(names, 5)}"
        for what, names in (("it lacks", missing), ("it also has", unknown), ("it has", wrong))
        if names
    ]
    if reasons:
        raise EngineError(f"{table.file} does not have the weights of {table.architecture}: {'; '.join(reasons)}")
    network.load_state_dict(state, strict=True)

"""A backbone on one device: runs its engine and computes what each request wants from the outputs."""

import time
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch

from poolservice_server.backbone_stage import (
    BackboneFailed,
    BackboneInput,
    BackboneResult,
    BackboneStage,
    ClassChoice,
    ClassResult,
)
from poolservice_server.backbones.counted import counted
from poolservice_server.backbones.engines.classification import activation_maps, chosen_classes, class_result, logits
from poolservice_server.backbones.engines.core_budget import CoreBudget
from poolservice_server.backbones.engines.engine import Engine, EngineError
from poolservice_server.backbones.engines.normalization import Normalization
from poolservice_server.backbones.engines.outputs import LinearMap, Outputs
from poolservice_server.backbones.folder import BackboneFolder
from poolservice_server.backbones.preprocessing import normalized
from poolservice_server.pool_stage import PoolStage, SpecResult
from poolservice_server.pooling import run_on_arrays, run_on_tensors
from poolservice_server.pooling.interop import to_array, to_tensor
from poolservice_server.stop import Stop, WorkStopped


class TensorResults(NamedTuple):
    """The results of one payload on a GPU.

    Attributes:
        specs: values and indices of each spec, on the GPU.
        classes: the classes that the request wants, on the CPU.
    """

    specs: list[tuple[torch.Tensor, torch.Tensor | None]]
    classes: ClassResult | None


class KnownResult(NamedTuple):
    """A result that a device computed when the server started, which it must compute again later.

    Attributes:
        stage: the run of the default output.
        payload: one sample.
        values: the output itself.
    """

    stage: BackboneStage
    payload: BackboneInput
    values: np.ndarray


class Network:
    """A backbone on one device. Several threads may run it at the same time.

    Args:
        folder: the backbone's folder.
        engine: the network, loaded on the device.
        device: the device.
        cores: the cores that runs on the CPU share.

    Attributes:
        engine: the network, loaded on the device.
        outputs: its outputs.
        known_result: the result of its first run; None before that.
    """

    def __init__(self, folder: BackboneFolder, engine: Engine, device: torch.device, cores: CoreBudget) -> None:
        self.engine = engine
        self.outputs = Outputs(folder, device, engine.name)
        self.known_result: KnownResult | None = None
        self._device = device
        self._cores = cores
        self._preprocessing = folder.manifest.preprocessing
        self._normalization = Normalization(self._preprocessing, device)
        self._head = None if folder.head is None else LinearMap.of(folder.head, device)
        self._head_output = "" if folder.manifest.head is None else folder.manifest.head.output

    def run_on_array(self, stage: BackboneStage, payload: BackboneInput, stop: Stop) -> BackboneResult:
        """Run one payload on the CPU, sample by sample: in a batch, a sample costs the engines as much.

        Raises:
            BackboneFailed: the network gives NaN or infinity for the samples.
            DeviceOutOfMemory: the machine is out of memory.
            WorkStopped: `stop` returned True.
        """
        names = self._wanted_outputs(stage, [payload])
        tensors = self._tensors(names)
        runs = []
        seconds = 0.0
        for number in range(len(payload)):
            if stop():
                raise WorkStopped
            sample = payload.samples[number : number + 1]
            network_input = normalized(sample, self._preprocessing)
            with self._cores.take(self.engine.threads):
                # Waiting for cores can take as long as the runs of many other requests.
                if stop():
                    raise WorkStopped
                started = time.perf_counter()
                arrays = self.engine.run(network_input, tensors)
                seconds += time.perf_counter() - started
            values = [to_tensor(array) for array in arrays]
            runs.append(self._compute(names, dict(zip(tensors, values, strict=True)), 1))
        outputs = {name: torch.cat([run[name] for run in runs]) if len(runs) > 1 else runs[0][name] for name in names}
        classes = self._classes(outputs, 0, payload.classes)
        return BackboneResult(_pooled_arrays(outputs[stage.output], payload, stop), classes, seconds)

    def run_on_tensors(
        self, stage: BackboneStage, payloads: Sequence[BackboneInput], samples: torch.Tensor
    ) -> list[TensorResults]:
        """Run a batch on the GPU that holds its samples.

        Args:
            stage: what to run.
            payloads: the requests.
            samples: their samples, (N, C, H, W), uint8 or float32.

        Raises:
            BackboneFailed: the network gives NaN or infinity for a sample.
            DeviceOutOfMemory: a smaller batch may fit.
            DeviceFailed: the device failed.
        """
        names = self._wanted_outputs(stage, payloads)
        tensors = self._tensors(names)
        values = self.engine.run(self._normalization.apply(samples), tensors)
        outputs = self._compute(names, dict(zip(tensors, values, strict=True)), len(samples))
        pooled = _pooled_tensors(outputs[stage.output], payloads)
        results = []
        start = 0
        for payload, specs in zip(payloads, pooled, strict=True):
            results.append(TensorResults(specs, self._classes(outputs, start, payload.classes)))
            start += len(payload)
        return results

    def _wanted_outputs(self, stage: BackboneStage, payloads: Sequence[BackboneInput]) -> tuple[str, ...]:
        with_head = stage.output != self._head_output and any(payload.classes is not None for payload in payloads)
        return (stage.output, self._head_output) if with_head else (stage.output,)

    def _tensors(self, names: Sequence[str]) -> list[str]:
        """Return the tensors of the network that the outputs need, each of them once."""
        return list(dict.fromkeys(map(self.outputs.tensor_of, names)))

    def _compute(
        self, names: Sequence[str], tensors: Mapping[str, torch.Tensor], samples: int
    ) -> dict[str, torch.Tensor]:
        """Return the outputs, which must be finite, from the tensors that the network gave for so many samples."""
        outputs = {}
        for name in names:
            outputs[name] = output = self.outputs.compute(name, tensors[self.outputs.tensor_of(name)])
            if len(output) != samples:
                raise EngineError(f"the network gives {len(output)} of outputs.{name} for {counted(samples, 'sample')}")
            if not _is_finite(output):
                raise BackboneFailed(
                    f"the network gives NaN or infinity for this input, in its output {name}; the same input fails "
                    "again"
                )
        return outputs

    def _classes(self, outputs: dict[str, torch.Tensor], sample: int, choice: ClassChoice | None) -> ClassResult | None:
        """Return the classes of one sample that a request wants."""
        if choice is None or self._head is None:
            return None
        features = outputs[self._head_output][sample : sample + 1]
        scores = to_array(logits(features, self._head).cpu())[0]
        if not np.isfinite(scores).all():
            raise BackboneFailed("the logits of this input are too large for float32; the same input fails again")
        classes = chosen_classes(scores, choice)
        maps = None
        if choice.activation_maps:
            maps = to_array(activation_maps(features[0], self._head, to_tensor(classes).to(self._device)).cpu())
        return class_result(scores, classes, maps)


def _is_finite(values: torch.Tensor) -> bool:
    # One NaN or infinity makes the sum so, and the sum takes a twentieth of the time. It can also overflow.
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())


def _wants_output_itself(payload: BackboneInput) -> bool:
    return not payload.specs and payload.classes is None


def _planes(output: torch.Tensor) -> torch.Tensor:
    """Return the planes (N * C, H, W) of a map; a vector as it is."""
    return output.flatten(0, 1) if output.ndim == 4 else output


def _pooled_arrays(output: torch.Tensor, payload: BackboneInput, stop: Stop) -> tuple[SpecResult, ...]:
    if _wants_output_itself(payload):
        return (SpecResult(to_array(_planes(output))),)
    if not payload.specs:
        return ()
    return run_on_arrays(PoolStage.of(payload.specs, output.shape[1]), to_array(_planes(output)), stop)


def _pooled_tensors(
    output: torch.Tensor, payloads: Sequence[BackboneInput]
) -> list[list[tuple[torch.Tensor, torch.Tensor | None]]]:
    """Return the results of each payload's specs; neighbors with equal specs are pooled together."""
    results: list[list[tuple[torch.Tensor, torch.Tensor | None]]] = []
    start = 0
    for (specs, itself), group in groupby(payloads, lambda one: (one.specs, _wants_output_itself(one))):
        sizes = [len(payload) for payload in group]
        total = sum(sizes)
        planes = _planes(output[start : start + total])
        start += total
        channels = output.shape[1] if output.ndim == 4 else 1
        pooled = [(planes, None)] if itself else run_on_tensors(PoolStage.of(specs, channels), planes)
        first = 0
        for size in sizes:
            last = first + size
            results.append(
                [
                    (
                        _of_samples(values, first, last, total),
                        None if indices is None else _of_samples(indices, first, last, total),
                    )
                    for values, indices in pooled
                ]
            )
            first = last
    return results


def _of_samples(values: torch.Tensor, first: int, last: int, samples: int) -> torch.Tensor:
    """Return the results of the samples from `first` to before `last`; a sample has one or several rows."""
    rows = len(values) // samples
    return values[first * rows : last * rows]

"""The first runs of a backbone on a device: they verify its outputs and measure its time and memory."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from poolservice_server.backbone_stage import BackboneInput, BackboneResult, BackboneStage, ClassChoice
from poolservice_server.backbones.backbone import Output, sample_shape
from poolservice_server.backbones.engines.engine import EngineError, first_line, listed
from poolservice_server.backbones.engines.network import KnownResult, Network
from poolservice_server.backbones.engines.program_engine import ProgramEngine
from poolservice_server.backbones.folder import BackboneFolder

if TYPE_CHECKING:
    from poolservice_server.backend.device import Device

# The time of a sample is that of the fastest run in this time, and of at least three runs.
_MEASURED_SECONDS = 0.1
_MIN_RUNS = 3


class Measured(NamedTuple):
    """The outputs, the time and the memory that the first runs of a backbone on a device showed.

    Attributes:
        outputs: the outputs by name.
        seconds: the time of one sample.
        run_bytes: the memory that a run of one sample takes.
    """

    outputs: dict[str, Output]
    seconds: float
    run_bytes: int


def warm_up(folder: BackboneFolder, network: Network, device: "Device") -> Measured:
    """Run each output of a backbone once, and the default one several times, through the device.

    The network must be among those of the device. It remembers a result, with which the device is probed later.

    Raises:
        EngineError: an output does not exist or is not what the manifest says, or the network cannot run.
    """
    name = folder.manifest.name
    _check_tensors(folder, network)
    # Samples of noise make no output constant.
    samples = np.random.default_rng(18).integers(0, 256, (1, *sample_shape(folder.manifest.input)), np.uint8)
    before = device.used_bytes()
    outputs = {}
    for output in folder.manifest.outputs:
        (result,) = _run(device, BackboneStage(name, output), [BackboneInput(samples, ())])
        values = result.specs[0].values
        kind = folder.manifest.outputs[output].kind
        outputs[output] = Output("vector", values.shape[1:]) if kind == "vector" else Output("map", values.shape)
        if output == folder.manifest.default_output:
            network.known_result = KnownResult(BackboneStage(name, output), BackboneInput(samples, ()), values)
    run_bytes = max(device.used_bytes() - before, 4 * samples.size + 4 * max(_size(one) for one in outputs.values()))
    _check_head(folder, outputs)
    if folder.head is not None:
        stage = BackboneStage(name, folder.manifest.default_output)
        _run(device, stage, [BackboneInput(samples, (), ClassChoice(1, (), True))])
    if device.name != "cpu":
        # A network that was exported for one sample at a time cannot run batches.
        _run(device, BackboneStage(name, folder.manifest.default_output), [BackboneInput(samples, ())] * 2)
    return Measured(outputs, _seconds(device, network, folder, samples), run_bytes)


def _check_tensors(folder: BackboneFolder, network: Network) -> None:
    is_program = isinstance(network.engine, ProgramEngine)
    hint = (
        "; in a [program], tensor is the name of a graph node that is an output, such as conv2d" if is_program else ""
    )
    for output in folder.manifest.outputs:
        tensor = network.outputs.tensor_of(output)
        if tensor not in network.engine.tensors:
            raise EngineError(
                f"outputs.{output} needs the tensor {tensor}, which {network.engine.name} does not find in the "
                f"network; it finds {listed(network.engine.tensors)}{hint}"
            )


def _check_head(folder: BackboneFolder, outputs: dict[str, Output]) -> None:
    if folder.head is None or folder.manifest.head is None:
        return
    features = outputs[folder.manifest.head.output]
    if features.shape[0] != folder.head.weight.shape[1]:
        raise EngineError(
            f"head.output is {folder.manifest.head.output}, which has {features.shape[0]} channels, and the head's "
            f"weight takes {folder.head.weight.shape[1]}"
        )


def _run(device: "Device", stage: BackboneStage, payloads: Sequence[BackboneInput]) -> list[BackboneResult]:
    try:
        return device.run_backbone(stage, payloads)
    except EngineError:
        raise
    except Exception as error:  # noqa: BLE001 - a network may raise anything
        raise EngineError(f"the network cannot run a test image on {device.name}: {first_line(error)}") from None


def _seconds(device: "Device", network: Network, folder: BackboneFolder, samples: np.ndarray) -> float:
    """Return the time of one sample: on a CPU the time that its threads compute, which other programs hardly change."""
    stage = BackboneStage(folder.manifest.name, folder.manifest.default_output)
    on_cpu = device.name == "cpu"
    clock, threads = (time.process_time, network.engine.threads) if on_cpu else (time.perf_counter, 1)
    seconds: list[float] = []
    end = time.perf_counter() + _MEASURED_SECONDS
    while len(seconds) < _MIN_RUNS or time.perf_counter() < end:
        started = clock()
        device.run_backbone(stage, [BackboneInput(samples, ())])
        seconds.append((clock() - started) / threads)
    return min(seconds)


def _size(output: Output) -> int:
    return int(np.prod(output.shape))

"""Loads the backbones of a server: opens their engines, runs each of them once, and measures them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import structlog

from poolservice_server.backbones.backbone import Backbone, Backbones, BrokenBackbone, Output, sample_shape
from poolservice_server.backbones.engines.choice import open_engine, open_onnx
from poolservice_server.backbones.engines.core_budget import CoreBudget
from poolservice_server.backbones.engines.engine import Engine, EngineError
from poolservice_server.backbones.engines.network import Network
from poolservice_server.backbones.engines.thread_choice import faster_engine
from poolservice_server.backbones.engines.warm_up import Measured, warm_up
from poolservice_server.backbones.folder import BackboneFolder, BrokenFolder
from poolservice_server.backbones.folder_files import printable
from poolservice_server.settings import SettingsError

if TYPE_CHECKING:
    from poolservice_server.backend import Backend
    from poolservice_server.backend.device import Device

_log = structlog.get_logger(__name__)


def load(
    folders: Sequence[BackboneFolder],
    broken: Sequence[BrokenBackbone],
    backend: "Backend",
    *,
    threads: int,
    cores: int,
    allow_code_models: bool,
    skip_broken: bool,
) -> Backbones:
    """Load each backbone on each device that can run it, and run it there once.

    Args:
        folders: the folders of the backbones.
        broken: the backbones whose folders are broken.
        backend: the devices.
        threads: the number of threads of one run on the CPU; 0 to choose it by measurement.
        cores: the number of cores that this process uses.
        allow_code_models: whether models may be such that can run any code.
        skip_broken: whether to go on without a backbone that cannot run.

    Raises:
        SettingsError: a backbone cannot run, and `skip_broken` is False.
    """
    loader = Loader(backend, threads, cores, allow_code_models=allow_code_models)
    serving = {}
    all_broken = list(broken)
    for folder in folders:
        name = folder.manifest.name
        try:
            serving[name] = backbone = loader.load(folder)
        except CannotRun as error:
            if not skip_broken:
                raise SettingsError(f"{error} (--skip-broken-backbones starts without it)") from None
            _log.error("starting without a backbone", backbone=name, reason=error.reason)
            all_broken.append(BrokenBackbone(name, error.reason))
            continue
        _log.info(
            "backbone is ready",
            backbone=name,
            engines=backbone.engines,
            milliseconds=round(backbone.seconds * 1000, 2),
            mib=round(backbone.memory_bytes / 2**20, 1),
        )
    return Backbones(serving, tuple(all_broken))


class CannotRun(Exception):
    """A complete folder cannot run. The message is for the operator, with the folder's path.

    Attributes:
        reason: the same for callers, who need not know where the folder is.
    """

    def __init__(self, folder: BackboneFolder, reason: str) -> None:
        super().__init__(f"the backbone {folder.manifest.name} in {printable(folder.path)} cannot run: {reason}")
        self.reason = reason


def check_shapes(folder: BackboneFolder, models: Sequence[tuple[str, Mapping[str, Output]]]) -> None:
    """Compare the shapes of the outputs of a backbone's models, which are given with the names of their engines.

    Raises:
        CannotRun: they differ.
    """
    if any(outputs != models[0][1] for _, outputs in models):
        engines = ", ".join(engine for engine, _ in models)
        raise CannotRun(folder, f"its models give outputs of different shapes ({engines})")


class Loader:
    """Loads backbones one after the other.

    Args:
        backend: the devices, which get the networks.
        threads: the number of threads of one run on the CPU; 0 to choose it by measurement.
        cores: the number of cores that this process uses.
        allow_code_models: whether models may be such that can run any code.
    """

    def __init__(self, backend: "Backend", threads: int, cores: int, *, allow_code_models: bool) -> None:
        self._devices = [backend.device(state.name) for state in backend.devices()]
        self._backend = backend
        self._threads = threads
        self._cores = cores
        self._allow_code_models = allow_code_models
        self._budget = CoreBudget(cores)

    def load(self, folder: BackboneFolder) -> Backbone:
        """Load one backbone on each device that can run it, and run it there once.

        Raises:
            CannotRun: it does not run as its folder says.
        """
        try:
            return self._load(folder)
        except (EngineError, BrokenFolder) as error:
            reason = error.reason if isinstance(error, BrokenFolder) else str(error)
            raise CannotRun(folder, reason) from None

    def _load(self, folder: BackboneFolder) -> Backbone:
        manifest = folder.manifest
        engines: list[str] = []
        measured: list[tuple[Measured, int]] = []
        try:
            for device in self._devices:
                # A GPU counts its peak from the previous call, and runs of the previous backbone do not count here.
                device.used_bytes()
                before = device.used_bytes()
                engine = open_engine(
                    folder, device, threads=self._threads or 1, allow_code_models=self._allow_code_models
                )
                if engine is None:
                    continue
                result = self._run_first(folder, engine, device)
                engines.append(f"{device.networks[manifest.name].engine.name} on {device.name}")
                measured.append((result, max(device.used_bytes() - before, result.run_bytes)))
            if not measured:
                raise EngineError(
                    "it has no model for the devices of this server, "
                    f"{', '.join(device.name for device in self._devices)}: a GPU needs torch weights, or an ONNX file "
                    f"and onnxruntime's CUDA provider"
                )
            check_shapes(folder, [(engine, one.outputs) for engine, (one, _) in zip(engines, measured, strict=True)])
        except BaseException:
            # Whatever ends the load, also Ctrl-C, no device may keep a network that does not serve.
            for device in self._devices:
                network = device.networks.pop(manifest.name, None)
                if network is not None:
                    network.engine.close()
            raise
        self._backend.add_backbone(manifest.name)
        preferred, memory_bytes = measured[0]
        return Backbone(
            name=manifest.name,
            description=manifest.description,
            licence=manifest.licence,
            source=manifest.source,
            fingerprint=folder.fingerprint,
            input=manifest.input,
            preprocessing=manifest.preprocessing,
            outputs=preferred.outputs,
            default_output=manifest.default_output,
            labels=folder.labels,
            head_output="" if manifest.head is None else manifest.head.output,
            engines=tuple(engines),
            seconds=preferred.seconds,
            memory_bytes=memory_bytes,
        )

    def _run_first(self, folder: BackboneFolder, engine: Engine, device: "Device") -> Measured:
        """Run the network, choose its number of threads, and measure it."""
        name = folder.manifest.name
        try:
            device.networks[name] = network = Network(folder, engine, device.torch_device, self._budget)
        except BaseException:
            # No device has it yet, so nobody else would close it.
            engine.close()
            raise
        measured = warm_up(folder, network, device)
        onnx = folder.manifest.onnx
        if device.name != "cpu" or onnx is None or self._threads or self._cores == 1:
            return measured
        network.engine = faster_engine(
            engine,
            lambda: open_onnx(folder, onnx, self._cores),
            np.random.default_rng(18).standard_normal((1, *sample_shape(folder.manifest.input)), np.float32),
            [network.outputs.tensor_of(folder.manifest.default_output)],
            self._cores,
        )
        if network.engine is engine:
            return measured
        again = warm_up(folder, network, device)
        return again._replace(run_bytes=max(measured.run_bytes, again.run_bytes))

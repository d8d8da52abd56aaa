"""The backbones that the settings name, and the engine that runs them."""

from collections.abc import Iterator

from structlog.testing import capture_logs

from poolservice_server.backbones.counted import counted
from poolservice_server.backbones.folders import read_folders
from poolservice_server.doctor.finding import Finding, ok, problem, warning
from poolservice_server.doctor.machine import Machine
from poolservice_server.doctor.versions import version_of
from poolservice_server.settings import Settings, SettingsError


def check_backbones(settings: Settings, _machine: Machine) -> Iterator[Finding]:
    """Read each folder, and compare its files with their hashes. No network is run: `backbone check` does that."""
    if not settings.backbone and settings.backbones is None:
        return
    try:
        # The broken ones are returned, so what the server would log is not repeated.
        with capture_logs():
            folders, broken = read_folders(settings)
    except SettingsError as error:
        yield problem("backbones", str(error))
        return
    for one in broken:
        yield warning(
            "backbones",
            f"the server starts without the backbone {one.name}: {one.reason}; poolservice-server backbone check shows "
            "what to correct",
        )
    if folders:
        names = ", ".join(folder.manifest.name for folder in folders)
        engine = f"onnxruntime {version_of('onnxruntime', 'onnxruntime-gpu')}, onnx {version_of('onnx')}"
        yield ok("backbones", f"{counted(len(folders), 'folder')} complete ({names}), {engine}")

"""Loads the backbones that the settings name."""

from typing import TYPE_CHECKING

from poolservice_server.backbones.backbone import Backbones
from poolservice_server.backbones.folders import read_folders
from poolservice_server.settings import Settings

if TYPE_CHECKING:
    from poolservice_server.backend import Backend


def load_backbones(settings: Settings, backend: "Backend", *, cores: int) -> Backbones:
    """Read the folders, load each backbone on each device that can run it, and run it there once.

    Args:
        settings: the server's settings.
        backend: the devices.
        cores: the number of cores that this process uses.

    Raises:
        SettingsError: a backbone is broken, and the settings do not say to start without it.
    """
    folders, broken = read_folders(settings)
    if not folders:
        return Backbones({}, tuple(broken))
    # Imported here because a server without backbones needs neither the time nor the packages.
    from poolservice_server.backbones.engines.loading import load

    return load(
        folders,
        broken,
        backend,
        threads=settings.backbone_threads,
        cores=cores,
        allow_code_models=settings.allow_code_models,
        skip_broken=settings.skip_broken_backbones,
    )

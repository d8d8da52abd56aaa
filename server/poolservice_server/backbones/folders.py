"""The folders of all backbones that the settings name."""

import os
from pathlib import Path

import structlog

from poolservice_server.backbones.backbone import BrokenBackbone
from poolservice_server.backbones.folder import BackboneFolder, BrokenFolder, read_folder
from poolservice_server.backbones.folder_files import backbones_in, backbones_instead_of, printable
from poolservice_server.backbones.installation import missing_packages
from poolservice_server.backbones.manifest import FILE_NAME
from poolservice_server.settings import Settings, SettingsError

_log = structlog.get_logger(__name__)


def read_folders(settings: Settings) -> tuple[list[BackboneFolder], list[BrokenBackbone]]:
    """Read and verify the folders of --backbone and --backbones.

    Returns:
        The folders, in the order of --backbone and then in the order of the names in --backbones; and, with
        --skip-broken-backbones, those that are missing or wrong.

    Raises:
        SettingsError: a folder is missing or wrong, two backbones have the same name, or a package is missing.
    """
    paths = [*(settings.backbone or ()), *_subfolders(settings.backbones)]
    if paths and (problem := missing_packages()):
        raise SettingsError(f"{problem} (--backbone, --backbones)")
    _check_each_is_named_once(paths)
    folders: list[BackboneFolder] = []
    broken: list[BrokenBackbone] = []
    for path in paths:
        try:
            folders.append(read_folder(path, allow_code_models=settings.allow_code_models))
        except BrokenFolder as error:
            # A subfolder of --backbones has a backbone.toml.
            meant = f"; did you mean --backbones {printable(path)}?" if backbones_instead_of(path) else ""
            if not settings.skip_broken_backbones:
                raise SettingsError(
                    f"{error}{meant} (--backbone, --backbones; --skip-broken-backbones starts the server "
                    "without the backbone)"
                ) from None
            _log.error("starting without a backbone", backbone=error.name, reason=f"{error}{meant}")
            broken.append(BrokenBackbone(error.name, error.reason))
    _check_names(folders)
    return folders, broken


def _subfolders(path: Path | None) -> list[Path]:
    """Return the subfolders that have a backbone.toml, sorted by name, without hidden ones."""
    if path is None:
        return []
    try:
        found = backbones_in(path)
    except OSError as error:
        raise SettingsError(f"cannot read --backbones {printable(path)}: {error.strerror}") from None
    if not found:
        own = f"; it has one itself, so use --backbone {printable(path)}" if (path / FILE_NAME).exists() else ""
        raise SettingsError(f"--backbones {printable(path)} has no subfolder with a {FILE_NAME}{own}")
    return found


def _check_each_is_named_once(paths: list[Path]) -> None:
    seen: dict[Path, Path] = {}
    for path in paths:
        resolved = Path(os.path.realpath(path))
        if resolved in seen:
            raise SettingsError(
                f"{printable(seen[resolved])} and {printable(path)} are the same folder; name it once (--backbone, "
                "--backbones)"
            )
        seen[resolved] = path


def _check_names(folders: list[BackboneFolder]) -> None:
    seen: dict[str, Path] = {}
    for folder in folders:
        name = folder.manifest.name
        if name in seen:
            raise SettingsError(
                f"the backbones in {printable(seen[name])} and {printable(folder.path)} are both named {name}; give "
                f"one of them another name in its {FILE_NAME} (--backbone, --backbones)"
            )
        seen[name] = folder.path

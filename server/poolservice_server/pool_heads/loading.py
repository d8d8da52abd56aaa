"""Loads the pool heads that the settings name: those of --heads, and those in the folders of the backbones."""

import os
from collections.abc import Iterator
from pathlib import Path

import structlog

from poolservice_server.backbones.folder_files import BrokenFile, backbones_in, printable, read_text_file
from poolservice_server.backbones.installation import missing_packages
from poolservice_server.backbones.manifest import FILE_NAME as BACKBONE_FILE_NAME
from poolservice_server.backbones.manifest_file import WrongManifest
from poolservice_server.backbones.manifest_file import parse_manifest as parse_backbone
from poolservice_server.backbones.manifest_values import is_name
from poolservice_server.pool_heads.folder import LARGEST_TEXT, read_head
from poolservice_server.pool_heads.head import BrokenHead, PoolHead, PoolHeads
from poolservice_server.pool_heads.manifest import FILE_NAME
from poolservice_server.settings import Settings, SettingsError

_log = structlog.get_logger(__name__)

#: The folder of the heads in a backbone's folder.
FOLDER_OF_BACKBONE = "heads"


def load_pool_heads(settings: Settings) -> PoolHeads:
    """Read and verify the folders of all heads. A broken head is reported, and does not stop the server.

    Raises:
        SettingsError: the folder of --heads cannot be read or has no heads, or a package is missing.
    """
    serving: dict[str, PoolHead] = {}
    broken: list[BrokenHead] = []
    for name, path in _folders(settings):
        try:
            if not is_name(path.name):
                raise BrokenFile(
                    "a head's folder must have a name of 1 to 64 letters, digits, dots, dashes, underscores"
                )
            if name in serving:
                raise BrokenFile("another head has this name")
            serving[name] = read_head(path, name)
        except BrokenFile as error:
            _log.error("starting without a pool head", head=name, reason=f"{printable(path)}: {error}")
            broken.append(BrokenHead(name, str(error)))
    return PoolHeads(serving, tuple(broken))


def _folders(settings: Settings) -> Iterator[tuple[str, Path]]:
    """Yield the name and the folder of each head."""
    if settings.heads is not None:
        if problem := missing_packages():
            raise SettingsError(f"heads need the packages of backbones: {problem} (--heads)")
        folders = _heads_in(settings.heads)
        if not folders:
            raise SettingsError(f"--heads {printable(settings.heads)} has no subfolder with a {FILE_NAME}")
        yield from ((printable(folder.name), folder) for folder in folders)
    of_folder = [] if settings.backbones is None else backbones_in(settings.backbones)
    for backbone in (*(settings.backbone or ()), *of_folder):
        path = backbone / FOLDER_OF_BACKBONE
        if path.is_dir():
            yield from ((f"{_name(backbone)}/{printable(folder.name)}", folder) for folder in _heads_in(path))


def _heads_in(path: Path) -> list[Path]:
    """Return the subfolders that have a head.toml, sorted by name, without hidden ones."""
    try:
        names = sorted(name for name in os.listdir(path) if not name.startswith("."))
        return [path / name for name in names if (path / name / FILE_NAME).exists()]
    except OSError as error:
        raise SettingsError(f"cannot read {printable(path)}: {error.strerror} (--heads)") from None


def _name(backbone: Path) -> str:
    """Return the name of a backbone, or that of its folder if it is broken, which is reported elsewhere."""
    try:
        return parse_backbone(read_text_file(backbone, BACKBONE_FILE_NAME, LARGEST_TEXT)).name
    except (BrokenFile, WrongManifest):
        return printable(backbone.absolute().name)

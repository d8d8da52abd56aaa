"""`poolservice-server backbone list`."""

from pathlib import Path
from typing import Annotated

import typer

from poolservice_server.backbones.command.table import print_table
from poolservice_server.backbones.folder import BackboneFolder, BrokenFolder, read_folder
from poolservice_server.backbones.folder_files import backbones_in
from poolservice_server.backbones.importing.errors import ImportFailed
from poolservice_server.backbones.installation import missing_packages
from poolservice_server.backbones.manifest import FILE_NAME, MODELS

_HEADINGS = ("name", "input", "outputs", "classes", "MB", "fingerprint", "state")


def list_(
    folder: Annotated[Path, typer.Argument(help="A folder with the folders of backbones, or one of these.")],
) -> None:
    """List the backbones in a folder, and verify the hashes of their files. Nothing is run."""
    if problem := missing_packages():
        raise ImportFailed(problem)
    rows: list[tuple[str, ...]] = []
    broken = False
    for path in _backbones_in(folder):
        try:
            rows.append(_row(read_folder(path, allow_code_models=True)))
        except BrokenFolder as error:
            broken = True
            rows.append((error.name, "", "", "", f"{_megabytes(path):.1f}", "", str(error)))
    print_table(_HEADINGS, rows)
    if broken:
        raise typer.Exit(1)


def _backbones_in(folder: Path) -> list[Path]:
    if (folder / FILE_NAME).exists():
        return [folder]
    if not folder.is_dir():
        raise ImportFailed(f"{folder}: there is no such folder")
    found = backbones_in(folder)
    if not found:
        raise ImportFailed(f"{folder}: has no subfolder with a {FILE_NAME}; make one with: backbone import")
    return found


def _row(backbone: BackboneFolder) -> tuple[str, ...]:
    manifest = backbone.manifest
    engines = [name for name in MODELS if getattr(manifest, name) is not None]
    return (
        manifest.name,
        f"{manifest.input.height}x{manifest.input.width} {manifest.input.color_mode}",
        ", ".join(f"{name} ({output.kind})" for name, output in manifest.outputs.items()),
        str(len(backbone.labels)),
        f"{_megabytes(backbone.path):.1f}",
        backbone.fingerprint,
        f"complete: {', '.join(engines)}",
    )


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6

"""Reads and changes the folder of a tiny backbone."""

import hashlib
from pathlib import Path

import pytest

from poolservice_server.backbones.folder import BackboneFolder, BrokenFolder, read_folder


def read(folder: Path) -> BackboneFolder:
    return read_folder(folder, allow_code_models=True)


def refusal(folder: Path, *, allow_code_models: bool = True) -> str:
    """Return the sentence about a folder, with FOLDER for its path."""
    with pytest.raises(BrokenFolder) as broken:
        read_folder(folder, allow_code_models=allow_code_models)
    return str(broken.value).replace(str(folder), "FOLDER")


def edit(folder: Path, old: str, new: str) -> None:
    """Replace a text in backbone.toml."""
    manifest = folder / "backbone.toml"
    content = manifest.read_text()
    assert old in content
    manifest.write_text(content.replace(old, new))


def replace_file(folder: Path, name: str, content: bytes) -> None:
    """Replace a file, and its hash in backbone.toml."""
    old = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / name).write_bytes(content)
    edit(folder, old, hashlib.sha256(content).hexdigest())

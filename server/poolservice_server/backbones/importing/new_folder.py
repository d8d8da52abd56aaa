"""Writes a backbone's folder: all of it, or nothing."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from safetensors.numpy import save as safetensors_bytes

from poolservice_server.backbones.folder import BrokenFolder, read_folder
from poolservice_server.backbones.importing.errors import ImportFailed
from poolservice_server.backbones.importing.toml_text import toml_text
from poolservice_server.backbones.manifest import FILE_NAME, Manifest
from poolservice_server.backbones.manifest_file import explain


class NewFolder:
    """A backbone's folder that is being written.

    Attributes:
        path: where it is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, name: str, contents: bytes) -> dict[str, str]:
        """Write a file; return its entry in `backbone.toml`."""
        (self.path / name).write_bytes(contents)
        return {"file": name, "sha256": hashlib.sha256(contents).hexdigest()}

    def add_tensors(self, name: str, tensors: dict[str, np.ndarray]) -> dict[str, str]:
        """Write a safetensors file; return its entry in `backbone.toml`."""
        # Unlike ascontiguousarray, this leaves scalars without a dimension.
        return self.add(name, safetensors_bytes({key: np.asarray(value, order="C") for key, value in tensors.items()}))

    def add_manifest(self, contents: dict[str, Any]) -> None:
        """Write `backbone.toml` when all other files are written, and read the folder as the server does.

        Raises:
            ImportFailed: a value that the user gave is wrong, such as the name.
        """
        try:
            manifest = Manifest.model_validate(contents)
        except ValidationError as error:
            raise ImportFailed(explain(error)) from None
        complete = manifest.model_dump(mode="json", by_alias=True, exclude_none=True)
        complete["outputs"] = manifest.model_dump(mode="json", exclude_defaults=True)["outputs"]
        (self.path / FILE_NAME).write_text(toml_text(_without_empty(complete)), encoding="utf-8")
        try:
            read_folder(self.path, allow_code_models=False)
        except BrokenFolder as error:
            raise ImportFailed(f"the server would refuse the new folder: {error.reason}") from None


def _without_empty(table: dict[str, Any]) -> dict[str, Any]:
    """Return a table without its empty lists and tables, which say nothing, at any depth."""
    filled = {key: _without_empty(value) if isinstance(value, dict) else value for key, value in table.items()}
    return {key: value for key, value in filled.items() if value not in ([], {})}


@contextmanager
def new_folder(target: Path) -> Iterator[NewFolder]:
    """Yield a folder beside `target` that gets its name if the block succeeds, and is removed if it fails.

    Raises:
        ImportFailed: `target` exists and is not an empty folder, or cannot be written.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ImportFailed(f"{target} exists; name a new folder, or remove it first")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # The server skips hidden folders, so it never reads one that a killed import leaves.
        unfinished = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise ImportFailed(f"{target} cannot be written: {error.strerror}") from None
    try:
        yield NewFolder(unfinished)
        # mkdtemp makes a folder for its owner only; a server often runs as another user.
        unfinished.chmod(0o755)
        unfinished.rename(target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)

"""A backbone's folder: `backbone.toml` and the files that it names, read and verified."""

import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from poolservice_server.backbones.counted import counted
from poolservice_server.backbones.fingerprint import fingerprint
from poolservice_server.backbones.folder_files import (
    BrokenFile,
    printable,
    read_text_file,
    read_verified,
    verify,
)
from poolservice_server.backbones.installation import missing_packages
from poolservice_server.backbones.linear import Linear, WrongTensors, read_linear
from poolservice_server.backbones.manifest import FILE_NAME, File, Head, Manifest
from poolservice_server.backbones.manifest_file import WrongManifest, parse_manifest
from poolservice_server.backbones.manifest_values import is_name

_LARGEST_TEXT = 2**20
_LONGEST_LABEL = 500


class BrokenFolder(Exception):
    """A backbone's folder cannot be used. The message is for the operator, with the folder's path.

    Attributes:
        reason: the same for callers, who need not know where the folder is.
        name: the name of the backbone, or of its folder if `backbone.toml` cannot be read.
    """

    def __init__(self, message: str, reason: str, name: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.name = name


@dataclass(frozen=True, slots=True)
class BackboneFolder:
    """A backbone's folder, all of whose files are complete.

    Attributes:
        path: the folder.
        manifest: the contents of backbone.toml.
        fingerprint: 32 hexadecimal digits of a hash of everything that changes features: the model's hashes, its input,
            preprocessing, outputs and projections.
        labels: the names of the classes; numbers if the head has no labels; empty without a head.
        head: the classification head, (K, C); None without one.
        projections: the projections by name, (D, C). PCA whitening is a linear map, too.
    """

    path: Path
    manifest: Manifest
    fingerprint: str
    labels: tuple[str, ...]
    head: Linear | None
    projections: Mapping[str, Linear]

    def read(self, file: File) -> bytes:
        """Return the content of a file of the manifest, which has the hash in the manifest.

        An engine must load these bytes. If it opened the file itself, it could load other bytes than those whose hash
        was compared, because files can change in between.

        Raises:
            BrokenFolder: the file has changed since the folder was read.
        """
        try:
            return read_verified(self.path, file)
        except BrokenFile as error:
            raise BrokenFolder(f"{printable(self.path)}/{error}", str(error), self.manifest.name) from None


def read_folder(path: Path, *, allow_code_models: bool) -> BackboneFolder:
    """Read a backbone's folder and compare each file with its hash.

    Args:
        path: the folder.
        allow_code_models: whether the model may be one that can run any code.

    Raises:
        BrokenFolder: the folder or one of its files is missing or wrong, or a package is missing.
    """
    _check_folder(path)
    name = _folder_name(path)
    try:
        content = read_text_file(path, FILE_NAME, _LARGEST_TEXT)
        try:
            manifest = parse_manifest(content)
        except WrongManifest as error:
            name = str(error.name) if is_name(error.name) else name
            raise BrokenFile(f"{FILE_NAME}: {error}") from None
        name = manifest.name
        if not allow_code_models:
            _check_code(manifest)
        head, projections = _verified_files(path, manifest)
        labels = _labels(path, manifest.head, len(head.bias)) if manifest.head and head else ()
        return BackboneFolder(path, manifest, fingerprint(manifest), labels, head, projections)
    except BrokenFile as error:
        raise BrokenFolder(f"{printable(path)}/{error}", str(error), name) from None


def _folder_name(path: Path) -> str:
    return printable(path.absolute().name)


def _check_folder(path: Path) -> None:
    shown, name = printable(path), _folder_name(path)
    if problem := missing_packages():
        raise BrokenFolder(problem, problem, name)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise BrokenFolder(f"there is no folder {shown}", "the folder is missing", name) from None
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
        raise BrokenFolder(f"{shown} {reason}", f"the folder {reason}", name) from None
    if not stat.S_ISDIR(mode):
        reason = f"is not a folder; name the folder that has a {FILE_NAME} and the model"
        raise BrokenFolder(f"{shown} {reason}", f"it {reason}", name)


def _check_code(manifest: Manifest) -> None:
    """Refuse models that can run any code."""
    reason = ""
    if manifest.program:
        reason = "a program of torch.export, which runs any code in it when it is loaded"
    elif manifest.torch and manifest.torch.can_run_code:
        reason = f"the code {manifest.torch.architecture}"
    if reason:
        raise BrokenFile(
            f"{FILE_NAME} names {reason}; allow this with --allow-code-models, but only if you trust "
            "the folder like the server's own code"
        )


def _verified_files(path: Path, manifest: Manifest) -> tuple[Linear | None, dict[str, Linear]]:
    """Compare all files with their hashes; return the head and the projections."""
    for _, file in manifest.model_files():
        verify(path, file)
    head = _linear(path, manifest.head, "linear") if manifest.head else None
    return head, {name: _linear(path, file, file.kind) for name, file in manifest.projections.items()}


def _linear(path: Path, file: File, kind: Literal["linear", "pca_whitening"]) -> Linear:
    try:
        return read_linear(read_verified(path, file), kind)
    except WrongTensors as error:
        raise BrokenFile(f"{file.file} {error}") from None


def _labels(path: Path, head: Head, classes: int) -> tuple[str, ...]:
    """Return the name of each class: the lines of the file with labels, or numbers without one."""
    if head.labels is None:
        return tuple(map(str, range(classes)))
    try:
        lines = read_text_file(path, head.labels, _LARGEST_TEXT).decode("utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise BrokenFile(f"{head.labels} must be UTF-8 text") from None
    labels = [line.strip() for line in lines]
    while labels and not labels[-1]:
        del labels[-1]
    for number, label in enumerate(labels, 1):
        if not 0 < len(label) <= _LONGEST_LABEL or not label.isprintable():
            raise BrokenFile(
                f"{head.labels} must have a name of 1 to {_LONGEST_LABEL} printable characters on each line; "
                f"line {number} has none"
            )
    if len(labels) != classes:
        raise BrokenFile(
            f"{head.labels} must have {counted(classes, 'line')}, one for each class of {head.file}; "
            f"it has {len(labels)}"
        )
    return tuple(labels)

"""The files that `poolservice pool -o` writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from poolservice_client._cli import dependencies
from poolservice_client._cli.exit_errors import UsageError, naming
from poolservice_client._cli.message_text import join_or
from poolservice_client._cli.operator_parser import Operator, array_names
from poolservice_client._cli.result_summary import Result

_SUFFIXES = (".png", ".npy", ".npz")
_FIGURE_SUFFIXES = (".png", ".pdf", ".svg")


@dataclass(frozen=True)
class OutputFile:
    """The file or files that hold the results; an existing file is replaced.

    .png  an image; several results become one file each: out.png becomes out-1-max2d.png, out-2-gap2d.png
    .npy  the array of one result
    .npz  the arrays of all results by their operators' names, indices as max2d_indices
    """

    path: Path

    @classmethod
    def of(cls, path: Path, operators: Sequence[Operator]) -> "OutputFile":
        """Return the output file `path`, after checking that it can hold the operators' results.

        Raises:
            UsageError: the suffix is not supported or cannot hold these results, or the folder does not exist.
        """
        if path.suffix.lower() not in _SUFFIXES:
            raise UsageError(f"-o {path}: the file's name must end in {join_or(_SUFFIXES)}")
        check_folder(f"-o {path}", path)
        output = cls(path)
        if output.suffix != ".npz" and any(op.returns_indices for op in operators):
            raise UsageError(f"-o {path}: values and indices need two arrays; write to an .npz file")
        if output.suffix == ".png" and (wrong := next((op for op in operators if op.spatial_dims != 2), None)):
            raise UsageError(f"-o {path}: {wrong.name} does not return an image; write to an .npy or .npz file")
        if output.suffix == ".npy" and len(operators) > 1:
            raise UsageError(f"-o {path}: {len(operators)} results do not fit one array; write to an .npz file")
        return output

    @property
    def suffix(self) -> str:
        """The suffix of the file's name, in lower case."""
        return self.path.suffix.lower()

    def write(self, results: Sequence[Result]) -> list[Path]:
        """Write the files and return the path that holds each result.

        Raises:
            OSError: a file cannot be written; it names the file.
        """
        if self.suffix == ".png":
            return [self._write_png(number, result, len(results)) for number, result in enumerate(results, 1)]
        # numpy would append a second suffix to a name that ends in .NPY, so the file is opened here.
        with naming(self.path), self.path.open("wb") as file:
            if self.suffix == ".npy":
                np.save(file, results[0].values)
            else:
                np.savez(file, **_arrays(results))
        return [self.path] * len(results)

    def _write_png(self, number: int, result: Result, count: int) -> Path:
        if result.image is None:
            raise TypeError(f"the result of {result.operator.name} is not an image")
        path = self.path
        if count > 1:
            path = path.with_name(f"{path.stem}-{number}-{result.operator.name}{path.suffix}")
        with naming(path):
            result.image.save(path, format="PNG")
        return path


def check_folder(option: str, path: Path) -> None:
    """Check that the folder of `path` exists, before any work is done.

    Raises:
        UsageError: the folder does not exist; the message names `option`.
    """
    if not path.parent.is_dir():
        raise UsageError(f"{option}: there is no folder {path.parent}")


def check_figure(option: str, path: Path) -> None:
    """Check that a figure can be drawn, before any request is sent.

    Raises:
        UsageError: the suffix is not supported, or the folder does not exist; the message names `option`.
        CommandError: matplotlib is not installed.
    """
    if path.suffix.lower() not in _FIGURE_SUFFIXES:
        raise UsageError(f"{option} {path}: the file's name must end in {join_or(_FIGURE_SUFFIXES)}")
    check_folder(f"{option} {path}", path)
    dependencies.require(option, "matplotlib.figure")


def _arrays(results: Sequence[Result]) -> dict[str, Any]:
    """Return every array by its name."""
    arrays: dict[str, Any] = {}
    for result, name in zip(results, array_names([result.operator for result in results]), strict=True):
        arrays[name] = result.values
        if result.indices is not None:
            arrays[f"{name}_indices"] = result.indices
    return arrays

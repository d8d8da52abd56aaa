"""What came back: what is said of it, and the files that it goes to."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from poolservice_client._cli.errors import Usage
from poolservice_client._cli.operators import Operator

if TYPE_CHECKING:
    from PIL import Image

# So many values are shown themselves; of more, the range and the mean.
_FEW_TO_READ = 16
_FEW_TO_PARSE = 1024
_SUFFIXES = (".png", ".npy", ".npz")


class Answer(NamedTuple):
    """One operator's result: the array, its indices where they were asked for, and the picture where that was."""

    operator: Operator
    values: NDArray[Any]
    indices: NDArray[Any] | None
    picture: "Image.Image | None"

    @property
    def shape(self) -> tuple[int, ...]:
        """The result's shape."""
        return self.values.shape

    def in_words(self) -> str:
        """The values themselves where they are few, else their range and mean."""
        if self.values.size <= _FEW_TO_READ:
            return " ".join(f"{value:.6g}" for value in self.values.astype(np.float64).ravel())
        low, mean, high = self._statistics()
        return f"min {low:.6g}, mean {mean:.6g}, max {high:.6g}"

    def as_json(self) -> dict[str, Any]:
        """The same for a program; few values are given flat, in row-major order."""
        low, mean, high = self._statistics()
        said: dict[str, Any] = {
            "operator": self.operator.name,
            "spec": repr(self.operator.spec),
            "shape": list(self.shape),
            "dtype": self.values.dtype.name,
            "min": _number(low),
            "mean": _number(mean),
            "max": _number(high),
        }
        if self.values.size <= _FEW_TO_PARSE:
            said["values"] = [_number(value) for value in self.values.ravel().tolist()]
            if self.indices is not None:
                said["indices"] = self.indices.ravel().tolist()
        return said

    def _statistics(self) -> tuple[float, float, float]:
        if not self.values.size:
            return math.nan, math.nan, math.nan
        wide = self.values.astype(np.float64)
        return float(wide.min()), float(wide.mean()), float(wide.max())


@dataclass(frozen=True)
class Destination:
    """The file or files that results go to; one that is there is replaced.

    .png  a picture; of several results, one file each: out.png becomes out-1-max2d.png, out-2-gap2d.png
    .npy  the array of one result
    .npz  the arrays of all results by their operators' names, indices as max2d_indices
    """

    path: Path

    @classmethod
    def of(cls, path: Path, operators: Sequence[Operator]) -> "Destination":
        """The destination `path`, known to fit what `operators` give before any of them is run.

        Raises:
            Usage: the suffix is none that is written, or does not hold these results, or there is no such folder.
        """
        if path.suffix.lower() not in _SUFFIXES:
            raise Usage(f"-o {path}: the file's name must end in {in_words(_SUFFIXES)}")
        check_folder(f"-o {path}", path)
        destination = cls(path)
        if destination.suffix != ".npz" and any(getattr(op.spec, "return_indices", False) for op in operators):
            raise Usage(f"-o {path}: values and indices need two arrays; write to an .npz file")
        if destination.suffix == ".npy" and len(operators) > 1:
            raise Usage(f"-o {path}: {len(operators)} results do not fit one array; write to an .npz file")
        return destination

    @property
    def suffix(self) -> str:
        """Of the file's name, in lower case."""
        return self.path.suffix.lower()

    def write(self, answers: Sequence[Answer]) -> list[Path]:
        """Writes the files and says, for each answer, which one it went to.

        Raises:
            OSError: one of them cannot be written.
        """
        if self.suffix == ".png":
            return [self._picture(number, answer, len(answers)) for number, answer in enumerate(answers, 1)]
        # Opened here, since numpy adds a second suffix to a name that ends in .NPY.
        with self.path.open("wb") as file:
            if self.suffix == ".npy":
                np.save(file, answers[0].values)
            else:
                np.savez(file, **_arrays(answers))
        return [self.path] * len(answers)

    def _picture(self, number: int, answer: Answer, count: int) -> Path:
        if answer.picture is None:
            raise TypeError(f"{answer.operator.name} was not asked for as a picture")
        path = self.path
        if count > 1:
            path = path.with_name(f"{path.stem}-{number}-{answer.operator.name}{path.suffix}")
        answer.picture.save(path, format="PNG")
        return path


def in_words(choices: Sequence[str]) -> str:
    """Several things to choose from: "a, b or c"."""
    return f"{', '.join(choices[:-1])} or {choices[-1]}"


def check_folder(option: str, path: Path) -> None:
    """See that there is a folder to write `path` into, before anything is done.

    Raises:
        Usage: there is none; `option` is how the path was given.
    """
    if not path.parent.is_dir():
        raise Usage(f"{option}: there is no folder {path.parent}")


def _arrays(answers: Sequence[Answer]) -> dict[str, Any]:
    """Every array by a name of its own: the second max2d is max2d_2."""
    named: dict[str, Any] = {}
    for answer in answers:
        name, again = answer.operator.name, 1
        while name in named:
            again += 1
            name = f"{answer.operator.name}_{again}"
        named[name] = answer.values
        if answer.indices is not None:
            named[f"{name}_indices"] = answer.indices
    return named


def _number(value: float) -> float | str:
    """As protobuf's JSON has it, since JSON itself has no such numbers."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"

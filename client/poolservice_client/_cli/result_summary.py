"""One operator's result, and its summary for people and for programs."""

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from poolservice_client._cli.operator_parser import Operator

if TYPE_CHECKING:
    from PIL import Image

# Up to this many values are printed themselves; of more, the range and the mean.
_MAX_PRINTED_VALUES = 16
_MAX_JSON_VALUES = 1024


#: The commands' note about an image that a 1-D operator pools.
ROWS_NOTE = "each row of an image is pooled by itself, as a 1-D signal"


class Result(NamedTuple):
    """One operator's result.

    Attributes:
        operator: the operator.
        values: the pooled array.
        indices: the positions of the maxima; None if they were not requested.
        image: the pooled image; None if a tensor was requested.
    """

    operator: Operator
    values: NDArray[Any]
    indices: NDArray[Any] | None
    image: "Image.Image | None"

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the values."""
        return self.values.shape

    def summaries(self) -> list[tuple[str, str, str]]:
        """Return a name, the type and a summary for the values, and for the indices if there are any."""
        arrays = [(self.operator.layer, self.values)]
        if self.indices is not None:
            arrays.append(("  indices", self.indices))
        return [(name, f"{array.shape} {array.dtype.name}", _summary(array)) for name, array in arrays]

    def as_json(self) -> dict[str, Any]:
        """Return the summary for a program; up to 1024 values are included, flat and in row-major order."""
        low, mean, high = _statistics(self.values)
        summary: dict[str, Any] = {
            "operator": self.operator.name,
            "spec": self.operator.layer,
            "shape": list(self.shape),
            "dtype": self.values.dtype.name,
            "min": _json_number(low),
            "mean": _json_number(mean),
            "max": _json_number(high),
        }
        if self.values.size <= _MAX_JSON_VALUES:
            summary["values"] = [_json_number(value) for value in self.values.ravel().tolist()]
            if self.indices is not None:
                summary["indices"] = self.indices.ravel().tolist()
        if self.indices is not None:
            for name, value in zip(("min", "mean", "max"), _statistics(self.indices), strict=True):
                summary[f"indices_{name}"] = _json_number(value)
        return summary


def _summary(array: NDArray[Any]) -> str:
    """Return the elements if they are few, else their range and mean."""
    if array.size <= _MAX_PRINTED_VALUES:
        return " ".join(f"{value:.6g}" for value in array.astype(np.float64).ravel())
    low, mean, high = _statistics(array)
    return f"min {low:.6g}, mean {mean:.6g}, max {high:.6g}"


def _statistics(array: NDArray[Any]) -> tuple[float, float, float]:
    """Return the minimum, mean and maximum; NaN for an empty array."""
    if not array.size:
        return math.nan, math.nan, math.nan
    values = array.astype(np.float64)
    return float(values.min()), float(values.mean()), float(values.max())


def _json_number(value: float) -> float | str:
    """Return NaN and infinities as text, as protobuf's JSON format does; JSON has no such numbers."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"

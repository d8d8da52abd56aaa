"""SCDA2d: the mean and the maximum of each channel over the largest connected region of high activation."""

from dataclasses import dataclass
from typing import ClassVar

from poolservice.errors import InvalidRequest
from poolservice.specs.base import SampleSpec
from poolservice.specs.result_types import Values


@dataclass(frozen=True, repr=False)
class SCDA2d(SampleSpec[Values]):
    """Mean and maximum of each channel over the largest region of high activation (Wei et al., 2017).

    The sum over the channels gives one value per position. Positions above the mean of these values are selected, and
    of those the largest connected component S is kept. out = v / |v|, where v is the mean of each channel over S,
    followed by its maximum over S, and |v| is the Euclidean norm.

    Of components of the same size, the one with the first position counts, column by column, as in the authors' code.
    If no position is above the mean, S is the whole plane. A zero vector stays zero.

    Shape: (C, H, W) or (N, C, H, W) to (2 C,) or (N, 2 C).

    Range: a sum beyond the range of the dtype that it is computed in, float64 for float64 and else float32, gives NaN
    in the whole vector. Floating-point input keeps its dtype; integer input gives float32.

    NaN: a NaN gives NaN in the whole vector of its sample. So does an infinity.

    Args:
        connectivity: the number of neighbors to which a position is connected: 8, with the diagonal ones, or 4.
            Default: 8.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: Wei, Luo, Wu and Zhou, "Selective Convolutional Descriptor Aggregation for Fine-Grained Image Retrieval",
    2017.
    """

    operator: ClassVar[str] = "scda"
    spatial_dims = 2
    connectivity: int = 8

    def __post_init__(self) -> None:
        self._set_integer("connectivity", 4, 8)
        if self.connectivity not in (4, 8):
            raise InvalidRequest(f"must be 4 or 8; got {self.connectivity}", field="connectivity")

    def sample_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return (2 C,)."""
        return (2 * shape[0],)

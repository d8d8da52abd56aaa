"""WaveletPool1d, WaveletPool2d and WaveletPool3d: the approximation of a Haar wavelet transform."""

from dataclasses import dataclass
from typing import ClassVar

from poolservice.errors import InvalidRequest
from poolservice.specs.base import SampleSpec
from poolservice.specs.result_types import Values

#: How the values of a transform are scaled.
NORMS = ("ortho", "mean")

_MAX_LEVELS = 31


@dataclass(frozen=True, repr=False)
class _WaveletPool(SampleSpec[Values]):
    """Approximation (LL) of a Haar wavelet transform of one or several levels (Williams and Li, 2018).

    A level is out(i) = (x(2i) + x(2i + 1)) / sqrt(2) along each dimension. In 2-D, each value of a level is half the
    sum of four values. A plane of odd size is extended by its last value, as by PyWavelets in its mode "symmetric". The
    result is the approximation of the last level: that of ``pywt.wavedecn(x, "haar", level=levels)``. The pooling of
    the paper decomposes two levels and reconstructs the first from the second, which gives the approximation of the
    first one: levels=1.

    With norm="mean", each level averages: ``(x(2i) + x(2i + 1)) / 2``. The values then stay in the range of the input.
    With "ortho" they grow by a factor of sqrt(2) per level and dimension.

    Shape: (C, *) or (N, C, *) to the same with each dimension of size L in * replaced by ceil(L / 2^levels).

    Range: a sum beyond the range of the dtype that it is computed in, float64 for float64 and else float32, becomes
    infinite or NaN. Floating-point input keeps its dtype; integer input gives float32.

    NaN: a NaN gives NaN where it has a weight. An infinity gives the same infinity, and infinities of both signs give
    NaN.

    Args:
        levels: number of levels, 1 to 31. The last one must find more than one value in each dimension. Default: 1.
        norm: "ortho" for the orthonormal transform, or "mean". Default: "ortho".

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: Williams and Li, "Wavelet Pooling for Convolutional Neural Networks", 2018.
    """

    operator: ClassVar[str] = "wavelet_pool"
    levels: int = 1
    norm: str = "ortho"

    def __post_init__(self) -> None:
        self._set_integer("levels", 1, _MAX_LEVELS)
        self._set_choice("norm", NORMS)

    def sample_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return (C, *out)."""
        most = (min(shape[1:]) - 1).bit_length()
        if self.levels > most:
            raise InvalidRequest(
                f"must be at most {most} for a dimension of {min(shape[1:])}, because a level needs two values; "
                f"got {self.levels}",
                field="levels",
            )
        return (shape[0], *(-(-size // 2**self.levels) for size in shape[1:]))


class WaveletPool1d(_WaveletPool):
    """Approximation of a Haar wavelet transform, over one dimension."""

    spatial_dims = 1


class WaveletPool2d(_WaveletPool):
    """Approximation of a Haar wavelet transform, over two dimensions."""

    spatial_dims = 2


class WaveletPool3d(_WaveletPool):
    """Approximation of a Haar wavelet transform, over three dimensions."""

    spatial_dims = 3

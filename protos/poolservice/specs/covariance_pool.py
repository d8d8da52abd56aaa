"""CovariancePool1d, CovariancePool2d and CovariancePool3d: the square root of the channels' covariances."""

from dataclasses import dataclass
from typing import ClassVar

from poolservice.specs.base import SampleSpec
from poolservice.specs.result_types import Values

_MAX_ITERATIONS = 30


@dataclass(frozen=True, repr=False)
class _CovariancePool(SampleSpec[Values]):
    """Matrix square root of the channels' covariances, by Newton-Schulz iterations (iSQRT-COV, Li et al., 2018).

    The M positions give M vectors of C values, with the mean m and the covariance matrix
    S = 1 / M * sum of (x - m) * (x - m)^T. From A = S / trace(S), Y = A and Z = identity, each iteration computes::

        T = (3 * identity - Z * Y) / 2
        Y = Y * T
        Z = T * Z

    so that Y converges to the square root of A. out = the upper triangle of sqrt(trace(S)) * Y, row by row with the
    diagonal, as a vector. Large eigenvalues converge first: one of l times the trace takes about
    log(1 / sqrt(l)) / log(1.5) iterations. More iterations than 8 are computed in float64, because they amplify the
    rounding errors of eigenvalues near 0.

    If all covariances are 0, so is the result. The work grows with C^3.

    Shape: (C, *) or (N, C, *) to (D,) or (N, D), where D = C * (C + 1) / 2.

    Range: the squares of the values and their sums must be in the range of float32, or for float64 of that dtype; else
    the result is infinite or NaN. Rounding errors are relative to the largest values of the result, or to the mean of a
    channel whose values are nearly equal: it is rounded before it is subtracted. Floating-point input keeps its dtype;
    integer input gives float32.

    NaN: a NaN gives NaN in the whole vector of its sample, and with iterations=0 in the covariances of its channel. So
    does an infinity.

    Args:
        iterations: number of iterations, 0 to 30. 0 gives the covariances themselves. Default: 5.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: Li, Xie, Wang and Gao, "Towards Faster Training of Global Covariance Pooling Networks by Iterative Matrix
    Square Root Normalization", 2018.
    """

    operator: ClassVar[str] = "covariance_pool"
    iterations: int = 5

    def __post_init__(self) -> None:
        self._set_integer("iterations", 0, _MAX_ITERATIONS)

    def sample_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return (D,)."""
        return (shape[0] * (shape[0] + 1) // 2,)


class CovariancePool1d(_CovariancePool):
    """Square root of the channels' covariances, over one dimension."""

    spatial_dims = 1


class CovariancePool2d(_CovariancePool):
    """Square root of the channels' covariances, over two dimensions."""

    spatial_dims = 2


class CovariancePool3d(_CovariancePool):
    """Square root of the channels' covariances, over three dimensions."""

    spatial_dims = 3

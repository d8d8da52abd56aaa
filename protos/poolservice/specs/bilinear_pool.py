"""BilinearPool1d, 2d, 3d and CompactBilinearPool1d, 2d, 3d: the products of all pairs of channels."""

from dataclasses import dataclass
from typing import ClassVar

from poolservice.specs.base import SampleSpec
from poolservice.specs.result_types import Values

_MAX_OUTPUT_DIM = 2**20


@dataclass(frozen=True, repr=False)
class _BilinearPool(SampleSpec[Values]):
    """Sum of the outer products of all positions' channels with themselves (Lin, RoyChowdhury and Maji, 2015).

    B(c, d) = sum of x(c, p) * x(d, p) over all positions p. The result is B, row by row, as a vector. Each value v
    becomes sign(v) * sqrt(abs(v)), and the vector is then divided by its Euclidean norm. A vector of zeros stays as it
    is. Published programs add a small constant below the square root, for the sake of its gradient, and some average
    over the positions, which makes no difference to the normalized vector.

    Shape: (C, *) or (N, C, *) to (C * C,) or (N, C * C).

    Range: the products are added in float64. On a CPU, float32 may add parts of them if no value of the sample is
    negative, because no digits cancel then. Without `l2_normalize`, a sum beyond the range of the result's dtype
    becomes infinite. For float64, the sums and their squares must be in its range. Floating-point input keeps its
    dtype; integer input gives float32.

    NaN: a NaN gives NaN in the row and the column of its channel, and with `l2_normalize` in the whole vector. An
    infinity gives infinities there; with `l2_normalize` NaN, and 0 elsewhere. Either can change the rounding of the
    sample's other results.

    Args:
        signed_sqrt: replace each value v by sign(v) * sqrt(abs(v)). Default: True.
        l2_normalize: then divide the vector by its Euclidean norm. Default: True.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: Lin, RoyChowdhury and Maji, "Bilinear CNN Models for Fine-grained Visual Recognition", 2015.
    """

    operator: ClassVar[str] = "bilinear_pool"
    signed_sqrt: bool = True
    l2_normalize: bool = True

    def __post_init__(self) -> None:
        self._set_flag("signed_sqrt")
        self._set_flag("l2_normalize")

    def sample_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return (C * C,)."""
        return (shape[0] ** 2,)


class BilinearPool1d(_BilinearPool):
    """Sum of the outer products of all positions' channels with themselves, over one dimension."""

    spatial_dims = 1


class BilinearPool2d(_BilinearPool):
    """Sum of the outer products of all positions' channels with themselves, over two dimensions."""

    spatial_dims = 2


class BilinearPool3d(_BilinearPool):
    """Sum of the outer products of all positions' channels with themselves, over three dimensions."""

    spatial_dims = 3


@dataclass(frozen=True, repr=False)
class _CompactBilinearPool(SampleSpec[Values]):
    """Random projection of bilinear pooling by a Tensor Sketch (Gao, Beijbom, Zhang and Darrell, 2016).

    Hashes give each channel c two places h1(c), h2(c) from 0 to output_dim - 1, and two signs s1(c), s2(c). Then::

        out(k) = sum of s1(c) * s2(d) * B(c, d) over all c, d with (h1(c) + h2(d)) mod output_dim = k

    where B(c, d) = sum of x(c, p) * x(d, p) over all positions p. It equals the circular convolution of the count
    sketches of each position's channels, summed over the positions. Then `signed_sqrt` and `l2_normalize` follow as for
    BilinearPool. The hashes depend on `seed` and the channel alone, so that every sample has the same projection, in
    every batch and on every device. The scalar product of two results without `signed_sqrt` and `l2_normalize`
    estimates that of the matrices B. The work grows with C^2.

    Shape: (C, *) or (N, C, *) to (output_dim,) or (N, output_dim).

    Range: the products are added in float64. Without `l2_normalize`, a sum beyond the range of the result's dtype
    becomes infinite. For float64, the sums and their squares must be in its range. Floating-point input keeps its
    dtype; integer input gives float32.

    NaN: a NaN gives NaN in the values of which its channel is a part, and with `l2_normalize` in the whole vector. An
    infinity gives infinities or NaN there; with `l2_normalize` NaN, and 0 elsewhere.

    Args:
        output_dim: length of the vector, 1 to 2^20. Default: 8192.
        seed: determines the projection, 0 to 2^63 - 1. Default: 0.
        signed_sqrt: replace each value v by sign(v) * sqrt(abs(v)). Default: True.
        l2_normalize: then divide the vector by its Euclidean norm. Default: True.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: Gao, Beijbom, Zhang and Darrell, "Compact Bilinear Pooling", 2016.
    """

    operator: ClassVar[str] = "compact_bilinear_pool"
    output_dim: int = 8192
    seed: int = 0
    signed_sqrt: bool = True
    l2_normalize: bool = True

    def __post_init__(self) -> None:
        self._set_integer("output_dim", 1, _MAX_OUTPUT_DIM)
        self._set_seed()
        self._set_flag("signed_sqrt")
        self._set_flag("l2_normalize")

    def sample_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return (output_dim,)."""
        return (self.output_dim,)


class CompactBilinearPool1d(_CompactBilinearPool):
    """Random projection of bilinear pooling, over one dimension."""

    spatial_dims = 1


class CompactBilinearPool2d(_CompactBilinearPool):
    """Random projection of bilinear pooling, over two dimensions."""

    spatial_dims = 2


class CompactBilinearPool3d(_CompactBilinearPool):
    """Random projection of bilinear pooling, over three dimensions."""

    spatial_dims = 3

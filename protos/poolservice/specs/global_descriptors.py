"""MAC, SPoC and CroW: a maximum or a sum of each channel, as one unit vector."""

from dataclasses import dataclass
from typing import ClassVar

from poolservice.errors import InvalidRequest
from poolservice.specs.base import SampleSpec
from poolservice.specs.result_types import Values
from poolservice.specs.validation import real, shown_number


class _ChannelDescriptor(SampleSpec[Values]):
    """A spec that reduces a sample to a vector of one value per channel."""

    def sample_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return (C,)."""
        return shape[:1]


@dataclass(frozen=True, repr=False)
class _MAC(_ChannelDescriptor):
    """Maximum of each channel, as a unit vector (Razavian et al., 2014).

    out = v / |v|, where v_c is the maximum of channel c and |v| the Euclidean norm. The largest value of v is divided
    out first. A zero vector stays zero.

    Shape: (C, *) or (N, C, *) to (C,) or (N, C).

    Range: nothing overflows. Floating-point input keeps its dtype; integer input gives float32.

    NaN: a NaN gives NaN in the whole vector of its sample. So does an infinity among the maxima.

    Source: Razavian, Sullivan, Carlsson and Maki, "Visual Instance Retrieval with Deep Convolutional Networks", 2014;
    Tolias, Sicre and Jegou, "Particular object retrieval with integral max-pooling of CNN activations", 2016.
    """

    operator: ClassVar[str] = "mac"


class MAC1d(_MAC):
    """Maximum of each channel, as a unit vector, over one dimension."""

    spatial_dims = 1


class MAC2d(_MAC):
    """Maximum of each channel, as a unit vector, over two dimensions."""

    spatial_dims = 2


class MAC3d(_MAC):
    """Maximum of each channel, as a unit vector, over three dimensions."""

    spatial_dims = 3


@dataclass(frozen=True, repr=False)
class _SPoC(_ChannelDescriptor):
    """Sum of each channel, as a unit vector (Babenko and Lempitsky, 2015).

    out = v / |v|, where v_c is the sum of channel c and |v| the Euclidean norm. With `center_prior`, the value at a
    position at the distance d from the center of the plane counts exp(-d^2 / (2 sigma^2)) times, where sigma is a third
    of the distance from the center to the nearest edge: a sixth of the smallest spatial size. The center lies in the
    middle between the first and the last position. The PCA whitening that follows in the paper is not included.

    A zero vector stays zero.

    Shape: (C, *) or (N, C, *) to (C,) or (N, C).

    Range: a sum beyond the range of the dtype that it is computed in, float64 for float64 and else float32, gives NaN
    in the whole vector. Where values of both signs cancel, the direction is less precise: the rounding errors of v are
    relative to the sums of the magnitudes. Floating-point input keeps its dtype; integer input gives float32.

    NaN: a NaN gives NaN in the whole vector of its sample. So does an infinity.

    Args:
        center_prior: weight the positions with the Gaussian. Default: False.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: Babenko and Lempitsky, "Aggregating Deep Convolutional Features for Image Retrieval", 2015.
    """

    operator: ClassVar[str] = "spoc"
    center_prior: bool = False

    def __post_init__(self) -> None:
        self._set_flag("center_prior")


class SPoC1d(_SPoC):
    """Sum of each channel, as a unit vector, over one dimension."""

    spatial_dims = 1


class SPoC2d(_SPoC):
    """Sum of each channel, as a unit vector, over two dimensions."""

    spatial_dims = 2


class SPoC3d(_SPoC):
    """Sum of each channel, as a unit vector, over three dimensions."""

    spatial_dims = 3


@dataclass(frozen=True, repr=False)
class _CroW(_ChannelDescriptor):
    """Sum of each channel with weights of positions and channels, as a unit vector (Kalantidis et al., 2016).

    out = v / |v|, where v_c = b_c * sum of a_i * x_ci over the positions i, and |v| is the Euclidean norm. The weight
    of a position follows from S_i, the sum of x_ci over the channels::

        a_i = (S_i / (sum of S_j^alpha over all j)^(1 / alpha))^(1 / beta)

    The weight of a channel follows from Q_c, the fraction of its values other than 0:
    b_c = log(sum of Q_k over all k / Q_c), or 0 if Q_c is 0. These are the definitions of the authors' code. The PCA
    whitening that follows in the paper is not included.

    The definition is for values of 0 or more, such as the output of ReLU. A negative S_i gives NaN, unless the powers
    of it are defined. A zero vector stays zero.

    Shape: (C, *) or (N, C, *) to (C,) or (N, C).

    Range: the sums S_i must be in the range of float32, or for float64 of that dtype; else the vector is NaN.
    Floating-point input keeps its dtype; integer input gives float32.

    NaN: a NaN gives NaN in the whole vector of its sample. So does an infinity.

    Args:
        alpha: the power of the norm, above 0, at most 1000. It scales all weights of positions alike, so the Euclidean
            norm cancels it; the authors' code has it. Default: 2.
        beta: the root of the weights of the positions, above 0, at most 1000. Default: 2.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: Kalantidis, Mellina and Osindero, "Cross-dimensional Weighting for Aggregated Deep Convolutional Features",
    2016.
    """

    operator: ClassVar[str] = "crow"
    alpha: float = 2.0
    beta: float = 2.0

    def __post_init__(self) -> None:
        for name in ("alpha", "beta"):
            power = real(name, getattr(self, name))
            if not 0 < power <= 1000:
                raise InvalidRequest(f"must be above 0, and at most 1000; got {shown_number(power)}", field=name)
            self._set(name, power)


class CroW1d(_CroW):
    """Sum of each channel with weights of positions and channels, as a unit vector, over one dimension."""

    spatial_dims = 1


class CroW2d(_CroW):
    """Sum of each channel with weights of positions and channels, as a unit vector, over two dimensions."""

    spatial_dims = 2


class CroW3d(_CroW):
    """Sum of each channel with weights of positions and channels, as a unit vector, over three dimensions."""

    spatial_dims = 3

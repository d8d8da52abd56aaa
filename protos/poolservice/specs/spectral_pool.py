"""SpectralPool1d, SpectralPool2d and SpectralPool3d: the lowest frequencies of each plane."""

from dataclasses import dataclass
from typing import ClassVar, cast

from poolservice.errors import InvalidRequest
from poolservice.specs.base import OutputSize, SampleSpec
from poolservice.specs.result_types import Values
from poolservice.specs.wavelet_pool import NORMS


@dataclass(frozen=True, repr=False)
class _SpectralPool(SampleSpec[Values]):
    """Lowest frequencies of each plane: its Fourier transform, cropped to the output size (Rippel et al., 2015).

    In each dimension of L values that is pooled to S::

        X(f) = 1 / sqrt(L) * sum of x(n) * exp(-2 pi i f n / L) over n
        out(m) = 1 / sqrt(S) * sum of w(f) * X(f) * exp(2 pi i f m / S) over the integers f from -S/2 to S/2

    w(f) is 1, but 1/2 for f = S/2 and f = -S/2, which an even S has. They are the same frequency of the result, its
    Nyquist frequency, so that their terms add up to the real part of one of them: the result is real. f = 0, the
    constant part, is the center of the cropped spectrum. The paper makes an even spectrum symmetric in another way, by
    recovering one half of it from the other. For one dimension, and for odd sizes, both give the same result. With
    norm="mean", scipy.signal.resample gives it for odd sizes, too; for an even S, its w(S/2) and w(-S/2) are 1.

    Each value depends on the whole plane, as do rounding errors: they are relative to its largest values.

    Shape: (C, *) or (N, C, *) to the same with `output_size` in place of *.

    Range: a sum of the transform beyond the range of the dtype that it is computed in, float64 for float64 and else
    float32, becomes infinite or NaN. Floating-point input keeps its dtype; integer input gives float32.

    NaN: a NaN gives NaN in its plane, along the dimensions that shrink. An infinity gives infinities or NaN there.

    Args:
        output_size: output size in elements, 1 to the input's size: one int for all spatial dimensions, or one per
            dimension. None keeps the input's size. Required.
        norm: "ortho" for unitary transforms, as in the paper, which multiply the mean of the plane by sqrt(L / S) in
            each dimension; or "mean" to keep it, so that the result looks like the input. Default: "ortho".

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: Rippel, Snoek and Adams, "Spectral Representations for Convolutional Neural Networks", 2015.
    """

    operator: ClassVar[str] = "spectral_pool"
    output_size: OutputSize
    norm: str = "ortho"

    def __post_init__(self) -> None:
        self._set_sizes("output_size", minimum=1, allow_none=True)
        self._set_choice("norm", NORMS)

    def sample_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return (C, *output_size)."""
        wanted = cast(tuple[int | None, ...], self.output_size)
        for size, available in zip(wanted, shape[1:], strict=True):
            if size is not None and size > available:
                raise InvalidRequest(
                    f"must be at most the input's size, {available}, because only frequencies are left out; got {size}",
                    field="output_size",
                )
        return (shape[0], *(have if size is None else size for size, have in zip(wanted, shape[1:], strict=True)))


class SpectralPool1d(_SpectralPool):
    """Lowest frequencies of each plane, over one dimension."""

    spatial_dims = 1


class SpectralPool2d(_SpectralPool):
    """Lowest frequencies of each plane, over two dimensions."""

    spatial_dims = 2


class SpectralPool3d(_SpectralPool):
    """Lowest frequencies of each plane, over three dimensions."""

    spatial_dims = 3

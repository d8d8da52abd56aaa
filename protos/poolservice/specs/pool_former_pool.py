"""PoolFormerPool1d, 2d and 3d: the mean around each position, minus the value there."""

from dataclasses import dataclass
from typing import ClassVar, cast

from poolservice.errors import InvalidRequest
from poolservice.specs.base import Size
from poolservice.specs.result_types import Values
from poolservice.specs.windows import Window, WindowSpec


@dataclass(frozen=True, repr=False)
class _PoolFormerPool(WindowSpec[Values]):
    """Mean of the window around each position, minus the value there: PoolFormer's token mixer (Yu et al., 2022).

    out(i) = mean of x over W(i) - x(i), where W(i) is the window with its center at i, without what lies outside of the
    plane: AvgPool2d(kernel_size, 1, kernel_size // 2, count_include_pad=False)(x) - x.

    Shape: (C, *) or (N, C, *) to the same shape.

    Range: a sum beyond the range of the dtype that it is computed in, float64 for float64 and else float32, becomes
    infinite or NaN. Where the mean is close to the value, the digits cancel: rounding errors are relative to the
    largest values of the plane, not to the result. Floating-point input keeps its dtype; integer input gives float32.

    NaN: a NaN gives NaN in the windows that hold it. An infinity gives the same infinity, and NaN at its own position.
    Infinities of both signs give NaN.

    Args:
        kernel_size: window size in elements, odd: one int for all spatial dimensions, or one per dimension. Default: 3.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: Yu, Luo, Zhou, Si, Zhou, Wang, Feng and Yan, "MetaFormer Is Actually What You Need for Vision", 2022.
    """

    operator: ClassVar[str] = "pool_former_pool"
    kernel_size: Size = 3

    def __post_init__(self) -> None:
        self._set_sizes("kernel_size", minimum=1)
        for size in cast(tuple[int, ...], self.kernel_size):
            if size % 2 == 0:
                raise InvalidRequest(f"must be odd, so that each window has a center; got {size}", field="kernel_size")

    @property
    def window(self) -> Window:
        """The window, with every default filled in."""
        return self._of(cast(tuple[int, ...], self.kernel_size))

    def window_in(self, spatial: tuple[int, ...]) -> Window:
        """Return the window for planes of a spatial shape: not larger than needed to cover a plane from each edge."""
        kernel_size = cast(tuple[int, ...], self.kernel_size)
        return self._of(tuple(min(kernel, 2 * size - 1) for kernel, size in zip(kernel_size, spatial, strict=True)))

    def _of(self, kernel_size: tuple[int, ...]) -> Window:
        ones = (1,) * self.spatial_dims
        return Window(kernel_size, ones, tuple(size // 2 for size in kernel_size), ones, False)


class PoolFormerPool1d(_PoolFormerPool):
    """Mean of the window around each position, minus the value there, over one dimension."""

    spatial_dims = 1


class PoolFormerPool2d(_PoolFormerPool):
    """Mean of the window around each position, minus the value there, over two dimensions."""

    spatial_dims = 2


class PoolFormerPool3d(_PoolFormerPool):
    """Mean of the window around each position, minus the value there, over three dimensions."""

    spatial_dims = 3

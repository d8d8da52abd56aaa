"""S3Pool1d, S3Pool2d and S3Pool3d: the maximum of windows with stride 1, of which random rows and columns remain."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

from poolservice.errors import InvalidRequest
from poolservice.specs.base import SampleSpec, Size
from poolservice.specs.result_types import Values
from poolservice.specs.validation import is_list


@dataclass(frozen=True, repr=False)
class _S3Pool(SampleSpec[Values]):
    """Maximum of windows with stride 1, of which randomly chosen rows and columns remain (Zhai et al., 2017).

    out(i) = max of x over the window at the i-th position that is kept. The first step is a maximum pooling with stride
    1 and without padding. Then, along each spatial dimension, its positions are divided into cells of `grid_size`, and
    `grid_size / stride` different positions of each cell are drawn and kept in their order. The last cell extends to
    the end. All channels and samples keep the same positions, which depend on `seed` and the sizes alone.

    As in the authors' code, a size that is no multiple of `grid_size` is rounded down for the result, and there are
    `kernel_size` - 1 fewer maxima than values, which the last cell lacks.

    Shape: (C, *) or (N, C, *) to (..., *out), where each spatial dimension of size L becomes
    floor(L / grid_size) * grid_size / stride.

    Range: each value of the result is a value of the input. The result has the input's dtype.

    NaN: a NaN gives NaN in the windows that hold it. An infinity is a value like any other.

    Args:
        kernel_size: window size in elements, at least 1: one int for all spatial dimensions, or one per dimension.
            Required.
        stride: how many elements become one, at least 1: one int, or one per dimension. Default: `kernel_size`.
        grid_size: size of a cell in elements, a multiple of `stride`: one int, or one per dimension. A larger one is
            more random. Default: `stride`.
        seed: determines the positions, 0 to 2^63 - 1. Default: 0.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: Zhai, Wu, Kumar, Cheng, Lu, Zhang and Feris, "S3Pool: Pooling with Stochastic Spatial Sampling", 2017.
    """

    operator: ClassVar[str] = "s3_pool"
    keeps_dtype: ClassVar[bool] = True
    kernel_size: Size
    stride: Size | None = None
    grid_size: Size | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        self._set_sizes("kernel_size", minimum=1)
        for name, default in (("stride", self.kernel_size), ("grid_size", None)):
            given = getattr(self, name)
            if given is None or (is_list(given) and not given):
                self._set(name, self.stride if default is None else default)
            self._set_sizes(name, minimum=1)
        self._set_seed()
        for _, stride, grid in self.axes:
            if grid % stride:
                raise InvalidRequest(f"must be a multiple of the stride, {stride}; got {grid}", field="grid_size")

    @property
    def axes(self) -> list[tuple[int, int, int]]:
        """The kernel size, the stride and the grid size of each dimension."""
        sizes = (cast(Sequence[int], size) for size in (self.kernel_size, self.stride, self.grid_size))
        return list(zip(*sizes, strict=True))

    def sample_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return (C, *out)."""
        out = []
        for size, (kernel, stride, grid) in zip(shape[1:], self.axes, strict=True):
            cells, kept = size // grid, grid // stride
            if not cells:
                raise InvalidRequest(f"must be at most the size of the input, {size}; got {grid}", field="grid_size")
            # `kept` of the size - kernel + 1 maxima must be in the last cell.
            largest = size + 1 - (cells - 1) * grid - kept
            if kernel > largest:
                raise InvalidRequest(
                    f"must be at most {largest} for an input of {size} with a stride of {stride} and a grid_size of "
                    f"{grid}, because a larger window has too few positions in the last cell; got {kernel}",
                    field="kernel_size",
                )
            out.append(cells * kept)
        return (shape[0], *out)


class S3Pool1d(_S3Pool):
    """Maximum of windows, of which random positions remain, over one dimension."""

    spatial_dims = 1


class S3Pool2d(_S3Pool):
    """Maximum of windows, of which random positions remain, over two dimensions."""

    spatial_dims = 2


class S3Pool3d(_S3Pool):
    """Maximum of windows, of which random positions remain, over three dimensions."""

    spatial_dims = 3

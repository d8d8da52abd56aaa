"""The base classes of specs with sliding windows."""

from typing import NamedTuple, cast

from poolservice.errors import InvalidRequest
from poolservice.specs.base import PoolSpec, Size
from poolservice.specs.result_types import R_co
from poolservice.specs.validation import is_list


class Window(NamedTuple):
    """A sliding window, with one value per spatial dimension."""

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil_mode: bool


class WindowSpec(PoolSpec[R_co]):
    """A spec whose window slides over the input.

    In each spatial dimension, the window W(i) at output position i consists of the elements
    ``i * stride - padding + dilation * m`` for m from 0 to ``kernel_size - 1``.

    Shape: (C, *) or (N, C, *), where * stands for `spatial_dims` dimensions, and N and C may have any size. The output
    has the same N and C. Each spatial dimension of size L becomes::

        floor((L + 2 * padding - dilation * (kernel_size - 1) - 1) / stride) + 1

    With `ceil_mode` the quotient is rounded up instead, unless the last window would then start at or beyond
    L + padding.

    Args:
        kernel_size: window size in elements, at least 1: one int for all spatial dimensions, or one per dimension.
        stride: distance between windows in elements, at least 1. Default: `kernel_size`, so that windows do not
            overlap.
        padding: elements added on both sides, 0 to half of `kernel_size`. Their value depends on the operator.
            Default: 0.
        dilation: distance between the elements of a window, at least 1. Default: 1.
        ceil_mode: round the output size up instead of down, so that a last, partly filled window counts. Default:
            False.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.
    """

    # This class is not a dataclass: the position of kernel_size among the parameters follows torch and differs by
    # layer, and not every layer has every parameter.

    #: Only in a WindowOrPlaneSpec it may be None.
    kernel_size: Size | None
    stride: Size | None

    def __post_init__(self) -> None:
        self._set_sizes("kernel_size", minimum=1)
        # As in torch, no stride or an empty list of strides means the kernel size.
        if self.stride is None or (is_list(self.stride) and not len(self.stride)):
            self._set("stride", self.kernel_size)
        for name, minimum in (("stride", 1), ("padding", 0), ("dilation", 1)):
            if hasattr(self, name):
                self._set_sizes(name, minimum=minimum)
        for name in ("ceil_mode", "return_indices", "count_include_pad"):
            if hasattr(self, name):
                self._set_flag(name)
        window = self.window
        for size, padding in zip(window.kernel_size, window.padding, strict=True):
            if padding > size // 2:
                raise InvalidRequest(
                    f"must be at most half the kernel, {size // 2} for a kernel_size of {size}; got {padding}",
                    field="padding",
                )

    @property
    def window(self) -> Window:
        """The window, with every default filled in."""
        kernel_size = cast(tuple[int, ...], self.kernel_size)
        return Window(
            kernel_size,
            cast(tuple[int, ...], self.stride),
            getattr(self, "padding", (0,) * self.spatial_dims),
            getattr(self, "dilation", (1,) * self.spatial_dims),
            getattr(self, "ceil_mode", False),
        )

    def window_in(self, spatial: tuple[int, ...]) -> Window:
        """Return the window for planes of a spatial shape."""
        return self.window


class WindowOrPlaneSpec(WindowSpec[R_co]):
    """A spec whose window slides over the input, or without a `kernel_size` covers each plane.

    See `poolservice.specs.WindowSpec` for the windows. Without a `kernel_size`, each spatial dimension of the result is
    1, and `stride`, `padding` and `ceil_mode` must be left out.
    """

    padding: Size
    ceil_mode: bool

    def __post_init__(self) -> None:
        if self.kernel_size is not None:
            super().__post_init__()
            return
        if is_list(self.stride) and not len(self.stride):
            self._set("stride", None)
        self._set_sizes("padding", minimum=0)
        self._set_flag("ceil_mode")
        padding = cast(tuple[int, ...], self.padding)
        given = {"stride": self.stride is not None, "padding": any(padding), "ceil_mode": self.ceil_mode}
        for name, is_given in given.items():
            if is_given:
                raise InvalidRequest("goes with a kernel_size; without one, the window is each plane", field=name)

    def window_in(self, spatial: tuple[int, ...]) -> Window:
        """Return the window for planes of a spatial shape."""
        if self.kernel_size is not None:
            return self.window
        dims = self.spatial_dims
        return Window(spatial, spatial, (0,) * dims, (1,) * dims, False)

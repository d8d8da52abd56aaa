"""BlurPool1d, 2d, 3d and MaxBlurPool1d, 2d, 3d: a binomial filter before subsampling."""

from dataclasses import dataclass
from typing import ClassVar, cast

from poolservice.errors import InvalidRequest
from poolservice.specs.base import SampleSpec, Size
from poolservice.specs.result_types import Values

#: The values beyond the edges.
PADDING_MODES = ("reflect", "replicate", "zeros")

_MAX_KERNEL_SIZE = 7


class _FilterSpec(SampleSpec[Values]):
    """A spec with a binomial filter and a stride."""

    # This class is not a dataclass: the position of padding_mode among the parameters differs by layer.

    kernel_size: Size
    stride: Size
    padding_mode: str

    def __post_init__(self) -> None:
        self._set_sizes("kernel_size", minimum=1, maximum=_MAX_KERNEL_SIZE)
        self._set_sizes("stride", minimum=1)
        self._set_choice("padding_mode", PADDING_MODES)

    def sample_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return (C, *out)."""
        kernel_size = cast(tuple[int, ...], self.kernel_size)
        stride = cast(tuple[int, ...], self.stride)
        if self.padding_mode == "reflect":
            for kernel, size in zip(kernel_size, shape[1:], strict=True):
                if kernel // 2 >= size:
                    raise InvalidRequest(
                        f"a filter of {kernel} reflects {kernel // 2} values at an edge, so each dimension must have "
                        f"more than {kernel // 2} values; got {size}",
                        field="kernel_size",
                    )
        return (shape[0], *(-(-size // step) for size, step in zip(shape[1:], stride, strict=True)))


@dataclass(frozen=True, repr=False)
class _BlurPool(_FilterSpec):
    """Binomial filter with a stride: a low-pass filter before subsampling, against aliasing (Zhang, 2019).

    In each dimension, the filter of size K has the weights w(k) = binomial(K - 1, k) / 2^(K - 1), which add up to 1:
    1/4, 1/2, 1/4 for K = 3. The result is::

        out(i) = sum of w(k) * x(i * stride + k - floor((K - 1) / 2)) for k from 0 to K - 1

    with the product of the weights of all dimensions in 2-D and 3-D, as in the author's code. For an even K, the filter
    reaches one value further to the right than to the left. kornia's BlurPool2D equals padding_mode="zeros"; before
    version 0.9, it added one value less on the right if K is even. timm's BlurPool2d is the same for an odd K and a
    stride of 1 or 2; otherwise its first window begins further to the left.

    Shape: (C, *) or (N, C, *) to the same with each dimension of size L in * replaced by ceil(L / stride).

    Range: nothing overflows. Floating-point input keeps its dtype; integer input gives float32.

    NaN: a NaN gives NaN where it has a weight. An infinity gives the same infinity, and infinities of both signs give
    NaN.

    Args:
        kernel_size: size of the filter in elements, 1 to 7: one int for all spatial dimensions, or one per dimension. 1
            subsamples without a filter. With padding_mode="reflect", each dimension must have more than kernel_size / 2
            elements, rounded down. Default: 4.
        stride: distance between windows in elements, at least 1: one int, or one per dimension. Default: 2.
        padding_mode: the values beyond the edges: "reflect" mirrors the plane without repeating the value at the edge,
            "replicate" repeats that value, and "zeros" adds zeros. Default: "reflect".

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: Zhang, "Making Convolutional Networks Shift-Invariant Again", 2019.
    """

    operator: ClassVar[str] = "blur_pool"
    kernel_size: Size = 4
    stride: Size = 2
    padding_mode: str = "reflect"


class BlurPool1d(_BlurPool):
    """Binomial filter with a stride, over one dimension."""

    spatial_dims = 1


class BlurPool2d(_BlurPool):
    """Binomial filter with a stride, over two dimensions."""

    spatial_dims = 2


class BlurPool3d(_BlurPool):
    """Binomial filter with a stride, over three dimensions."""

    spatial_dims = 3


@dataclass(frozen=True, repr=False)
class _MaxBlurPool(_FilterSpec):
    """Maximum of windows of stride 1, then a binomial filter with a stride (Zhang, 2019).

    Max pooling with a stride is a maximum of every window, followed by subsampling. Here, BlurPool takes the place of
    the subsampling::

        out = BlurPool(kernel_size, stride, padding_mode) of m, where m(i) = max of x(i) to x(i + max_pool_size - 1)

    m has no padding, as in the author's networks and in kornia's MaxBlurPool2D.

    Shape: (C, *) or (N, C, *) to the same with each dimension of size L in * replaced by
    ceil((L - max_pool_size + 1) / stride).

    Range: nothing overflows. Floating-point input keeps its dtype; integer input gives float32.

    NaN: a NaN gives NaN where the filter reaches a window that holds it. An infinity gives the same infinity, unless
    the maximum leaves it out, and infinite maxima of both signs give NaN.

    Args:
        kernel_size: size of the filter in elements, 1 to 7: one int for all spatial dimensions, or one per dimension.
            With padding_mode="reflect", each dimension of m must have more than kernel_size / 2 elements, rounded down.
            Default: 4.
        stride: distance between the windows of the filter in elements, at least 1: one int, or one per dimension.
            Default: 2.
        max_pool_size: size of the maximum's windows in elements, at least 1: one int, or one per dimension. Default: 2.
        padding_mode: the values of m beyond its edges: "reflect", "replicate" or "zeros", as for BlurPool. Default:
            "reflect".

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: Zhang, "Making Convolutional Networks Shift-Invariant Again", 2019.
    """

    operator: ClassVar[str] = "max_blur_pool"
    kernel_size: Size = 4
    stride: Size = 2
    max_pool_size: Size = 2
    padding_mode: str = "reflect"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set_sizes("max_pool_size", minimum=1)

    def sample_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return (C, *out)."""
        windows = cast(tuple[int, ...], self.max_pool_size)
        for window, size in zip(windows, shape[1:], strict=True):
            if window > size:
                raise InvalidRequest(
                    f"no window fits: a max_pool_size of {window} is larger than the input, {size}",
                    field="max_pool_size",
                )
        maxima = (size - window + 1 for window, size in zip(windows, shape[1:], strict=True))
        return super().sample_shape((shape[0], *maxima))


class MaxBlurPool1d(_MaxBlurPool):
    """Maximum of windows of stride 1, then a binomial filter with a stride, over one dimension."""

    spatial_dims = 1


class MaxBlurPool2d(_MaxBlurPool):
    """Maximum of windows of stride 1, then a binomial filter with a stride, over two dimensions."""

    spatial_dims = 2


class MaxBlurPool3d(_MaxBlurPool):
    """Maximum of windows of stride 1, then a binomial filter with a stride, over three dimensions."""

    spatial_dims = 3

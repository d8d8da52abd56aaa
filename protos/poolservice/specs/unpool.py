"""MaxUnpool and AvgUnpool over 1 to 3 dimensions: from the result of a pooling back to the shape of its input."""

import math
from dataclasses import dataclass
from typing import ClassVar, cast

from poolservice.errors import InvalidRequest
from poolservice.specs.base import OutputSize, SampleSpec, Size
from poolservice.specs.result_types import Values
from poolservice.specs.tensor_parameter import TensorLike, TensorParameter
from poolservice.specs.validation import is_list


@dataclass(frozen=True, repr=False)
class _Unpool(SampleSpec[Values]):
    """A spec with the windows of the pooling that it reverses."""

    # This class declares no fields: the position of kernel_size among the parameters differs by layer.

    def __post_init__(self) -> None:
        self._set_sizes("kernel_size", minimum=1)
        stride = getattr(self, "stride", None)
        if stride is None or (is_list(stride) and not len(stride)):
            self._set("stride", self.window[0])
        self._set_sizes("stride", minimum=1)
        self._set_sizes("padding", minimum=0)
        for size, padding in zip(self.window[0], self.window[2], strict=True):
            if padding > size // 2:
                raise InvalidRequest(
                    f"must be at most half the kernel, {size // 2} for a kernel_size of {size}; got {padding}",
                    field="padding",
                )
        if getattr(self, "output_size", None) is not None:
            self._set_sizes("output_size", minimum=1)

    @property
    def window(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """The kernel_size, stride and padding, each with one value per dimension."""
        return cast(
            tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]],
            tuple(getattr(self, name) for name in ("kernel_size", "stride", "padding")),
        )

    def spatial_shape(self, spatial: tuple[int, ...]) -> tuple[int, ...]:
        """Return the spatial shape of the result.

        Raises:
            InvalidRequest: it has a size below 1, or `output_size` is a stride or more away from the default.
        """
        default = tuple(
            (size - 1) * stride - 2 * padding + kernel
            for size, kernel, stride, padding in zip(spatial, *self.window, strict=True)
        )
        wanted = cast("tuple[int, ...] | None", getattr(self, "output_size", None))
        if wanted is None:
            if min(default) < 1:
                raise InvalidRequest(f"the result would have the size {list(default)}", field="padding")
            return default
        for size, normal, stride in zip(wanted, default, self.window[1], strict=True):
            if not normal - stride < size < normal + stride:
                raise InvalidRequest(
                    f"must be less than the stride away from {list(default)}, (size - 1) * stride - 2 * padding + "
                    f"kernel_size; got {list(wanted)}",
                    field="output_size",
                )
        return wanted

    def sample_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return (C, *out)."""
        return (shape[0], *self.spatial_shape(shape[1:]))


@dataclass(frozen=True, repr=False)
class _MaxUnpool(_Unpool):
    """Each value at the position from which MaxPool took it, and 0 elsewhere, as torch.nn.MaxUnpool.

    out[c, indices[c, i]] = x[c, i] for each value i of channel c; of several values for one position the last one
    counts, on every device.

    Shape: (C, *) or (N, C, *) to (..., *out). Each dimension of *out is (size - 1) * stride - 2 * padding +
    kernel_size, unless `output_size` is given.

    Range: each value of the result is a value of the input, or 0. The result has the input's dtype.

    NaN: a NaN is a value like any other. So is an infinity.

    Args:
        indices: the flat position of each value in its plane of the result, as MaxPool returns it with
            `return_indices`, of type integer: (C, *), the same for each sample, or (N, C, *), for each of N samples its
            own. At most 8 MiB. Required.
        kernel_size: window size of the MaxPool in elements, at least 1: one int for all spatial dimensions, or one per
            dimension. Required.
        stride: its distance between windows in elements, at least 1: one int, or one per dimension. Default:
            `kernel_size`.
        padding: its padding in elements, 0 to half of `kernel_size`: one int, or one per dimension. Default: 0.
        output_size: the spatial shape of the MaxPool's input, which its result does not determine: one int, or one per
            dimension; each less than the stride away from the default. Default: as above.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: torch.nn.MaxUnpool2d; Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", 2014.
    """

    operator: ClassVar[str] = "max_unpool"
    keeps_dtype: ClassVar[bool] = True
    indices: TensorLike
    kernel_size: Size
    stride: Size | None = None
    padding: Size = 0
    output_size: OutputSize = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set_tensor("indices", kind="integer", shapes="(C, *) or (N, C, *)", dims_of_sample=self.spatial_dims + 1)

    def check_shape(self, shape: tuple[int, ...], out: tuple[int, ...]) -> None:
        """Check that there is an index for each value, and that it lies in the result."""
        super().check_shape(shape, out)
        dims = self.spatial_dims + 1
        indices = cast(TensorParameter, self.indices)
        if indices.array.shape[-dims:] != shape[-dims:]:
            raise InvalidRequest(
                f"must have the shape of a sample, {list(shape[-dims:])}; got {list(indices.array.shape[-dims:])}",
                field="indices",
            )
        out = out[1 - dims :]
        lowest, highest = indices.extremes
        if lowest < 0 or highest >= math.prod(out):
            raise InvalidRequest(
                f"must be from 0 to {math.prod(out) - 1}, the positions in a plane of {list(out)}; got "
                f"{lowest if lowest < 0 else highest}",
                field="indices",
            )


class MaxUnpool1d(_MaxUnpool):
    """Each value at the position from which MaxPool1d took it, and 0 elsewhere."""

    spatial_dims = 1


class MaxUnpool2d(_MaxUnpool):
    """Each value at the position from which MaxPool2d took it, and 0 elsewhere."""

    spatial_dims = 2


class MaxUnpool3d(_MaxUnpool):
    """Each value at the position from which MaxPool3d took it, and 0 elsewhere."""

    spatial_dims = 3


@dataclass(frozen=True, repr=False)
class _AvgUnpool(_Unpool):
    """Each value spread evenly over its window: the transpose of AvgPool, which keeps the sum of the values.

    out(j) = sum of x(i) / n(i) over the windows W(i) that hold position j, where n(i) is the number of positions of
    W(i) in the result, as of an AvgPool with ``count_include_pad=False``. Without overlaps and padding, each window of
    the result has the mean x(i) / n. A position in no window gets 0.

    Shape: (C, *) or (N, C, *) to (..., *out). Each dimension of *out is (size - 1) * stride - 2 * padding +
    kernel_size, unless `output_size` is given.

    Range: a sum beyond the range of the dtype that it is computed in, float64 for float64 and else float32, becomes
    infinite or NaN. Floating-point input keeps its dtype; integer input gives float32.

    NaN: a NaN gives NaN in its window. An infinity gives the same infinity, and infinities of both signs give NaN.

    Args:
        kernel_size: window size of the AvgPool in elements, at least 1: one int for all spatial dimensions, or one per
            dimension. Required.
        stride: its distance between windows in elements, at least 1: one int, or one per dimension. Default:
            `kernel_size`.
        padding: its padding in elements, 0 to half of `kernel_size`: one int, or one per dimension. Default: 0.
        output_size: the spatial shape of the AvgPool's input, which its result does not determine: one int, or one per
            dimension; each less than the stride away from the default. Default: as above.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: the gradient of torch.nn.AvgPool2d; Noh, Hong and Han, "Learning Deconvolution Network for Semantic
    Segmentation", 2015, for unpooling.
    """

    operator: ClassVar[str] = "avg_unpool"
    kernel_size: Size
    stride: Size | None = None
    padding: Size = 0
    output_size: OutputSize = None


class AvgUnpool1d(_AvgUnpool):
    """Each value spread evenly over its window, over one dimension."""

    spatial_dims = 1


class AvgUnpool2d(_AvgUnpool):
    """Each value spread evenly over its window, over two dimensions."""

    spatial_dims = 2


class AvgUnpool3d(_AvgUnpool):
    """Each value spread evenly over its window, over three dimensions."""

    spatial_dims = 3

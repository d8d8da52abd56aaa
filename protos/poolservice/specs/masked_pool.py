"""MaskedAvgPool, MaskedMaxPool and MaskedGeMPool over 1 to 3 dimensions: windows of which only some values count."""

from dataclasses import dataclass
from typing import ClassVar, cast

from poolservice.errors import InvalidRequest
from poolservice.specs.base import Size
from poolservice.specs.result_types import Values
from poolservice.specs.tensor_parameter import TensorLike, TensorParameter
from poolservice.specs.windows import WindowOrPlaneSpec


class MaskedSpec(WindowOrPlaneSpec[Values]):
    """A spec with a mask, or with lengths of sequences."""

    takes_samples = True

    mask: TensorLike
    kernel_size: Size | None
    lengths: TensorLike

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lengths is not None:
            if self.spatial_dims != 1:
                raise InvalidRequest("is for sequences, which have one dimension; give a mask", field="lengths")
            if self.mask is not None:
                raise InvalidRequest("is instead of a mask; leave one of them out", field="lengths")
            self._set_tensor("lengths", kind="integer", shapes="an int or (N,)", dims_of_sample=0)
            lowest, _ = cast(TensorParameter, self.lengths).extremes
            if lowest < 0:
                raise InvalidRequest(f"must be at least 0; got {lowest}", field="lengths")
            return
        if self.mask is None:
            also = ", or lengths" if self.spatial_dims == 1 else ""
            raise InvalidRequest(f"is required: the weight of each value{also}", field="mask")
        self._set_tensor("mask", kind="number", shapes="(*) or (N, *)", dims_of_sample=self.spatial_dims)
        lowest, _ = cast(TensorParameter, self.mask).extremes
        if lowest < 0:
            raise InvalidRequest(f"must have no weight below 0; got {lowest}", field="mask")

    def check_shape(self, shape: tuple[int, ...], out: tuple[int, ...]) -> None:
        """Check that the mask has the shape of a plane, and that no sequence is longer than one."""
        super().check_shape(shape, out)
        dims = self.spatial_dims
        if self.lengths is not None:
            _, highest = cast(TensorParameter, self.lengths).extremes
            if highest > shape[-1]:
                raise InvalidRequest(f"must be at most the input's length, {shape[-1]}; got {highest}", field="lengths")
            return
        mask = cast(TensorParameter, self.mask).array.shape
        if mask[-dims:] != shape[-dims:]:
            raise InvalidRequest(
                f"must have the spatial shape of the input, {list(shape[-dims:])}; got {list(mask[-dims:])}",
                field="mask",
            )


@dataclass(frozen=True, repr=False)
class _MaskedAvgPool(MaskedSpec):
    """Mean of the values of each window, weighted by a mask, or of the first values of sequences.

    out(i) = sum of w * x over W(i) / sum of w over W(i), where W(i) is the window at output position i and w is the
    mask. A window without a weight above 0 gives 0. The weights are divided by the largest of them first, so that their
    scale does not matter.

    Shape: (C, *) or (N, C, *) to (..., *out); see `poolservice.specs.WindowSpec` for the output size. Without a
    `kernel_size`, each dimension of *out is 1.

    Range: a sum beyond the range of the dtype that it is computed in, float64 for float64 and else float32, becomes
    infinite or NaN. Floating-point input keeps its dtype; integer input gives float32.

    NaN: a NaN of weight 0 does not count; any other gives NaN in the windows that hold it. An infinity gives the same
    infinity, and infinities of both signs give NaN.

    Args:
        mask: the weights, at least 0, of any type: (*), the same for each sample, or (N, *), for each of N samples its
            own. At most 8 MiB. Required, unless there are lengths.
        kernel_size: window size in elements, at least 1: one int for all spatial dimensions, or one per dimension.
            Default: each whole plane.
        stride: distance between windows in elements, at least 1: one int, or one per dimension. Default:
            `kernel_size`.
        padding: elements added on both sides, 0 to half of `kernel_size`: one int, or one per dimension. They do not
            count. Default: 0.
        ceil_mode: round the output size up instead of down, so that a last, partly filled window counts. Default:
            False.
        lengths: for one dimension, instead of a mask: how many values of a sequence count, 0 to L: an int, or (N,) for
            each of N samples its own. Default: None.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: Reimers and Gurevych, "Sentence-BERT", 2019, for the mean over the tokens of a sequence.
    """

    operator: ClassVar[str] = "masked_avg_pool"
    mask: TensorLike = None
    kernel_size: Size | None = None
    stride: Size | None = None
    padding: Size = 0
    ceil_mode: bool = False
    lengths: TensorLike = None


class MaskedAvgPool1d(_MaskedAvgPool):
    """Mean of the values of each window, weighted by a mask, over one dimension."""

    spatial_dims = 1


class MaskedAvgPool2d(_MaskedAvgPool):
    """Mean of the values of each window, weighted by a mask, over two dimensions."""

    spatial_dims = 2


class MaskedAvgPool3d(_MaskedAvgPool):
    """Mean of the values of each window, weighted by a mask, over three dimensions."""

    spatial_dims = 3


@dataclass(frozen=True, repr=False)
class _MaskedMaxPool(MaskedSpec):
    """Maximum of the values of each window whose weight in a mask is above 0, or of the first values of sequences.

    out(i) = max of x over those positions of W(i) where w > 0, where W(i) is the window at output position i and w is
    the mask. A window without any gives 0.

    Shape: (C, *) or (N, C, *) to (..., *out); see `poolservice.specs.WindowSpec` for the output size. Without a
    `kernel_size`, each dimension of *out is 1.

    Range: each value of the result is a value of the input, or 0. The result has the input's dtype.

    NaN: a NaN of weight 0 does not count; any other gives NaN in the windows that hold it. An infinity is a value like
    any other.

    Args:
        mask: the weights, at least 0, of any type: (*), the same for each sample, or (N, *), for each of N samples its
            own. At most 8 MiB. Required, unless there are lengths.
        kernel_size: window size in elements, at least 1: one int for all spatial dimensions, or one per dimension.
            Default: each whole plane.
        stride: distance between windows in elements, at least 1: one int, or one per dimension. Default:
            `kernel_size`.
        padding: elements added on both sides, 0 to half of `kernel_size`: one int, or one per dimension. They do not
            count. Default: 0.
        ceil_mode: round the output size up instead of down, so that a last, partly filled window counts. Default:
            False.
        lengths: for one dimension, instead of a mask: how many values of a sequence count, 0 to L: an int, or (N,) for
            each of N samples its own. Default: None.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: Reimers and Gurevych, "Sentence-BERT", 2019, for the maximum over the tokens of a sequence.
    """

    operator: ClassVar[str] = "masked_max_pool"
    keeps_dtype: ClassVar[bool] = True
    mask: TensorLike = None
    kernel_size: Size | None = None
    stride: Size | None = None
    padding: Size = 0
    ceil_mode: bool = False
    lengths: TensorLike = None


class MaskedMaxPool1d(_MaskedMaxPool):
    """Maximum of the values of each window that a mask selects, over one dimension."""

    spatial_dims = 1


class MaskedMaxPool2d(_MaskedMaxPool):
    """Maximum of the values of each window that a mask selects, over two dimensions."""

    spatial_dims = 2


class MaskedMaxPool3d(_MaskedMaxPool):
    """Maximum of the values of each window that a mask selects, over three dimensions."""

    spatial_dims = 3


@dataclass(frozen=True, repr=False)
class _MaskedGeMPool(MaskedSpec):
    """Generalized mean of the values of each window, weighted by a mask, or of the first values of sequences.

    out(i) = (sum of w * max(x, eps)^p over W(i) / sum of w over W(i))^(1/p), where W(i) is the window at output
    position i and w is the mask. The values are divided by the largest of the window before the power. A window without
    a weight above 0 gives 0. The weights are divided by the largest of them first, so that their scale does not matter.

    Shape: (C, *) or (N, C, *) to (..., *out); see `poolservice.specs.WindowSpec` for the output size. Without a
    `kernel_size`, each dimension of *out is 1.

    Range: nothing overflows. Floating-point input keeps its dtype; integer input gives float32.

    NaN: a NaN of weight 0 does not count; any other gives NaN in the windows that hold it. inf gives inf, and -inf
    counts like any other low value. Either can change the rounding of the sample's other results.

    Args:
        mask: the weights, at least 0, of any type: (*), the same for each sample, or (N, *), for each of N samples its
            own. At most 8 MiB. Required, unless there are lengths.
        p: the power, 1 to 1e6. Default: 3.0.
        eps: smaller values count as this one, 0 to 1e30. Default: 1e-6.
        kernel_size: window size in elements, at least 1: one int for all spatial dimensions, or one per dimension.
            Default: each whole plane.
        stride: distance between windows in elements, at least 1: one int, or one per dimension. Default:
            `kernel_size`.
        padding: elements added on both sides, 0 to half of `kernel_size`: one int, or one per dimension. They do not
            count. Default: 0.
        ceil_mode: round the output size up instead of down, so that a last, partly filled window counts. Default:
            False.
        lengths: for one dimension, instead of a mask: how many values of a sequence count, 0 to L: an int, or (N,) for
            each of N samples its own. Default: None.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: Radenović, Tolias and Chum, "Fine-tuning CNN Image Retrieval with No Human Annotation", 2018.
    """

    operator: ClassVar[str] = "masked_gem_pool"
    mask: TensorLike = None
    p: float = 3.0
    eps: float = 1e-6
    kernel_size: Size | None = None
    stride: Size | None = None
    padding: Size = 0
    ceil_mode: bool = False
    lengths: TensorLike = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set_real("p", 1.0, 1e6)
        self._set_real("eps", 0.0, 1e30)


class MaskedGeMPool1d(_MaskedGeMPool):
    """Generalized mean of the values of each window, weighted by a mask, over one dimension."""

    spatial_dims = 1


class MaskedGeMPool2d(_MaskedGeMPool):
    """Generalized mean of the values of each window, weighted by a mask, over two dimensions."""

    spatial_dims = 2


class MaskedGeMPool3d(_MaskedGeMPool):
    """Generalized mean of the values of each window, weighted by a mask, over three dimensions."""

    spatial_dims = 3

"""FractionalMaxPool2d and FractionalMaxPool3d: the maximum of windows at random distances.

Each layer repeats the overloads of its constructor, because mypy honors the annotation of `self` only in the class
that declares it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast, overload

from poolservice.errors import InvalidRequest
from poolservice.specs.base import SampleSpec, Size
from poolservice.specs.result_types import R_co, ResultType, Values, ValuesAndIndices
from poolservice.specs.tensor_parameter import TensorLike
from poolservice.specs.validation import is_list, real, reals, shown, shown_range

# torch computes the windows in float32, which holds integers up to this one.
_MAX_INPUT_SIZE = 2**24


@dataclass(frozen=True, repr=False)
class _FractionalMaxPool(SampleSpec[R_co]):
    """Maximum of windows at random distances, whose mean gives the output size, as torch.nn.FractionalMaxPool2d and 3d.

    out(i) = max of x over W(i), where W(i) is the window at output position i. In a spatial dimension of L input
    elements, S output elements, window size k and random number u of the channel and the dimension, W(i) starts at
    floor((i + u) * a) - floor(u * a), where a = (L - k) / (S - 1), and the last one at L - k. The numbers u come from
    `random_samples`, with which the result is exactly torch's, or follow from `seed` and the channel alone, so that
    every sample has the same windows in every batch. As in torch, the starts are computed in the dtype of the values:
    float64 for float64, int32 and int64, else float32.

    Shape: (C, *) or (N, C, *) to (..., *out), where each dimension of *out is `output_size`, or
    floor(`output_ratio` * L). No dimension of * may exceed 2^24.

    Range: each value of the result is a value of the input. The result has the input's dtype.

    NaN: a NaN gives NaN in the windows that hold it. An infinity is a value like any other.

    Args:
        kernel_size: window size in elements, at least 1: one int for all spatial dimensions, or one per dimension. At
            most L - S + 1, and in 3-D, as in torch, L - S. Required.
        output_size: S, at least 1: one int, or one per dimension. Either it or `output_ratio` is required.
        output_ratio: S as a share of the input's size, above 0 and below 1: one float, or one per dimension.
            Either it or `output_size` is required.
        return_indices: also return the position of each maximum in its input channel, as a flat index over the spatial
            dimensions in row-major order: int64, of the result's shape. Default: False.
        random_samples: the numbers u, at least 0 and below 1, as floats of shape (C, spatial_dims), or
            (N, C, spatial_dims) with numbers of their own for each sample. In torch, they are called
            `_random_samples`: in 2-D the first one belongs to the width, and in 3-D to the depth. Default: numbers that
            follow from `seed`.
        seed: determines the windows of each channel, 0 to 2^63 - 1. Without effect on `random_samples`. Default: 0.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.

    Source: torch.nn.FractionalMaxPool2d, torch.nn.FractionalMaxPool3d; Graham, "Fractional Max-Pooling", 2014.
    """

    operator: ClassVar[str] = "fractional_max_pool"
    keeps_dtype: ClassVar[bool] = True
    kernel_size: Size
    output_size: Size | None = None
    output_ratio: float | Sequence[float] | None = None
    return_indices: bool = False
    random_samples: TensorLike = None
    seed: int = 0

    def __post_init__(self) -> None:
        self._set_sizes("kernel_size", minimum=1)
        if (self.output_size is None) == (self.output_ratio is None):
            if self.output_size is None:
                raise InvalidRequest("is required, unless output_ratio is given", field="output_size")
            raise InvalidRequest("goes without output_ratio; leave one of them out", field="output_size")
        if self.output_size is not None:
            self._set_sizes("output_size", minimum=1)
        else:
            self._set_ratios()
        self._set_flag("return_indices")
        self._set_seed()
        if self.random_samples is not None:
            self._set_random_samples()

    def sample_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return (C, *out)."""
        channels, *spatial = shape
        if max(spatial) > _MAX_INPUT_SIZE:
            raise InvalidRequest(
                f"{type(self).__name__} takes no dimension of more than {_MAX_INPUT_SIZE} elements; got {spatial}",
                field="tensor.shape",
            )
        if self.random_samples is not None and self.random_samples.array.shape[-2] != channels:
            raise InvalidRequest(
                f"must have numbers for each of the {channels} channels; got shape {self.random_samples.array.shape}",
                field="random_samples",
            )
        out = self.output_in(spatial)
        field = "output_ratio" if self.output_size is None else "output_size"
        for size, kernel, count in zip(spatial, cast(Sequence[int], self.kernel_size), out, strict=True):
            # torch refuses as many windows as fit, if there are three dimensions.
            most = size - kernel + (1 if self.spatial_dims == 2 else 0)
            if most < 1:
                bound = "at most" if self.spatial_dims == 2 else "less than"
                raise InvalidRequest(
                    f"must be {bound} the size of the input, {size}; got {kernel}", field="kernel_size"
                )
            if not 1 <= count <= most:
                raise InvalidRequest(
                    f"must give a size from 1 to {most} for windows of {kernel} in an input of {size}; it gives "
                    f"{count}",
                    field=field,
                )
        return (channels, *out)

    def output_in(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """Return the output size for planes of a spatial shape."""
        if self.output_size is not None:
            return tuple(cast(Sequence[int], self.output_size))
        ratios = cast(Sequence[float], self.output_ratio)
        return tuple(int(size * ratio) for size, ratio in zip(spatial, ratios, strict=True))

    def _set_ratios(self) -> None:
        given = self.output_ratio
        takes = f"a number above 0 and below 1, or {self.spatial_dims} of them"
        ratios = reals("output_ratio", given) if is_list(given) else (real("output_ratio", given, takes=takes),)
        if len(ratios) not in (1, self.spatial_dims) or not all(0 < ratio < 1 for ratio in ratios):
            raise InvalidRequest(f"must be {takes}; got {shown(given)}", field="output_ratio")
        self._set("output_ratio", ratios * self.spatial_dims if len(ratios) == 1 else ratios)

    def _set_random_samples(self) -> None:
        shapes = f"(C, {self.spatial_dims}) or (N, C, {self.spatial_dims})"
        self._set_tensor("random_samples", kind="float", shapes=shapes, dims_of_sample=2)
        array = self.random_samples.array
        if array.shape[-1] != self.spatial_dims:
            raise InvalidRequest(f"must have the shape {shapes}; got {array.shape}", field="random_samples")
        lowest, highest = self.random_samples.extremes
        if not (lowest >= 0 and highest < 1):
            raise InvalidRequest(
                f"must be at least 0 and below 1; got {shown_range(lowest, highest)}", field="random_samples"
            )


@dataclass(frozen=True, repr=False)
class FractionalMaxPool2d(_FractionalMaxPool[R_co]):
    """Maximum of windows at random distances, over two dimensions."""

    spatial_dims = 2

    if TYPE_CHECKING:

        @overload
        def __init__(
            self: "FractionalMaxPool2d[Values]",
            kernel_size: Size,
            output_size: Size | None = None,
            output_ratio: float | Sequence[float] | None = None,
            return_indices: Literal[False] = False,
            random_samples: TensorLike = None,
            seed: int = 0,
        ) -> None: ...
        @overload
        def __init__(
            self: "FractionalMaxPool2d[ValuesAndIndices]",
            kernel_size: Size,
            output_size: Size | None = None,
            output_ratio: float | Sequence[float] | None = None,
            return_indices: Literal[True] = True,
            random_samples: TensorLike = None,
            seed: int = 0,
        ) -> None: ...
        @overload
        def __init__(
            self: "FractionalMaxPool2d[ResultType]",
            kernel_size: Size,
            output_size: Size | None = None,
            output_ratio: float | Sequence[float] | None = None,
            return_indices: bool = False,
            random_samples: TensorLike = None,
            seed: int = 0,
        ) -> None: ...
        def __init__(self, *sizes: Any, **named: Any) -> None: ...


@dataclass(frozen=True, repr=False)
class FractionalMaxPool3d(_FractionalMaxPool[R_co]):
    """Maximum of windows at random distances, over three dimensions."""

    spatial_dims = 3

    if TYPE_CHECKING:

        @overload
        def __init__(
            self: "FractionalMaxPool3d[Values]",
            kernel_size: Size,
            output_size: Size | None = None,
            output_ratio: float | Sequence[float] | None = None,
            return_indices: Literal[False] = False,
            random_samples: TensorLike = None,
            seed: int = 0,
        ) -> None: ...
        @overload
        def __init__(
            self: "FractionalMaxPool3d[ValuesAndIndices]",
            kernel_size: Size,
            output_size: Size | None = None,
            output_ratio: float | Sequence[float] | None = None,
            return_indices: Literal[True] = True,
            random_samples: TensorLike = None,
            seed: int = 0,
        ) -> None: ...
        @overload
        def __init__(
            self: "FractionalMaxPool3d[ResultType]",
            kernel_size: Size,
            output_size: Size | None = None,
            output_ratio: float | Sequence[float] | None = None,
            return_indices: bool = False,
            random_samples: TensorLike = None,
            seed: int = 0,
        ) -> None: ...
        def __init__(self, *sizes: Any, **named: Any) -> None: ...

"""What every spec has: its operator, its spatial dimensions, its window, and the rules that hold for any input."""

import operator as operators
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Generic, NamedTuple, TypeGuard, cast

from poolservice.errors import InvalidRequest
from poolservice.specs.results import R_co, Values

#: A size: one int for every spatial dimension, or one a dimension.
Size = int | Sequence[int]
#: An adaptive layer's output size, where None keeps the input's.
OutputSize = int | None | Sequence[int | None]

# torch stores sizes in 32 bits in places and overflows without a word beyond them.
MAX_SIZE = 2**31 - 1


class Window(NamedTuple):
    """A sliding window, one value a spatial dimension."""

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil_mode: bool


@dataclass(frozen=True, repr=False)
class PoolSpec(Generic[R_co]):
    """One way to pool: an operator with its parameters.

    Specs are immutable and hashable, and equal when they pool alike: ``MaxPool2d(2) == MaxPool2d((2, 2))``.
    """

    #: The field of the wire's PoolSpec that holds the parameters.
    operator: ClassVar[str]
    #: The number of dimensions that are pooled; the layer's name ends with it.
    spatial_dims: ClassVar[int]

    def __repr__(self) -> str:
        """As it would be written: what has its default is left out, what is the same in each dimension is one."""
        given = (
            f"{field.name}={_compact(value)!r}"
            for field in fields(self)
            if (value := getattr(self, field.name)) != _default(field.name, field.default, self)
        )
        return f"{type(self).__name__}({', '.join(given)})"

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)


class WindowSpec(PoolSpec[R_co]):
    """A spec with a window that slides over the input.

    The window W(i) at output position i has, in each spatial dimension, the elements
    ``i * stride - padding + dilation * m`` for m from 0 to ``kernel_size - 1``.

    Shape: in, (C, *) or (N, C, *) with `spatial_dims` dimensions for the star, N and C of any size. Out, the same
    with each spatial dimension L as::

        floor((L + 2 * padding - dilation * (kernel_size - 1) - 1) / stride) + 1

    With `ceil_mode` it is rounded up instead, unless the last window would then start at or beyond L + padding.

    Args:
        kernel_size: the window's size in elements, 1 or more. Like every size here, one int for all spatial
            dimensions or one a dimension.
        stride: the distance between windows in elements, 1 or more. Default: `kernel_size`, so that windows touch.
        padding: the elements added on both sides, 0 to half of `kernel_size`. Default: 0. What they count as is
            the operator's.
        dilation: the distance between a window's elements, 1 or more. Default: 1.
        ceil_mode: whether a last, partly filled window counts. Default: False.

    Raises:
        InvalidRequest: a parameter breaks its rule; `field` is its name.

    Not a dataclass of its own: where torch puts kernel_size among the parameters is up to each layer, and not every
    layer has every parameter.
    """

    kernel_size: Size
    stride: Size | None

    def __post_init__(self) -> None:
        self._set("kernel_size", per_dimension(self, "kernel_size", self.kernel_size, minimum=1))
        # No stride, or none in a list, is torch's own way to say "the kernel's".
        if self.stride is None or (_several(self.stride) and not len(self.stride)):
            self._set("stride", self.kernel_size)
        for name, minimum in (("stride", 1), ("padding", 0), ("dilation", 1)):
            if hasattr(self, name):
                self._set(name, per_dimension(self, name, getattr(self, name), minimum=minimum))
        for name in ("ceil_mode", "return_indices", "count_include_pad"):
            if hasattr(self, name):
                self._set(name, flag(name, getattr(self, name)))
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


@dataclass(frozen=True, repr=False)
class AdaptiveSpec(PoolSpec[R_co]):
    """A spec whose windows tile the input so that the output has the size that was asked for.

    In a spatial dimension of L elements, the window W(i) of an output of S elements goes from ``floor(i * L / S)``
    up to and without ``ceil((i + 1) * L / S)``; neighbours overlap where S does not divide L.

    Shape: in, (C, *) or (N, C, *) with `spatial_dims` dimensions for the star. Out, the same with `output_size` for
    the star.

    Args:
        output_size: the output's size in elements, 0 or more: one int for all spatial dimensions or one a dimension.
            None keeps the input's.

    Raises:
        InvalidRequest: a parameter breaks its rule; `field` is its name.
    """

    output_size: OutputSize

    def __post_init__(self) -> None:
        self._set("output_size", per_dimension(self, "output_size", self.output_size, minimum=0, keep=True))
        if hasattr(self, "return_indices"):
            self._set("return_indices", flag("return_indices", self.return_indices))

    @property
    def sizes(self) -> tuple[int | None, ...]:
        """The output's size in each dimension; None keeps the input's."""
        return cast(tuple[int | None, ...], self.output_size)


@dataclass(frozen=True, repr=False)
class GlobalSpec(PoolSpec[Values]):
    """A spec that makes one value of each channel.

    Shape: in, (C, *) or (N, C, *) with `spatial_dims` dimensions for the star. Out, the same with 1 for each of them,
    as torch.nn.AdaptiveAvgPool2d(1) does; as a feature vector, (C,) or (N, C).
    """


def per_dimension(
    spec: PoolSpec[object], name: str, value: object, *, minimum: int, keep: bool = False
) -> tuple[int | None, ...]:
    """`value` as one int a spatial dimension.

    Raises:
        InvalidRequest: it is no int or sequence of ints, has another length, or an int is out of range.
    """
    dims = spec.spatial_dims
    if not _several(value):
        return (_size(name, value, "an int, or a list or tuple of ints", minimum=minimum, keep=keep),) * dims
    if len(value) not in (1, dims):
        takes = "one value" if dims == 1 else f"one value, or {dims}, one a dimension"
        raise InvalidRequest(f"{type(spec).__name__} takes {takes}; got {len(value)} in {shown(value)}", field=name)
    sizes = tuple(_size(name, one, "an int", minimum=minimum, keep=keep) for one in value)
    return sizes * dims if len(sizes) == 1 else sizes


def _several(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray | memoryview)


def _size(name: str, value: object, takes: str, *, minimum: int, keep: bool) -> int | None:
    if keep and value is None:
        return None
    whole = integer(name, value, takes=f"{takes}, or None to keep the input's" if keep else takes)
    if not minimum <= whole <= MAX_SIZE:
        raise InvalidRequest(f"must be from {minimum} to {MAX_SIZE}; got {shown(whole)}", field=name)
    return whole


def integer(name: str, value: object, *, takes: str = "an int") -> int:
    """`value` as an int; a float or a bool is none, numpy's integers are."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return operators.index(cast(Any, value))
    except TypeError:
        raise InvalidRequest(f"must be {takes}; got {shown(value)}", field=name) from None


def real(name: str, value: object) -> float:
    """`value` as a float; a bool or a string is none."""
    try:
        if isinstance(value, str | bytes | bytearray | bool):
            raise TypeError
        return float(cast(Any, value))
    except (TypeError, ValueError, OverflowError):
        raise InvalidRequest(f"must be a number; got {shown(value)}", field=name) from None


def flag(name: str, value: object) -> bool:
    """`value` as a bool; only True and False are."""
    if not isinstance(value, bool):
        raise InvalidRequest(f"must be True or False; got {shown(value)}", field=name)
    return value


def shown(value: object) -> str:
    """`value` in an error's sentence, cut short: it may be an array, or thousands of sizes."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python does not write an int of thousands of digits.
        return "an int of thousands of digits"


def _compact(value: object) -> object:
    if isinstance(value, tuple) and len(set(value)) == 1:
        return value[0]
    return value


def _default(name: str, default: object, spec: PoolSpec[object]) -> object:
    if name == "stride" and default is None:
        return getattr(spec, "kernel_size", None)
    if name in ("padding", "dilation"):
        return (default,) * spec.spatial_dims
    return default

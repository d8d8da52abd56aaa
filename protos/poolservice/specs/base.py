"""The base classes of specs: PoolSpec, and one class each for samples, tiles and whole planes; see also `windows`."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, Generic, Self, cast

from poolservice.errors import InvalidRequest
from poolservice.specs.result_types import R_co, Values
from poolservice.specs.tensor_parameter import TensorParameter
from poolservice.specs.validation import (
    MAX_SIZE,
    bound,
    flag,
    integer,
    is_list,
    per_dimension,
    real,
    reals,
    shown,
    shown_number,
)

#: A size: one int for all spatial dimensions, or one per dimension.
Size = int | Sequence[int]
#: The parameters that are sizes: one int for all spatial dimensions, or one per dimension.
SIZES = frozenset({"kernel_size", "stride", "padding", "dilation", "output_size", "grid_size", "max_pool_size"})
#: The largest seed of a random layer: that of an int64.
MAX_SEED = 2**63 - 1
#: The output size of an adaptive layer. None keeps the input's size.
OutputSize = int | None | Sequence[int | None]


@dataclass(frozen=True, repr=False)
class PoolSpec(Generic[R_co]):
    """A pooling operator with its parameters.

    Specs are immutable and hashable. Specs with the same meaning are equal: ``MaxPool2d(2) == MaxPool2d((2, 2))``.
    """

    #: The field of the PoolSpec message that holds the parameters.
    operator: ClassVar[str]
    #: The number of dimensions that are pooled. The layer's name ends with it.
    spatial_dims: ClassVar[int]
    #: Whether each value of the result is a value of the input, so that the result has the input's dtype.
    keeps_dtype: ClassVar[bool] = False
    #: Whether a value of the result depends on the position of its channel or on several channels, so that a sample is
    #: pooled as a whole. Otherwise each channel is pooled by itself. A spec with numbers for each channel shadows it.
    takes_samples: ClassVar[bool] = False
    #: The parameters that may have a number for each channel.
    per_channel: ClassVar[tuple[str, ...]] = ()
    #: The size of the tensors among the parameters, in bytes. A spec that has some shadows it.
    parameter_bytes: ClassVar[int] = 0
    #: Whether it may follow a layer that gives one vector per sample.
    takes_vectors: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        # The layers of an operator differ in the number of dimensions only, so its base class documents all of them.
        operator = cls.__bases__[0]
        documentation = operator.__doc__ or ""
        # A dataclass without a docstring gets its signature as one.
        is_documented = not documentation.startswith(f"{operator.__name__}(")
        if "spatial_dims" in vars(cls) and "operator" in vars(operator) and is_documented:
            cls.__doc__ = documentation

    def __repr__(self) -> str:
        """Return the constructor call, without defaults, and with one int where all dimensions have the same."""
        arguments = (
            f"{field.name}={_shown(_compact(field.name, value))}"
            for field in fields(self)
            if (value := getattr(self, field.name)) != _default(field.name, field.default, self)
        )
        return f"{type(self).__name__}({', '.join(arguments)})"

    @property
    def samples(self) -> int | None:
        """The number of samples that the spec pools, if a parameter has a row for each; None if it pools any number."""
        if not self.parameter_bytes:
            return None
        counts = [tensor.rows for tensor in self._tensors()] + [layer.samples for layer in self._layers()]
        return next((count for count in counts if count is not None), None)

    def of_samples(self, samples: slice) -> Self:
        """Return the spec that pools only some of the samples: parameters that have a row for each keep theirs."""
        if self.samples is None:
            return self
        spec = copy.copy(self)
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, TensorParameter):
                spec._set(field.name, value.of_samples(samples))
            elif isinstance(value, tuple) and value and isinstance(value[0], PoolSpec):
                spec._set(field.name, tuple(layer.of_samples(samples) for layer in value))
        spec._count_parameter_bytes()
        return spec

    def check_shape(self, shape: tuple[int, ...], out: tuple[int, ...]) -> None:
        """Check that the parameters suit a tensor: its samples, its channels and its sizes.

        Args:
            shape: (C, *) or (N, C, *), the shape of the tensor, with no size of 0 but N and C.
            out: the shape of the result.

        Raises:
            InvalidRequest: a parameter does not suit the tensor; the field is its name.
        """
        for name in self.per_channel:
            numbers = getattr(self, name)
            channels = shape[-1 - self.spatial_dims]
            if isinstance(numbers, tuple) and len(numbers) != channels:
                raise InvalidRequest(
                    f"must have one number for each channel; got {len(numbers)} for "
                    f"{'1 channel' if channels == 1 else f'{channels} channels'}",
                    field=name,
                )
        if self.parameter_bytes:
            self._check_rows(shape)

    def _check_rows(self, shape: tuple[int, ...]) -> None:
        count = shape[0] if len(shape) == self.spatial_dims + 2 else 1
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, TensorParameter) and value.rows not in (None, count):
                raise InvalidRequest(
                    f"has a row for each of {value.rows} samples, but the tensor has {count}: its shape is "
                    f"{list(shape)}; leave the first dimension out to use the same for all samples",
                    field=field.name,
                )

    def _count_parameter_bytes(self) -> None:
        nbytes = sum(tensor.array.nbytes for tensor in self._tensors())
        self._set("parameter_bytes", nbytes + sum(layer.parameter_bytes for layer in self._layers()))

    def _tensors(self) -> list[TensorParameter]:
        return [value for value in self.__dict__.values() if isinstance(value, TensorParameter)]

    def _layers(self) -> "list[PoolSpec]":
        tuples = [value for value in self.__dict__.values() if isinstance(value, tuple)]
        return [layer for values in tuples for layer in values if isinstance(layer, PoolSpec)]

    @property
    def differs_by_channel(self) -> bool:
        """Whether a parameter has one number per channel."""
        return any(isinstance(getattr(self, name), tuple) for name in self.per_channel)

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _set_sizes(self, name: str, *, minimum: int, maximum: int = MAX_SIZE, allow_none: bool = False) -> None:
        value = getattr(self, name)
        limits = {"minimum": minimum, "maximum": maximum}
        sizes = per_dimension(type(self).__name__, self.spatial_dims, name, value, **limits, allow_none=allow_none)
        self._set(name, sizes)

    def _set_flag(self, name: str) -> None:
        self._set(name, flag(name, getattr(self, name)))

    def _set_integer(self, name: str, low: int, high: int) -> None:
        value = integer(name, getattr(self, name))
        if not low <= value <= high:
            raise InvalidRequest(f"must be from {low} to {high}; got {shown(value)}", field=name)
        self._set(name, value)

    def _set_seed(self) -> None:
        self._set_integer("seed", 0, MAX_SEED)

    def _set_real(
        self,
        name: str,
        low: float = -math.inf,
        high: float = math.inf,
        *,
        per_channel: bool = False,
        owner: str = "channel",
    ) -> None:
        """Check that a parameter is a number from `low` to `high`, or with `per_channel` also a sequence of them.

        `owner` says in errors what each number of a sequence is for.

        A spec with several numbers takes samples, because planes do not say which channel they are.
        """
        given = getattr(self, name)
        if per_channel and is_list(given):
            values = reals(name, given)
        else:
            takes = f"a number, or a list or tuple of one number for each {owner}" if per_channel else "a number"
            values = (real(name, given, takes=takes),)
        for index, value in enumerate(values):
            if not low <= value <= high:
                place = f" at index {index}" if is_list(given) else ""
                raise InvalidRequest(
                    f"must be from {bound(low)} to {bound(high)}; got {shown_number(value)}{place}", field=name
                )
        self._set(name, values if len(values) > 1 else values[0])
        if len(values) > 1:
            self._set("takes_samples", True)

    def _set_choice(self, name: str, choices: Collection[str]) -> None:
        value = getattr(self, name)
        if not isinstance(value, str) or value not in choices:
            raise InvalidRequest(f"must be one of {', '.join(choices)}; got {shown(value)}", field=name)

    def _set_tensor(
        self, name: str, *, kind: str, shapes: str, dims: Collection[int] = (), dims_of_sample: int | None = None
    ) -> None:
        """Check a parameter that is a tensor.

        Args:
            name: its name.
            kind: "float", "integer" or "number", which is either.
            shapes: its possible shapes, for errors.
            dims: its possible numbers of dimensions.
            dims_of_sample: instead of `dims`, of a tensor that may have a row for each sample: the number of dimensions
                of a row.
        """
        tensor = TensorParameter.of(
            name, getattr(self, name), kind=kind, shapes=shapes, dims=dims, dims_of_sample=dims_of_sample
        )
        self._set(name, tensor)
        self._count_parameter_bytes()


class SampleSpec(PoolSpec[R_co], ABC):
    """A spec that pools each sample as a whole, to a result of a shape of its own."""

    takes_samples = True

    @abstractmethod
    def sample_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the result for a sample.

        Args:
            shape: (C, *), the shape of the sample, with no size of 0.

        Raises:
            InvalidRequest: the spec does not take such a sample. The field is the parameter that does not suit it, or
                ``tensor.shape``.
        """


@dataclass(frozen=True, repr=False)
class AdaptiveSpec(PoolSpec[R_co]):
    """A spec whose windows tile the input so that the output has a given size.

    In a spatial dimension of L input elements and S output elements, the window W(i) starts at ``floor(i * L / S)``
    and ends before ``ceil((i + 1) * L / S)``. Adjacent windows overlap if L is not a multiple of S.

    Shape: (C, *) or (N, C, *), where * stands for `spatial_dims` dimensions. The output has the same N and C, and
    `output_size` in place of *.

    Args:
        output_size: output size in elements, 0 or more: one int for all spatial dimensions, or one per dimension.
            None keeps the input's size.

    Raises:
        InvalidRequest: a parameter is invalid; `field` is its name.
    """

    output_size: OutputSize

    def __post_init__(self) -> None:
        self._set_sizes("output_size", minimum=0, allow_none=True)
        if hasattr(self, "return_indices"):
            self._set_flag("return_indices")

    @property
    def sizes(self) -> tuple[int | None, ...]:
        """The output size of each dimension. None keeps the input's size."""
        return cast(tuple[int | None, ...], self.output_size)


@dataclass(frozen=True, repr=False)
class GlobalSpec(PoolSpec[Values]):
    """A spec that reduces each channel to one value.

    Shape: (C, *) or (N, C, *), where * stands for `spatial_dims` dimensions. The output has the same N and C, and 1 in
    place of each spatial dimension, as from torch.nn.AdaptiveAvgPool2d(1). As a feature vector it is (C,) or (N, C).
    """


def _compact(name: str, value: object) -> object:
    if name in SIZES and isinstance(value, tuple) and len(set(value)) == 1:
        return value[0]
    return value


def _shown(value: object) -> str:
    """Return the repr of a parameter, which can be evaluated."""
    return "float('inf')" if value == math.inf else repr(value)


def _default(name: str, default: object, spec: PoolSpec[object]) -> object:
    if name == "stride" and default is None:
        return getattr(spec, "kernel_size", None)
    if name in SIZES and isinstance(default, int):
        return (default,) * spec.spatial_dims
    return default

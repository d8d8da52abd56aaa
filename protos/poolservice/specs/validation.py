"""Checks and conversions of single parameters, shared by the specs and the SDK."""

import math
import operator as operators
import reprlib
from collections.abc import Sequence
from typing import Any, TypeGuard, cast

from poolservice.errors import InvalidRequest

# torch stores sizes in 32 bits in places and overflows silently beyond them.
MAX_SIZE = 2**31 - 1


def per_dimension(
    layer: str,
    dims: int,
    name: str,
    value: object,
    *,
    minimum: int,
    maximum: int = MAX_SIZE,
    allow_none: bool = False,
) -> tuple[int | None, ...]:
    """Return `value` as a tuple of one int per spatial dimension.

    Args:
        layer: the layer's name, for the error.
        dims: the number of spatial dimensions.
        name: the parameter's name.
        value: an int for all dimensions, or a sequence of one int for all or one per dimension.
        minimum: the lowest valid int.
        maximum: the highest valid int.
        allow_none: accept None in place of an int.

    Raises:
        InvalidRequest: `value` has another type or length, or an int is out of range.
    """
    if not is_list(value):
        return (_size(name, value, "an int, or a list or tuple of ints", minimum, maximum, allow_none),) * dims
    if len(value) not in (1, dims):
        takes = "one value" if dims == 1 else f"one value, or {dims} values, one per dimension"
        raise InvalidRequest(f"{layer} takes {takes}; got {len(value)} in {shown(value)}", field=name)
    sizes = tuple(_size(name, one, "an int", minimum, maximum, allow_none) for one in value)
    return sizes * dims if len(sizes) == 1 else sizes


def is_list(value: object) -> TypeGuard[Sequence[object]]:
    """Return True if `value` is a sequence of values; a string or bytes object is a single value."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray | memoryview)


def _size(name: str, value: object, takes: str, minimum: int, maximum: int, allow_none: bool) -> int | None:
    if allow_none and value is None:
        return None
    size = integer(name, value, takes=f"{takes}, or None to keep the input's" if allow_none else takes)
    if not minimum <= size <= maximum:
        raise InvalidRequest(f"must be from {minimum} to {maximum}; got {shown(size)}", field=name)
    return size


def integer(name: str, value: object, *, takes: str = "an int") -> int:
    """Return `value` as an int. numpy's integers are accepted; floats and bools are not.

    Raises:
        InvalidRequest: `value` is not an integer; the error names the parameter and says what it `takes`.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        return operators.index(cast(Any, value))
    except TypeError:
        raise InvalidRequest(f"must be {takes}; got {shown(value)}", field=name) from None


def real(name: str, value: object, *, takes: str = "a number", place: str = "") -> float:
    """Return `value` as a float. numpy's numbers are accepted; bools and strings are not.

    Raises:
        InvalidRequest: `value` is not a number, or too large for a float; the error says what the parameter `takes`,
            and at which `place` the value is.
    """
    try:
        if isinstance(value, str | bytes | bytearray | bool):
            raise TypeError
        return float(cast(Any, value))
    except (TypeError, ValueError, OverflowError):
        raise InvalidRequest(f"must be {takes}; got {shown(value)}{place}", field=name) from None


def reals(name: str, values: Sequence[object]) -> tuple[float, ...]:
    """Return `values` as a tuple of floats.

    Raises:
        InvalidRequest: there is none, or one of them is not a number.
    """
    if not len(values):
        raise InvalidRequest("must have at least one number; got none", field=name)
    return tuple(
        real(name, value, takes="a list of numbers", place=f" at index {index}") for index, value in enumerate(values)
    )


def bound(value: float) -> str:
    """Return a bound for an error message: 0.05, 1e+06, 2^-20."""
    fraction, exponent = math.frexp(value)
    return f"2^{exponent - 1}" if fraction == 0.5 and abs(exponent) > 10 else shown_number(value)


def shown_number(value: float) -> str:
    """Return a number for an error message without rounding it: 2, 0.05, 1e+06, 1000001.

    numpy's numbers have as many digits as their dtype needs.
    """
    short = f"{value:g}"
    return short if float(short) == value else str(value).removesuffix(".0")


def shown_range(lowest: float, highest: float) -> str:
    """Return the range of the values of a tensor for an error message: 0.5 to 2, or 2 if all are alike."""
    low, high = shown_number(lowest), shown_number(highest)
    return low if low == high else f"{low} to {high}"


def flag(name: str, value: object) -> bool:
    """Return `value` if it is True or False.

    Raises:
        InvalidRequest: `value` is anything else, 0 and 1 included.
    """
    if not isinstance(value, bool):
        raise InvalidRequest(f"must be True or False; got {shown(value)}", field=name)
    return value


def shown(value: object) -> str:
    """Return the repr of `value` for an error message, shortened: it may be an array or thousands of sizes."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python refuses to write an int of thousands of digits.
        return "an int of thousands of digits"

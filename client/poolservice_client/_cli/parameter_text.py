"""Parameters of operators as text: numbers, sizes, words, and the names of .npy files."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from types import MappingProxyType
from typing import NamedTuple

from poolservice.errors import InvalidRequest
from poolservice.specs import SIZES, PoolSpec
from poolservice_client._cli.exit_errors import UsageError
from poolservice_client._request import files


class _Parser(NamedTuple):
    """How a parameter is written.

    Attributes:
        parse: returns the value of a text. Raises ValueError, OSError or InvalidRequest.
        description: describes the text, for errors.
        example: a text, for errors.
        takes_several: whether the text may have several values.
    """

    parse: Callable[[str], object]
    description: str
    example: str
    takes_several: bool = False


def parameters_of(layer: type[PoolSpec]) -> dict[str, bool]:
    """Return the layer's parameters; the value is True if the parameter is required."""
    return {field.name: field.default is MISSING for field in fields(layer)}


def value_of(layer: type[PoolSpec], name: str, text: str, source: str) -> object:
    """Return the value of a parameter that was written as `text`.

    Raises:
        UsageError: the text is malformed; the message names `source`.
    """
    parser = _parser(layer, name)
    try:
        return parser.parse(text.strip())
    except (InvalidRequest, OSError) as error:
        reason = error.reason if isinstance(error, InvalidRequest) else error.strerror or error
        raise UsageError(f"{source} takes {parser.description}; got {text!r}: {reason}") from None
    except ValueError:
        has_brackets = parser.takes_several and text.strip().startswith(("[", "("))
        hint = "; write several values with x between them, without brackets" if has_brackets else ""
        raise UsageError(f"{source} takes {parser.description}; got {text!r}{hint}") from None


def example_of(layer: type[PoolSpec], name: str) -> str:
    """Return a text for a parameter, for errors about a missing one."""
    return _parser(layer, name).example


def _size(text: str) -> int | tuple[int, ...]:
    sizes = _whole_numbers(text)
    return sizes[0] if len(sizes) == 1 else sizes


def _whole_numbers(text: str) -> tuple[int, ...]:
    return tuple(int(one) for one in text.lower().split("x"))


def _output_size(text: str) -> int | tuple[int | None, ...] | None:
    sizes = tuple(None if one == "none" else int(one) for one in text.lower().split("x"))
    return sizes[0] if len(sizes) == 1 else sizes


def _number_or_numbers(text: str) -> float | tuple[float, ...]:
    numbers = _numbers(text)
    return numbers[0] if len(numbers) == 1 else numbers


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(one) for one in text.lower().split("x"))


def _number_or_tensor(text: str) -> object:
    """Return a single number that is written itself, or the array of a .npy file."""
    try:
        return int(text)
    except ValueError:
        return _tensor(text)


def _tensor(text: str) -> object:
    """Return the array of a .npy file."""
    try:
        data = files.read(text)
    except IsADirectoryError:
        raise InvalidRequest("this is a folder", field=text) from None
    if not data:
        raise InvalidRequest("the file is empty", field=text)
    if not files.is_numpy_file(data):
        raise InvalidRequest("the file is not an .npy file; write one with numpy.save", field=text)
    return files.load_array(data)


def _boolean(text: str) -> bool:
    word = text.lower()
    if word not in ("true", "false"):
        raise ValueError(text)
    return word == "true"


_OUTPUT_SIZE = _Parser(
    _output_size,
    "a size, 10, or one for each dimension, 10xnone, where none keeps the input's",
    "2",
    takes_several=True,
)
# One length for all samples is a number rather than a tensor.
_LENGTHS = _Parser(_number_or_tensor, "a whole number, or the name of a .npy file", "5")
_SIZE = _Parser(_size, "a size, 3, or one for each dimension, 3x2", "2", takes_several=True)
# By the start of the annotation or a type in it. The first that fits counts.
_PARSERS: Mapping[str, _Parser] = MappingProxyType(
    {
        "float | collections.abc.Sequence[float]": _Parser(
            _number_or_numbers, "a number, or several, 0.5x0.25x0.25", "2", takes_several=True
        ),
        "Sequence[float]": _Parser(_numbers, "numbers, 0.5x0.25x0.25", "0.5x0.25x0.25", takes_several=True),
        "Sequence[int]": _Parser(_whole_numbers, "whole numbers, 1x2x4", "1x2x4", takes_several=True),
        "Any": _Parser(_tensor, "the name of a .npy file", "FILE.npy"),
        "bool": _Parser(_boolean, "true or false", "true"),
        "int": _Parser(int, "a whole number", "2"),
        "float": _Parser(float, "a number", "2"),
        "str": _Parser(str, "a word", "NAME"),
    }
)


def _parser(layer: type[PoolSpec], name: str) -> _Parser:
    annotation = inspect.formatannotation(next(field.type for field in fields(layer) if field.name == name))
    if name == "lengths":
        return _LENGTHS
    if name in SIZES:
        return _OUTPUT_SIZE if name == "output_size" and "int | None" in annotation else _SIZE
    return next(parser for types, parser in _PARSERS.items() if types in annotation)

"""Specs as text, in the spelling of the command line, max2d:kernel_size=3x2,stride=1, or of the SDK, MaxPool2d(3)."""

import ast
import inspect
import re
from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType

from poolservice.errors import InvalidRequest
from poolservice.specs import LAYERS, SIZES, PoolSpec, Sequential
from poolservice_server.settings.errors import did_you_mean

_ABBREVIATIONS = {"gmp": "globalmax", "gap": "globalavg"}
_WORDS: Mapping[str, object] = MappingProxyType({"true": True, "false": False, "none": None})


def _key(name: str) -> str:
    """Return what all spellings of an operator share: "max2d" for max2d, max_pool2d and MaxPool2d."""
    key = re.sub(r"[\s_-]|pool", "", name.lower())
    for short, long in _ABBREVIATIONS.items():
        key = key.replace(short, long)
    return key


_LAYERS_BY_KEY = {_key(layer.__name__): layer for layer in LAYERS.values()}
# An operator of one number of dimensions needs no number: rmac.
_LAYERS_BY_KEY |= {
    _key(layer.operator): layer for layer in LAYERS.values() if sum(name == layer.operator for name, _ in LAYERS) == 1
}
_NAMES = sorted(layer.__name__ for layer in LAYERS.values())


# The + between two layers. A + in a number is none.
_PLUS = re.compile(r"\+(?=\s*[a-zA-Z][\w\s.-]*(?:[:+(]|$))")


def parse_spec(text: str) -> PoolSpec:
    """Return the spec that a text describes. Layers joined by + are applied one after the other.

    Raises:
        ValueError: the text names no operator, or a parameter is wrong. The message completes "the spec TEXT ...".
    """
    layers = [_parse_layer(one) for one in _PLUS.split(text)]
    if len(layers) == 1:
        return layers[0]
    try:
        return Sequential(layers)
    except InvalidRequest as error:
        raise ValueError(f"is wrong: {error}") from None


def _parse_layer(text: str) -> PoolSpec:
    match = re.fullmatch(r"\s*([\w.-]+)\s*(?::(.*)|(\(.*\)))?\s*", text, re.DOTALL)
    if match is None:
        raise ValueError("must be written as max2d:kernel_size=3x2,stride=1 or as MaxPool2d(kernel_size=(3, 2))")
    name, assignments, call = match.groups()
    layer = _LAYERS_BY_KEY.get(_key(name.rpartition(".")[2]))
    if layer is None:
        suggestion = did_you_mean(name, _NAMES) or f"; the operators are {', '.join(_NAMES)}"
        raise ValueError(f"names no operator{suggestion}")
    if layer.operator == "sequential":
        raise ValueError("must be written as its layers, joined by +: max2d:kernel_size=2+gap2d")
    types = {field.name: inspect.formatannotation(field.type) for field in fields(layer)}
    names = list(types)
    positional, named = _arguments(call) if call else ((), _assignments(assignments or "", types))
    for parameter in named:
        if parameter not in names:
            suggestion = did_you_mean(parameter, names) or f", only {', '.join(names) or 'none at all'}"
            raise ValueError(f"has no parameter {parameter}{suggestion}")
    try:
        return layer(*positional, **named)
    except InvalidRequest as error:
        raise ValueError(f"is wrong: {error}") from None
    except TypeError as error:
        # Of a parameter that is missing, or given twice.
        raise ValueError(f"is wrong: {str(error).partition('__init__() ')[2] or error}") from None


def _assignments(text: str, types: Mapping[str, str]) -> dict[str, object]:
    """Return the parameters of kernel_size=3x2,stride=1."""
    parameters: dict[str, object] = {}
    for assignment in text.split(",") if text.strip() else ():
        name, equals, value = (part.strip() for part in assignment.partition("="))
        if not equals:
            raise ValueError(f"has {assignment.strip()!r} in place of NAME=VALUE")
        parameter = name.lower().replace("-", "_")
        parameters[parameter] = _value(value, "int" if parameter in SIZES else types.get(parameter, ""))
    return parameters


def _value(text: str, type_name: str) -> object:
    """Return the value of a parameter, by the types in its annotation."""
    if type_name == "str":
        return text
    if "Any" in type_name and not re.fullmatch(r"\s*-?\d+\s*", text):
        raise ValueError(
            f"has a tensor, {text}, as a parameter; write it as lists of numbers, as in the SDK's spelling"
        )
    numbers = [_word(one) for one in text.lower().split("x")]
    return numbers[0] if len(numbers) == 1 and not type_name.startswith("collections.abc.Sequence") else tuple(numbers)


def _word(text: str) -> object:
    if text in _WORDS:
        return _WORDS[text]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    raise ValueError(f"has the value {text!r}, which is no size, number, true or false")


def _arguments(call: str) -> tuple[tuple[object, ...], dict[str, object]]:
    """Return the arguments of a call such as (3, stride=2), all of which are literals."""
    try:
        parsed = ast.parse(f"f{call}", mode="eval").body
        if not isinstance(parsed, ast.Call) or any(keyword.arg is None for keyword in parsed.keywords):
            raise ValueError(call)
        positional = tuple(map(ast.literal_eval, parsed.args))
        named = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in parsed.keywords}
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        raise ValueError("must have plain values as arguments, such as MaxPool2d(kernel_size=(3, 2))") from None
    return positional, named

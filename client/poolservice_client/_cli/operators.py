"""What `--op` and the flags beside it say, as specs.

An operator is written as its name, `max2d`, or with parameters, `max2d:kernel_size=3x2,stride=1`. A flag such as
`--kernel-size 2` gives the parameter to every operator that takes it and does not say its own.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from types import MappingProxyType
from typing import NamedTuple

from poolservice.errors import InvalidRequest
from poolservice.specs import LAYERS, PoolSpec
from poolservice_client._cli.errors import Usage

_ABBREVIATIONS = {"global_max_pool": "gmp", "global_avg_pool": "gap"}


def _name(layer: type[PoolSpec]) -> str:
    return f"{layer.operator.removesuffix('_pool')}{layer.spatial_dims}d"


def _by_name() -> dict[str, type[PoolSpec]]:
    named: dict[str, type[PoolSpec]] = {}
    for layer in LAYERS.values():
        named[_name(layer)] = layer
        named[layer.__name__.lower()] = layer
        if layer.operator in _ABBREVIATIONS:
            named[f"{_ABBREVIATIONS[layer.operator]}{layer.spatial_dims}d"] = layer
    return named


_LAYERS: Mapping[str, type[PoolSpec]] = MappingProxyType(_by_name())

#: The names to offer: "max2d", "global_avg2d", ... Layers by their class's name ("MaxPool2d") and the abbreviations
#: gap and gmp are understood too.
NAMES: tuple[str, ...] = tuple(_name(layer) for layer in LAYERS.values())
#: The abbreviations, for who begins to write one.
SHORT_NAMES: tuple[str, ...] = tuple(
    f"{_ABBREVIATIONS[layer.operator]}{layer.spatial_dims}d"
    for layer in LAYERS.values()
    if layer.operator in _ABBREVIATIONS
)
#: The names without the dimensions: "max", "global_avg", ...
FAMILIES: tuple[str, ...] = tuple(dict.fromkeys(name[: -len("2d")] for name in NAMES))


class Operator(NamedTuple):
    """One `--op`.

    Attributes:
        name: as it would be written.
        spec: what it asks for.
        text: as it was written, with its own parameters.
        own: the names of those.
    """

    name: str
    spec: PoolSpec
    text: str
    own: frozenset[str]

    def place_of(self, parameter: str) -> str:
        """Where a parameter was written: behind the operator's own name, or as a flag for all."""
        return _place(self.name, self.text, parameter, own=parameter in self.own)


def read(texts: Sequence[str], flags: Mapping[str, str | bool | float | None]) -> list[Operator]:
    """The operators that `texts` name, each with those of `flags` that it takes.

    Args:
        texts: what was given to `--op`, in order.
        flags: parameter to value, None where the flag was not given; sizes still as text.

    Raises:
        Usage: an operator or a parameter that does not exist, a value that cannot be read, a parameter that is
            missing, a flag that no operator takes, or a value that the layer refuses.
    """
    given = {
        name: _value(name, value, _flag_of(name)) if isinstance(value, str) else value
        for name, value in flags.items()
        if value is not None
    }
    wanted = [_parse(text) for text in texts]
    for name in given:
        if not any(name in _parameters(layer) for layer, _ in wanted):
            names = " or ".join(dict.fromkeys(_name(layer) for layer, _ in wanted))
            raise Usage(f"{_flag_of(name)} is not a parameter of {names}; leave it out")
    return [_operator(text, layer, given, own) for text, (layer, own) in zip(texts, wanted, strict=True)]


def _operator(text: str, layer: type[PoolSpec], given: Mapping[str, object], own: Mapping[str, object]) -> Operator:
    name = _name(layer)
    shared = {parameter: value for parameter, value in given.items() if parameter in _parameters(layer)}
    parameters: dict[str, object] = {**shared, **own}
    for parameter, required in _parameters(layer).items():
        if required and parameter not in parameters:
            raise Usage(f"{name} needs {parameter}: give {_flag_of(parameter)} 2, or write --op {name}:{parameter}=2")
    try:
        return Operator(name, layer(**parameters), text, frozenset(own))
    except InvalidRequest as error:
        place = _place(name, text, error.field, own=error.field in own)
        raise Usage(f"{place}: {error.reason}") from None


def _place(name: str, text: str, parameter: str, *, own: bool) -> str:
    return f"--op {text}: {parameter}" if own else f"{_flag_of(parameter)} of {name}"


def _flag_of(parameter: str) -> str:
    return f"--{parameter.replace('_', '-')}"


def _parse(text: str) -> tuple[type[PoolSpec], dict[str, object]]:
    word, _, rest = text.partition(":")
    layer = _LAYERS.get(word.strip().lower())
    if layer is None:
        close = difflib.get_close_matches(word.strip().lower(), _LAYERS, n=3, cutoff=0.5)
        # Layers are shown by their classes' names as these are written: MaxPool2d, not maxpool2d.
        shown = [_LAYERS[one].__name__ if one == _LAYERS[one].__name__.lower() else one for one in close]
        hint = f"did you mean {' or '.join(sorted(shown))}?" if close else f"choose one of {', '.join(NAMES)}"
        raise Usage(f"there is no operator {word!r}; {hint}")
    own: dict[str, object] = {}
    for assignment in rest.split(",") if rest else ():
        key, equals, value = assignment.partition("=")
        name = key.strip().lower().replace("-", "_")
        if not equals:
            raise Usage(
                f"--op {text}: {assignment!r} is not NAME=VALUE, such as kernel_size=3; a size for each dimension is "
                "written 3x2"
            )
        if name not in _parameters(layer):
            takes = ", ".join(_parameters(layer)) or "none"
            meant = difflib.get_close_matches(name, _parameters(layer), n=1)
            hint = f"; did you mean {meant[0]}?" if meant else ""
            raise Usage(f"--op {text}: {name} is not a parameter of {_name(layer)}, which takes {takes}{hint}")
        own[name] = _value(name, value, f"--op {text}: {name}")
    return layer, own


def _parameters(layer: type[PoolSpec]) -> dict[str, bool]:
    """The layer's parameters, and whether each must be given."""
    return {field.name: field.default is MISSING for field in fields(layer)}


def _value(name: str, text: str, where: str) -> object:
    read, form = _FORMS[name]
    try:
        return read(text.strip().lower())
    except ValueError:
        raise Usage(f"{where} takes {form}; got {text!r}") from None


def _size(text: str) -> int | tuple[int, ...]:
    sizes = tuple(int(one) for one in text.split("x"))
    return sizes[0] if len(sizes) == 1 else sizes


def _output_size(text: str) -> int | tuple[int | None, ...] | None:
    sizes = tuple(None if one == "none" else int(one) for one in text.split("x"))
    return sizes[0] if len(sizes) == 1 else sizes


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(text)
    return text == "true"


_SIZE: tuple[Callable[[str], object], str] = (_size, "a size, 3, or one for each dimension, 3x2")

# Each parameter: how its text is read, and what it looks like.
_FORMS: Mapping[str, tuple[Callable[[str], object], str]] = MappingProxyType(
    {
        "kernel_size": _SIZE,
        "stride": _SIZE,
        "padding": _SIZE,
        "dilation": _SIZE,
        "output_size": (_output_size, "a size, 10, or one for each dimension, 10xnone, where none keeps the input's"),
        "ceil_mode": (_flag, "true or false"),
        "return_indices": (_flag, "true or false"),
        "count_include_pad": (_flag, "true or false"),
        "divisor_override": (int, "a whole number"),
        "norm_type": (float, "a number"),
        "alpha": (float, "a number"),
    }
)

"""Parsing of `--op` and of the parameter flags into specs.

An operator is written as its name, `max2d`, or with parameters, `max2d:kernel_size=3x2,stride=1`. A flag such as
`--kernel-size 2` sets the parameter for every operator that has it and does not set it itself. Operators joined by +,
`max2d:kernel_size=2+gap2d`, are applied one after the other.

`operator_names` has the names, and `parameter_text` the spelling of the parameters.
"""

import difflib
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from poolservice.errors import InvalidRequest
from poolservice.specs import LAYERS, PoolSpec, Sequential
from poolservice.specs.sequential import MAX_LAYERS
from poolservice_client._cli.exit_errors import UsageError
from poolservice_client._cli.operator_names import SEQUENTIAL, layer_of, name_of, unknown_operator
from poolservice_client._cli.parameter_text import example_of, parameters_of, value_of

# The + between two layers. A + in a number, 1e+5, or in the name of a file joins no layers.
_PLUS = re.compile(r"\+(?=\s*[a-zA-Z][\w\s-]*(?:[:+]|$))")


class Operator(NamedTuple):
    """One `--op`.

    Attributes:
        name: the preferred name.
        spec: the spec that is sent; None for the output of a backbone, without any pooling.
        text: the operator as the user wrote it, with its own parameters.
        flags: the names of the parameters that were given as flags.
        layers: the operators of a sequence; empty if it is not one.
    """

    name: str
    spec: PoolSpec | None
    text: str
    flags: frozenset[str]
    layers: tuple["Operator", ...] = ()

    @property
    def layer(self) -> str:
        """The layer as it would be written in Python."""
        return "the output itself" if self.spec is None else repr(self.spec)

    @property
    def spatial_dims(self) -> int:
        """The number of spatial dimensions that it pools."""
        return 2 if self.spec is None else self.spec.spatial_dims

    @property
    def returns_indices(self) -> bool:
        """Whether the result has indices."""
        return bool(getattr(self.spec, "return_indices", False))

    def source_of(self, parameter: str | None) -> str:
        """Return where the user wrote a parameter, with the operator or as a flag; None stands for the operator."""
        if parameter is None:
            return f"--op {self.text}"
        return _source(self.name, self.text, parameter, is_flag=parameter in self.flags)


def specs_of(operators: Sequence[Operator]) -> list[PoolSpec]:
    """Return the specs to send: none for the output of a backbone itself."""
    return [operator.spec for operator in operators if operator.spec is not None]


def array_names(operators: Sequence[Operator]) -> list[str]:
    """Return a unique name for the result of each operator: the second max2d is max2d_2."""
    counts: Counter[str] = Counter()
    names = []
    for operator in operators:
        counts[operator.name] += 1
        count = counts[operator.name]
        names.append(operator.name if count == 1 else f"{operator.name}_{count}")
    return names


def parse(texts: Sequence[str], flags: Mapping[str, str | bool | float | None]) -> list[Operator]:
    """Return the operators that `texts` name, each with those of the `flags` that it takes.

    Args:
        texts: the values of `--op`, in order.
        flags: each parameter's value, sizes as text; None if the flag was not given.

    Raises:
        UsageError: an operator or a parameter does not exist, a value is malformed, a required parameter is missing,
            no operator takes a flag, a layer refuses a value, or the operators pool different numbers of dimensions.
    """
    given = {
        name: value_of(_layer_with(name), name, value, _flag_of(name)) if isinstance(value, str) else value
        for name, value in flags.items()
        if value is not None
    }
    parsed = [[_parse(one) for one in _layers(text)] for text in texts]
    layers = [layer for sequence in parsed for layer, _ in sequence]
    _check_dimensions([one for text in texts for one in _layers(text)], layers)
    for name in given:
        if not any(name in parameters_of(layer) for layer in layers):
            names = " or ".join(dict.fromkeys(map(name_of, layers)))
            raise UsageError(f"{_flag_of(name)} is not a parameter of {names}; leave it out")
    return [
        _sequence(
            text, [_operator(one, *parts, given, flags) for one, parts in zip(_layers(text), sequence, strict=True)]
        )
        for text, sequence in zip(texts, parsed, strict=True)
    ]


def _layers(text: str) -> list[str]:
    """Return the operators of one `--op`, max2d:kernel_size=2+gap2d, which are applied one after the other."""
    return _PLUS.split(text)


def _sequence(text: str, operators: Sequence[Operator]) -> Operator:
    if len(operators) == 1:
        return operators[0]
    if len(operators) > MAX_LAYERS:
        raise UsageError(
            f"--op {text}: has {len(operators)} layers; at most {MAX_LAYERS} can be applied one after the other"
        )
    try:
        spec = Sequential(specs_of(operators))
    except InvalidRequest as error:
        raise UsageError(f"--op {text}: {error}") from None
    return Operator("_".join(operator.name for operator in operators), spec, text, frozenset(), tuple(operators))


def _check_dimensions(texts: Sequence[str], layers: Sequence[type[PoolSpec]]) -> None:
    for text, layer in zip(texts, layers, strict=True):
        if layer.spatial_dims != layers[0].spatial_dims:
            raise UsageError(
                f"--op {text} pools {layer.spatial_dims}-D inputs and --op {texts[0]} pools {layers[0].spatial_dims}-D "
                "inputs; all operators of one command pool the same input, so choose the same number of dimensions"
            )


def _operator(
    text: str,
    layer: type[PoolSpec],
    own: Mapping[str, object],
    given: Mapping[str, object],
    flags: Collection[str],
) -> Operator:
    name = name_of(layer)
    shared = {parameter: value for parameter, value in given.items() if parameter in parameters_of(layer)}
    given_as_flags = frozenset(shared.keys() - own.keys())
    parameters: dict[str, object] = {**shared, **own}
    for parameter, required in parameters_of(layer).items():
        if required and parameter not in parameters:
            raise _missing(layer, parameter, flags)
    try:
        return Operator(name, layer(**parameters), text, given_as_flags)
    except InvalidRequest as error:
        if error.reason.startswith("is required"):
            # One of two parameters is required, as for TrimmedMeanPool; the error names one of them.
            raise _missing(layer, error.field, flags) from None
        source = _source(name, text, error.field, is_flag=error.field in given_as_flags)
        raise UsageError(f"{source}: {error.reason}") from None


def _missing(layer: type[PoolSpec], parameter: str, flags: Collection[str]) -> UsageError:
    name, example = name_of(layer), example_of(layer, parameter)
    flag = f"give {_flag_of(parameter)} {example}, or " if parameter in flags else ""
    return UsageError(f"{name} needs {parameter}: {flag}write --op {name}:{parameter}={example}")


def _source(name: str, text: str, parameter: str, *, is_flag: bool) -> str:
    return f"{_flag_of(parameter)} of {name}" if is_flag else f"--op {text}: {parameter}"


def _flag_of(parameter: str) -> str:
    return f"--{parameter.replace('_', '-')}"


def _parse(text: str) -> tuple[type[PoolSpec], dict[str, object]]:
    """Return the layer that one `--op` names, and the parameters written with it."""
    word, _, assignments = text.partition(":")
    layer = layer_of(word)
    if layer is None:
        raise UsageError(unknown_operator(word))
    if layer.operator == SEQUENTIAL:
        raise UsageError(f"--op {text}: write a sequence as its layers, joined by +: max2d:kernel_size=2+gap2d")
    own: dict[str, object] = {}
    for assignment in assignments.split(",") if assignments else ():
        key, equals, value = assignment.partition("=")
        name = key.strip().lower().replace("-", "_")
        if not equals:
            raise UsageError(
                f"--op {text}: {assignment!r} is not NAME=VALUE, such as kernel_size=3; a size for each dimension is "
                "written 3x2"
            )
        if name not in parameters_of(layer):
            takes = ", ".join(parameters_of(layer)) or "none"
            close = difflib.get_close_matches(name, parameters_of(layer), n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UsageError(f"--op {text}: {name} is not a parameter of {name_of(layer)}, which takes {takes}{hint}")
        own[name] = value_of(layer, name, value, f"--op {text}: {name}")
    return layer, own


def _layer_with(parameter: str) -> type[PoolSpec]:
    return next(layer for layer in LAYERS.values() if parameter in parameters_of(layer))

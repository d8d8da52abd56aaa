"""The operators' parameters as flags, the same for every command that pools."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeAlias

import typer

from poolservice_client._cli import operators

_PANEL = "Parameters, for every operator given that takes them"
# The parameter of a command in whose place the flags stand.
_PLACE = "parameters"

#: What a command gets for its `parameters`: what was given, None where a flag was not.
Flags: TypeAlias = dict[str, str | bool | float | None]


def _offer_operators(incomplete: str) -> list[str]:
    begun = incomplete.lower()
    return [name for name in (*operators.NAMES, *operators.SHORT_NAMES) if name.startswith(begun)]


#: `--op`, once or several times.
Ops = Annotated[
    list[str],
    typer.Option(
        metavar="OPERATOR",
        help="How to pool: max2d, say, or with parameters of its own, max2d:stride=1. Again for more results.",
        autocompletion=_offer_operators,
    ),
]


def _size(help_text: str) -> Any:
    return Annotated[str | None, typer.Option(metavar="SIZE", help=help_text, rich_help_panel=_PANEL)]


def _option(kind: Any, help_text: str, *names: str) -> Any:
    return Annotated[kind, typer.Option(*names, help=help_text, rich_help_panel=_PANEL)]


_FLAGS: dict[str, Any] = {
    "kernel_size": _size("2, or 3x2: one for each dimension."),
    "stride": _size("From window to window. Default: the kernel."),
    "padding": _size("At each edge. Default: 0."),
    "dilation": _size("Between a window's elements. Default: 1."),
    "ceil_mode": _option(bool | None, "Count a last, partly filled window.", "--ceil-mode"),
    "return_indices": _option(bool | None, "Say where each value was found.", "--return-indices"),
    "count_include_pad": _option(bool | None, "Count padded zeros in the mean. Default: yes."),
    "divisor_override": _option(int | None, "Divide the sum by this. Default: the window's size."),
    "norm_type": _option(float | None, "The power p of lp."),
    "output_size": _size("10, or 10xnone, where none keeps the input's size."),
    "alpha": _option(float | None, "The maximum's share in mixed. Default: 0.5."),
}


def takes_parameters(command: Callable[..., None]) -> Callable[..., None]:
    """A command with one flag for each parameter of an operator, in the place of its argument `parameters: Flags`.

    typer reads a command's flags off its signature, so these are put into it once for all commands.
    """

    @functools.wraps(command)
    def with_flags(**given: Any) -> None:
        command(parameters={name: given.pop(name) for name in _FLAGS}, **given)

    signature = inspect.signature(command, eval_str=True)
    parameters = [one for name, one in signature.parameters.items() for one in _in_place(name, one)]
    with_flags.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    with_flags.__annotations__ = {one.name: one.annotation for one in parameters}
    return with_flags


def _in_place(name: str, parameter: inspect.Parameter) -> Sequence[inspect.Parameter]:
    if name != _PLACE:
        return [parameter]
    return [
        inspect.Parameter(flag, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for flag, annotation in _FLAGS.items()
    ]

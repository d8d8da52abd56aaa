"""The operators' parameters as command-line flags, shared by every command that pools."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeAlias

import typer

from poolservice_client._cli import operator_names

# The command's parameter that the flags replace in its signature.
_PLACEHOLDER = "parameters"

#: The part of the commands' help about the flags.
FLAGS_HELP = (
    "A parameter flag, such as --kernel-size, applies to every operator that takes it. Parameters of a single operator "
    "follow its name: --op max2d:kernel_size=3x2,stride=1 --op gap2d. Several numbers are joined by x, and a tensor is "
    "the name of a .npy file: --op roi_align2d:boxes=boxes.npy,output_size=7. Operators joined by + are applied one "
    "after the other: --op max2d:kernel_size=2+gem2d"
)

#: The value of a command's `parameters`: each flag's value, None if the flag was not given.
Flags: TypeAlias = dict[str, str | bool | float | None]


def _complete_operator(incomplete: str) -> list[str]:
    prefix = incomplete.lower()
    first_layers, plus, last = prefix.rpartition("+")
    names = (*operator_names.NAMES, *operator_names.SHORT_NAMES)
    return [f"{first_layers}{plus}{name}" for name in names if name.startswith(last)]


#: `--op`, which may be repeated.
Ops = Annotated[
    list[str] | None,
    typer.Option(
        metavar="OPERATOR",
        help="The operator: max2d, or with parameters of its own, max2d:stride=1. Repeat for more results.",
        autocompletion=_complete_operator,
    ),
]


def _size(help_text: str) -> Any:
    return Annotated[str | None, typer.Option(metavar="SIZE", help=help_text)]


def _option(value_type: Any, help_text: str, *names: str) -> Any:
    return Annotated[value_type, typer.Option(*names, help=help_text)]


_FLAGS: dict[str, Any] = {
    "kernel_size": _size("2, or one for each dimension: 3x2."),
    "stride": _size("The distance between windows. Default: the kernel size."),
    "padding": _size("Elements added at each edge. Default: 0."),
    "dilation": _size("The distance between a window's elements. Default: 1."),
    "ceil_mode": _option(bool | None, "Include a last, partly filled window.", "--ceil-mode"),
    "return_indices": _option(bool | None, "Also return the position of each maximum.", "--return-indices"),
    "count_include_pad": _option(bool | None, "Include padded zeros in the mean. Default: yes."),
    "divisor_override": _option(int | None, "Divide the sum by this. Default: the window's size."),
    "norm_type": _option(float | None, "The power p of lp."),
    "output_size": _size("10, or 10xnone, where none keeps the input's size."),
    "alpha": _option(float | None, "The maximum's share in mixed; alpha of alpha_softmax and crow."),
}


def takes_parameters(command: Callable[..., None]) -> Callable[..., None]:
    """Replace a command's argument `parameters: Flags` by one flag for each parameter of an operator.

    typer derives a command's flags from its signature, so this decorator rewrites the signature.
    """

    @functools.wraps(command)
    def with_flags(**given: Any) -> None:
        command(parameters={name: given.pop(name) for name in _FLAGS}, **given)

    signature = inspect.signature(command, eval_str=True)
    parameters = [one for name, one in signature.parameters.items() for one in _expand(name, one)]
    with_flags.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    with_flags.__annotations__ = {one.name: one.annotation for one in parameters}
    return with_flags


def _expand(name: str, parameter: inspect.Parameter) -> Sequence[inspect.Parameter]:
    if name != _PLACEHOLDER:
        return [parameter]
    return [
        inspect.Parameter(flag, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for flag, annotation in _FLAGS.items()
    ]

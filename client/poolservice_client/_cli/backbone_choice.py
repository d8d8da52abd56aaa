"""The options that choose a backbone and its output, and looking both up on the server."""

from collections.abc import Mapping, Sequence
from typing import Annotated, NamedTuple

import typer

from poolservice_client import BackboneInfo, BackboneOutputInfo, PoolClient
from poolservice_client._backbone_info import find_backbone
from poolservice_client._cli import operator_parser
from poolservice_client._cli.exit_errors import CommandError, UsageError
from poolservice_client._cli.operator_parser import Operator
from poolservice_client._response.status import printable

Backbone = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        metavar="NAME",
        help="Run this network of the server on the image, and pool its output; poolservice info lists them.",
    ),
]
Tap = Annotated[
    str | None,
    typer.Option("--tap", metavar="OUTPUT", help="The backbone's output. Default: the one that the server chooses."),
]

#: The operator of a command that has none: it returns the output of the backbone itself.
WHOLE_OUTPUT = Operator("output", None, "", frozenset())


class ChosenOutput(NamedTuple):
    """An output of a backbone of the server.

    Attributes:
        backbone: the backbone.
        output: the output.
    """

    backbone: BackboneInfo
    output: BackboneOutputInfo


def check(backbone: str | None, tap: str | None, color_mode: object) -> None:
    """Check the options that go with a backbone, or only without one.

    Raises:
        UsageError: they contradict each other.
    """
    if tap is not None and backbone is None:
        raise UsageError("--tap names an output of a backbone; give --backbone too")
    if backbone is not None and color_mode is not None:
        raise UsageError("a backbone decodes images to the channels that its network takes; leave --color-mode out")


def operators(
    texts: Sequence[str] | None, flags: Mapping[str, str | bool | float | None], backbone: str | None
) -> list[Operator]:
    """Return the operators of a command, which may have none if it has a backbone.

    Raises:
        UsageError: see `operator_parser.parse`; or there is neither an operator nor a backbone.
    """
    if texts:
        return operator_parser.parse(texts, flags)
    if backbone is None:
        raise UsageError("give an operator, such as --op gap2d; only with --backbone may there be none")
    if given := next((name for name, value in flags.items() if value is not None), None):
        raise UsageError(f"--{given.replace('_', '-')} is a parameter of an operator; give --op too")
    return [WHOLE_OUTPUT]


def find_output(client: PoolClient, backbone: str, tap: str | None) -> ChosenOutput:
    """Return the description of a backbone of the server and of its output.

    Raises:
        CommandError: the server has no such output.
        InvalidRequest: the server has no such backbone, or it does not serve.
        PoolError: the server does not respond.
    """
    info = find_backbone(client.server_info().backbones, backbone)
    name = info.default_output if tap is None else tap
    for output in info.outputs:
        if output.name == name:
            return ChosenOutput(info, output)
    names = printable(", ".join(output.name for output in info.outputs))
    raise CommandError(f"--tap {name}: {backbone} has no output of this name; it has {names}")

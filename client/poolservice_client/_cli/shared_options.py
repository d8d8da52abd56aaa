"""The options that several commands share."""

from enum import StrEnum
from typing import Annotated

import typer

from poolservice_client._cli.exit_errors import UsageError
from poolservice_client._settings.addresses import ADDRESS_VARIABLE, DEFAULT_ADDRESS
from poolservice_client._settings.settings import DEFAULT_TIMEOUT

Address = Annotated[
    str,
    typer.Option("--address", "-a", metavar="HOST:PORT", envvar=ADDRESS_VARIABLE, help="The service's address."),
]
AddressArgument = Annotated[
    str | None, typer.Argument(metavar="ADDRESS", help="HOST:PORT of the server; the same as --address.")
]
Timeout = Annotated[
    float,
    typer.Option(metavar="SECONDS", help="How long to wait for the response; inf waits for ever."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]

ADDRESS = DEFAULT_ADDRESS
TIMEOUT = DEFAULT_TIMEOUT
#: A healthy service responds to a health check immediately.
HEALTH_TIMEOUT = 5.0


class ColorMode(StrEnum):
    """The channels to decode an image to."""

    RGB = "RGB"
    GRAY = "GRAY"
    RGBA = "RGBA"


class Layout(StrEnum):
    """Where the channels of an array are."""

    CHW = "CHW"
    HWC = "HWC"


LayoutOption = Annotated[
    Layout | None,
    typer.Option(
        "--layout",
        case_sensitive=False,
        help="Where the channels of an .npy file are: first, CHW (the default), or last, HWC. Results have them first.",
    ),
]
Colors = Annotated[
    ColorMode | None,
    typer.Option("--color-mode", case_sensitive=False, help="Decode images to RGB (the default), GRAY or RGBA."),
]
Normalize = Annotated[bool, typer.Option("--normalize", help="Divide each feature vector by its Euclidean norm.")]
Float16 = Annotated[bool, typer.Option("--float16", help="Convert floating-point results to float16.")]
MaxMessageBytes = Annotated[int, typer.Option(metavar="BYTES", help="The largest message to send or receive.")]


def one_address(context: typer.Context, argument: str | None, option: str) -> str:
    """Return the address in the argument, or else that in the option or its environment variable.

    Raises:
        UsageError: the command line has both, and they differ.
    """
    if argument is None:
        return option
    source = context.get_parameter_source("address")
    if argument != option and source is not None and source.name == "COMMANDLINE":
        raise UsageError(f"two addresses are given, {argument} and --address {option}; give one")
    return argument

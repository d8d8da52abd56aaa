"""`poolservice-server backbone import-head`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from poolservice_server.backbones.command.table import print_line
from poolservice_server.backbones.importing.errors import ImportFailed
from poolservice_server.backbones.installation import missing_packages
from poolservice_server.pool_heads.kinds import KINDS


def import_head(
    checkpoint: Annotated[
        Path, typer.Argument(help="A state dict or checkpoint (.pth, .ckpt, .safetensors) with the head's tensors.")
    ],
    folder: Annotated[Path, typer.Option("-o", "--folder", help="The new folder, such as heads/NAME.")],
    kind: Annotated[str, typer.Option(help=f"What the head computes: {', '.join(KINDS)}.")],
    licence: Annotated[str, typer.Option(help="The licence of its weights.")],
    source: Annotated[str, typer.Option(help="Where it comes from.")],
    parameter: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A parameter of the kind, repeatable, such as num_heads=32."),
    ] = None,
    prefix: Annotated[
        str | None,
        typer.Option(help='What the names of its tensors begin with, such as "aggregator.". Default: found.'),
    ] = None,
    description: Annotated[str, typer.Option(help="What it is, in one sentence.")] = "",
) -> None:
    """Make the folder of a pool head from a checkpoint, for --heads or for the folder heads of a backbone."""
    if problem := missing_packages():
        raise ImportFailed(problem)
    # torch, which this imports, takes seconds.
    from poolservice_server.pool_heads.importing import import_head as make

    head = make(
        checkpoint,
        folder,
        kind,
        dict(map(_parameter, parameter or ())),
        prefix=prefix,
        description=description,
        licence=licence,
        source=source,
    )
    geometry = head.geometry
    sides = "any size" if geometry.spatial is None else "{} x {}".format(*geometry.spatial)
    print_line(f"{head.name}: {head.kind} of {geometry.channels} channels, {sides}, to {geometry.results} values")
    print_line(f"fingerprint: {head.fingerprint}")


def _parameter(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator:
        raise ImportFailed(f"--parameter must be NAME=VALUE, such as num_heads=32; got {text}")
    try:
        return name, json.loads(value)
    except ValueError:
        # Text needs no quotes.
        return name, value

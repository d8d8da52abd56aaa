"""`poolservice info` and `poolservice health`: what a service is, and whether it is well."""

import dataclasses
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer

from poolservice_client import DeadlineExceeded, PoolClient, ServerInfo, Unavailable
from poolservice_client._cli import error_messages, errors, shared_options

if TYPE_CHECKING:
    from rich.table import Table


def info(
    address: shared_options.Address = shared_options.ADDRESS,
    timeout: shared_options.Timeout = shared_options.TIMEOUT,
    as_json: shared_options.AsJson = False,
) -> None:
    """Say what a service is and can do: version, devices, operators, types, formats, limits."""
    with PoolClient(address, timeout=timeout) as client:
        said = client.server_info()
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(said)))
    else:
        _show(said, address)


def health(
    address: shared_options.Address = shared_options.ADDRESS,
    timeout: shared_options.Timeout = shared_options.HEALTH_TIMEOUT,
    as_json: shared_options.AsJson = False,
) -> None:
    """Say whether a service takes calls; the exit status says it to a script.

    0 it serves, 1 it does not (it is starting or stopping, say), 2 the command was written wrongly, 3 nobody answered.
    """
    try:
        with PoolClient(address, timeout=timeout) as client:
            status = client.health()
    except (Unavailable, DeadlineExceeded) as error:
        if as_json:
            typer.echo(json.dumps({"address": address, "status": "UNREACHABLE"}))
        errors.say(error_messages.sentence(error))
        raise typer.Exit(errors.UNREACHABLE) from None
    typer.echo(json.dumps({"address": address, "status": status.value}) if as_json else status.value)
    if not status:
        raise typer.Exit(errors.FAILED)


def _show(said: ServerInfo, address: str) -> None:
    # The other commands, and health in a script's loop most of all, do without it.
    from rich.console import Console

    console = Console(highlight=False)
    console.print(f"poolservice {said.version} at {address}, on torch {said.torch_version}", markup=False)
    for table in (
        _table(
            ("device", "state", "what it is"),
            (
                (device.name, f"{device.state}: {device.reason}" if device.reason else device.state, device.description)
                for device in said.devices
            ),
        ),
        _table(
            ("operator", "in", "parameters", "what it computes"),
            (
                (
                    operator.name,
                    ", ".join(f"{dims}d" for dims in operator.spatial_dims),
                    ", ".join(
                        one.name if one.default is None else f"{one.name}={one.default}" for one in operator.parameters
                    ),
                    operator.description,
                )
                for operator in said.operators
            ),
        ),
        _table(("limit", "value"), ((name, f"{value:,}") for name, value in dataclasses.asdict(said.limits).items())),
    ):
        console.print()
        console.print(table)
    console.print()
    console.print(f"types    {', '.join(said.dtypes)}", markup=False)
    console.print(f"formats  {', '.join(said.image_formats)}", markup=False)


def _table(headings: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        # Folded, since a long name that is cut is no name.
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table

"""`poolservice info` and `poolservice health`: a server's capabilities and its health."""

import dataclasses
import json

import typer

from poolservice_client import DeadlineExceeded, PoolClient, ServerInfo, Unavailable
from poolservice_client._cli import exit_errors, sdk_errors, shared_options
from poolservice_client._cli.tables import Column, print_table, print_text


def info(
    context: typer.Context,
    server: shared_options.AddressArgument = None,
    address: shared_options.Address = shared_options.ADDRESS,
    timeout: shared_options.Timeout = shared_options.TIMEOUT,
    as_json: shared_options.AsJson = False,
) -> None:
    """Print a server's capabilities.

    These are its version, devices, operators, dtypes, image formats and limits.
    """
    address = shared_options.one_address(context, server, address)
    with PoolClient(address, timeout=timeout) as client:
        server_info = client.server_info()
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(server_info)))
    else:
        _print(server_info, address)


def health(
    context: typer.Context,
    server: shared_options.AddressArgument = None,
    address: shared_options.Address = shared_options.ADDRESS,
    timeout: shared_options.Timeout = shared_options.HEALTH_TIMEOUT,
    as_json: shared_options.AsJson = False,
) -> None:
    """Check if a server accepts calls.

    Exit statuses: 0 it does; 1 it does not, for example because it is starting or stopping; 2 the command line is
    wrong; 3 no server responded.
    """
    address = shared_options.one_address(context, server, address)
    try:
        with PoolClient(address, timeout=timeout) as client:
            status = client.health()
    except (Unavailable, DeadlineExceeded) as error:
        if as_json:
            typer.echo(json.dumps({"address": address, "status": "UNREACHABLE"}))
        exit_errors.report(sdk_errors.describe(error))
        raise typer.Exit(exit_errors.UNREACHABLE) from None
    typer.echo(json.dumps({"address": address, "status": status.value}) if as_json else status.value)
    if not status:
        raise typer.Exit(exit_errors.FAILED)


def _print(server_info: ServerInfo, address: str) -> None:
    print_text(f"poolservice {server_info.version} at {address}, on torch {server_info.torch_version}")
    typer.echo()
    print_table(
        (Column("device"), Column("state", wraps=True), Column("description", wraps=True)),
        (
            (device.name, f"{device.state}: {device.reason}" if device.reason else device.state, device.description)
            for device in server_info.devices
        ),
    )
    typer.echo()
    print_table(
        (Column("operator"), Column("dimensions"), Column("parameters", wraps=True), Column("description", wraps=True)),
        (
            (
                operator.name,
                ", ".join(f"{dims}d" for dims in operator.spatial_dims),
                ", ".join(
                    one.name if one.default is None else f"{one.name}={one.default}" for one in operator.parameters
                ),
                operator.description,
            )
            for operator in server_info.operators
        ),
    )
    typer.echo()
    limits = dataclasses.asdict(server_info.limits)
    print_table((Column("limit"), Column("value", numeric=True)), ((name, _limit(limits[name])) for name in limits))
    typer.echo()
    print_text(f"dtypes: {', '.join(server_info.dtypes)}")
    print_text(f"image formats: {', '.join(server_info.image_formats)}")


def _limit(value: float) -> str:
    """Return a limit as text. The server sends 0 for one that it does not have."""
    return f"{value:,.15g}" if value else "no limit"

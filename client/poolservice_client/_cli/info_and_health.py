"""`poolservice info` and `poolservice health`: a server's capabilities and its health."""

import dataclasses
import json
import time
from collections.abc import Sequence

import typer

from poolservice_client import (
    BackboneInfo,
    BackboneOutputInfo,
    DeadlineExceeded,
    DeviceInfo,
    PoolClient,
    PoolError,
    ServerInfo,
    Unauthenticated,
    Unavailable,
)
from poolservice_client._cli import exit_errors, sdk_errors, shared_options
from poolservice_client._cli.tables import Column, print_table, print_text

# Seconds for the second call of `health` if the first one took nearly all of the timeout.
_SHORTEST_TIMEOUT = 0.1


def info(
    context: typer.Context,
    server: shared_options.AddressArgument = None,
    address: shared_options.Address = shared_options.ADDRESS,
    timeout: shared_options.Timeout = shared_options.TIMEOUT,
    as_json: shared_options.AsJson = False,
) -> None:
    """Print a server's capabilities.

    These are its version, devices, backbones, operators, dtypes, image formats and limits.
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

    Backbones that the server started without are reported on stderr, or in the JSON, where null means that the server
    describes itself to callers with a token only. They leave the exit status alone.

    Exit statuses: 0 it does; 1 it does not, for example because it is starting or stopping; 2 the command line is
    wrong; 3 no server responded.
    """
    address = shared_options.one_address(context, server, address)
    started = time.monotonic()
    broken: list[BackboneInfo] | None = None
    try:
        with PoolClient(address, timeout=timeout) as client:
            status = client.health()
            if status:
                broken = _broken_backbones(client, timeout - (time.monotonic() - started))
    except (Unavailable, DeadlineExceeded) as error:
        if as_json:
            typer.echo(json.dumps({"address": address, "status": "UNREACHABLE"}))
        exit_errors.report(sdk_errors.describe(error))
        raise typer.Exit(exit_errors.UNREACHABLE) from None
    if as_json:
        names = None if broken is None else [{"name": one.name, "reason": one.reason} for one in broken]
        typer.echo(json.dumps({"address": address, "status": status.value, "broken_backbones": names}))
    else:
        typer.echo(status.value)
        for one in broken or ():
            exit_errors.report(f"the server started without the backbone {one.name}: {one.reason}")
    if not status:
        raise typer.Exit(exit_errors.FAILED)


def _broken_backbones(client: PoolClient, timeout: float) -> list[BackboneInfo] | None:
    """Return the backbones that the server started without; None if that is not known."""
    try:
        backbones = client.server_info(timeout=max(timeout, _SHORTEST_TIMEOUT)).backbones
    except Unauthenticated:
        # Health checks need no token, unlike the description of a server: probes have none.
        return None
    except PoolError as error:
        # The health is known without this call, so the command succeeds.
        exit_errors.report(f"the server's backbones are not known: {sdk_errors.describe(error)}")
        return None
    return [one for one in backbones if one.state == "BROKEN"]


def _print(server_info: ServerInfo, address: str) -> None:
    print_text(f"poolservice {server_info.version} at {address}, on torch {server_info.torch_version}")
    typer.echo()
    print_table(
        (Column("device"), Column("state"), Column("description", wraps=True)),
        ((device.name, device.state, device.description) for device in server_info.devices),
    )
    _print_reasons(server_info.devices)
    if server_info.backbones:
        _print_backbones(server_info)
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


def _print_backbones(server_info: ServerInfo) -> None:
    typer.echo()
    print_table(
        (
            Column("backbone"),
            Column("state"),
            Column("input"),
            Column("outputs", wraps=True),
            Column("classes", numeric=True),
            Column("engines", wraps=True),
            Column("ms", numeric=True),
            Column("fingerprint"),
        ),
        (
            (
                backbone.name,
                backbone.state,
                _shape(backbone.input_shape),
                ", ".join(_output(backbone, output) for output in backbone.outputs),
                str(len(backbone.labels) or ""),
                ", ".join(backbone.engines),
                f"{backbone.seconds * 1e3:.1f}" if backbone.seconds else "",
                backbone.fingerprint,
            )
            for backbone in server_info.backbones
        ),
    )
    _print_reasons(server_info.backbones)


def _print_reasons(described: Sequence[DeviceInfo | BackboneInfo]) -> None:
    """Print the reasons below a table: they are long sentences, which would make its columns narrow."""
    for one in described:
        if one.reason:
            print_text(f"{one.name}: {one.reason}")


def _output(backbone: BackboneInfo, output: BackboneOutputInfo) -> str:
    default = " (default)" if output.name == backbone.default_output else ""
    return f"{output.name} {_shape(output.shape)}{default}"


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _limit(value: float) -> str:
    """Return a limit as text. The server sends 0 for one that it does not have."""
    return f"{value:,.15g}" if value else "no limit"

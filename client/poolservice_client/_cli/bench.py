"""`poolservice bench`: how fast a running service answers, measured as its users call it."""

import asyncio
import dataclasses
import difflib
import json
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Any, NamedTuple, cast

import ml_dtypes
import numpy as np
import typer
from numpy.typing import NDArray

from poolservice.dtypes import DTYPE_NAMES
from poolservice_client import AsyncPoolClient, ServerInfo
from poolservice_client._cli import error_messages, errors, input_data, operators, shared_options
from poolservice_client._cli.errors import Usage
from poolservice_client._cli.load_generator import Measured, keep_calling
from poolservice_client._cli.operator_flags import Flags, Ops, takes_parameters
from poolservice_client._cli.operators import Operator
from poolservice_client._request.query import ColorMode
from poolservice_client._settings.addresses import ADDRESS_VARIABLE
from poolservice_client._settings.settings import DEFAULT_MAX_MESSAGE_BYTES

_CONCURRENCIES = (1, 8, 32)
_SECONDS = 5.0
_WARM_UP_SECONDS = 0.5
_SHAPE = "3x224x224"
# Of one core; Python runs no more than one.
_BUSY = 0.9

#: What `poolservice bench --help` ends with.
EPILOG = (
    "The rest is what a call took beyond what the server says of it: the network, and gRPC and Python on both sides. "
    "A client that is busy for most of the time measures itself: run several, or on another machine.\n\n"
    "For example: poolservice bench localhost:50051 --op gap2d --input photo.jpg --concurrency 16"
)


class _Job(NamedTuple):
    """What each call asks."""

    operators: list[Operator]
    payload: bytes | NDArray[Any]
    name: str
    options: dict[str, Any]


@takes_parameters
def bench(
    address: Annotated[
        str, typer.Argument(metavar="ADDRESS", envvar=ADDRESS_VARIABLE, help="HOST:PORT of the service.")
    ] = shared_options.ADDRESS,
    op: Ops = ["gap2d"],  # noqa: B006 - typer copies it
    input_file: Annotated[
        str | None,
        typer.Option("--input", "-i", metavar="FILE", help="Send this picture or .npy file instead of random values."),
    ] = None,
    shape: Annotated[
        str | None, typer.Option(metavar="CxHxW", help=f"Of the random tensor. Default: {_SHAPE}.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(metavar="TYPE", help=f"Of the random tensor: {', '.join(DTYPE_NAMES)}.")
    ] = None,
    *,
    parameters: Flags,
    color_mode: shared_options.Colors = None,
    features: Annotated[bool, typer.Option("--features", help="Flat feature vectors instead of tensors.")] = False,
    concurrency: Annotated[
        list[int] | None,
        typer.Option(
            "--concurrency",
            "-c",
            metavar="CALLS",
            min=1,
            help="Calls under way at one time. Again for more rows. Default: 1, 8 and 32.",
        ),
    ] = None,
    duration: Annotated[float, typer.Option(metavar="SECONDS", min=0.01, help="For each row.")] = _SECONDS,
    warm_up: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="Of calls before each row that are not counted.")
    ] = _WARM_UP_SECONDS,
    alone: Annotated[
        bool, typer.Option("--alone", help="Send each call by itself, where small ones else travel together.")
    ] = False,
    timeout: shared_options.Timeout = shared_options.TIMEOUT,
    max_message_bytes: shared_options.MaxMessageBytes = DEFAULT_MAX_MESSAGE_BYTES,
    as_json: shared_options.AsJson = False,
) -> None:
    """Measure a running service as its users call it: rate, latencies, and where the time went.

    Ctrl-C prints what was measured until then. The exit status is 1 where calls failed.
    """
    if input_file is not None and (shape is not None or dtype is not None):
        raise Usage("--shape and --dtype describe a random tensor; leave them out beside --input")
    wanted = operators.read(op, parameters)
    asked = {
        "output": "features" if features else "tensor",
        "color_mode": cast(ColorMode | None, color_mode and color_mode.value),
    }
    if input_file is not None:
        given = input_data.read(input_file)
        job = _Job(wanted, given.payload, given.name, asked)
    else:
        x = _random(shape or _SHAPE, dtype or "float32")
        job = _Job(wanted, x, f"{x.shape} {x.dtype.name}", asked)
    rows = [Measured(calls) for calls in concurrency or _CONCURRENCIES]
    client = AsyncPoolClient(address, timeout=timeout, max_message_bytes=max_message_bytes, coalesce=not alone)
    with error_messages.refusals(wanted, job.name if input_file else f"--shape {shape or _SHAPE}"):
        info, whole = asyncio.run(_measure(client, job, rows, duration, warm_up))
    rows = [row for row in rows if row.seconds]
    if as_json:
        typer.echo(json.dumps(_as_json(client, info, job, rows, whole=whole), allow_nan=False))
    else:
        _show(client, info, job, rows)
    if not whole:
        raise typer.Exit(errors.INTERRUPTED)
    if any(row.errors for row in rows):
        raise typer.Exit(errors.FAILED)


async def _measure(
    client: AsyncPoolClient, job: _Job, rows: Sequence[Measured], duration: float, warm_up: float
) -> tuple[ServerInfo, bool]:
    """Fill the rows in their order; what the server is, and whether nobody interrupted."""
    specs = [operator.spec for operator in job.operators]
    async with client:
        info = await client.server_info()
        # What no call of this kind can do is told once, not counted a thousand times.
        await client.pool(job.payload, specs, **job.options)
        try:
            for row in rows:
                before = Measured(row.concurrency)
                with _status(f"{row.concurrency} calls at a time for {duration:g} s"):
                    await keep_calling(client, job.payload, specs, before, seconds=warm_up, **job.options)
                    await keep_calling(client, job.payload, specs, row, seconds=duration, **job.options)
        except asyncio.CancelledError:
            # asyncio.run cancels on the first Ctrl-C, and what was measured is still to be told.
            return info, False
    return info, True


def _random(shape: str, dtype: str) -> NDArray[Any]:
    try:
        sizes = tuple(int(size) for size in shape.lower().split("x"))
    except ValueError:
        sizes = ()
    if len(sizes) < 2 or min(sizes) < 1:
        raise Usage(f"--shape takes sizes from channels to width, such as {_SHAPE}; got {shape!r}")
    if dtype not in DTYPE_NAMES:
        close = difflib.get_close_matches(dtype.lower(), DTYPE_NAMES, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise Usage(f"--dtype takes one of {', '.join(DTYPE_NAMES)}; got {dtype!r}{hint}")
    values = np.random.default_rng(0).random(sizes, dtype=np.float32)
    kind = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    return (values * 100 if kind.kind in "iu" else values).astype(kind)


def _status(text: str) -> AbstractContextManager[object]:
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(text)


def _as_json(
    client: AsyncPoolClient, info: ServerInfo, job: _Job, rows: Sequence[Measured], *, whole: bool
) -> dict[str, Any]:
    return {
        "address": client.address,
        "version": info.version,
        "devices": [dataclasses.asdict(device) for device in info.devices],
        "job": {
            "input": job.name,
            "payload_bytes": _size(job.payload),
            "specs": [repr(operator.spec) for operator in job.operators],
            **job.options,
        },
        "interrupted": not whole,
        "client": dataclasses.asdict(client.stats()),
        "rows": [
            {
                "concurrency": row.concurrency,
                "seconds": row.seconds,
                "calls": len(row.latencies),
                "calls_per_second": row.rate,
                "latency_ms": row.percentiles(),
                "mean_ms": row.shares(),
                "mean_batch_size": float(np.mean(row.batches)) if row.batches else None,
                "client_busy_cores": row.busy,
                "devices": dict(row.devices),
                "errors": [
                    {"kind": kind, "count": count, "first": row.first_errors[kind]}
                    for kind, count in row.errors.most_common()
                ],
            }
            for row in rows
        ],
    }


def _show(client: AsyncPoolClient, info: ServerInfo, job: _Job, rows: Sequence[Measured]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    devices = ", ".join(device.name for device in info.devices)
    console.print(f"poolservice {info.version} at {client.address} on {devices}", markup=False)
    specs = ", ".join(repr(operator.spec) for operator in job.operators)
    console.print(f"{specs} of {job.name}, {_size(job.payload):,} bytes a call", markup=False)
    console.print()
    table = Table(box=None, pad_edge=False, header_style="bold", caption="milliseconds; means from 'decode' to 'rest'")
    for heading in (
        "at a time",
        "calls/s",
        "p50",
        "p90",
        "p99",
        "decode",
        "queue",
        "compute",
        "rest",
        "batch",
        "errors",
    ):
        table.add_column(heading, justify="right")
    for row in rows:
        latencies, shares = row.percentiles(), row.shares()
        table.add_row(
            str(row.concurrency),
            f"{row.rate:,.0f}" if row.rate >= 10 else f"{row.rate:.2g}",
            *(f"{latencies[one]:.2f}" if latencies else "-" for one in ("p50", "p90", "p99")),
            *(f"{shares[one]:.2f}" if shares else "-" for one in ("decode", "queue", "compute", "rest")),
            f"{np.mean(row.batches):.1f}" if row.batches else "-",
            str(row.errors.total()),
        )
    console.print(table)
    for row in rows:
        for kind, count in row.errors.most_common():
            console.print(f"{count} x {kind} at {row.concurrency}: {row.first_errors[kind]}", markup=False)
        if row.busy > _BUSY:
            console.print(
                f"at {row.concurrency} this client was busy for {min(row.busy, 1):.0%} of the time: "
                "the service may carry more",
                markup=False,
            )
    if retries := client.stats().retries:
        console.print(f"{retries:,} more tries were made of calls that failed in a way that may pass")


def _size(payload: bytes | NDArray[Any]) -> int:
    return len(payload) if isinstance(payload, bytes) else payload.nbytes

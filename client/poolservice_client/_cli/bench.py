"""`poolservice bench`: measure a running server's throughput and latency from the client's side."""

import asyncio
import difflib
import json
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Any, cast

import ml_dtypes
import numpy as np
import typer
from numpy.typing import NDArray

from poolservice.dtypes import DTYPE_NAMES
from poolservice_client import AsyncPoolClient, PoolClient, ServerInfo
from poolservice_client._cli import (
    backbone_choice,
    bench_report,
    exit_errors,
    input_data,
    operator_parser,
    sdk_errors,
    shared_options,
)
from poolservice_client._cli.backbone_choice import find_output
from poolservice_client._cli.bench_report import Report, Workload
from poolservice_client._cli.exit_errors import UsageError
from poolservice_client._cli.load_generator import Measurement, generate_load
from poolservice_client._cli.operator_flags import FLAGS_HELP, Flags, Ops, takes_parameters
from poolservice_client._request.options import ColorMode
from poolservice_client._settings.settings import DEFAULT_MAX_MESSAGE_BYTES

_CONCURRENCIES = (1, 8, 32)
_SECONDS = 5.0
_WARM_UP_SECONDS = 0.5
_SHAPE = "3x224x224"
_DEFAULT_OPS = ("gap2d",)

#: The last paragraphs of `poolservice bench --help`.
EPILOG = (
    "'rest' is the part of a call's latency that the server does not account for: the network, and gRPC and Python on "
    "both sides. A client that is busy most of the time measures itself: run several, or run it on another machine.\n\n"
    f"{FLAGS_HELP}\n\n"
    "For example: poolservice bench localhost:50051 --op gap2d --input photo.jpg --concurrency 16"
)


@takes_parameters
def bench(
    context: typer.Context,
    server: shared_options.AddressArgument = None,
    op: Ops = None,
    input_file: Annotated[
        str | None,
        typer.Option("--input", "-i", metavar="FILE", help="Send this image or .npy file instead of random values."),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(metavar="CxHxW", help=f"The random tensor's shape. Default: {_SHAPE}, or the backbone's input."),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(metavar="DTYPE", help=f"The random tensor's dtype: {', '.join(DTYPE_NAMES)}.")
    ] = None,
    *,
    parameters: Flags,
    backbone: backbone_choice.Backbone = None,
    tap: backbone_choice.Tap = None,
    color_mode: shared_options.Colors = None,
    features: Annotated[bool, typer.Option("--features", help="Request flat feature vectors, not tensors.")] = False,
    concurrency: Annotated[
        list[int] | None,
        typer.Option(
            "--concurrency",
            "-c",
            metavar="CALLS",
            min=1,
            help="The number of concurrent calls. Repeat for more rows. Default: 1, 8 and 32.",
        ),
    ] = None,
    duration: Annotated[float, typer.Option(metavar="SECONDS", min=0.01, help="The duration of each row.")] = _SECONDS,
    warm_up: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="The time before each row that is not measured.")
    ] = _WARM_UP_SECONDS,
    no_coalesce: Annotated[
        bool, typer.Option("--no-coalesce", help="Send each small call in a message of its own.")
    ] = False,
    address: shared_options.Address = shared_options.ADDRESS,
    timeout: shared_options.Timeout = shared_options.TIMEOUT,
    max_message_bytes: shared_options.MaxMessageBytes = DEFAULT_MAX_MESSAGE_BYTES,
    as_json: shared_options.AsJson = False,
) -> None:
    """Measure throughput and latency.

    Print the throughput, latency percentiles and the parts of the mean latency for each concurrency. Ctrl-C prints what
    was measured until then. The exit status is 1 if calls failed.
    """
    if input_file is not None and (shape is not None or dtype is not None):
        raise UsageError("--shape and --dtype describe a random tensor; leave them out with --input")
    address = shared_options.one_address(context, server, address)
    backbone_choice.check(backbone, tap, color_mode)
    parsed = backbone_choice.operators(op or (_DEFAULT_OPS if backbone is None else ()), parameters, backbone)
    if input_file is not None:
        given = input_data.read(input_file, max_message_bytes)
        payload, name, source = given.payload, given.name, given.name
    else:
        if shape is None and backbone is not None:
            with PoolClient(address, timeout=timeout) as blocking:
                shape = "x".join(map(str, find_output(blocking, backbone, tap).backbone.input_shape))
        payload = _random_tensor(shape or _SHAPE, dtype or "float32")
        name, source = f"{payload.shape} {payload.dtype.name}", f"--shape {shape or _SHAPE}"
    options = {
        "output": "features" if features else "tensor",
        "color_mode": cast(ColorMode | None, color_mode and color_mode.value),
        # Only the time counts, so a warning about the order of the dimensions would be noise.
        "layout": "CHW",
        "backbone": backbone,
        "tap": tap,
    }
    workload = Workload(parsed, payload, name, options)
    rows = [Measurement(calls) for calls in concurrency or _CONCURRENCIES]
    client = AsyncPoolClient(address, timeout=timeout, max_message_bytes=max_message_bytes, coalesce=not no_coalesce)
    with sdk_errors.translated_errors(parsed, source):
        info, completed = asyncio.run(_measure(client, workload, rows, duration, warm_up))
    rows = [row for row in rows if row.seconds]
    report = Report(client.address, info, client.stats(), workload, rows, interrupted=not completed)
    if as_json:
        typer.echo(json.dumps(report.as_json(), allow_nan=False))
    else:
        bench_report.print_report(report)
    if not completed:
        raise typer.Exit(exit_errors.INTERRUPTED)
    if any(row.errors for row in rows):
        raise typer.Exit(exit_errors.FAILED)


async def _measure(
    client: AsyncPoolClient, workload: Workload, rows: Sequence[Measurement], duration: float, warm_up: float
) -> tuple[ServerInfo, bool]:
    """Measure the rows in order; return the server's info, and False if the user interrupted the run."""
    specs = operator_parser.specs_of(workload.operators)
    async with client:
        info = await client.server_info()
        # A request that always fails is reported once, not counted a thousand times.
        await client.pool(workload.payload, specs, **workload.options)
        try:
            for row in rows:
                with _status(f"{row.concurrency} concurrent calls for {duration:g} s"):
                    warm_up_row = Measurement(row.concurrency)
                    for measurement, seconds in ((warm_up_row, warm_up), (row, duration)):
                        await generate_load(
                            client, workload.payload, specs, measurement, seconds=seconds, **workload.options
                        )
        except asyncio.CancelledError:
            # asyncio.run cancels this task on the first Ctrl-C; the complete measurements are still printed.
            return info, False
    return info, True


def _random_tensor(shape: str, dtype: str) -> NDArray[Any]:
    try:
        sizes = tuple(int(size) for size in shape.lower().split("x"))
    except ValueError:
        sizes = ()
    if len(sizes) < 2 or min(sizes) < 1:
        raise UsageError(f"--shape takes sizes from channels to width, such as {_SHAPE}; got {shape!r}")
    if dtype not in DTYPE_NAMES:
        close = difflib.get_close_matches(dtype.lower(), DTYPE_NAMES, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UsageError(f"--dtype takes one of {', '.join(DTYPE_NAMES)}; got {dtype!r}{hint}")
    values = np.random.default_rng(0).random(sizes, dtype=np.float32)
    numpy_dtype = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    return (values * 100 if numpy_dtype.kind in "iu" else values).astype(numpy_dtype)


def _status(text: str) -> AbstractContextManager[object]:
    """Show `text` on stderr while the block runs, if stderr is a terminal."""
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(text)

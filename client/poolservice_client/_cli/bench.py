"""`poolservice bench`: measure a running server's throughput and latency from the client's side."""

import asyncio
import json
import math
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, cast

import typer

from poolservice.dtypes import DTYPE_NAMES
from poolservice_client import AsyncPoolClient, PoolClient
from poolservice_client._cli import (
    backbone_choice,
    bench_report,
    bench_report_file,
    exit_errors,
    input_data,
    sdk_errors,
    shared_options,
)
from poolservice_client._cli.backbone_choice import find_output
from poolservice_client._cli.bench_knee import SWEEP, find_knee
from poolservice_client._cli.bench_measurement import ClosedLoop, Load, OpenLoop
from poolservice_client._cli.bench_report import Report
from poolservice_client._cli.bench_run import Run
from poolservice_client._cli.bench_workload import DEFAULT_SHAPE, Workload, random_tensor
from poolservice_client._cli.exit_errors import UsageError
from poolservice_client._cli.operator_flags import FLAGS_HELP, Flags, Ops, takes_parameters
from poolservice_client._request.options import ColorMode
from poolservice_client._settings.retry_policy import RetryPolicy
from poolservice_client._settings.settings import DEFAULT_MAX_MESSAGE_BYTES

_CONCURRENCIES = (1, 8, 32)
_SECONDS = 5.0
_WARM_UP_SECONDS = 0.5
_DEFAULT_OPS = ("gap2d",)
# More calls per second than one Python process can make.
_MAX_RATE = 100_000
# A day in milliseconds.
_MAX_P99 = 86_400_000
_MAX_OUTSTANDING = 1000
# Each call in flight has a copy of the payload in its message.
_MAX_OUTSTANDING_BYTES = 256 * 2**20

#: The last paragraphs of `poolservice bench --help`.
EPILOG = (
    "'rest' is the part of a call's latency that the server does not account for: the network, and gRPC and Python on "
    "both sides. A client that is busy most of the time measures itself: run several, or run it on another machine.\n\n"
    "With --concurrency, a slow server gets fewer calls. With --rate or --sweep, calls start on a schedule whether or "
    "not earlier ones have returned, and a latency counts from the time at which the call was due. Each of these calls "
    "is sent once: one that the server refuses is counted, not retried. The knee is the highest measured rate at which "
    "at most 1% of the calls were lost and the p99 latency was within --p99, or else at most 10 times the p50 at the "
    "lowest rate.\n\n"
    f"{FLAGS_HELP}\n\n"
    "For example: poolservice bench localhost:50051 --op gap2d --input photo.jpg --sweep --report load.html"
)


class Arrivals(StrEnum):
    """When the calls of a rate start."""

    POISSON = "poisson"
    CONSTANT = "constant"


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
        typer.Option(
            metavar="CxHxW", help=f"The random tensor's shape. Default: {DEFAULT_SHAPE}, or the backbone's input."
        ),
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
    rate: Annotated[
        list[float] | None,
        typer.Option(
            "--rate",
            "-r",
            metavar="CALLS",
            min=0.01,
            max=_MAX_RATE,
            help="Start so many calls per second, whether or not earlier ones have returned. Repeat for more rows.",
        ),
    ] = None,
    sweep: Annotated[
        bool,
        typer.Option(
            "--sweep",
            help=f"Measure {len(SWEEP)} rates, from {SWEEP[0]:.0%} to {SWEEP[-1]:.0%} of what 32 concurrent calls "
            "reach, and find the knee.",
        ),
    ] = False,
    arrivals: Annotated[
        Arrivals,
        typer.Option(help="When the calls of a rate start: at random (poisson), or at equal intervals (constant)."),
    ] = Arrivals.POISSON,
    max_outstanding: Annotated[
        int | None,
        typer.Option(
            metavar="CALLS",
            min=1,
            help="The largest number of calls of a rate in flight; calls above it are counted, but not started. "
            f"Default: {_MAX_OUTSTANDING:,}, or fewer so that their payloads take at most 256 MiB.",
        ),
    ] = None,
    p99: Annotated[
        float | None,
        typer.Option(
            "--p99", metavar="MILLISECONDS", min=0.001, max=_MAX_P99, help="The p99 latency that the knee may have."
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
    report_file: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE",
            help="Draw latency, throughput and the parts of the latency over the load, as .html (one file that needs "
            "nothing else) or .png (needs matplotlib).",
        ),
    ] = None,
    as_json: shared_options.AsJson = False,
) -> None:
    """Measure throughput and latency.

    Print the throughput, latency percentiles and the parts of the mean latency for each concurrency or rate. Ctrl-C
    prints what was measured until then. The exit status is 1 if calls failed; calls of a rate may be refused.
    """
    if input_file is not None and (shape is not None or dtype is not None):
        raise UsageError("--shape and --dtype describe a random tensor; leave them out with --input")
    if (concurrency is not None) + (rate is not None) + sweep > 1:
        raise UsageError("--concurrency, --rate and --sweep are three ways to choose the load; give one of them")
    _check_numbers(("--rate", rate), ("--p99", [p99]), ("--duration", [duration]), ("--warm-up", [warm_up]))
    if report_file is not None:
        bench_report_file.check(report_file)
    address = shared_options.one_address(context, server, address)
    backbone_choice.check(backbone, tap, color_mode)
    parsed = backbone_choice.operators(op or (_DEFAULT_OPS if backbone is None else ()), parameters, backbone)
    if input_file is not None:
        given = input_data.read(input_file, max_message_bytes)
        payload, name, source = given.payload, given.name, given.name
    else:
        if shape is None and backbone is not None:
            shape = _input_shape(address, timeout, backbone, tap)
        payload = random_tensor(shape or DEFAULT_SHAPE, dtype or "float32")
        name, source = f"{payload.shape} {payload.dtype.name}", f"--shape {shape or DEFAULT_SHAPE}"
    options = {
        "output": "features" if features else "tensor",
        "color_mode": cast(ColorMode | None, color_mode and color_mode.value),
        # Only the time counts, so a warning about the order of the dimensions would be noise.
        "layout": "CHW",
        "backbone": backbone,
        "tap": tap,
    }
    workload = Workload(parsed, payload, name, options)
    limit = max_outstanding or min(_MAX_OUTSTANDING, max(_MAX_OUTSTANDING_BYTES // max(workload.payload_bytes, 1), 1))

    def open_loop(calls_per_second: float) -> OpenLoop:
        return OpenLoop(calls_per_second, arrivals.value, limit)

    loads: list[Load] = [*map(open_loop, rate)] if rate else [*map(ClosedLoop, concurrency or _CONCURRENCIES)]
    run = Run(None if sweep else loads, open_loop, duration, warm_up)
    client = AsyncPoolClient(
        address,
        timeout=timeout,
        max_message_bytes=max_message_bytes,
        coalesce=not no_coalesce,
        retries=None if sweep or rate else RetryPolicy(),
    )
    date = datetime.now(UTC).isoformat(sep=" ", timespec="seconds")
    with sdk_errors.translated_errors(parsed, source):
        info = asyncio.run(run.measure(client, workload))
    rows = [row for row in run.rows if row.seconds]
    report = Report(
        address=client.address,
        server=info,
        client=client.stats(),
        workload=workload,
        rows=rows,
        capacity=run.capacity if run.capacity and run.capacity.seconds else None,
        knee=find_knee(rows, p99),
        interrupted=not run.completed,
        command=shlex.join(["poolservice", *sys.argv[1:]]),
        date=date,
    )
    # The report's file comes last: an error in writing it must not cost the figures.
    if as_json:
        typer.echo(json.dumps(report.as_json(), allow_nan=False))
    else:
        bench_report.print_report(report)
    if report_file is not None:
        bench_report_file.write(report_file, report)
    if status := _exit_status(report):
        raise typer.Exit(status)


def _check_numbers(*options: tuple[str, Sequence[float | None] | None]) -> None:
    """Check that no option is nan, which no limit of an option refuses.

    Raises:
        UsageError: one is.
    """
    for option, values in options:
        if any(value is not None and math.isnan(value) for value in values or ()):
            raise UsageError(f"{option} takes a number; got nan")


def _input_shape(address: str, timeout: float, backbone: str, tap: str | None) -> str:
    """Return the shape of a backbone's input in the form of --shape."""
    with PoolClient(address, timeout=timeout) as client:
        return "x".join(map(str, find_output(client, backbone, tap).backbone.input_shape))


def _exit_status(report: Report) -> int:
    if report.interrupted:
        return exit_errors.INTERRUPTED
    # A rate above what the server can do is refused in part: that is a result, not a failure.
    failed = any(row.failed if isinstance(row.load, OpenLoop) else row.errors for row in report.measured)
    return exit_errors.FAILED if failed else 0

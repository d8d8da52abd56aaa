"""`poolservice bench`: measure a running server's throughput and latency from the client's side."""

import asyncio
import json
import shlex
import sys
from datetime import UTC, datetime
from typing import cast

import typer

from poolservice_client import AsyncPoolClient, PoolClient
from poolservice_client._cli import (
    backbone_choice,
    bench_options,
    bench_report,
    bench_report_file,
    exit_errors,
    input_data,
    sdk_errors,
    shared_options,
)
from poolservice_client._cli.backbone_choice import find_output
from poolservice_client._cli.bench_knee import find_knee
from poolservice_client._cli.bench_measurement import ClosedLoop, Load, OpenLoop
from poolservice_client._cli.bench_report import Report
from poolservice_client._cli.bench_run import Run
from poolservice_client._cli.bench_workload import DEFAULT_SHAPE, Workload, random_tensor
from poolservice_client._cli.operator_flags import FLAGS_HELP, Flags, Ops, takes_parameters
from poolservice_client._request.options import ColorMode
from poolservice_client._settings.retry_policy import RetryPolicy
from poolservice_client._settings.settings import DEFAULT_MAX_MESSAGE_BYTES

_CONCURRENCIES = (1, 8, 32)
_DEFAULT_OPS = ("gap2d",)

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


@takes_parameters
def bench(
    context: typer.Context,
    server: shared_options.AddressArgument = None,
    op: Ops = None,
    input_file: bench_options.InputFile = None,
    shape: bench_options.Shape = None,
    dtype: bench_options.Dtype = None,
    *,
    parameters: Flags,
    backbone: backbone_choice.Backbone = None,
    tap: backbone_choice.Tap = None,
    color_mode: shared_options.Colors = None,
    features: bench_options.Features = False,
    concurrency: bench_options.Concurrency = None,
    rate: bench_options.Rate = None,
    sweep: bench_options.Sweep = False,
    arrivals: bench_options.ArrivalsOption = bench_options.Arrivals.POISSON,
    max_outstanding: bench_options.MaxOutstanding = None,
    p99: bench_options.P99 = None,
    duration: bench_options.Duration = 5.0,
    warm_up: bench_options.WarmUp = 0.5,
    no_coalesce: bench_options.NoCoalesce = False,
    address: shared_options.Address = shared_options.ADDRESS,
    timeout: shared_options.Timeout = shared_options.TIMEOUT,
    max_message_bytes: shared_options.MaxMessageBytes = DEFAULT_MAX_MESSAGE_BYTES,
    report_file: bench_options.ReportFile = None,
    as_json: shared_options.AsJson = False,
) -> None:
    """Measure throughput and latency.

    Print the throughput, latency percentiles and the parts of the mean latency for each concurrency or rate. Ctrl-C
    prints what was measured until then. The exit status is 1 if calls failed; calls of a rate may be refused.
    """
    bench_options.check_input(input_file, shape, dtype)
    bench_options.check_load(concurrency, rate, p99, sweep=sweep)
    bench_options.check_numbers(
        ("--rate", rate), ("--p99", [p99]), ("--duration", [duration]), ("--warm-up", [warm_up])
    )
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
    limit = max_outstanding or bench_options.default_max_outstanding(workload.payload_bytes)

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
